"""Moves the entries of a file after a step to another file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from spectral_exp.core import files
from spectral_exp.core.append_file import AppendFile
from spectral_exp.core.errors import explain_os_error
from spectral_exp.runs.metric_lines import parse_entry

_BLOCK = 1 << 20


class _Piece(NamedTuple):
    """Neighbouring lines, from byte `start` to byte `end` of a file; `lines` is their number."""

    start: int
    end: int
    lines: int


def cut_back(
    file: AppendFile, target: Path, step: int, keep: Callable[[dict[str, Any]], None]
) -> int:
    """Do the same as `cut_lines` with a file to which lines are appended.

    Raises:
        UserError: a file cannot be read or written.
    """
    source = file.path
    # A killed process may have left temporary files.
    files.remove_temporary_files(source.parent)
    with explain_os_error(f"cut {source} back to step {step}"):
        return file.while_closed(lambda: cut_lines(source, target, step, keep))


def cut_lines(source: Path, target: Path, step: int, keep: Callable[[dict[str, Any]], None]) -> int:
    """Move the entries after `step`, and lines that are no entries, from `source` to the end of
    `target`.

    Both files are durable afterwards. A crash in between leaves the lines in both; the next call
    then removes them from `source` and adds nothing to `target`.

    Args:
        source: a file of entries, which may be missing.
        target: a file for the lines that are cut.
        step: last step to keep.
        keep: called with every entry that stays.

    Returns:
        The number of lines that were moved.

    Raises:
        OSError: a file cannot be read or written.
    """
    pieces = _pieces_to_cut(source, step, keep)
    if not pieces:
        return 0
    with source.open("r+b") as file:
        os.fsync(file.fileno())
        cut = b"".join(_read_piece(file, piece) for piece in pieces)
        _append_once(target, cut if cut.endswith(b"\n") else cut + b"\n")
        if len(pieces) == 1 and pieces[0].end == os.fstat(file.fileno()).st_size:
            file.truncate(pieces[0].start)
            os.fsync(file.fileno())
        else:
            _rewrite(source, pieces)
    return sum(piece.lines for piece in pieces)


def _pieces_to_cut(source: Path, step: int, keep: Callable[[dict[str, Any]], None]) -> list[_Piece]:
    pieces: list[_Piece] = []
    end = 0
    try:
        with source.open("rb") as file:
            for line in file:
                start, end = end, end + len(line)
                entry = parse_entry(line)
                if entry is not None and entry["step"] <= step:
                    keep(entry)
                elif pieces and pieces[-1].end == start:
                    pieces[-1] = _Piece(pieces[-1].start, end, pieces[-1].lines + 1)
                else:
                    pieces.append(_Piece(start, end, 1))
    except FileNotFoundError:
        return []
    return pieces


def _read_piece(file: BinaryIO, piece: _Piece) -> bytes:
    file.seek(piece.start)
    return file.read(piece.end - piece.start)


def _append_once(target: Path, lines: bytes) -> None:
    """Append `lines` durably, except those that an interrupted call has already appended."""
    with target.open("a+b") as file:
        file.seek(max(0, file.tell() - len(lines)))
        end = file.read()
        overlap = _overlap(end, lines)
        if end and not overlap and not end.endswith(b"\n"):
            file.write(b"\n")
        file.write(lines[overlap:])
        file.flush()
        os.fsync(file.fileno())
    files.fsync_directory(target.parent)


def _overlap(end: bytes, lines: bytes) -> int:
    """The length of the longest beginning of `lines` with which `end` ends."""
    first = lines[: lines.index(b"\n") + 1]
    at = end.rfind(first)
    if at >= 0 and lines.startswith(end[at:]):
        return len(end) - at
    return next((size for size in range(len(first) - 1, 0, -1) if end.endswith(first[:size])), 0)


def _rewrite(source: Path, pieces: list[_Piece]) -> None:
    """Replace a file by one without some pieces of it."""
    starts, ends = (
        [0, *(piece.end for piece in pieces)],
        [*(piece.start for piece in pieces), source.stat().st_size],
    )
    with source.open("rb") as old, files.atomic_writer(source) as new:
        for start, end in zip(starts, ends, strict=True):
            old.seek(start)
            left = end - start
            while left > 0 and (block := old.read(min(left, _BLOCK))):
                new.write(block)
                left -= len(block)
