"""A checkpoint in several files, one for each process of a sharded run.

`checkpoint_step_N.pt` holds all that is not divided, with a stand-in for every divided tensor, and
in the entry `tensor_shards` the folder, sizes and checksums of the other files. Each of these,
`checkpoint_step_N.shards-TOKEN/shard_R.pt`, is an archive with the rows that rank R held, and has a
sidecar. The folder gets its name when all of it is durable, and `checkpoint_step_N.pt` is written
last: without it the folder is none.

torch.distributed.checkpoint is not used: it keeps no checksums of content, and its metadata are a
pickle that may run code.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from spectral_exp.core import files
from spectral_exp.core.checksum import file_crc32
from spectral_exp.core.git import git_hash
from spectral_exp.core.timestamps import timestamp
from spectral_exp.distributed.divided import DividedTensor, stand_in_shape
from spectral_exp.monitoring.checkpoint.file import load_sidecar, read_sidecar, write_checkpoint
from spectral_exp.runs.layout import CORRUPT_SUFFIX, RunPaths

SHARDS_ENTRY = "tensor_shards"
_UNFINISHED = re.compile(r"\.step_\d+\.tmp")
_DIVIDED_ENTRIES = ("model_state_dict", "optimizer_state_dict")


class Members(Protocol):
    """The processes that hold parts of a state, and the rank of this one."""

    rank: int

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """Return the numbers that each process has passed, in the order of ranks."""


class ShardFile(NamedTuple):
    """Size and CRC-32 of the file of one process."""

    path: Path
    size: int
    checksum: int


class BrokenShardError(Exception):
    """The bytes of a file are provably not those that were written."""


# --- writing --------------------------------------------------------------------------------------


def write_shards(
    paths: RunPaths, step: int, rows: Mapping[str, Any], members: Members
) -> dict[str, Any]:
    """Write what all processes hold of a state durably, and return the entry `tensor_shards`.

    All processes call this together, for one step at a time. Nothing stays if it fails.

    Args:
        paths: of the run.
        step: the step of the state.
        rows: what this process holds, by entry.
        members: all processes.

    Raises:
        OSError: the storage has refused the file of at least one process; on all of them.
    """
    token = members.exchange([secrets.randbits(32)])[0][0]
    folder, temporary = paths.shards_folder(step, f"{token:08x}"), paths.unfinished_shards(step)
    is_main = members.rank == 0
    try:
        _agree(members, lambda: _make_folder(temporary) if is_main else None)
        entries = {"step": step, "timestamp": timestamp(), "git_hash": git_hash(), **rows}
        written = _agree(members, lambda: _write_shard(temporary, members.rank, entries))
        _agree(members, lambda: _publish(temporary, folder) if is_main else None)
    except OSError:
        if is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return {"folder": folder.name, "files": [[size, f"{crc:08x}"] for size, crc in written]}


def _agree(members: Members, work: Callable[[], tuple[int, int] | None]) -> list[list[int]]:
    """Do `work` on all processes; return their results.

    Raises:
        OSError: it has failed on one of them.
    """
    result, number = (0, 0), 0
    failure: OSError | None = None
    try:
        result = work() or result
    except OSError as error:
        failure, number = error, error.errno or errno.EIO
    answers = members.exchange([number, *result])
    failed = [(rank, answer[0]) for rank, answer in enumerate(answers) if answer[0]]
    if failed:
        rank, number = failed[0]
        raise OSError(number, f"{os.strerror(number)} (rank {rank})") from failure
    return [answer[1:] for answer in answers]


def _make_folder(folder: Path) -> None:
    """Make a folder, in the place of one that a killed process has left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


def _write_shard(folder: Path, rank: int, entries: Mapping[str, Any]) -> tuple[int, int]:
    """Write the file of a process; return its size and checksum."""
    path = _shard_path(folder, rank)
    write_checkpoint(path, entries)
    sidecar = load_sidecar(path)
    if sidecar is None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
    return int(sidecar["size"]), int(sidecar["crc32"], 16)


def _publish(temporary: Path, folder: Path) -> None:
    """Give the folder its name, once its own names are durable."""
    files.fsync_directory(temporary)
    temporary.rename(folder)
    files.fsync_directory(folder.parent)


def _shard_path(folder: Path, rank: int) -> Path:
    return folder / f"shard_{rank}.pt"


# --- reading --------------------------------------------------------------------------------------


def list_shards(path: Path, state: Mapping[str, Any]) -> list[ShardFile]:
    """Return the files of the divided tensors of a checkpoint, whose own file is `path`.

    None of them is looked at. A checkpoint that is not divided has none.

    Raises:
        ValueError: the entry `tensor_shards` is not one of `write_shards`.
    """
    if SHARDS_ENTRY not in state:
        return []
    try:
        index = state[SHARDS_ENTRY]
        folder = path.with_name(str(index["folder"]))
        shards = [
            ShardFile(_shard_path(folder, rank), int(size), int(checksum, 16))
            for rank, (size, checksum) in enumerate(index["files"])
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError("its list of shards cannot be read") from error
    # The name may come from a stranger, and must not lead out of the folder.
    if RunPaths(path.parent).shards_step(folder) != state["step"] or not shards:
        raise ValueError("its list of shards names other files")
    return shards


def may_have_shards(path: Path, sidecar: Mapping[str, Any] | None) -> bool:
    """Return whether the checkpoint in `path` may be divided; False is certain."""
    if sidecar is not None:
        return SHARDS_ENTRY in sidecar.get("entries", ())
    return any(path.parent.glob(f"{path.name.removesuffix('.pt')}.shards-*"))


def verify_shards(shards: Sequence[ShardFile], max_threads: int) -> None:
    """Compare every byte of files with their checksums, several at once.

    Raises:
        BrokenShardError: one of them is missing, or not what was written.
        OSError: one of them cannot be read.
    """
    if not shards:
        return
    with ThreadPoolExecutor(min(max_threads, len(shards))) as pool:
        for _ in pool.map(_verify_shard, shards):
            pass


def _verify_shard(shard: ShardFile) -> None:
    name = f"{shard.path.parent.name}/{shard.path.name}"
    try:
        size = shard.path.stat().st_size
        if size != shard.size:
            raise BrokenShardError(f"{name} has {size} bytes, and {shard.size} were written")
        checksum = file_crc32(shard.path, 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BrokenShardError(f"{name} is missing") from error
    if checksum != shard.checksum:
        raise BrokenShardError(
            f"the checksum of {name} is {checksum:08x}, and {shard.checksum:08x} was written"
        )


def join_shards(state: dict[str, Any], shards: Sequence[Mapping[str, Any]], *, whole: bool) -> None:
    """Put divided tensors in the place of their stand-ins in `state`.

    Args:
        state: the entries of the file of the checkpoint.
        shards: the entries of its other files, in the order of ranks.
        whole: whether to join the rows of each tensor, instead of giving a `DividedTensor`.

    Raises:
        ValueError: they do not fit together.
    """
    weights, moments = _DIVIDED_ENTRIES
    del state[SHARDS_ENTRY]
    try:
        _join(state[weights], [shard[weights] for shard in shards], whole)
        for number, entries in state[moments].get("state", {}).items():
            _join(entries, [shard[moments][number] for shard in shards], whole)
    except (KeyError, AttributeError, TypeError, IndexError) as error:
        raise ValueError("its shards do not fit together") from error


def _join(entries: dict[str, Any], shards: Sequence[Mapping[str, Any]], whole: bool) -> None:
    for name, value in entries.items():
        shape = stand_in_shape(value)
        if shape is None:
            continue
        divided = DividedTensor([shard[name] for shard in shards])
        if list(divided.shape) != shape:
            raise ValueError(f"its shards do not make up {name}")
        entries[name] = divided.whole() if whole else divided


# --- the folders of a run -------------------------------------------------------------------------


def folder_of(path: Path) -> Path | None:
    """Return the folder of the shards of a checkpoint, by its sidecar, or None."""
    name = (read_sidecar(path) or {}).get(SHARDS_ENTRY)
    folder = path.with_name(name) if isinstance(name, str) and "/" not in name else None
    return folder if folder and RunPaths(path.parent).shards_step(folder) is not None else None


def shard_bytes(path: Path) -> int:
    """Return the size of the shards of a checkpoint; 0 if it is not divided, or has gone."""
    folder = folder_of(path)
    try:
        found = [] if folder is None else list(folder.glob("shard_*.pt"))
        return sum(file.stat().st_size for file in found)
    except FileNotFoundError:
        return 0


def unused_folders(paths: RunPaths) -> list[Path]:
    """Return the folders of shards that no checkpoint needs, and those that were not finished.

    For the only writer of the run, while it writes none.
    """
    unused = []
    for folder in paths.checkpoints.iterdir():
        if _UNFINISHED.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            unused.append(folder)
        step = paths.shards_step(folder)
        if step is None:
            continue
        path = paths.checkpoint_file(step)
        # A damaged checkpoint keeps its folder, and so does one without a sidecar.
        named = folder_of(path) or folder
        is_corrupt = any(path.parent.glob(f"{path.name}{CORRUPT_SUFFIX}*"))
        if not is_corrupt and (not path.exists() or named != folder):
            unused.append(folder)
    return unused


def remove_folders(paths: RunPaths, step: int) -> None:
    """Remove all shards of `step`."""
    for folder in paths.checkpoints.glob(f"checkpoint_step_{step}.shards-*"):
        if paths.shards_step(folder) == step:
            shutil.rmtree(folder)
