"""Read one checkpoint, verify its bytes, and distinguish damage from other errors.

Damage is proven if the size or the checksum differs from the sidecar's or, without a sidecar, if
the archive is not whole. Only then may another checkpoint take its place. Any other obstacle
(memory, permissions, a failing network, a newer format, objects that may run code) is an error for
the user.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import mmap
import os
import re
import stat
import time
import zipfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from spectral_exp.core.checksum import file_crc32
from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring.checkpoint.file import load_sidecar, zstd
from spectral_exp.monitoring.checkpoint.memory import available_memory
from spectral_exp.monitoring.checkpoint.shards import (
    BrokenShardError,
    ShardFile,
    join_shards,
    list_shards,
    may_have_shards,
    verify_shards,
)
from spectral_exp.monitoring.checkpoint.state import CHECKPOINT_KEYS

log = logging.getLogger(__name__)

_RETRY_PAUSES_S = (0.1, 0.5)
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EBUSY}
_ARCHIVE_START = b"PK\x03\x04"
_PIECE_BYTES = 1 << 20
_SPARE_BYTES = 16 << 20
# Without a sidecar that announces more, a compressed checkpoint may become so large, or so many
# times its size.
_UNANNOUNCED_BYTES, _UNANNOUNCED_RATIO = 64 << 20, 100
_ENTRY_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "step": int,
    "model_state_dict": dict,
    "optimizer_state_dict": dict,
    "config": dict,
    "timestamp": str,
    "git_hash": str,
}
_T = TypeVar("_T")
FileIdentity: TypeAlias = tuple[int, int, int]


class BrokenCheckpointError(Exception):
    """The bytes of a checkpoint are provably not those that were written."""


class UnreadableCheckpointError(UserError):
    """A checkpoint cannot be loaded here and now, although its bytes may be intact.

    Args:
        path: of the checkpoint.
        cause: the obstacle.
        remedy: what the user can do.
    """

    def __init__(self, path: Path, cause: str, remedy: str) -> None:
        self.path, self.cause, self.remedy = path, cause, remedy
        super().__init__(
            f"cannot read the checkpoint {path}: {cause}; {remedy}. Nothing was changed"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return UnreadableCheckpointError, (self.path, self.cause, self.remedy)


def read_checkpoint(
    path: Path, *, history_as_array: bool = False, mapped: bool = False
) -> dict[str, Any]:
    """Return the entries of a checkpoint, on the CPU; its bytes are verified meanwhile.

    Args:
        path: the checkpoint.
        history_as_array: give `loss_history` as an `array("d")` instead of a list.
        mapped: map tensors from the file instead of reading them, so that processes on one machine
            share the memory, and give those that several files make up as `DividedTensor`.

    Raises:
        BrokenCheckpointError: the bytes differ from those that were written.
        UnreadableCheckpointError: it cannot be loaded for another reason.
        FileNotFoundError: it does not exist.
    """

    def read() -> dict[str, Any]:
        import torch

        state = _read(path, mapped)
        losses = torch.as_tensor(state["loss_history"], dtype=torch.float64).reshape(-1).numpy()
        state["loss_history"] = (
            array("d", losses.tobytes()) if history_as_array else losses.tolist()
        )
        return state

    return read_with_retries(path, read)


def verify(path: Path, max_threads: int = 4) -> str:
    """Compare every byte of a checkpoint with its checksum, and return the source of the checksum.

    Args:
        path: the checkpoint.
        max_threads: threads that may read it.

    Raises:
        BrokenCheckpointError, UnreadableCheckpointError, FileNotFoundError: as `read_checkpoint`
            does.
    """

    def check() -> str:
        sidecar = load_sidecar(path)
        _check_size(path, sidecar)
        _verify_bytes(path, sidecar, max_threads)
        if may_have_shards(path, sidecar):
            state = _load(path, path, proven=sidecar is not None, mapped=True)
            _verify_shards(path, state, max_threads)
        return (
            "its sidecar"
            if sidecar is not None
            else "the checksums inside the file; its sidecar is missing"
        )

    return read_with_retries(path, check)


def read_with_retries(path: Path, work: Callable[[], _T]) -> _T:
    """Return the result of `work` on `path`, a checkpoint or a folder; retry transient failures.

    Raises:
        BrokenCheckpointError, UnreadableCheckpointError, FileNotFoundError: as `read_checkpoint`,
            and no other errors.
    """
    pauses_s = list(_RETRY_PAUSES_S)
    while True:
        try:
            before = identity_of(path)
            try:
                return work()
            except BrokenCheckpointError:
                # Its writer may have replaced it while it was read.
                if identity_of(path) == before or not pauses_s:
                    raise
        except (BrokenCheckpointError, UserError, FileNotFoundError):
            raise
        except Exception as error:  # no error of a library proves that the bytes are wrong
            passing = isinstance(error, OSError) and error.errno in _TRANSIENT
            if not (passing and pauses_s):
                raise UnreadableCheckpointError(path, *_explain(error)) from error
        time.sleep(pauses_s.pop(0))


def identity_of(path: Path) -> FileIdentity:
    """Return numbers that change when a file is replaced or written."""
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _read(path: Path, mapped: bool) -> dict[str, Any]:
    sidecar = load_sidecar(path)
    _check_size(path, sidecar)
    if path.suffix == ".zst":
        # Compressed, it is verified in a moment, and then nothing is unpacked in vain.
        if sidecar is not None:
            _verify_bytes(path, sidecar, 1)
        content = _unpack(path, sidecar)
        if sidecar is None:
            _verify_archive(path, content)
        state = _load(path, content, proven=sidecar is not None)
    else:
        _check_memory(path, path.stat().st_size)
        with ThreadPoolExecutor(1) as pool:
            verdict = pool.submit(_verify_bytes, path, sidecar, 1)
            try:
                state = _load(path, path, proven=sidecar is not None, mapped=mapped)
            finally:
                verdict.result()  # damaged bytes explain any other error
    _check_entries(path, state)
    if sidecar is None:
        log.warning(
            "checkpoint %s has no sidecar: it agrees with its own checksums, but is not verified",
            path,
        )
    state = dict(state)
    _add_shards(path, state, mapped)
    return state


def _verify_shards(path: Path, state: Any, max_threads: int) -> list[ShardFile]:
    """Verify the files of the divided tensors of a checkpoint, and return them."""
    try:
        shards = list_shards(path, state) if isinstance(state, dict) else []
        verify_shards(shards, max_threads)
    except BrokenShardError as error:
        raise BrokenCheckpointError(str(error)) from error
    except ValueError as error:
        raise UnreadableCheckpointError(path, str(error), _TAKE_ANOTHER) from error
    return shards


def _add_shards(path: Path, state: dict[str, Any], mapped: bool) -> None:
    """Add the divided tensors of a checkpoint from its other files."""
    shards = _verify_shards(path, state, 4)
    if not shards:
        return
    if not mapped:
        _check_memory(path, sum(shard.size for shard in shards))
    loaded = [_load(shard.path, shard.path, proven=True, mapped=True) for shard in shards]
    try:
        join_shards(state, loaded, whole=not mapped)
    except ValueError as error:
        raise UnreadableCheckpointError(path, str(error), _TAKE_ANOTHER) from error


def _check_size(path: Path, sidecar: Mapping[str, Any] | None) -> None:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise UnreadableCheckpointError(path, "it is not a regular file", "move it away")
    if sidecar is not None and facts.st_size != sidecar["size"]:
        raise BrokenCheckpointError(f"{facts.st_size} bytes where {sidecar['size']} were written")


def _verify_bytes(path: Path, sidecar: Mapping[str, Any] | None, max_threads: int) -> None:
    if sidecar is not None:
        if (found := f"{file_crc32(path, max_threads):08x}") != sidecar["crc32"]:
            raise BrokenCheckpointError(
                f"its checksum is {found}, and {sidecar['crc32']} was written"
            )
    elif path.suffix == ".zst":
        _verify_archive(path, _unpack(path, None))
    else:
        _verify_archive(path, path)


def _load(path: Path, source: Path | IO[bytes], *, proven: bool, mapped: bool = False) -> Any:
    import torch

    try:
        _check_layout(path, source)
    except BrokenCheckpointError as error:
        if not proven:
            raise
        # The bytes are intact, perhaps those of another program.
        raise UnreadableCheckpointError(path, str(error), _TAKE_ANOTHER) from error
    if not isinstance(source, Path):
        source.seek(0)
    mapped = mapped and isinstance(source, Path)
    return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def _check_entries(path: Path, state: Any) -> None:
    """Raise UnreadableCheckpointError unless `state` is what `save_checkpoint` writes."""
    foreign = None
    if not isinstance(state, dict):
        foreign = f"it holds a {type(state).__name__}"
    elif missing := [key for key in CHECKPOINT_KEYS if key not in state]:
        foreign = f"it lacks {', '.join(missing)}"
    elif wrong := [key for key, kinds in _ENTRY_TYPES.items() if not isinstance(state[key], kinds)]:
        foreign = f"its {wrong[0]} is a {type(state[wrong[0]]).__name__}"
    if foreign is not None:
        remedy = (
            "move it out of the folder, which is for files by CheckpointManager.save_checkpoint"
            " alone"
        )
        raise UnreadableCheckpointError(
            path, f"{foreign}, and is not a checkpoint of this program", remedy
        )


# --- archives -------------------------------------------------------------------------------------


def _check_layout(path: Path, source: Path | IO[bytes]) -> None:
    """Check the directory of an archive before anything in it takes memory.

    Raises:
        BrokenCheckpointError: it is not a whole archive.
        UnreadableCheckpointError: it is one that torch does not write.
    """
    if _head(source) != _ARCHIVE_START:  # torch would take it for one of its older formats
        _refuse_pickle(path, source)
        raise BrokenCheckpointError("it does not begin as an archive")
    with _archive(path, source) as archive:
        records = archive.infolist()
    if any(
        record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records
    ):
        cause = "it is a compressed or encrypted zip archive, as no checkpoint is"
        raise UnreadableCheckpointError(path, cause, _TAKE_ANOTHER)
    if (declared := sum(record.file_size for record in records)) > (size := _size(source)):
        raise UnreadableCheckpointError(
            path, f"it declares {declared} bytes and has {size}", _TAKE_ANOTHER
        )


def _verify_archive(path: Path, source: Path | IO[bytes]) -> None:
    """Compare the records of an archive with the checksums in it."""
    _check_layout(path, source)
    with _archive(path, source) as archive:
        for record in archive.infolist():
            if record.CRC == 0:  # torch has a setting that leaves them out
                continue
            try:
                with archive.open(record) as file:
                    while file.read(_PIECE_BYTES):
                        pass
            except (OSError, MemoryError):
                raise
            except Exception as error:  # zipfile meets broken bytes with many kinds of errors
                raise BrokenCheckpointError(str(error) or type(error).__name__) from error


class _RememberingFile:
    """A file that keeps its last error: zipfile reports some of them as a damaged archive."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def read(self, size: int = -1) -> bytes:
        return self._remember(lambda: self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._remember(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        return self._remember(self._file.tell)

    def seekable(self) -> bool:
        return True

    def _remember(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except OSError as error:
            self.error = error
            raise


@contextlib.contextmanager
def _archive(path: Path, source: Path | IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Open the archive in `source`. Raises OSError if a read fails, also one that zipfile hides."""
    with contextlib.ExitStack() as stack:
        file = _RememberingFile(
            stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        )
        try:
            with _open_archive(path, source, file) as archive:
                yield archive
        finally:
            if file.error is not None:
                raise file.error


def _open_archive(path: Path, source: Path | IO[bytes], file: _RememberingFile) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (OSError, MemoryError):
        raise
    except NotImplementedError as error:
        raise UnreadableCheckpointError(
            path, f"it is a zip archive of a newer kind: {error}", _TAKE_ANOTHER
        ) from error
    except Exception as error:
        raise BrokenCheckpointError(str(error) or type(error).__name__) from error


def _refuse_pickle(path: Path, source: Path | IO[bytes]) -> None:
    if _head(source)[:1] == b"\x80":  # as torch wrote checkpoints before version 1.6
        cause = "it is a pickle, such as torch wrote before it had archives, and is not loaded"
        raise UnreadableCheckpointError(path, cause, _SAVE_ANEW)


def _head(source: Path | IO[bytes]) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(4)
    source.seek(0)
    return source.read(4)


def _size(source: Path | IO[bytes]) -> int:
    return source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)


def _unpack(path: Path, sidecar: Mapping[str, Any] | None) -> IO[bytes]:
    """Decompress a checkpoint in memory, up to its announced size."""
    announced = None if sidecar is None else sidecar.get("state_bytes")
    if announced is None:
        limit = max(_UNANNOUNCED_BYTES, _UNANNOUNCED_RATIO * path.stat().st_size)
    else:
        limit = announced
        _check_memory(path, 2 * limit)
    try:
        library = zstd()
    except SettingError as error:
        raise UnreadableCheckpointError(
            path, "it is compressed, and zstandard is missing", error.remedy
        ) from error
    content = io.BytesIO()
    try:
        with path.open("rb") as file, library.ZstdDecompressor().stream_reader(file) as reader:
            while piece := reader.read(_PIECE_BYTES):
                content.write(piece)
                if content.tell() > limit:
                    cause = f"it expands beyond {limit / 1e6:.0f} MB, which no sidecar announces"
                    raise UnreadableCheckpointError(
                        path, cause, "if you trust its origin, unpack it with zstd -d"
                    )
                if content.tell() == len(piece) and not piece.startswith(b"PK"):
                    break
    except library.ZstdError as error:
        # The library has one class for all errors; these do not prove damage.
        if (
            re.search("memory|alloc|version|unsupported|dictionary", str(error), re.IGNORECASE)
            or sidecar is not None
        ):
            raise UnreadableCheckpointError(path, str(error), _TAKE_ANOTHER) from error
        raise BrokenCheckpointError(str(error)) from error
    if sidecar is None and not zipfile.is_zipfile(content):
        raise BrokenCheckpointError("it holds no whole archive")
    return content


# --- words ----------------------------------------------------------------------------------------

_TAKE_ANOTHER = (
    "read it with the version of torch that wrote it, or move it away to continue from another"
    " checkpoint"
)
_SAVE_ANEW = (
    "if you trust its origin, load it with torch.load(..., weights_only=False), turn numpy values"
    " into tensors or numbers, and save it by CheckpointManager.save_checkpoint"
)
_MORE_MEMORY = "free memory, or load it on a machine with more"


def _check_memory(path: Path, needed: int) -> None:
    """Raise UnreadableCheckpointError if so many bytes are certain not to fit."""
    available = available_memory()
    if available is not None and needed > available:
        cause = (
            f"it needs {needed / 1e6:.0f} MB of memory, and {available / 1e6:.0f} MB are available"
        )
        raise UnreadableCheckpointError(path, cause, _MORE_MEMORY)
    # A process may have a limit of its own. Python waits for ever for a thread that has no memory
    # to start.
    mmap.mmap(-1, needed + _SPARE_BYTES).close()


def _explain(error: Exception) -> tuple[str, str]:
    """The cause of a failed load, and the remedy."""
    number = getattr(error, "errno", None)
    text = " ".join(str(error).split())
    if number is None and re.search(r"alloc|out of memory|start new thread", text, re.IGNORECASE):
        number = errno.ENOMEM
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return "there is not enough memory for it", _MORE_MEMORY
    if number is not None:
        return f"{os.strerror(number)} (errno {number})", _remedy_of(number)
    if found := re.search(r"GLOBAL (\S+)", text):
        cause = "it holds objects that are not loaded, since loading them may run code"
        return f"{cause} ({found[1][:80]})", _SAVE_ANEW
    import torch

    # Torch adds paragraphs of advice, which is not meant for this case.
    first = text.partition("WeightsUnpickler error: ")[2] or text
    return (
        f"torch {torch.__version__} does not load it: {first[:200] or type(error).__name__}",
        _TAKE_ANOTHER,
    )


def _remedy_of(number: int) -> str:
    if number in {errno.EACCES, errno.EPERM}:
        return "give yourself read permission"
    if number in {errno.EMFILE, errno.ENFILE}:
        return "allow more open files (ulimit -n), or close some"
    if number in _TRANSIENT:
        return "check the disk or the network that it lies on, and try again"
    return "check its folder and disk"
