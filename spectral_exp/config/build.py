"""Build a runner from a plain, resolved configuration: the only module that imports all parts.

`check` builds everything on trial (the model without memory, the components in a temporary folder),
so that every mistake is reported before a run directory exists. `build` builds the runner and holds
the lock of the run directory meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spectral_exp.config.budget import make_budget
from spectral_exp.config.components import (
    component_files,
    make_components,
    own_machine_prefixes,
    without_components,
)
from spectral_exp.config.construct import Constructor, construct
from spectral_exp.config.device import resolve_device, usable_cpus
from spectral_exp.config.distributed import make_distributed_settings
from spectral_exp.config.folders import refuse_unwritable, trial_folder
from spectral_exp.config.globals import Globals
from spectral_exp.config.optimizer import make_optimizer
from spectral_exp.config.packages import has_own_part, own_places
from spectral_exp.config.parts import (
    ROLES,
    make_dataset,
    make_loss,
    make_model,
    make_part,
    make_schedule,
)
from spectral_exp.config.processes import divide, find_shared_run, make_ranks, share_run
from spectral_exp.config.roles import Role
from spectral_exp.config.samples import build_sampler, plot_sample, prompt_ids
from spectral_exp.config.search import make_search_settings
from spectral_exp.config.starting_point import StartingPoint, find_starting_point, has_begun
from spectral_exp.core.errors import UserError, nearest, require
from spectral_exp.data import Dataset, KnownText
from spectral_exp.data.batches import Batches, EvalWindows
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.distributed.settings import (
    DistributedSettings,
    refuse_indivisible_optimizer,
    refuse_unshareable,
)
from spectral_exp.distributed.world import SINGLE, World
from spectral_exp.models.gpt import GPT
from spectral_exp.models.undrawn import UndrawnWeights
from spectral_exp.monitoring.backup.backup import check_url
from spectral_exp.monitoring.component import Observer
from spectral_exp.monitoring.tracking.model_summary import summarize_model
from spectral_exp.monitoring.tracking.own_code import content_hashes
from spectral_exp.runs.layout import RunPaths, remove_unfinished_records
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.record import Parent
from spectral_exp.runs.renamed import update_names
from spectral_exp.training.budget import Budget
from spectral_exp.training.resume import (
    find_known_text,
    find_parent,
    list_attempts,
    move_damaged_record,
    refuse_before_start,
    refuse_changed_data,
    refuse_links,
    refuse_shorter,
    resume_problems,
    warn_of_other_bits,
)
from spectral_exp.training.runner import Runner
from spectral_exp.training.seeding import process_settings
from spectral_exp.training.settings import TrainingSettings
from spectral_exp.training.trial import try_model

if TYPE_CHECKING:
    from spectral_exp.distributed.rendezvous import Rendezvous

_IS_NEW_KEY = "is_new"
"""Where process 0 publishes whether the run has no checkpoint yet, and so reads `init_from`."""

_GROUPS = (*ROLES, "monitoring", "match", "search")


@dataclass(frozen=True)
class _Parts:
    """The objects that a configuration describes."""

    globals: Globals
    settings: TrainingSettings
    budget: Budget
    distributed: DistributedSettings
    device: torch.device
    dataset: Dataset
    model: GPT
    optimizer: torch.optim.Optimizer
    schedule: Any
    loss: nn.Module
    components: dict[str, Any]


def check(
    config: Mapping[str, Any],
    run_dir: Path | None,
    arguments: Sequence[str] = (),
    world: World = SINGLE,
) -> list[str]:
    """Return every mistake in `config`, one line each; write only the cache of tokenized text.

    Args:
        config: plain resolved configuration.
        run_dir: the run directory; None if its name is not known yet.
        arguments: of the command line, for the command that a message recommends.
        world: the processes that will train.
    """
    config = update_names(config)
    location = run_dir or Path(str(config.get("outputs", "outputs")))
    try:
        refuse_unwritable(location)
    except UserError as error:
        return [str(error)]
    problems = resume_problems(config, run_dir, component_files(config), arguments)
    try:
        known = None if run_dir is None else find_known_text(RunPaths(run_dir))
        with trial_folder(location) as folder:
            parts = _assemble(config, RunPaths(folder), known, world, trial=True)
        if run_dir is not None and not problems and run_dir.is_dir():
            refuse_changed_data(RunPaths(run_dir), parts.dataset.fingerprints)
            refuse_before_start(config, RunPaths(run_dir))
            refuse_shorter(RunPaths(run_dir), parts.budget)
        if not problems and not has_begun(run_dir):
            find_starting_point(config, parts.model, parts.optimizer, parts.dataset.tokenizer)
        if (url := parts.components["backup"].url) is not None:
            enabled = parts.components["checkpoint"].enabled
            allowed = "null with monitoring/checkpoint=off: there is nothing to back up"
            require(enabled, "backup_url", url, allowed)
            is_one_file = parts.components["checkpoint"].format == "full"
            require(
                is_one_file, "backup_url", url, "null with monitoring.checkpoint.format=sharded"
            )
            check_url(url)
    except UserError as error:
        problems.append(str(error))
    return problems


@contextmanager
def build(
    config: dict[str, Any],
    run_dir: str | Path,
    overrides: list[str],
    search: Sequence[str] = (),
    changed_settings: Mapping[str, Any] | None = None,
    rendezvous: Rendezvous | None = None,
) -> Iterator[Runner]:
    """Build the runner of `config` in `run_dir`, which is locked inside the `with` block.

    Args:
        config: plain resolved configuration.
        run_dir: the run directory, new or to be continued.
        overrides: command-line overrides, recorded so that `resume=` can repeat them.
        search: arguments that locate further configuration files, recorded for `resume=` too.
        changed_settings: settings that differ from the defaults, recorded for readers.
        rendezvous: where this process, the first of several, meets the others.

    Raises:
        UserError: the configuration has a mistake, or the directory belongs to another run or is in
            use.
    """
    config = update_names(config)
    paths = RunPaths(Path(run_dir))
    with RunLock(paths.root) as lock, torch.random.fork_rng():
        refuse_links(paths.root)
        remove_unfinished_records(paths)
        # The folders of a sweep get their names only now, so `check` did not see their content.
        has_run = paths.config_file.is_file() or paths.checkpoint_steps()
        if has_run and (
            problems := resume_problems(
                config, paths.root, component_files(config), [*search, *overrides]
            )
        ):
            raise UserError("\nerror: ".join(problems))
        is_new = not has_begun(paths.root)
        if rendezvous is not None:
            share_run(rendezvous, paths.root)
            rendezvous.put(_IS_NEW_KEY, is_new)
        world = SINGLE if rendezvous is None else rendezvous.world
        parts = _assemble_seeded(config, paths, world)
        start = None
        if is_new:
            model, tokenizer = parts.model, parts.dataset.tokenizer
            start = find_starting_point(config, model, parts.optimizer, tokenizer)
        ranks = make_ranks(parts.distributed, parts.device, parts.optimizer, rendezvous)
        refuse_changed_data(paths, parts.dataset.fingerprints)
        refuse_shorter(paths, parts.budget)
        attempts = list_attempts(paths, overrides, search, ranks.describe())
        parent = _load_start(paths, parts, start)
        _record_attempt(config, paths, parts, attempts, parent, changed_settings)
        runner = _runner(config, paths, parts, ranks, lock.check)
        runner.state.parent = None if parent is None else {**parent}
        try:
            yield runner
        finally:
            runner.sync()
            runner.metrics.close()


@contextmanager
def build_member(config: dict[str, Any], rendezvous: Rendezvous) -> Iterator[Runner]:
    """Build the runner of a process beyond the first: it trains, and writes no file of the run.

    Args:
        config: plain resolved configuration.
        rendezvous: where this process meets the others.

    Raises:
        UserError: the configuration has a mistake on this machine.
    """
    config = update_names(config)
    paths = RunPaths(find_shared_run(rendezvous))
    with torch.random.fork_rng():
        parts = _assemble_seeded(without_components(config), paths, rendezvous.world)
        settings = replace(parts.settings, sample_tokens=0, profile_steps=0, restore_best=False)
        parts = replace(parts, settings=settings)
        if rendezvous.get(_IS_NEW_KEY):
            model, tokenizer = parts.model, parts.dataset.tokenizer
            start = find_starting_point(config, model, parts.optimizer, tokenizer)
            if start is not None:
                start.load(model, parts.optimizer)
        ranks = make_ranks(parts.distributed, parts.device, parts.optimizer, rendezvous)
        yield _runner(config, paths, parts, ranks, lambda: None)


def _load_start(paths: RunPaths, parts: _Parts, start: StartingPoint | None) -> Parent | None:
    """Load the initial weights of a new run, and return the origin of those of any run."""
    parent = find_parent(paths)
    if start is None:
        return parent
    start.load(parts.model, parts.optimizer)
    start.report(parent)
    return start.parent


def _record_attempt(
    config: dict[str, Any],
    paths: RunPaths,
    parts: _Parts,
    attempts: list[dict[str, Any]],
    parent: Parent | None,
    changed_settings: Mapping[str, Any] | None,
) -> None:
    """Record that a run begins or continues, if its backup can be written."""
    parts.components["backup"].check()
    parts.dataset.tokenizer.save(paths.tokenizer)
    own = own_places(config, attempts[-1].get("search", ()))
    attempts[-1] |= {"own_code": content_hashes(own)} if own else {}
    prefixes = own_machine_prefixes(parts.components)
    warn_of_other_bits(paths, parts.globals.threads)
    move_damaged_record(paths)
    # The record contains torch's thread count, which must be that of training.
    with process_settings(parts.globals.threads, deterministic=False):
        parts.components["tracking"].save_config(
            config,
            model=parts.model,
            dataset_info=parts.dataset.fingerprints,
            overrides=attempts[-1]["overrides"],
            command=sys.orig_argv,
            attempts=attempts,
            **({"parent": parent} if parent else {}),
            own_packages=own,
            **({"machine_metric_prefixes": prefixes} if prefixes else {}),
            changed_settings=changed_settings,
        )


def _assemble_seeded(config: Mapping[str, Any], paths: RunPaths, world: World) -> _Parts:
    """Build all parts of a run; every process draws the same weights."""
    torch.manual_seed(int(config["seed"]))
    return _assemble(config, paths, find_known_text(paths), world, trial=False)


def _assemble(
    config: Mapping[str, Any],
    paths: RunPaths,
    known: KnownText | None,
    world: World,
    *,
    trial: bool,
) -> _Parts:
    """Build all parts. Raises one UserError with all problems."""
    make = Constructor(config)
    globals_ = _make_globals(config, make)
    device = make.call("", lambda: resolve_device(str(config.get("device")), world))
    device = device or torch.device("cpu")
    make_search_settings(config, make)
    settings = make_part(config, "training", make)
    distributed = make_distributed_settings(config, world, settings, make)
    dataset = make_dataset(config, make, known)
    if dataset is not None and settings is not None:
        make.call("training", lambda: prompt_ids(dataset, settings))
    vocab_size = 256 if dataset is None else dataset.vocab_size
    is_whole = world.size == 1 or distributed is None or distributed.strategy == "ddp"
    model = _model(config, vocab_size, device if is_whole else None, make, trial)
    optimizer = make_optimizer(config, model, make, trial)
    if optimizer is not None and distributed is not None and distributed.shard_optimizer:
        make.call("", lambda: refuse_unshareable(optimizer))
    if optimizer is not None and not is_whole:
        make.call("", lambda: refuse_indivisible_optimizer(optimizer))
    budget = make_budget(config, settings, model, make)
    schedule = make_schedule(config, make, trial, budget.schedule_steps)
    loss = make_loss(config, make, trial, vocab_size)
    sample = None if dataset is None else plot_sample(dataset).ids
    components = make_components(config, paths, make, sample_ids=sample, max_steps=budget.last_step)
    make.finish()
    assert dataset is not None
    assert distributed is not None
    loss.to(device)
    threads = globals_.threads
    if threads is None and world.size > 1:
        threads = max(1, usable_cpus() // world.local_size)
    return _Parts(
        globals=replace(globals_, threads=threads),
        settings=settings,
        budget=budget,
        distributed=distributed,
        device=device,
        dataset=dataset,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        loss=loss,
        components=components,
    )


def _make_globals(config: Mapping[str, Any], make: Constructor) -> Any:
    """Build the settings without a group, and collect the keys that are no settings."""
    top_names = Globals.__annotations__
    make.problems += [
        f"{key} is not a setting{nearest(key, [*top_names, *_GROUPS])}; --cfg job shows all "
        "settings"
        for key in config
        if key not in top_names and key not in _GROUPS
    ]
    top = {key: value for key, value in config.items() if key in top_names}
    role = Role(Globals, Globals.__module__)
    return make.make({"_target_": f"{role.home}.Globals", **top}, "", role)


def _model(
    config: Mapping[str, Any],
    vocab_size: int,
    device: torch.device | None,
    make: Constructor,
    trial: bool,
) -> Any:
    """Build the model; on trial without memory for its weights.

    Args:
        device: where it computes; None for a model to divide, which goes there in parts.
    """
    with UndrawnWeights() if trial else nullcontext():
        model = make_model(config, vocab_size, make)
    if model is None:
        return None
    if not trial:
        return model if device is None else model.to(device)
    # A summary that fails must fail before the run directory, which will record it, exists.
    name = f"model: {type(model).__name__}"
    make.call("model", lambda: construct(name, lambda: summarize_model(model)))
    if device is not None and has_own_part(config["model"], make.packages):
        model.to(device)
        make.call("model", lambda: try_model(model, vocab_size, model.block_size, device))
    return model


def _runner(
    config: dict[str, Any],
    paths: RunPaths,
    parts: _Parts,
    ranks: Ranks,
    check_owner: Callable[[], None],
) -> Runner:
    settings, dataset, seed = parts.settings, parts.dataset, parts.globals.seed
    model, components = parts.model, parts.components
    divided = divide(config, model, parts.optimizer, ranks)
    trained = model if divided is None else divided[0]
    block_size = int(config["model"]["block_size"])
    token_bytes = dataset.tokenizer.token_bytes
    return Runner(
        paths=paths,
        settings=settings,
        budget=parts.budget,
        seed=seed,
        threads=parts.globals.threads,
        device=parts.device,
        model=model,
        compute=torch.compile(trained) if settings.compile else trained,  # type: ignore[arg-type]
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        loss=parts.loss,
        batches=Batches(dataset.train, block_size, settings.batch_size, seed),
        windows=EvalWindows(
            dataset.val, token_bytes, block_size, settings.batch_size, settings.eval_windows
        ),
        test_windows=None
        if dataset.test is None
        else EvalWindows(dataset.test, token_bytes, block_size, settings.batch_size),
        data=dataset,
        sample=build_sampler(model, dataset, settings, seed, next(model.parameters()).device),
        plot_sample=plot_sample(dataset),
        token_text=dataset.tokenizer.token_text,
        config=config,
        backup=components["backup"],
        checkpoint=components["checkpoint"],
        metrics=components["metrics"],
        visualization=components["visualization"],
        tracker=components["tracking"],
        companion=components.get("companion", nullcontext()),
        observers={n: part for n, part in components.items() if isinstance(part, Observer)},
        check_owner=check_owner,
        ranks=ranks,
        trained=divided,
    )
