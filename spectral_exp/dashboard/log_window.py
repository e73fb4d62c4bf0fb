"""Parts of a run's log files by byte offset, and search in them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable, printable_lines
from spectral_exp.dashboard.run_files import open_inside
from spectral_exp.runs.layout import LOGS_FOLDER, RUN_LOG_NAME, TRAINING_LOG_NAME

LOG_NAMES = (RUN_LOG_NAME, f"{LOGS_FOLDER}/{TRAINING_LOG_NAME}")
MAX_WINDOW = 1 << 18
MAX_MATCHES = 200

_MAX_SEARCHED = 16 << 20  # bytes of a file per request
_BLOCK = 1 << 20
_MAX_LINE = 4096  # bytes of a line that a search shows
_MAX_SEQUENCE = 512  # bytes of an escape sequence

# Escape sequences of terminals: CSI; OSC and other strings, on one line; single characters.
_ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_NEWLINE = re.compile(rb"\r\n|\r|\n")
_WARNING = re.compile(rb"\[(?:WARNING|ERROR|CRITICAL)\]|^Traceback |Warning: ")


def log_files(run: Path) -> list[tuple[str, int]]:
    """Return name and size of each log file of a run."""
    return [(name, size) for name in LOG_NAMES if (size := _size(run, name)) is not None]


def read_window(run: Path, name: str, offset: int, size: int) -> dict[str, Any]:
    """Return a part of a log, without escape sequences.

    Args:
        run: the run directory.
        name: of the file, one of `LOG_NAMES`.
        offset: of the first byte; a negative one counts from the end, and then the part begins
            with a whole line.
        size: number of bytes, at most `MAX_WINDOW`.

    Returns:
        `offset` and `end` in bytes of the file, its `size`, `text`, and `starts`, the byte at which
        each line begins. The next part begins at `end`.

    Raises:
        UserError: the file cannot be read.
    """
    with _open(run, name) as file:
        whole = file.seek(0, 2)
        from_end = offset < 0
        start = max(whole + offset, 0) if from_end else min(offset, whole)
        file.seek(start)
        content = file.read(min(size, MAX_WINDOW))
    if from_end and start > 0 and (newline := content.find(b"\n") + 1) > 0:
        start, content = start + newline, content[newline:]
    while content and 0x80 <= content[0] < 0xC0:  # the rest of a character that began before
        start, content = start + 1, content[1:]
    is_last = start + len(content) >= whole
    content = content if is_last else _without_cut_end(content)
    return {
        "offset": start,
        "end": start + len(content),
        "size": whole,
        "text": clean_text(content),
        "starts": [start, *(start + match.end() for match in _NEWLINE.finditer(content))],
    }


def read_end(run: Path, name: str, max_bytes: int) -> dict[str, Any]:
    """Return the last lines of a log: their `text`, their bytes `held`, and the `size` of all.

    Raises:
        UserError: the file cannot be read.
    """
    window = read_window(run, name, -max_bytes, min(max_bytes, MAX_WINDOW))
    start, size, texts = window["offset"], window["size"], [window["text"]]
    while window["end"] < size and window["end"] - start < max_bytes:
        window = read_window(run, name, window["end"], MAX_WINDOW)
        if not window["text"]:
            break  # it was cut back meanwhile
        texts.append(window["text"])
    return {"text": "".join(texts), "held": window["end"] - start, "size": size}


def search(run: Path, name: str, after: int, text: str, *, warnings: bool) -> dict[str, Any]:
    """Return the lines from byte `after` on that hold a text, or warnings.

    Returns:
        `matches` with `offset` and `line`; `more`, whether the search ended before the file, and
        `next`, where it goes on.

    Raises:
        UserError: the file cannot be read.
    """
    wanted = text.encode(errors="replace").lower()
    matches = []
    with _open(run, name) as file:
        whole = file.seek(0, 2)
        file.seek(after)
        offset = after
        for line in _lines(file):
            is_warning = warnings and _WARNING.search(line[:_MAX_LINE]) is not None
            if is_warning or (not warnings and wanted in line.lower()):
                shown = clean_text(_around(line, wanted)).strip("\n")
                matches.append({"offset": offset, "line": printable(shown, _MAX_LINE)})
            offset += len(line)
            if len(matches) == MAX_MATCHES or offset - after >= _MAX_SEARCHED:
                break
    return {"matches": matches, "more": offset < whole, "next": offset, "size": whole}


def clean_text(content: bytes) -> str:
    """Return text without escape sequences and with escapes for other control characters."""
    text = content.decode("utf-8", errors="replace")
    text = _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return printable_lines(text, MAX_WINDOW + 1)


def _around(line: bytes, wanted: bytes) -> bytes:
    """Return the part of a long line around its match."""
    place = max(line.lower().find(wanted), 0)
    start = max(place - _MAX_LINE // 2, 0)
    return line[start : start + _MAX_LINE]


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield lines with their newlines; a very long line comes in parts."""
    while line := file.readline(_BLOCK):
        yield line


def _without_cut_end(content: bytes) -> bytes:
    """Return bytes that end with a whole character, and not within a sequence or line break."""
    escape = content.rfind(b"\x1b", max(len(content) - _MAX_SEQUENCE, 1))
    if escape > 0 and b"\n" not in content[escape:]:
        tail = content[escape:].decode("utf-8", errors="replace")
        if _ANSI.match(tail) is None:
            content = content[:escape]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(content)
    pending = len(decoder.getstate()[0])
    content = content[: len(content) - pending] if pending < len(content) else content
    return content[:-1] if content.endswith(b"\r") and len(content) > 1 else content


def _open(run: Path, name: str) -> IO[bytes]:
    try:
        return open_inside(run, name)
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from error


def _size(run: Path, name: str) -> int | None:
    try:
        with open_inside(run, name) as file:
            return file.seek(0, 2)
    except OSError:
        return None
