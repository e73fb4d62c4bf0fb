"""Whether a directory may be continued by a configuration: the same experiment, or a clear refusal."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from spectral_exp.errors import UserError
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.redact import REDACTED, redact
from spectral_exp.run_dir import CORRUPT_SUFFIX, TEMPORARY_SUFFIX, RunPaths, git_hash, jsonable, read_intact_json
from spectral_exp.run_record import AROUND_STEPS, PLACE, flat, is_among

log = logging.getLogger(__name__)

# What may differ between attempts at one run: nothing of it changes what training computes in the steps still to come,
# but a longer run (training.max_steps), which asks for exactly that.
_CHANGEABLE = (*PLACE, *AROUND_STEPS, "device", "threads", "training.max_steps")
_MAX_DIFFERENCES = 20


def resume_problems(config: Mapping[str, Any], run_dir: Path | None) -> list[str]:
    """Why `config` may not run in `run_dir`, one line each; nothing where it may."""
    if run_dir is None or not run_dir.is_dir():
        return []
    paths = RunPaths(run_dir)
    if recorded(paths) is None:
        # What an attempt leaves behind that was killed before it could record its configuration.
        own = (paths.lock_file, paths.tokenizer, paths.git_diff_file, paths.backup_file)
        remains = {".hydra", "train.log", *(path.name for path in own)}
        unfinished = f".*{TEMPORARY_SUFFIX}"
        foreign = sorted(p.name for p in run_dir.iterdir() if p.name not in remains and not p.match(unfinished))
        if foreign:
            return [f"{run_dir} holds files but no run ({', '.join(foreign[:3])}, ...); choose another directory"]
        return []
    if config.get("resume") is not None and not paths.checkpoint_steps():
        return [f"resume={run_dir} holds no checkpoint to continue from; start it anew without resume="]
    return [*_differences((recorded(paths) or {}).get("config", {}), config, run_dir)]


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


def refuse_foreign_checkpoint(step: int, saved: Mapping[str, Any], config: Mapping[str, Any], paths: RunPaths) -> None:
    """Raise a UserError if the checkpoint of `step` was made under another configuration: it is another run's.

    Args:
        step: of the checkpoint.
        saved: the configuration that it holds.
        config: that of the run which is about to continue from it.
        paths: of that run.
    """
    before, now = dict(flat(jsonable(saved))), dict(flat(redact(config)))
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


def attempts(paths: RunPaths, overrides: list[str]) -> list[dict[str, Any]]:
    """All attempts at the run in `paths`, the one that begins now last: when, where, with which code and overrides."""
    before = (recorded(paths) or {}).get("attempts", [])
    checkpoints = CheckpointManager(paths.root, enabled=False).list_checkpoints()
    now = {
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "git_hash": git_hash(),
        "host": platform.node(),
        "pid": os.getpid(),
        "from_step": next((found["step"] for found in checkpoints if found["is_latest"]), 0),
        "overrides": overrides,
    }
    return [*before, now]


def _differences(old: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path) -> Iterator[str]:
    # What was recorded has its secrets redacted and its types made plain; the same is done to what it is compared with.
    before, now = dict(flat(old)), dict(flat(redact(config)))
    keys = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k) and not is_among(k, _CHANGEABLE)]
    if not keys:
        return
    shown = "; ".join(f"{k}: {before.get(k, 'absent')} -> {now.get(k, 'absent')}" for k in keys[:_MAX_DIFFERENCES])
    yield (
        f"{run_dir} holds a run of another configuration ({shown}); continue it with resume={run_dir} and no other "
        "overrides, or start a new run"
    )
