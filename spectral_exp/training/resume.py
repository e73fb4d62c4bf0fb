"""Checks before a run is continued: the same experiment, the same text, the same machine.

`resume_problems` runs with the other checks of a configuration, before anything is written. The
`refuse_...` functions run while the run starts, when its directory is locked.
"""

from __future__ import annotations

import logging
import os
import platform
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import RunError, UserError
from spectral_exp.core.files import TEMPORARY_SUFFIX, follow
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.git import git_hash, working_directory
from spectral_exp.core.json_value import jsonable
from spectral_exp.core.redact import REDACTED, redact
from spectral_exp.core.shell import shell_command
from spectral_exp.core.timestamps import timestamp
from spectral_exp.core.wording import format_count
from spectral_exp.data.known_text import KnownText
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.reader import BrokenCheckpointError, read_checkpoint
from spectral_exp.runs.layout import CORRUPT_SUFFIX, RANK_LOG_PATTERN, RunPaths, links_inside
from spectral_exp.runs.lock import names_other_host, refuse_if_running
from spectral_exp.runs.overrides import (
    AROUND_STEPS,
    BUDGET,
    PLACE,
    flatten,
    is_among,
    quote,
    setting_of,
)
from spectral_exp.runs.parentage import SETTING
from spectral_exp.runs.record import Parent, parent_in, read_intact_config, read_results
from spectral_exp.runs.renamed import update_names
from spectral_exp.runs.status import FINISHED
from spectral_exp.training.budget import Budget

log = logging.getLogger(__name__)

# Settings that may differ between attempts at one run. They do not change the computation of the
# remaining steps, except for the budget, which prolongs the run.
_CHANGEABLE = (*PLACE, *AROUND_STEPS, "device", "threads", *BUDGET)
# The location of the text may change if `refuse_changed_data` can compare recorded fingerprints.
_TEXT_PLACE = ("data.path", "data.pattern", "data.url", "data.timeout_s", "tokenizer.path")
_MAX_DIFFERENCES = 20
# Facts that may change the last bits of a result: section of the record -> entries.
_BITS = {"hardware": ("cpu_model", "gpu_model", "cuda_version"), "packages": ("torch", "numpy")}


# --- checks of a configuration --------------------------------------------------------------------


def resume_problems(
    config: Mapping[str, Any],
    run_dir: Path | None,
    component_files: Sequence[str],
    arguments: Sequence[str] = (),
) -> list[str]:
    """Return why `config` may not run in `run_dir`, one line each.

    Args:
        config: plain resolved configuration.
        run_dir: the run directory, which need not exist; None if its name is not known yet.
        component_files: patterns of the files that monitoring components write.
        arguments: of the command line, with the overrides of the run that `resume` names.
    """
    if run_dir is None or not run_dir.is_dir():
        return []
    if links := links_inside(run_dir):
        return [_link_problem(run_dir, links)]
    paths = RunPaths(run_dir)
    record = find_record(paths)
    if record is None:
        if foreign := _foreign_files(paths, component_files):
            shown = ", ".join(foreign[:3])
            return [f"{run_dir} holds files but no run ({shown}, ...); choose another directory"]
        return []
    if config.get("resume") is not None and not paths.checkpoint_steps():
        return [
            f"resume={run_dir} holds no checkpoint to continue from; start a new run without "
            "resume="
        ]
    has_other_start = _names_other_start(record, config)
    if has_other_start and config.get("resume") is not None:
        start = redact(config)[SETTING]
        return [
            f"resume={run_dir} and {SETTING}={start} exclude each other: resume continues a run "
            f"from its own last checkpoint, and {SETTING} starts a new run from the weights of "
            "another; give one of them"
        ]
    differences = list(_check_settings(record, config, run_dir))
    if differences and paths.checkpoint_steps() and not has_other_start:
        differences.append(_advise_fork(run_dir, arguments))
    return [*_check_length(config, paths), *differences]


def _check_length(config: Mapping[str, Any], paths: RunPaths) -> Iterator[str]:
    """Yield a problem if the run has already done more than `training.max_steps` steps."""
    training = config.get("training")
    max_steps = training.get("max_steps") if isinstance(training, Mapping) else None
    done = _steps_done(paths)
    if isinstance(max_steps, int) and max_steps < done:
        yield (
            f"training.max_steps={max_steps} must be >= {done}, the steps that {paths.root} has "
            "done; train a shorter run in another directory"
        )


def _steps_done(paths: RunPaths) -> int:
    return max([_finished_steps(paths), *paths.checkpoint_steps()])


def _finished_steps(paths: RunPaths) -> int:
    """Return the steps of a finished run, whose last checkpoint may be lost; 0 for any other."""
    try:
        results = read_results(paths.results_file)[0]
    except UserError:
        return 0
    is_finished = results.get("status") in FINISHED
    return results.get("totals", {}).get("steps", 0) if is_finished else 0


def _check_settings(
    record: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path
) -> Iterator[str]:
    """Yield a problem if settings differ from the record that must not change in a run."""
    config = update_names(config)
    changeable = (*_CHANGEABLE, *_TEXT_PLACE) if record.get("dataset") else _CHANGEABLE
    before = dict(flatten(record.get("config", {})))
    given, now = dict(flatten(jsonable(config))), dict(flatten(redact(config)))
    keys = [
        k
        for k in sorted({*before, *now})
        # Secrets may have changed, because the record does not contain them.
        if before.get(k) not in (now.get(k), given.get(k))
        and not _is_redacted_form(before.get(k), given.get(k))
        and not is_among(k, changeable)
    ]
    if not keys:
        return
    shown = "; ".join(
        f"{k}: {before.get(k, 'absent')} -> {now.get(k, 'absent')}" for k in keys[:_MAX_DIFFERENCES]
    )
    yield (
        f"{run_dir} holds a run of another configuration ({shown}); continue it with "
        f"resume={run_dir} and no other overrides, or start a new run"
    )


def _names_other_start(record: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return whether `config` names initial weights that are not those of the record."""
    recorded = record.get("config")
    before = recorded.get(SETTING) if isinstance(recorded, Mapping) else None
    return redact(config).get(SETTING) not in (None, before)


def _advise_fork(run_dir: Path, arguments: Sequence[str]) -> str:
    """Return the command that starts a new run with the given settings from a run's weights."""
    left_out = ("resume", "experiment_id", "hydra.run", SETTING)
    kept = [argument for argument in arguments if not is_among(setting_of(argument), left_out)]
    command = ["spectral-exp", "train", *redact(kept), f"{SETTING}={quote(str(run_dir))}"]
    return (
        "to start a new run with these settings from its weights, give the command "
        f"{shell_command(command)}"
    )


def _is_redacted_form(recorded: object, value: object) -> bool:
    """Return whether `recorded` is `value` with its secrets removed."""
    if not (isinstance(recorded, str) and REDACTED in recorded and isinstance(value, str)):
        return False
    pattern = ".*".join(map(re.escape, recorded.split(REDACTED)))
    return re.fullmatch(pattern, value, re.DOTALL) is not None


def _foreign_files(paths: RunPaths, component_files: Sequence[str]) -> list[str]:
    """Return the entries of a folder that a run without a checkpoint does not create.

    Any checkpoint counts as foreign, because the caller has found no intact one.
    """
    unfinished = f".*{TEMPORARY_SUFFIX}"
    root = paths.root
    own = {paths.hydra, paths.run_log, paths.lock_file, paths.tokenizer, paths.notes_file}
    own |= {paths.tensorboard, paths.wandb}
    folders = {paths.logs}
    own.update(paths.logs.glob(RANK_LOG_PATTERN))
    for pattern in component_files:
        if "/" not in pattern:
            own.add(root / pattern)
        # Without config.json (monitoring/tracking=off), only the files of components exist.
        elif paths.hydra.is_dir():
            folder = (root / pattern).parent
            folders.add(folder)
            if folder != paths.checkpoints:
                own.update(root.glob(pattern))
    entries = (path for path in root.iterdir() if path not in own and not path.match(unfinished))
    return sorted(
        path.name
        for path in entries
        if path not in folders
        or not path.is_dir()
        or not all(file in own or file.match(unfinished) for file in path.iterdir())
    )


# --- checks while a run starts --------------------------------------------------------------------


def refuse_links(run_dir: Path) -> None:
    """Raise a UserError if the run contains links, through which foreign files would be written."""
    if links := links_inside(run_dir):
        raise UserError(_link_problem(run_dir, links))


def _link_problem(run_dir: Path, links: Sequence[Path]) -> str:
    names = ", ".join(repr(str(link.relative_to(run_dir))) for link in links[:3])
    return (
        f"{run_dir} holds links ({names}) that may lead out of the run, so files are neither "
        "written through them nor backed up; replace each link by the file that it points to, or "
        "remove it"
    )


def refuse_foreign_checkpoint(
    step: int, saved: Mapping[str, Any], config: Mapping[str, Any], paths: RunPaths
) -> None:
    """Raise a UserError if a checkpoint belongs to a run of another configuration.

    Args:
        step: the step of the checkpoint.
        saved: the configuration in the checkpoint.
        config: the configuration of the run that continues from it.
        paths: the paths of that run.
    """
    before, now = dict(flatten(jsonable(update_names(saved)))), dict(flatten(redact(config)))
    keys = [key for key in sorted(before.keys() & now.keys()) if not is_among(key, _CHANGEABLE)]
    # The text may have moved; its fingerprint is compared elsewhere.
    keys = [key for key in keys if "path" not in key.rpartition(".")[2]]
    different = [
        key for key in keys if before[key] != now[key] and REDACTED not in (before[key], now[key])
    ]
    if different:
        shown = "; ".join(f"{key}: {before[key]} -> {now[key]}" for key in different[:3])
        raise UserError(
            f"{paths.checkpoint_file(step)} belongs to a run of another configuration ({shown}); "
            f"move it and all other files of that run out of {paths.checkpoints}, then give the "
            "same command again"
        )


def refuse_before_start(config: Mapping[str, Any], paths: RunPaths) -> None:
    """Raise a UserError if the run is in use, or its newest checkpoint has other settings.

    Training checks the same, but only after it has begun to write.
    """
    # Only the lock itself shows whether another host has died.
    if not names_other_host(paths.root):
        refuse_if_running(paths.root)
    newest = follow(paths.latest_link) or paths.checkpoint_file(
        max(paths.checkpoint_steps(), default=0)
    )
    try:
        state = read_checkpoint(newest)
    except (BrokenCheckpointError, FileNotFoundError):
        return  # training continues from an older checkpoint, or starts
    refuse_foreign_checkpoint(int(state["step"]), state["config"], config, paths)


def refuse_shorter(paths: RunPaths, budget: Budget) -> None:
    """Raise a UserError if the run has already done more steps than its budget allows."""
    last, done = budget.last_step, _steps_done(paths)
    if last is not None and last < done:
        raise UserError(
            f"{budget.describe()} ends after {format_count(last, 'step')}, and {paths.root} has "
            f"done {done}; raise the budget, or train a shorter run in another directory"
        )


def refuse_changed_data(paths: RunPaths, fingerprints: Mapping[str, Any]) -> None:
    """Raise a UserError if the run was trained on text with other fingerprints."""
    before = (find_record(paths) or {}).get("dataset") or {}
    changed = [
        f"{name}: {before[name]} -> {value}"
        for name, value in fingerprints.items()
        if name in before and before[name] != value
    ]
    if changed:
        raise UserError(
            f"{paths.root} was trained on other text ({'; '.join(changed)}); put the text back, or "
            "start a new run"
        )


def warn_of_other_bits(paths: RunPaths, threads: int | None) -> None:
    """Warn if this machine or its packages may compute results that differ in the last bits.

    Args:
        paths: the paths of the run.
        threads: the setting `threads`; None leaves the number to torch.
    """
    from spectral_exp.monitoring.tracking.environment import hardware_facts, package_versions

    record = find_record(paths) or {}
    then: dict[str, Any] = {section: record.get(section) for section in _BITS}
    if not paths.checkpoint_steps() or not all(
        isinstance(facts, Mapping) for facts in then.values()
    ):
        return
    now: dict[str, dict[str, Any]] = {"hardware": hardware_facts(), "packages": package_versions()}
    changed = [
        f"{name} {then[section][name]} -> {now[section].get(name)}"
        for section, names in _BITS.items()
        for name in names
        if name in then[section] and then[section][name] != now[section].get(name)
    ]
    before = record["config"].get("threads") or then["hardware"].get("torch_threads")
    after = threads or now["hardware"]["torch_threads"]
    if before is not None and before != after:
        changed.append(f"threads {before} -> {after}")
    if changed:
        log.warning(
            "%s is continued with %s: the remaining steps may differ in their last bits from "
            "those of an uninterrupted run", paths.root, printable(", ".join(changed)),
        )  # fmt: skip


def load_newest_checkpoint(checkpoint: CheckpointManager, ranks: Ranks) -> dict[str, Any] | None:
    """Return the newest intact checkpoint, the same in all processes, or None if there is none.

    Raises:
        RunError: this process cannot read the checkpoint that the first one has found.
    """
    found = None
    if ranks.world.is_main:
        found = checkpoint.load_latest_checkpoint(history_as_array=True, mapped=ranks.is_sharded)
    step = ranks.from_main(0 if found is None else int(found["step"]))
    if found is None and step:
        found = checkpoint.load_checkpoint(step, mapped=ranks.is_sharded)
        if found is None:
            raise RunError(
                f"cannot read the checkpoint of step {step} in {checkpoint.paths.checkpoints}; all "
                "processes need the run directory on a disk that they share"
            )
        found["loss_history"] = array("d", found["loss_history"])
    return found


# --- the record of a run --------------------------------------------------------------------------


def find_record(paths: RunPaths) -> dict[str, Any] | None:
    """Return the record of the run in `paths`, or None if there is no run.

    If `config.json` is missing or damaged, return the configuration and the parent in the newest
    checkpoint.
    """
    if paths.config_file.is_file():
        try:
            return dict(read_intact_config(paths.config_file))
        except UserError as error:
            if not paths.checkpoint_steps():
                raise
            log.warning("%s; the configuration is taken from the newest checkpoint", error)
    found = CheckpointManager(paths.root, enabled=False).load_latest_checkpoint()
    if found is None:
        return None
    parent = parent_in(found)
    return {"config": update_names(found["config"]), **({"parent": parent} if parent else {})}


def move_damaged_record(paths: RunPaths) -> None:
    """Move a damaged `config.json` to `config.json.corrupt` before a new one is written."""
    if not paths.config_file.is_file():
        return
    try:
        read_intact_config(paths.config_file)
    except UserError:
        corrupt = paths.config_file.with_name(paths.config_file.name + CORRUPT_SUFFIX)
        paths.config_file.replace(corrupt)
        log.warning("%s is damaged: kept as %s", paths.config_file, corrupt.name)


def find_known_text(paths: RunPaths) -> KnownText | None:
    """Return the recorded fingerprints of a run's text, or None if there are none."""
    fingerprints = (find_record(paths) or {}).get("dataset")
    return KnownText(str(paths.root), fingerprints) if fingerprints else None


def find_parent(paths: RunPaths) -> Parent | None:
    """Return the recorded origin of the initial weights of a run, or None if there is none."""
    return (find_record(paths) or {}).get("parent")


def list_attempts(
    paths: RunPaths,
    overrides: list[str],
    search: Sequence[str] = (),
    processes: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return the recorded attempts at a run, followed by the one that begins now.

    Args:
        paths: the paths of the run.
        overrides: the overrides of this attempt.
        search: arguments of this attempt that locate further configuration files.
        processes: the record of the processes of this attempt.
    """
    before = (find_record(paths) or {}).get("attempts", [])
    checkpoints = CheckpointManager(paths.root, enabled=False).list_checkpoints()
    now: dict[str, Any] = {
        "timestamp": timestamp(),
        "git_hash": git_hash(),
        "host": platform.node(),
        "pid": os.getpid(),
        "from_step": next((found["step"] for found in checkpoints if found["is_latest"]), 0),
        "cwd": str(working_directory()),
        "overrides": overrides,
        **(processes or {}),
    }
    if search:
        now["search"] = list(search)
    return [*before, now]
