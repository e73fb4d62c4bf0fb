"""CRC-32, the checksum of zip archives: of files by several threads, and of parts put together."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:  # the same number several times faster, where the extra `fast` is installed
    from isal.isal_zlib import crc32 as crc32
except ImportError:
    from zlib import crc32 as crc32


_POLYNOMIAL = 0xEDB88320
_ONE = 0x80000000  # the polynomial 1: coefficients are stored lowest power first
_READ_BYTES = 1 << 20
# Below so many bytes, reading them again takes less time than combining checksums, and does not
# keep Python from other threads.
_COMBINE_FROM = 1 << 16


def crc32_combine(first: int, second: int, second_bytes: int) -> int:
    """The CRC-32 of two byte strings put together, from that of each and the length of the second.

    Appending n bytes multiplies the first remainder by x^(8n) modulo the polynomial (Ross Williams,
    "A painless guide to CRC error detection algorithms", 1993).
    """
    return _multiply(_shift(second_bytes), first) ^ second


def crc32_append(first: int, data: memoryview | bytes, data_checksum: int) -> int:
    """The CRC-32 of what has the checksum `first`, with `data` behind it, by the faster way."""
    if len(data) < _COMBINE_FROM:
        return crc32(data, first)
    return crc32_combine(first, data_checksum, len(data))


def file_crc32(path: Path, max_threads: int) -> int:
    """The CRC-32 of a file's content, read by at most `max_threads`.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    threads = min(max_threads, os.cpu_count() or 1, size // (4 * _READ_BYTES))
    if threads <= 1:
        return _part_crc32(path, 0, size)
    starts = [size * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        parts = list(
            pool.map(lambda i: _part_crc32(path, starts[i], starts[i + 1]), range(threads))
        )
    total = parts[0]
    for i in range(1, threads):
        total = crc32_combine(total, parts[i], starts[i + 1] - starts[i])
    return total


def _part_crc32(path: Path, start: int, stop: int) -> int:
    buffer = memoryview(bytearray(_READ_BYTES))
    value = 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while start < stop:
            # A file that became shorter meanwhile ends the loop with a checksum that does not
            # match.
            count = file.readinto(buffer[: min(_READ_BYTES, stop - start)])
            if not count:
                break
            value = crc32(buffer[:count], value)
            start += count
    return value


@functools.lru_cache(maxsize=4096)
def _shift(n_bytes: int) -> int:
    """x^(8 n_bytes) modulo the polynomial, by repeated squaring."""
    result, square, power = _ONE, _ONE >> 8, n_bytes
    while power:
        if power & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        power >>= 1
    return result


def _multiply(a: int, b: int) -> int:
    """The product of two polynomials over GF(2) modulo the CRC's."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product
