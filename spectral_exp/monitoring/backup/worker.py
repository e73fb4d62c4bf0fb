"""The helper process that accesses remote storage; `backup.py` starts it and runs `main` there.

Work that can hang, crash or keep the interpreter busy runs here, not in the process that trains.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from spectral_exp.core import files, json_files
from spectral_exp.core.checksum import crc32
from spectral_exp.core.errors import UserError
from spectral_exp.core.helper import serve
from spectral_exp.core.redact import redact_text
from spectral_exp.core.regular_file import open_run_file
from spectral_exp.core.timestamps import timestamp
from spectral_exp.monitoring.backup.store import (
    OBJECTS,
    PIECE_BYTES,
    SETTING,
    DamagedError,
    ManifestName,
    Store,
    checksum_of,
    manifest_names,
    normalize_url,
    read_manifest,
    reason,
)
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.component import matching_files
from spectral_exp.runs import layout

_NICENESS = 10

# --- what belongs to a backup ---------------------------------------------------------------------


@dataclass
class Source:
    """One open file of a run, with its size when it was opened.

    Logs may grow meanwhile, and retention may remove the name.

    Attributes:
        name: path relative to the run, with slashes.
        file: its content.
        size: bytes to take.
        crc32: of these bytes, 8 hex digits.
        mtime_ns: when it was last written, to order checkpoints.
    """

    name: str
    file: BinaryIO
    size: int
    crc32: str
    mtime_ns: int

    @property
    def key(self) -> str:
        """The object's name, which changes with the content, so that no object is overwritten."""
        return f"{OBJECTS}/{self.crc32}-{self.size}-{self.name.rpartition('/')[2]}"

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes. Raises OSError at the end if their checksum differs from `crc32`."""
        value = 0
        for piece in _pieces(self.file, self.size):
            value = crc32(piece, value)
            yield piece
        if f"{value:08x}" != self.crc32:
            raise OSError(f"{self.name} is damaged on the local disk, or changed while it was read")


def open_sources(
    root: Path, checkpoints: list[Path], component_files: list[str], stack: ExitStack
) -> list[Source] | None:
    """Open all files of a backup, newest checkpoint first; None if that is gone.

    `stack` closes them.
    """
    paths = layout.RunPaths(root)
    files = [file for path in checkpoints for file in (path, checkpoint_file.sidecar_file(path))]
    files += [
        *matching_files(root, component_files),
        paths.run_log,
        paths.notes_file,
        paths.evaluations_file,
    ]
    for folder in (paths.tokenizer, paths.hydra):
        files += sorted(
            path
            for path in folder.rglob("*")
            if not path.is_dir() and not path.name.startswith(".")
        )
    sources = [source for file in files if (source := _open_source(root, file, stack)) is not None]
    newest = checkpoints[0].relative_to(root).as_posix()
    return sources if sources and sources[0].name == newest else None


def checkpoints_to_keep(
    root: Path, step: int, best: Path | None, keep_every_n_steps: int | None
) -> list[Path]:
    """Return the checkpoints of a backup: `step`, the best, and every `keep_every_n_steps`-th."""
    paths = layout.RunPaths(root)
    steps = [
        n for n in paths.checkpoint_steps() if keep_every_n_steps and n % keep_every_n_steps == 0
    ]
    found = [
        paths.checkpoint_file(step),
        *([best] if best is not None else []),
        *map(paths.checkpoint_file, steps),
    ]
    return list(dict.fromkeys(found))


def _open_source(root: Path, path: Path, stack: ExitStack) -> Source | None:
    """Open one file; None if it is missing or reached through a link out of the run."""
    # Checkpoints are large: their folder may lie elsewhere.
    folders = {*path.relative_to(root).parents} - {Path(), Path(layout.CHECKPOINTS_FOLDER)}
    if any((root / folder).is_symlink() for folder in folders):
        return None
    try:
        descriptor = open_run_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError:
        if path.is_symlink() or not path.is_file():
            return None
        raise
    file: BinaryIO = stack.enter_context(os.fdopen(descriptor, "rb"))
    facts = os.fstat(file.fileno())
    size, checksum = facts.st_size, None
    if layout.RunPaths(root).checkpoint_step(path) is not None:
        sidecar = checkpoint_file.read_sidecar(path)
        checksum = sidecar["crc32"] if sidecar is not None and sidecar["size"] == size else None
    elif path.parent.name == layout.HYDRA_FOLDER:
        # A run recorded by an earlier version has its overrides as they were given, secrets too.
        content = redact_text(file.read().decode(errors="replace")).encode()
        file, size = io.BytesIO(content), len(content)
    if checksum is None:
        checksum = f"{checksum_of(_pieces(file, size)):08x}"
    return Source(path.relative_to(root).as_posix(), file, size, checksum, facts.st_mtime_ns)


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The first `size` bytes of `file`, or as many as there are."""
    file.seek(0)
    while size > 0 and (piece := file.read(min(PIECE_BYTES, size))):
        size -= len(piece)
        yield piece


# --- the work -------------------------------------------------------------------------------------


def check(store: Store) -> None:
    """Write, read back and delete a small object. Raises the storage's error."""
    content = secrets.token_hex(8).encode()
    probe = f".probe-{content.decode()}"
    store.put(probe, lambda: iter([content]), len(content), f"{crc32(content):08x}")
    store.remove(probe)


def newest_manifest(store: Store) -> dict[str, Any] | None:
    """Return the newest intact manifest, or None."""
    for name in manifest_names(store.names()):
        try:
            return read_manifest(store, name.key)
        except DamagedError:
            continue
    return None


def claim(store: Store, place: str, run_id: str) -> dict[str, Any]:
    """Check that a place holds no backups, or those of this run, whose objects are then trusted.

    Args:
        store: of the run.
        place: its URL.
        run_id: of the run; if it is empty, backups at the place count as its own.

    Returns:
        `run_id` of the run, and the `stored_step` of its newest backup.

    Raises:
        UserError: the place holds the backups of another run.
    """
    there = newest_manifest(store)
    if there is None:
        return {"run_id": run_id or secrets.token_hex(8), "stored_step": None}
    if there["id"] != (run_id or there["id"]):
        raise UserError(
            f"{place} holds the backups of another run (of {there['timestamp']}, at step"
            f" {there['step']}); choose another {SETTING}, or continue that run with resume={place}"
        )
    store.trust(there)
    return {"run_id": there["id"], "stored_step": there["step"]}


def back_up(
    store: Store,
    root: Path,
    name: str,
    run_id: str,
    step: int,
    keep_last_n: int,
    keep_every_n_steps: int | None,
    component_files: list[str],
) -> dict[str, Any]:
    """Store one backup of the run at `root`: objects first, then the manifest, then retention.

    Args:
        store: of this run.
        root: of the run.
        name: of the run, its place below the folder of all runs.
        run_id: distinguishes this run from others of that name.
        step: whose checkpoint to store.
        keep_last_n: backups, of different steps, to keep.
        keep_every_n_steps: each backup holds the checkpoints of steps divisible by it too.
        component_files: patterns, relative to `root`, of the files besides checkpoints.

    Returns:
        `new_mb` written and `time_s` taken, or `gone` if the checkpoint no longer exists.
    """
    start = time.perf_counter()
    new_bytes = 0
    best = files.follow(layout.RunPaths(root).best_link)
    with ExitStack() as stack:
        sources = open_sources(
            root, checkpoints_to_keep(root, step, best, keep_every_n_steps), component_files, stack
        )
        if sources is None:
            return {"gone": True}
        for source in sources:
            if store.put(source.key, source.pieces, source.size, source.crc32):
                new_bytes += source.size
    stored = {
        s.name: {"key": s.key, "size": s.size, "crc32": s.crc32, "mtime_ns": s.mtime_ns}
        for s in sources
    }
    best_name = best.relative_to(root).as_posix() if best is not None else None
    manifest: dict[str, Any] = {
        "run": name,
        "id": run_id,
        "step": step,
        "timestamp": timestamp(),
        "latest": sources[0].name,
        "best": best_name if best_name in stored else None,
        "files": stored,
    }
    manifest["crc32"] = json_files.content_crc32(manifest)
    content = json.dumps(manifest, indent=1).encode()
    number = max((m.number for m in manifest_names(store.names())), default=0) + 1
    key = f"manifest_{number:06d}_step_{step}.json"
    store.put(key, lambda: iter([content]), len(content), f"{crc32(content):08x}")
    retain(store, keep_last_n)
    return {"new_mb": new_bytes / 1e6, "time_s": time.perf_counter() - start}


def retain(store: Store, keep_last_n: int) -> None:
    """Remove old manifests, then the objects that no manifest names. For the only writer."""
    names = store.names()
    kept: dict[int, ManifestName] = {}
    for manifest in manifest_names(names):
        if len(kept) < keep_last_n:
            kept.setdefault(manifest.step, manifest)
    kept_keys = {manifest.key for manifest in kept.values()}
    try:
        contents = [read_manifest(store, key) for key in kept_keys]
    except DamagedError:
        return  # its objects are unknown, so none may be removed; it expires like every other one
    for manifest in manifest_names(names):
        if manifest.key not in kept_keys:
            store.remove(manifest.key)
    needed = {entry["key"] for content in contents for entry in content["files"].values()}
    for name in names:
        if (name.startswith(f"{OBJECTS}/") and name not in needed) or name.endswith(
            files.TEMPORARY_SUFFIX
        ):
            store.remove(name)


class _Requests:
    """Answers requests in order; the storage of a run stays open between them."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self._progress = progress
        self._store: Store | None = None
        self._claimed: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        url = normalize_url(request["url"])
        try:
            if request["do"] == "check":
                check(Store(url, progress=self._progress))
                return {"done": True}
            run = request["run"]
            place = f"{url}/{run['name']}"
            if self._store is None:
                store = Store(place, progress=self._progress)
                self._claimed = claim(store, place, run["run_id"])
                self._store = store
            if request["do"] == "claim":
                return self._claimed
            run_id = self._claimed["run_id"]
            done = back_up(
                self._store, Path(request["root"]), run["name"], run_id, **request["what"]
            )
            return {"run_id": run_id, **done}
        except UserError as error:
            return {"refused": str(error)}
        except Exception as error:  # each library has errors of its own; the parent reports them
            return {"failed": reason(error, url.partition("://")[0])}


def main() -> None:
    """Answer requests; a message of progress follows each piece that is written or read."""
    serve(lambda send: _Requests(lambda n_bytes: send({"progress": n_bytes})).answer, _NICENESS)
