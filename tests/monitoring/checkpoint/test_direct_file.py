from __future__ import annotations

import mmap
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.monitoring.checkpoint.direct_file import DirectFile


def aligned(content: bytes) -> memoryview:
    """The bytes in memory that begins at a page."""
    area = mmap.mmap(-1, max(1, len(content)))
    area[: len(content)] = content
    return memoryview(area)[: len(content)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), max_size=8), st.integers(0, 100))
def test_pieces_of_every_size_arrive_in_order(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bool]], seed: int
) -> None:
    path = tmp_path_factory.mktemp("d") / "file"
    parts = [random.Random(seed + i).randbytes(size) for i, (size, _) in enumerate(pieces)]
    with DirectFile(path) as file:
        file.reserve(sum(map(len, parts)) + 5000)
        for part, (_, in_page) in zip(parts, pieces, strict=True):
            file.write(aligned(part) if in_page else part)
        file.sync()
    assert path.read_bytes() == b"".join(parts)


def test_more_than_the_buffer(tmp_path: Path) -> None:
    part = random.Random(0).randbytes(5_000_001)
    with DirectFile(tmp_path / "file") as file:
        for _ in range(5):
            file.write(part)
        file.write(aligned(part))
        file.sync()
        assert file.size == 6 * len(part)
    assert (tmp_path / "file").read_bytes() == 6 * part


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)
    write = os.write

    def short(descriptor: int, data: memoryview) -> int:
        return write(descriptor, data[: chance.randint(1, len(data))])

    monkeypatch.setattr(os, "write", short)
    content = chance.randbytes(3_000_000)
    with DirectFile(tmp_path / "file") as file:
        file.write(aligned(content))
        file.write(content)
        file.sync()
    assert (tmp_path / "file").read_bytes() == 2 * content


def test_file_systems_without_direct_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    content = random.Random(0).randbytes(100_000)
    with DirectFile(tmp_path / "file") as file:
        file.write(aligned(content))
        file.sync()
    assert (tmp_path / "file").read_bytes() == content


def test_existing_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        DirectFile(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
