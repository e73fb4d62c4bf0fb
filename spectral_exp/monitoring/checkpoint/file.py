"""Write one checkpoint durably, with a sidecar of size and checksum; `reader.py` reads it.

A sidecar, `checkpoint_step_N.pt.json`, records size and checksum. Without a readable one, the
checksums inside the archive are compared instead.
"""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.core import files, json_files
from spectral_exp.core.checksum import crc32, crc32_append
from spectral_exp.core.errors import SettingError
from spectral_exp.core.wording import install
from spectral_exp.monitoring.checkpoint.direct_file import DirectFile

if TYPE_CHECKING:
    from spectral_exp.monitoring.checkpoint.archive import Image

COMPRESSIONS = (None, "zstd")
_SIDECAR_BYTES = 1 << 20


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
        remedy = install("zstd")
        raise SettingError(
            "compression", "zstd", "null where zstandard is not installed", remedy
        ) from error
    return zstandard


def sidecar_file(path: Path) -> Path:
    """The sidecar of a checkpoint."""
    return path.with_name(f"{path.name}.json")


# --- writing --------------------------------------------------------------------------------------


class _PlainSink:
    """Writes an archive without compression, and combines the checksums of its parts."""

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


class _ZstdSink(_PlainSink):
    """Compresses an archive on its way to the file."""

    _PIECE_BYTES = 1 << 20

    def __init__(self, file: DirectFile) -> None:
        super().__init__(file)
        self._compressor = zstd().ZstdCompressor(level=1).compressobj()

    def reserve(self, n_bytes: int) -> None:
        """Nothing: what compression will leave is not known."""

    def write(self, data: memoryview | bytes, checksum: int | None = None) -> None:
        view = memoryview(data)
        for start in range(0, len(view), self._PIECE_BYTES):
            self._append(self._compressor.compress(view[start : start + self._PIECE_BYTES]))
        self.state_bytes += len(view)

    def finish(self) -> None:
        self._append(self._compressor.flush())
        super().finish()

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
    facts: Mapping[str, int | str | None] | None = None,
) -> Written:
    """Write `state` as the checkpoint `path`, and its sidecar, durably.

    Args:
        path: may exist; it stays what it was until the new file is durable.
        state: the entries of a checkpoint.
        image: copies of its storages, to write instead of what these have become.
        compression: None or "zstd".
        facts: more for the sidecar.
        before_commit: called once the bytes are on the storage and before the checkpoint gets its
            name. If it raises, there is no checkpoint.

    Raises:
        OSError: the storage refuses it; no part of the file stays.
    """
    from spectral_exp.monitoring.checkpoint.archive import Image, write_archive

    start = time.perf_counter()
    temporary = files.temporary_path(path)
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
            files.fsync_directory(path.parent)
        temporary.replace(path)
    except BaseException:
        files.discard(temporary)
        raise
    sidecar_facts = {
        **(facts or {}),
        "step": state["step"],
        "size": size,
        "crc32": f"{sink.checksum:08x}",
        "timestamp": state["timestamp"],
        "git_hash": state["git_hash"],
        "entries": sorted(state),
        "compression": compression,
        "state_bytes": sink.state_bytes,
    }
    # Renamed before its folder is synchronized, which makes the checkpoint's own name durable too.
    json_files.write_json_atomic(sidecar, sidecar_facts)
    return Written(size, sink.state_bytes, time.perf_counter() - start)


# --- sidecars -------------------------------------------------------------------------------------


def load_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the facts in the sidecar of `path`, or None if it is missing or invalid.

    `size` and `crc32` are always valid; other invalid facts are left out.

    Raises:
        OSError: it exists and cannot be read.
    """
    file = sidecar_file(path)
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return None
        with file.open("rb") as opened:
            content = opened.read(_SIDECAR_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        facts = json.loads(content) if len(content) <= _SIDECAR_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    for name in ("size", "state_bytes", "serial", "best_step"):
        if not (type(facts.get(name)) is int and 0 <= facts[name] < 2**63):
            facts.pop(name, None)
    checksum = facts.get("crc32")
    valid = "size" in facts and isinstance(checksum, str) and re.fullmatch("[0-9a-f]{8}", checksum)
    return facts if valid else None


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return the same, and None also for a sidecar that cannot be read."""
    try:
        return load_sidecar(path)
    except OSError:
        return None
