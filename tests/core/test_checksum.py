from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.checksum import crc32, crc32_combine, file_crc32


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_parts_combine_to_the_whole(first: bytes, second: bytes) -> None:
    assert crc32_combine(crc32(first), crc32(second), len(second)) == zlib.crc32(first + second)


def test_long_second_parts_combine() -> None:
    zeros = bytes(10_000_000)
    assert crc32_combine(zlib.crc32(b"a"), zlib.crc32(zeros), len(zeros)) == zlib.crc32(
        b"a" + zeros
    )


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**24 + 17])
@pytest.mark.parametrize("threads", [1, 4])
def test_files_have_the_usual_checksum(tmp_path: Path, size: int, threads: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "file").write_bytes(content)
    assert file_crc32(tmp_path / "file", threads) == zlib.crc32(content)
