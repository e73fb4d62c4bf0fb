"""Whether a directory may be continued by a configuration: the same experiment, or a clear refusal."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from spectral_exp.errors import UserError
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.redact import redact
from spectral_exp.run_dir import (
    CORRUPT_SUFFIX,
    CUT_METRICS_NAME,
    TEMPORARY_SUFFIX,
    RunPaths,
    git_hash,
    read_intact_json,
)
from spectral_exp.run_record import AROUND_STEPS, PLACE, flat, is_among
from spectral_exp.trust import printable

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
    paths = RunPaths(run_dir)
    if link := _link_to_elsewhere(paths):
        return [
            f"{printable(str(link))} is a link that leads out of the run, to what would be written or backed up; put "
            "the file itself there, or remove the link"
        ]
    if recorded(paths) is None:
        if foreign := _foreign_files(paths):
            return [f"{run_dir} holds files but no run ({', '.join(foreign[:3])}, ...); choose another directory"]
        return []
    if config.get("resume") is not None and not paths.checkpoint_steps():
        return [f"resume={run_dir} holds no checkpoint to continue from; start it anew without resume="]
    return [*_differences(recorded(paths) or {}, config, run_dir)]


def _link_to_elsewhere(paths: RunPaths) -> Path | None:
    """A link in a run that leads out of it; None if there is none.

    Checkpoints and plots may lie on another disk, but not in another run, whose files would be pruned.
    """
    root = Path(os.path.realpath(paths.root))
    for folder, folders, files in os.walk(paths.root):
        for path in (Path(folder) / name for name in (*folders, *files)):
            target = Path(os.path.realpath(path))
            if not path.is_symlink() or target.is_relative_to(root):
                continue
            may_lie_elsewhere = path in (paths.checkpoints, paths.visualizations) and target.is_dir()
            if not may_lie_elsewhere or RunPaths(target.parent).config_file.exists():
                return path
    return None


def _foreign_files(paths: RunPaths) -> list[str]:
    """What is in a folder beside the things that an attempt leaves which was killed before its first checkpoint."""
    own = (paths.lock_file, paths.tokenizer, paths.git_diff_file, paths.backup_file)
    remains = {".hydra", "train.log", *(path.name for path in own)}
    unfinished = f".*{TEMPORARY_SUFFIX}"
    if (paths.root / ".hydra").is_dir():
        # A run that records nothing of itself (monitoring/tracking=off) has begun these by then.
        logs = {paths.metrics_file.name, paths.training_log.name, CUT_METRICS_NAME}
        begun: dict[Path, Callable[[Path], bool]] = {
            paths.logs: lambda path: path.name in logs,
            paths.visualizations: lambda path: path.suffix == ".png",
            paths.checkpoints: lambda path: path.match(unfinished),
        }
        remains |= {f.name for f, is_own in begun.items() if f.is_dir() and all(map(is_own, f.iterdir()))}
    return sorted(p.name for p in paths.root.iterdir() if p.name not in remains and not p.match(unfinished))


def recorded(paths: RunPaths) -> dict[str, Any] | None:
    """What the run in `paths` recorded of itself; None where there is no run.

    Where `config.json` is missing or damaged, the configuration comes out of the newest checkpoint.
    """
    if paths.config_file.is_file():
        try:
            return read_intact_json(paths.config_file)
        except UserError as error:
            if not paths.checkpoint_steps():
                raise
            log.warning("%s; the configuration is taken from the newest checkpoint", error)
    found = CheckpointManager(paths.root, enabled=False).load_latest_checkpoint()
    return {"config": found["config"]} if found is not None else None


def set_aside_damaged(paths: RunPaths) -> None:
    """Keep a damaged `config.json` beside the one that is about to take its place."""
    if not paths.config_file.is_file():
        return
    try:
        read_intact_json(paths.config_file)
    except UserError:
        aside = paths.config_file.with_name(paths.config_file.name + CORRUPT_SUFFIX)
        paths.config_file.replace(aside)
        log.warning("%s is damaged: kept as %s", paths.config_file, aside.name)


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
    from spectral_exp.monitoring.environment import hardware_facts, package_versions

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
            "undisturbed", paths.root, ", ".join(changed),
        )  # fmt: skip


def attempts(paths: RunPaths, overrides: list[str], search: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All attempts at the run in `paths`, the one that begins now last: when, where, with which code and overrides.

    `search` are the arguments that said where configuration files are looked for.
    """
    before = (recorded(paths) or {}).get("attempts", [])
    now: dict[str, Any] = {
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "git_hash": git_hash(),
        "host": platform.node(),
        "pid": os.getpid(),
        "from_step": max(paths.checkpoint_steps(), default=0),
        "cwd": str(Path.cwd()),
        "overrides": overrides,
    }
    if search:
        now["search"] = list(search)
    return [*before, now]


def _differences(record: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path) -> Iterator[str]:
    changeable = (*_CHANGEABLE, *_TEXT_PLACE) if record.get("dataset") else _CHANGEABLE
    # What was recorded has its secrets redacted and its types made plain; the same is done to what it is compared with.
    before, now = dict(flat(record.get("config", {}))), dict(flat(redact(config)))
    keys = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k) and not is_among(k, changeable)]
    if not keys:
        return
    shown = "; ".join(f"{k}: {before.get(k, 'absent')} -> {now.get(k, 'absent')}" for k in keys[:_MAX_DIFFERENCES])
    yield (
        f"{run_dir} holds a run of another configuration ({shown}); continue it with resume={run_dir} and no other "
        "overrides, or start a new run"
    )
