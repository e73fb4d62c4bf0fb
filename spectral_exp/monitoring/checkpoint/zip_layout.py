"""The layout of an uncompressed zip archive, computed before its first byte is written.

Source: PKWARE's APPNOTE.TXT (4.3.7, 4.3.12, zip64 in 4.3.14 to 4.5.3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LARGE_BYTES = 1 << 16
"""Records of this size and more begin at a page, as direct writing and mapping like it."""

_SMALL_ALIGNMENT, _PAGE = 64, 4096
_DATE_1980 = 0x21
_MAX_32, _MAX_16 = 0xFFFFFFFF, 0xFFFF
_PADDING_ID = 0x4246
_ZIP64_ID = 1


@dataclass(frozen=True)
class Record:
    """One file in the archive: a header, and its data.

    Attributes:
        name: of the file.
        offset: where its header begins.
        start: where its data begins.
        end: where its data ends, and the next record begins.
    """

    name: bytes
    offset: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of data."""
        return self.end - self.start

    def header(self, checksum: int) -> bytes:
        """Return the header of the data, whose CRC-32 is `checksum`."""
        size = self.size
        large = size >= _zip64_from()
        extra = struct.pack("<HHQQ", _ZIP64_ID, 16, size, size) if large else b""
        extra_bytes = self.start - self.offset - 30 - len(self.name)
        padding = extra_bytes - len(extra) - 4
        shown = _MAX_32 if large else size
        fixed = struct.pack(
            "<IHHHHHIIIHH",
            0x04034B50, 45 if large else 20, 0, 0, 0, _DATE_1980,
            checksum, shown, shown, len(self.name), extra_bytes,
        )  # fmt: skip
        return fixed + self.name + extra + struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)

    def directory_entry(self, checksum: int) -> bytes:
        """Its entry in the directory at the end of the archive."""
        size, offset = self.size, self.offset
        large, far = size >= _zip64_from(), offset >= _zip64_from()
        numbers = [size, size] * large + [offset] * far
        extra = (
            struct.pack(f"<HH{len(numbers)}Q", _ZIP64_ID, 8 * len(numbers), *numbers)
            if numbers
            else b""
        )
        version, shown = 45 if numbers else 20, _MAX_32 if large else size
        fixed = struct.pack(
            "<IHHHHHHIIIHHHHHII",
            0x02014B50, version, version, 0, 0, 0, _DATE_1980, checksum, shown, shown,
            len(self.name), len(extra), 0, 0, 0, 0, _MAX_32 if far else offset,
        )  # fmt: skip
        return fixed + self.name + extra


def lay_out(files: Iterable[tuple[str, int]], offset: int = 0) -> list[Record]:
    """The records of files (name, bytes), one behind the other from `offset` on."""
    records = []
    for text, size in files:
        name = text.encode()
        start = offset + 30 + len(name) + 20 * (size >= _zip64_from()) + 4
        start += -start % (_PAGE if size >= LARGE_BYTES else _SMALL_ALIGNMENT)
        records.append(Record(name, offset, start, start + size))
        offset = start + size
    return records


def directory(records: Sequence[Record], checksums: Sequence[int]) -> bytes:
    """Return the end of an archive of `records`, whose data have these CRC-32."""
    offset = records[-1].end
    entries = b"".join(map(Record.directory_entry, records, checksums))
    count, size = len(records), len(entries)
    zip64 = b""
    if large := count >= _MAX_16 or max(size, offset) >= _zip64_from():
        zip64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, offset)
        zip64 += struct.pack("<IIQI", 0x07064B50, 0, offset + size, 1)
    fields = (_MAX_16, _MAX_16, _MAX_32, _MAX_32) if large else (count, count, size, offset)
    return entries + zip64 + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, *fields, 0)


def _zip64_from() -> int:
    """The first size or offset that needs the longer fields."""
    return _MAX_32
