"""From a plain, resolved configuration to a runner: the only place where the parts meet.

`check` builds everything on trial (the model without memory, the components in a temporary folder), so that every
mistake is known before a run directory exists; `build` builds it for good and owns the run directory meanwhile.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from spectral_exp.config.construct import Constructor, construct
from spectral_exp.config.roles import Role
from spectral_exp.core.errors import SettingError, UserError, nearest, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.data import Corpus, Dataset, KnownText, TokenizerSpec, prepare
from spectral_exp.data.batches import Batches, EvalWindows
from spectral_exp.models.generation import generate
from spectral_exp.models.gpt import GPT
from spectral_exp.models.twin import match_parameters
from spectral_exp.models.undrawn import UndrawnWeights
from spectral_exp.monitoring import Backup, CheckpointManager, ConfigTracker, MetricsLogger, VisualizationManager
from spectral_exp.monitoring.backup.backup import check_url
from spectral_exp.monitoring.tracking.model_summary import summarize_model
from spectral_exp.monitoring.visualization.manager import TextSample
from spectral_exp.optim.trial import stand_ins, try_step
from spectral_exp.runs.layout import RunPaths, remove_unfinished_records
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.renamed import current_names
from spectral_exp.training.contracts import Schedule
from spectral_exp.training.resume import (
    attempts,
    known_text,
    refuse_before_start,
    refuse_changed_data,
    refuse_links,
    resume_problems,
    set_aside_damaged,
    warn_of_other_bits,
)
from spectral_exp.training.runner import Runner
from spectral_exp.training.seeding import process_settings, step_seed
from spectral_exp.training.settings import TrainingSettings

_GROUPS = ("model", "optimizer", "schedule", "loss", "data", "tokenizer", "training", "monitoring", "match")
_ROLES = {
    "model": Role(nn.Module, "spectral_exp.models"),
    "optimizer": Role(torch.optim.Optimizer, "spectral_exp.optim", torch_home="torch.optim"),
    "schedule": Role(Schedule, "spectral_exp.optim"),
    "loss": Role(nn.Module, "spectral_exp.losses"),
    "data": Role(Corpus, "spectral_exp.data"),
    "tokenizer": Role(TokenizerSpec, "spectral_exp.data"),
    "training": Role(TrainingSettings, "spectral_exp.training"),
}
# In the order in which they are built: what one offers, those after it may take.
_COMPONENTS: dict[str, type] = {
    "backup": Backup,
    "checkpoint": CheckpointManager,
    "metrics": MetricsLogger,
    "visualization": VisualizationManager,
    "tracking": ConfigTracker,
}
# What the training loop and the commands ask of a model.
_MODEL_NEEDS = (
    "block_size", "n_layer", "n_head", "new_cache", "metrics", "attention_weights", "parameter_groups",
    "component_parameters", "parameters_by_component", "flops_per_token",
)  # fmt: skip
_PROMPT_TOKENS = 16
_MAX_PATH = 200  # characters of a path that a message quotes
_PLOT_TOKENS = 28


@dataclass(frozen=True)
class Globals:
    """The keys at the top of the configuration; each is explained in conf/config.yaml."""

    name: str
    seed: int
    device: str
    outputs: str
    threads: int | None = None
    resume: str | None = None
    backup_url: str | None = None
    experiment_id: str | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise SettingError("name", repr(self.name), "a name that can be part of a folder's")
        if not 0 <= self.seed < 2**63:
            raise SettingError("seed", self.seed, ">= 0 and < 2^63")
        if not self.outputs:
            raise SettingError("outputs", "''", "a folder", "outputs=. takes the current one")
        if self.threads is not None and self.threads < 1:
            raise SettingError("threads", self.threads, ">= 1 or null")


@dataclass(frozen=True)
class _Parts:
    """What a configuration describes, built."""

    globals: Globals
    settings: TrainingSettings
    device: torch.device
    dataset: Dataset
    model: GPT
    optimizer: torch.optim.Optimizer
    schedule: Any
    loss: nn.Module
    components: dict[str, Any]


def check(config: Mapping[str, Any], run_dir: Path | None) -> list[str]:
    """All that is wrong with `config`, one line per problem; writes nothing but the cache of tokenized text."""
    config = current_names(config)
    try:
        _refuse_unwritable(run_dir or Path(str(config.get("outputs", "outputs"))))
    except UserError as error:
        return [str(error)]
    problems = resume_problems(config, run_dir)
    try:
        known = None if run_dir is None else known_text(RunPaths(run_dir))
        with _trial_folder(run_dir or Path(str(config.get("outputs", "outputs")))) as folder:
            parts = _assemble(config, RunPaths(folder), known, trial=True)
        if run_dir is not None and not problems and run_dir.is_dir():
            refuse_changed_data(RunPaths(run_dir), parts.dataset.fingerprints)
            refuse_before_start(config, RunPaths(run_dir))
        if (url := parts.components["backup"].url) is not None:
            enabled = parts.components["checkpoint"].enabled
            require(enabled, "backup_url", url, "null with monitoring/checkpoint=off: there is nothing to back up")
            check_url(url)
    except UserError as error:
        problems.append(str(error))
    return problems


@contextmanager
def build(
    config: dict[str, Any], run_dir: str | Path, overrides: list[str], search: Sequence[str] = ()
) -> Iterator[Runner]:
    """Build the runner of `config` in `run_dir`, which belongs to this process until the `with` block ends.

    Args:
        config: plain resolved configuration.
        run_dir: the experiment's root, new or one to continue.
        overrides: command-line overrides, recorded so that `resume=` can repeat them.
        search: arguments that say where configuration files are looked for; recorded too, for `resume=` to ask for.

    Raises:
        UserError: the configuration is wrong, the directory belongs to another run or is in use.
    """
    config = current_names(config)
    paths = RunPaths(Path(run_dir))
    with RunLock(paths.root) as lock, torch.random.fork_rng():
        refuse_links(paths.root)
        remove_unfinished_records(paths)
        # The folders of a sweep are known only now, so `check` could not look into them.
        known = paths.config_file.is_file() or paths.checkpoint_steps()
        if known and (problems := resume_problems(config, paths.root)):
            raise UserError("\nerror: ".join(problems))
        torch.manual_seed(int(config["seed"]))
        parts = _assemble(config, paths, known_text(paths), trial=False)
        dataset, tracker = parts.dataset, parts.components["tracking"]
        refuse_changed_data(paths, dataset.fingerprints)
        parts.components["backup"].check()
        dataset.tokenizer.save(paths.tokenizer)
        made = attempts(paths, overrides, search)
        warn_of_other_bits(paths, parts.globals.threads)
        set_aside_damaged(paths)
        with process_settings(parts.globals.threads, deterministic=False):  # records the threads of training
            tracker.save_config(
                config,
                model=parts.model,
                dataset_info=dataset.fingerprints,
                overrides=overrides,
                command=sys.orig_argv,
                attempts=made,
            )
        runner = _runner(config, paths, parts, lock)
        try:
            yield runner
        finally:
            runner.sync()
            runner.metrics.close()


def build_model(config: Mapping[str, Any], vocab_size: int) -> GPT:
    """The untrained model of `config`, as training builds it.

    Raises:
        UserError: the configuration's model part is wrong.
    """
    constructor = Constructor()
    model = _model(config, vocab_size, constructor)
    constructor.finish()
    return cast(GPT, model)


def build_dataset(config: Mapping[str, Any], known: KnownText | None = None) -> Dataset:
    """The tokenized text of `config`, as training reads it; if it is `known`, that text and no other.

    Raises:
        UserError: the configuration's data part is wrong, or the text cannot be had.
    """
    constructor = Constructor()
    dataset = _dataset(config, constructor, known)
    constructor.finish()
    return cast(Dataset, dataset)


def resolve_device(name: str) -> torch.device:
    """The torch device that `device=name` asks for; auto takes the best one there is.

    Raises:
        SettingError: no such device here.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device(next((d for d in ("cuda:0", "mps") if d in there), "cpu"))
    if name == "cuda" and "cuda:0" in there:
        name = "cuda:0"
    if name not in there:
        raise SettingError("device", name, f"auto or one of the devices of this machine: {', '.join(there)}")
    return torch.device(name)


def _assemble(config: Mapping[str, Any], paths: RunPaths, known: KnownText | None, trial: bool) -> _Parts:
    """Build all parts; raise one UserError with all problems."""
    make = Constructor()
    make.problems += [
        f"{key} is not a setting{nearest(key, [*Globals.__annotations__, *_GROUPS])}; --cfg job shows all settings"
        for key in config
        if key not in Globals.__annotations__ and key not in _GROUPS
    ]
    top = {key: value for key, value in config.items() if key in Globals.__annotations__}
    globals_ = make.make({"_target_": f"{__name__}.Globals", **top}, "", Role(Globals, __name__))
    device = make.call("", lambda: resolve_device(str(config.get("device")))) or torch.device("cpu")
    settings = _part(config, "training", make)
    dataset = _dataset(config, make, known)
    if dataset is not None and settings is not None:
        make.call("training", lambda: _prompt_ids(dataset, settings))
    vocab_size = 256 if dataset is None else dataset.vocab_size
    with UndrawnWeights() if trial else nullcontext():
        model = _model(config, vocab_size, make)
    if model is not None and not trial:
        model.to(device)
    elif model is not None:
        # What the record of the run says of it, which would otherwise fail after the run directory exists.
        make.call("model", lambda: construct(f"model: {type(model).__name__}", lambda: summarize_model(model)))
    optimizer = _optimizer(config, model, make, trial)
    schedule = _part(config, "schedule", make, max_steps=1 if settings is None else settings.max_steps)
    loss = _part(config, "loss", make, vocab_size=vocab_size)
    components = _components(config, paths, make)
    make.finish()
    assert dataset is not None
    return _Parts(globals_, settings, device, dataset, model, optimizer, schedule, loss.to(device), components)


def _part(config: Mapping[str, Any], group: str, make: Constructor, **runtime: Any) -> Any:
    """Build the part that `config` chooses in a group."""
    return make.make(config.get(group), group, _ROLES[group], **runtime)


def _optimizer(config: Mapping[str, Any], model: Any, make: Constructor, trial: bool) -> Any:
    """The optimizer of all parameters of `model`; on trial it also takes a step with small ones of the same kind."""
    # Without a model, which is then to be corrected first, the settings are checked all the same.
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "role": "hidden"}] if model is None else None
    optimizer = _part(config, "optimizer", make, params=groups or model.parameter_groups())
    if trial and optimizer is not None and model is not None:
        tried = _part(config, "optimizer", make, params=stand_ins(model.parameter_groups()))
        make.call("optimizer", lambda: try_step(tried))
    return optimizer


def _dataset(config: Mapping[str, Any], make: Constructor, known: KnownText | None) -> Dataset | None:
    corpus, tokenizer = _part(config, "data", make), _part(config, "tokenizer", make)
    model = config.get("model")
    block_size = model.get("block_size") if isinstance(model, Mapping) else None
    if isinstance(block_size, float) and block_size.is_integer():
        block_size = int(block_size)  # as the model takes it
    if corpus is None or tokenizer is None or not isinstance(block_size, int) or block_size < 1:
        return None
    found = make.call("data", lambda: prepare(corpus, tokenizer, block_size=block_size, known=known))
    assert found is None or isinstance(found, Dataset)
    return found


def _model(config: Mapping[str, Any], vocab_size: int, make: Constructor) -> Any:
    node = config.get("model")
    match = config.get("match")
    if match and isinstance(node, Mapping):
        original = node
        node = make.call("match", lambda: _matched(original, match, vocab_size))
        if node is None:
            return None
    model = make.make(node, "model", _ROLES["model"], vocab_size=vocab_size)
    if missing := [name for name in _MODEL_NEEDS if model is not None and not hasattr(model, name)]:
        make.problems.append(f"model: {type(model).__name__} lacks {', '.join(missing)}, which a model must offer")
        return None
    return model


def _matched(node: Mapping[str, Any], parts: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The model node with width and hidden width changed so that it has as many parameters as with `parts`."""

    def count(candidate: Mapping[str, Any]) -> int:
        make = Constructor()
        with UndrawnWeights():
            model = make.make(candidate, "model", _ROLES["model"], vocab_size=vocab_size)
        make.finish()
        return sum(p.numel() for p in model.parameters())

    def resized(n_embd: int, n_hidden: int | None) -> dict[str, Any]:
        return {**node, "n_embd": n_embd, "mlp": {**node["mlp"], "n_hidden": n_hidden}}

    target = count({**node, **parts})
    # Rotary positions turn pairs of channels: each head keeps an even width.
    n_embd, n_hidden = match_parameters(
        lambda width, hidden: count(resized(width, hidden)), target, node["n_embd"], 2 * node["n_head"]
    )
    return resized(n_embd, n_hidden)


def _components(config: Mapping[str, Any], paths: RunPaths, make: Constructor) -> dict[str, Any]:
    nodes = config.get("monitoring")
    nodes = nodes if isinstance(nodes, Mapping) else {}
    make.problems += [
        f"monitoring.{key} is not a component{nearest(key, _COMPONENTS)}; there are {', '.join(_COMPONENTS)}"
        for key in nodes
        if key not in _COMPONENTS
    ]
    folders = {"experiment_dir": paths.root, "log_dir": paths.logs, "viz_dir": paths.visualizations}
    known: dict[str, Any] = {**folders, "outputs": config.get("outputs")}
    components = {}
    for name, kind in _COMPONENTS.items():
        role = Role(kind, "spectral_exp.monitoring")
        components[name] = make.make(nodes.get(name), f"monitoring.{name}", role, **known)
        if name == "backup" and components[name] is not None:
            known["on_durable"] = components[name].submit
    return components


def _runner(config: dict[str, Any], paths: RunPaths, parts: _Parts, lock: RunLock) -> Runner:
    settings, dataset, seed = parts.settings, parts.dataset, parts.globals.seed
    block_size = int(config["model"]["block_size"])
    return Runner(
        paths=paths,
        settings=settings,
        seed=seed,
        threads=parts.globals.threads,
        device=parts.device,
        model=parts.model,
        compute=torch.compile(parts.model) if settings.compile else parts.model,  # type: ignore[arg-type]
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        loss=parts.loss,
        batches=Batches(dataset.train, block_size, settings.batch_size, seed),
        windows=EvalWindows(
            dataset.val, dataset.tokenizer.token_bytes, block_size, settings.batch_size, settings.eval_windows
        ),
        data=dataset,
        sample=_sampler(parts.model, dataset, settings, seed, parts.device),
        plot_sample=_plot_sample(dataset),
        token_text=dataset.tokenizer.token_text,
        config=config,
        backup=parts.components["backup"],
        checkpoint=parts.components["checkpoint"],
        metrics=parts.components["metrics"],
        visualization=parts.components["visualization"],
        tracker=parts.components["tracking"],
        check_owner=lock.check,
    )


def _sampler(
    model: GPT, dataset: Dataset, settings: TrainingSettings, seed: int, device: torch.device
) -> Callable[[int], tuple[str, str]]:
    """A function step -> (prompt, text written by the model) whose draws depend on seed and step alone."""
    tokenizer = dataset.tokenizer
    prompt_ids = _prompt_ids(dataset, settings)
    prompt: Tensor = torch.from_numpy(prompt_ids.astype(np.int64))[None].to(device)

    def sample(step: int) -> tuple[str, str]:
        generator = torch.Generator(device).manual_seed(step_seed(seed, step))
        ids = generate(model, prompt, settings.sample_tokens, generator=generator)[0].cpu().numpy()
        return tokenizer.decode(prompt_ids), tokenizer.decode(ids[len(prompt_ids) :])

    return sample


def _prompt_ids(dataset: Dataset, settings: TrainingSettings) -> npt.NDArray[Any]:
    """What sample texts continue; raises UserError for a prompt that the tokenizer cannot write."""
    if settings.sample_prompt is None:
        return np.asarray(dataset.val[:_PROMPT_TOKENS])
    return dataset.tokenizer.encode(settings.sample_prompt)


def _plot_sample(dataset: Dataset) -> TextSample:
    ids = [int(i) for i in dataset.val[:_PLOT_TOKENS]]
    return TextSample(ids, [dataset.tokenizer.token_text(i) for i in ids])


def _refuse_unwritable(folder: Path) -> None:
    """Raise a UserError unless a run directory can be made at or below `folder`; leaves nothing behind."""
    place = folder
    try:
        place = _existing(folder)
        if place == folder.absolute():  # a run, of which nothing changes yet
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        Path(tempfile.mkdtemp(dir=place)).rmdir()
    except OSError as error:
        shown = [printable(path, _MAX_PATH) for path in (folder, place)]
        raise UserError(
            f"{shown[0]} cannot be written: {shown[1]}: {error.strerror}; choose another place with outputs=DIR (or "
            "hydra.run.dir=DIR)"
        ) from error


@contextmanager
def _trial_folder(near: Path) -> Iterator[Path]:
    """A temporary folder; in the folder of the runs if the machine has no place for temporary files."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder("trial"))
        except OSError:
            folder = stack.enter_context(scratch_folder("trial", _existing(near)))
        yield folder


def _existing(folder: Path) -> Path:
    """The nearest folder at or above `folder` that exists."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return existing
