"""JSON of unknown origin is read whole, or refused in a clause."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core import json_text
from spectral_exp.core.errors import UserError
from spectral_exp.core.json_text import MAX_DEPTH, parse_object, read_object
from spectral_exp.core.regular_file import open_regular


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not valid JSON"),
        (b"[]", "holds a JSON list"),
        (b"{", "is not valid JSON"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is not valid JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (b'{"a": 1, "a": 1}', "has the key a twice"),
        (b'{"b": {"\\u001b": 1, "\\u001b": 1}}', r"has the key \\x1b twice"),
        (b'{"a": ' + b"9" * 4301 + b"}", "holds a whole number of 4301 digits"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "is nested more than"),
        (b'{"a": ' + b"[" * 100_000, "is nested more than"),
        (b'{"a":' * 100_000, "is nested more than"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_refused_texts(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_object(content)


def test_depth_up_to_the_limit() -> None:
    levels = MAX_DEPTH - 1
    assert parse_object(b'{"a": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}")
    with pytest.raises(ValueError, match="nested"):
        parse_object(b'{"a": ' + b"[" * (levels + 1) + b"]" * (levels + 1) + b"}")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert parse_object(content) == json.loads(content)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "sparse.json"
    with file.open("wb") as sparse:
        sparse.truncate(10 << 30)
    with pytest.raises(UserError, match="Holds 10,737,418,240 bytes"):
        read_object(file)


def test_the_limit_itself_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "MAX_BYTES", 8)
    (tmp_path / "a.json").write_bytes(b'{"a": 1}')
    assert read_object(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_bytes(b'{"a": 12}')
    with pytest.raises(UserError, match="at most 8"):
        read_object(tmp_path / "a.json")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "loop", "missing", "socket"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "x"
    unix = socket.socket(socket.AF_UNIX)
    match kind:
        case "fifo":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "device":
            place.symlink_to("/dev/zero")
        case "loop":
            place.symlink_to(place)
        case "socket":
            unix.bind(str(place))
    with pytest.raises(OSError, match=r"Is a|No such|Too many|links"):
        open_regular(place)
    with pytest.raises(UserError, match="cannot read"):
        read_object(place)
    unix.close()


def test_files_of_the_kernel_read_as_empty(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to("/proc/self/maps")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_object(tmp_path / "x.json")
