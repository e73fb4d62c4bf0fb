"""One checkpoint on disk: written durably with a sidecar of size and checksum, verified before it is read.

A sidecar, `checkpoint_step_N.pt.json`, tells what the file must be like. One that is missing, or unreadable, leaves the
file unverified, not lost: the checksums inside the archive are compared instead.
"""

from __future__ import annotations

import errno
import io
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp import run_dir
from spectral_exp.errors import SettingError, UserError
from spectral_exp.monitoring.checksum import crc32, crc32_append, file_crc32
from spectral_exp.monitoring.direct_file import DirectFile

if TYPE_CHECKING:
    import zstandard

    from spectral_exp.monitoring.archive import Image

COMPRESSIONS = (None, "zstd")


class BrokenCheckpointError(Exception):
    """The bytes of a checkpoint are not what was written."""


@dataclass(frozen=True)
class Written:
    """A checkpoint that has become durable.

    Attributes:
        size_bytes: of the file.
        state_bytes: of the archive before compression.
        seconds: from the beginning of writing until durable.
    """

    size_bytes: int
    state_bytes: int
    seconds: float


def zstd() -> Any:
    """The library that compresses. Raises SettingError if it is not installed."""
    try:
        import zstandard
    except ImportError as error:
        remedy = "pip install spectral-exp[zstd]"
        raise SettingError("compression", "zstd", "null where zstandard is not installed", remedy) from error
    return zstandard


def sidecar_file(path: Path) -> Path:
    """The sidecar of a checkpoint."""
    return path.with_name(f"{path.name}.json")


# --- writing ---------------------------------------------------------------------------------------------------------


class _PlainSink:
    """Writes an archive as it is, and puts the checksums of its parts together."""

    def __init__(self, file: DirectFile) -> None:
        self._file = file
        self.checksum = 0
        self.state_bytes = 0

    def reserve(self, n_bytes: int) -> None:
        self._file.reserve(n_bytes)

    def write(self, data: memoryview | bytes, checksum: int | None = None) -> None:
        self._file.write(data)
        if checksum is None:
            self.checksum = crc32(data, self.checksum)
        else:
            self.checksum = crc32_append(self.checksum, data, checksum)
        self.state_bytes += len(data)

    def finish(self) -> None:
        self._file.sync()


class _ZstdSink:
    """Compresses an archive on its way to the file."""

    _PIECE_BYTES = 1 << 20

    def __init__(self, file: DirectFile) -> None:
        self._file = file
        self._compressor: zstandard.ZstdCompressionObj = zstd().ZstdCompressor(level=1).compressobj()
        self.checksum = 0
        self.state_bytes = 0

    def reserve(self, n_bytes: int) -> None:
        """Nothing: what compression will leave is not known."""

    def write(self, data: memoryview | bytes, checksum: int | None = None) -> None:
        view = memoryview(data)
        for start in range(0, len(view), self._PIECE_BYTES):
            self._append(self._compressor.compress(view[start : start + self._PIECE_BYTES]))
        self.state_bytes += len(view)

    def finish(self) -> None:
        self._append(self._compressor.flush())
        self._file.sync()

    def _append(self, data: bytes) -> None:
        self.checksum = crc32(data, self.checksum)
        self._file.write(data)


def write_checkpoint(
    path: Path,
    state: Mapping[str, Any],
    image: Image | None = None,
    *,
    compression: str | None = None,
    before_commit: Callable[[], None] | None = None,
) -> Written:
    """Write `state` as the checkpoint `path`, and its sidecar, durably: afterwards both survive a power cut.

    Args:
        path: may exist; it stays what it was until the new file is durable.
        state: the entries of a checkpoint.
        image: copies of its storages, to write instead of what these have become.
        compression: None or "zstd".
        before_commit: called once the bytes are on the storage and before the checkpoint gets its name. If it raises,
            there is no checkpoint.

    Raises:
        OSError: whatever the storage refuses; nothing half written stays.
    """
    from spectral_exp.monitoring.archive import Image, write_archive

    start = time.perf_counter()
    temporary = run_dir.temporary_path(path)
    try:
        with DirectFile(temporary) as file:
            sink = _ZstdSink(file) if compression == "zstd" else _PlainSink(file)
            write_archive(sink, dict(state), image or Image())
            sink.finish()
            size = file.size
        if before_commit is not None:
            before_commit()
        sidecar = sidecar_file(path)
        if sidecar.exists():
            # It describes the file about to be replaced, and would call the new one broken.
            sidecar.unlink()
            run_dir.fsync_directory(path.parent)
        temporary.replace(path)
    except BaseException:
        run_dir.discard(temporary)
        raise
    facts = {
        "step": state["step"],
        "size": size,
        "crc32": f"{sink.checksum:08x}",
        "timestamp": state["timestamp"],
        "git_hash": state["git_hash"],
        "entries": sorted(state),
        "compression": compression,
        "state_bytes": sink.state_bytes,
    }
    # Renamed before its folder is synchronised, which makes the checkpoint's own name durable too.
    run_dir.write_json_atomic(sidecar, facts)
    return Written(size, sink.state_bytes, time.perf_counter() - start)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """What the sidecar of the checkpoint `path` says, or None if it is missing or unreadable."""
    try:
        facts = run_dir.read_json(sidecar_file(path))
    except UserError:
        return None
    whole = isinstance(facts.get("size"), int) and isinstance(facts.get("crc32"), str)
    return facts if whole else None


def verify(path: Path, max_threads: int = 4) -> str:
    """Compare every byte of a checkpoint with its checksum, and return what it was compared with.

    Args:
        path: the checkpoint.
        max_threads: threads that may read it.

    Raises:
        BrokenCheckpointError: it differs.
        OSError: it cannot be read.
    """
    facts = read_sidecar(path)
    if facts is None:
        if path.suffix == ".zst":
            _unpacked(path)
        else:
            _verify_archive(path)
        return "the checksums inside the file; its sidecar is missing"
    size = path.stat().st_size
    if size != facts["size"]:
        raise BrokenCheckpointError(f"{size} bytes where {facts['size']} were written")
    if (found := f"{file_crc32(path, max_threads):08x}") != facts["crc32"]:
        raise BrokenCheckpointError(f"its checksum is {found}, and {facts['crc32']} was written")
    return "its sidecar"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The entries of a checkpoint, on the CPU, whose bytes are verified meanwhile.

    Raises:
        BrokenCheckpointError: the bytes are not what was written, or hold no state.
        OSError: it cannot be read.
    """
    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(verify, path, max_threads=1)
        try:
            state = _load(path)
        finally:
            verdict.result()  # bytes that differ explain whatever else went wrong
    if not isinstance(state, dict):
        raise BrokenCheckpointError(f"it holds a {type(state).__name__}")
    return state


def _load(path: Path) -> Any:
    import torch

    source = io.BytesIO(_unpacked(path)) if path.suffix == ".zst" else path
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.errno is not None:
            raise
        raise BrokenCheckpointError(str(error)) from error
    except MemoryError:
        raise
    except Exception as error:
        # Broken bytes may go wrong in any way.
        raise BrokenCheckpointError(str(error).partition("\n")[0] or type(error).__name__) from error


def _verify_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except OSError:
        raise
    except Exception as error:  # zipfile meets broken bytes with many kinds of errors
        raise BrokenCheckpointError(str(error)) from error
    if broken is not None:
        raise BrokenCheckpointError(f"wrong checksum of {broken}")


def _unpacked(path: Path) -> bytes:
    library = zstd()
    try:
        with path.open("rb") as file, library.ZstdDecompressor().stream_reader(file) as reader:
            content: bytes = reader.read()
    except library.ZstdError as error:
        raise BrokenCheckpointError(str(error)) from error
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise BrokenCheckpointError("it ends too early")
    return content


# --- words -----------------------------------------------------------------------------------------------------------


def refusal(error: Exception) -> OSError | None:
    """The OSError that says what storage or memory refused; None if `error` is of another kind."""
    if isinstance(error, OSError):
        return error
    # Torch has no class of its own for memory that the CPU lacks.
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return OSError(errno.ENOMEM, "not enough memory")
    return None


def remedy(error: OSError) -> str:
    """What a user can do about storage, or memory, that refuses."""
    if error.errno == errno.ENOMEM:
        return "from now on training waits while checkpoints are written, which needs no copy of the state"
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of files (ulimit -f), or free space on the disk"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free space on the disk, or keep fewer checkpoints (keep_last_n)"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "make the folder writable"
    return "check the disk"
