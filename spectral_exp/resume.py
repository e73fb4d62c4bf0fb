"""Whether a directory may be continued by a configuration: the same experiment, or a clear refusal."""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from spectral_exp.errors import UserError
from spectral_exp.git import git_hash
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.redact import REDACTED, redact
from spectral_exp.run_dir import (
    CORRUPT_SUFFIX,
    HYDRA_FOLDER,
    TEMPORARY_SUFFIX,
    RunPaths,
    jsonable,
    links_inside,
    read_intact_json,
)
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
    if links := links_inside(run_dir):
        return [_link_problem(run_dir, links)]
    paths = RunPaths(run_dir)
    if recorded(paths) is None:
        # What an attempt leaves behind that was killed before it could record its configuration.
        own = (paths.lock_file, paths.tokenizer, paths.git_diff_file, paths.backup_file)
        remains = {HYDRA_FOLDER, "train.log", *(path.name for path in own)}
        unfinished = f".*{TEMPORARY_SUFFIX}"
        foreign = sorted(p.name for p in run_dir.iterdir() if p.name not in remains and not p.match(unfinished))
        if foreign:
            return [f"{run_dir} holds files but no run ({', '.join(foreign[:3])}, ...); choose another directory"]
        return []
    if config.get("resume") is not None and not paths.checkpoint_steps():
        return [f"resume={run_dir} holds no checkpoint to continue from; start it anew without resume="]
    return [*_differences((recorded(paths) or {}).get("config", {}), config, run_dir)]


def refuse_links(run_dir: Path) -> None:
    """Raise a UserError if a link in the run would lead what is written there to another place."""
    if links := links_inside(run_dir):
        raise UserError(_link_problem(run_dir, links))


def _link_problem(run_dir: Path, links: Sequence[Path]) -> str:
    names = ", ".join(repr(str(link.relative_to(run_dir))) for link in links[:3])
    return (
        f"{run_dir} holds links ({names}), which may lead out of the run, and its files are not written through them; "
        "replace them by what they point to, or remove them"
    )


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


def attempts(paths: RunPaths, overrides: list[str]) -> list[dict[str, Any]]:
    """All attempts at the run in `paths`, the one that begins now last: when, where, with which code and overrides."""
    before = (recorded(paths) or {}).get("attempts", [])
    now = {
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "git_hash": git_hash(),
        "host": platform.node(),
        "pid": os.getpid(),
        "from_step": max(paths.checkpoint_steps(), default=0),
        "overrides": overrides,
    }
    return [*before, now]


def _differences(old: Mapping[str, Any], config: Mapping[str, Any], run_dir: Path) -> Iterator[str]:
    before, given, now = dict(flat(old)), dict(flat(jsonable(config))), dict(flat(redact(config)))
    keys = [
        k
        for k in sorted({*before, *now})
        # Secrets were not recorded, so that they may be others now; types were made plain.
        if before.get(k) not in (now.get(k), given.get(k))
        and not _is_redacted_form(before.get(k), given.get(k))
        and not is_among(k, _CHANGEABLE)
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
