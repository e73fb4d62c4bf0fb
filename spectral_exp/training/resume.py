"""Whether a directory may be continued by a configuration: the same experiment, or a clear refusal."""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.files import TEMPORARY_SUFFIX, follow
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.git import git_hash, working_directory
from spectral_exp.core.redact import REDACTED, redact
from spectral_exp.core.timestamps import timestamp
from spectral_exp.data.known_text import KnownText
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.reader import BrokenCheckpointError, read_checkpoint
from spectral_exp.runs.layout import CORRUPT_SUFFIX, CUT_METRICS_NAME, HYDRA_FOLDER, RunPaths, jsonable, links_inside
from spectral_exp.runs.lock import refuse_if_locked
from spectral_exp.runs.overrides import AROUND_STEPS, PLACE, flat, is_among
from spectral_exp.runs.record import read_intact_config
from spectral_exp.runs.renamed import current_names

log = logging.getLogger(__name__)

# What may differ between attempts at one run: nothing of it changes what training computes in the steps still to come,
# but a longer run (training.max_steps), which asks for exactly that.
_CHANGEABLE = (*PLACE, *AROUND_STEPS, "device", "threads", "training.max_steps")
# Where the text lies. It may move if its fingerprints were recorded, by which `refuse_changed_data` knows it again.
_TEXT_PLACE = ("data.path", "data.pattern", "data.url", "data.timeout_s", "tokenizer.path")
_MAX_DIFFERENCES = 20
# What decides the last bits of a result: section of the record -> entries.
_BITS = {"hardware": ("cpu_model", "gpu_model", "cuda_version"), "packages": ("torch", "numpy")}


def resume_problems(config: Mapping[str, Any], run_dir: Path | None) -> list[str]:
    """Why `config` may not run in `run_dir`, one line each; nothing where it may."""
    if run_dir is None or not run_dir.is_dir():
        return []
    if links := links_inside(run_dir):
        return [_link_problem(run_dir, links)]
    paths = RunPaths(run_dir)
    if recorded(paths) is None:
        if foreign := _foreign_files(paths):
            return [f"{run_dir} holds files but no run ({', '.join(foreign[:3])}, ...); choose another directory"]
        return []
    if config.get("resume") is not None and not paths.checkpoint_steps():
        return [f"resume={run_dir} holds no checkpoint to continue from; start it anew without resume="]
    differences = [*_differences(recorded(paths) or {}, config, run_dir)]
    return [*_shortening(config, paths), *differences]


def _shortening(config: Mapping[str, Any], paths: RunPaths) -> Iterator[str]:
    """A run cannot take back steps: what it recorded would no longer fit its settings."""
    training = config.get("training")
    max_steps = training.get("max_steps") if isinstance(training, Mapping) else None
    done = max(paths.checkpoint_steps(), default=0)
    if isinstance(max_steps, int) and max_steps < done:
        yield (
            f"training.max_steps={max_steps} must be >= {done}: {paths.root} has done as many steps; train a shorter "
            "run anew in another directory"
        )


def _foreign_files(paths: RunPaths) -> list[str]:
    """What is in a folder beside the things that an attempt leaves which was killed before its first checkpoint."""
    own = (paths.lock_file, paths.tokenizer, paths.git_diff_file, paths.backup_file)
    remains = {HYDRA_FOLDER, "train.log", *(path.name for path in own)}
    unfinished = f".*{TEMPORARY_SUFFIX}"
    if (paths.root / HYDRA_FOLDER).is_dir():
        # A run that records nothing of itself (monitoring/tracking=off) has begun these by then.
        logs = {paths.metrics_file.name, paths.training_log.name, CUT_METRICS_NAME}
        begun: dict[Path, Callable[[Path], bool]] = {
            paths.logs: lambda path: path.name in logs,
            paths.visualizations: lambda path: path.suffix == ".png",
            paths.checkpoints: lambda path: path.match(unfinished),
        }
        remains |= {f.name for f, is_own in begun.items() if f.is_dir() and all(map(is_own, f.iterdir()))}
    return sorted(p.name for p in paths.root.iterdir() if p.name not in remains and not p.match(unfinished))


def refuse_links(run_dir: Path) -> None:
    """Raise a UserError if a link in the run would lead what is written there to another place."""
    if links := links_inside(run_dir):
        raise UserError(_link_problem(run_dir, links))


def _link_problem(run_dir: Path, links: Sequence[Path]) -> str:
    names = ", ".join(repr(str(link.relative_to(run_dir))) for link in links[:3])
    return (
        f"{run_dir} holds links ({names}), which may lead out of the run, and its files are neither written through "
        "them nor backed up; replace them by what they point to, or remove them"
    )


def recorded(paths: RunPaths) -> dict[str, Any] | None:
    """What the run in `paths` recorded of itself; None where there is no run.

    Where `config.json` is missing or damaged, the configuration comes out of the newest checkpoint.
    """
    if paths.config_file.is_file():
        try:
            return dict(read_intact_config(paths.config_file))
        except UserError as error:
            if not paths.checkpoint_steps():
                raise
            log.warning("%s; the configuration is taken from the newest checkpoint", error)
    found = CheckpointManager(paths.root, enabled=False).load_latest_checkpoint()
    return {"config": current_names(found["config"])} if found is not None else None


def refuse_foreign_checkpoint(step: int, saved: Mapping[str, Any], config: Mapping[str, Any], paths: RunPaths) -> None:
    """Raise a UserError if the checkpoint of `step` was made under another configuration: it is another run's.

    Args:
        step: of the checkpoint.
        saved: the configuration that it holds.
        config: that of the run which is about to continue from it.
        paths: of that run.
    """
    before, now = dict(flat(jsonable(current_names(saved)))), dict(flat(redact(config)))
    keys = [key for key in sorted(before.keys() & now.keys()) if not is_among(key, _CHANGEABLE)]
    # The text may have moved; that it is the same text, its fingerprint says.
    keys = [key for key in keys if "path" not in key.rpartition(".")[2]]
    different = [key for key in keys if before[key] != now[key] and REDACTED not in (before[key], now[key])]
    if different:
        shown = "; ".join(f"{key}: {before[key]} -> {now[key]}" for key in different[:3])
        raise UserError(
            f"{paths.checkpoint_file(step)} is of a run of another configuration ({shown}); move it, and whatever else "
            f"does not belong to this run, out of {paths.checkpoints}, then give the same command again"
        )


def refuse_before_start(config: Mapping[str, Any], paths: RunPaths) -> None:
    """Raise a UserError if the run in `paths` is in use, or its newest checkpoint may not be continued by `config`.

    Training finds that out too, but has begun to write by then.
    """
    refuse_if_locked(paths.root)
    newest = follow(paths.latest_link) or paths.checkpoint_file(max(paths.checkpoint_steps(), default=0))
    try:
        state = read_checkpoint(newest)
    except (BrokenCheckpointError, FileNotFoundError):
        return  # an older one is taken, or none
    refuse_foreign_checkpoint(int(state["step"]), state["config"], config, paths)


def set_aside_damaged(paths: RunPaths) -> None:
    """Keep a damaged `config.json` beside the one that is about to take its place."""
    if not paths.config_file.is_file():
        return
    try:
        read_intact_config(paths.config_file)
    except UserError:
        aside = paths.config_file.with_name(paths.config_file.name + CORRUPT_SUFFIX)
        paths.config_file.replace(aside)
        log.warning("%s is damaged: kept as %s", paths.config_file, aside.name)


def known_text(paths: RunPaths) -> KnownText | None:
    """The text that the run in `paths` recorded; None if there is no run, or its record does not say."""
    fingerprints = (recorded(paths) or {}).get("dataset")
    return KnownText(str(paths.root), fingerprints) if fingerprints else None


def refuse_changed_data(paths: RunPaths, fingerprints: Mapping[str, Any]) -> None:
    """Raise a UserError if the run in `paths` was trained on other text than `fingerprints` tells."""
    before = (recorded(paths) or {}).get("dataset") or {}
    changed = [f"{k}: {before[k]} -> {v}" for k, v in fingerprints.items() if k in before and before[k] != v]
    if changed:
        raise UserError(
            f"{paths.root} was trained on other text ({'; '.join(changed)}); put the text back, or start a new run"
        )


def warn_of_other_bits(paths: RunPaths, threads: int | None) -> None:
    """Warn if the run in `paths` is continued by a machine or packages that may compute other last bits.

    `threads` is the run's own setting; None leaves the number to torch.
    """
    from spectral_exp.monitoring.tracking.environment import hardware_facts, package_versions

    record = recorded(paths) or {}
    then: dict[str, Any] = {section: record.get(section) for section in _BITS}
    if not paths.checkpoint_steps() or not all(isinstance(facts, Mapping) for facts in then.values()):
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
            "%s is continued with %s: the steps to come may differ in their last bits from those of the run "
            "undisturbed", paths.root, printable(", ".join(changed)),
        )  # fmt: skip


def attempts(paths: RunPaths, overrides: list[str], search: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All attempts at the run in `paths`, the one that begins now last: when, where, with which code and overrides.

    `search` are the arguments that said where configuration files are looked for.
    """
    before = (recorded(paths) or {}).get("attempts", [])
    checkpoints = CheckpointManager(paths.root, enabled=False).list_checkpoints()
    now: dict[str, Any] = {
        "timestamp": timestamp(),
        "git_hash": git_hash(),
        "host": platform.node(),
        "pid": os.getpid(),
        "from_step": next((found["step"] for found in checkpoints if found["is_latest"]), 0),
        "cwd": str(working_directory()),
        "overrides": overrides,
    }
    if search:
        now["search"] = list(search)
    return [*before, now]


def _differences(record: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path) -> Iterator[str]:
    changeable = (*_CHANGEABLE, *_TEXT_PLACE) if record.get("dataset") else _CHANGEABLE
    before, given, now = dict(flat(record.get("config", {}))), dict(flat(jsonable(config))), dict(flat(redact(config)))
    keys = [
        k
        for k in sorted({*before, *now})
        # Secrets were not recorded, so that they may be others now; types were made plain.
        if before.get(k) not in (now.get(k), given.get(k))
        and not _is_redacted_form(before.get(k), given.get(k))
        and not is_among(k, changeable)
    ]
    if not keys:
        return
    shown = "; ".join(f"{k}: {before.get(k, 'absent')} -> {now.get(k, 'absent')}" for k in keys[:_MAX_DIFFERENCES])
    yield (
        f"{run_dir} holds a run of another configuration ({shown}); continue it with resume={run_dir} and no other "
        "overrides, or start a new run"
    )


def _is_redacted_form(recorded: object, value: object) -> bool:
    """Whether `recorded` is what a text like `value` leaves once its secrets are removed."""
    if not (isinstance(recorded, str) and REDACTED in recorded and isinstance(value, str)):
        return False
    return re.fullmatch(".*".join(map(re.escape, recorded.split(REDACTED))), value, re.DOTALL) is not None
