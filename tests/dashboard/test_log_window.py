"""Logs in windows and by search, also giant, binary and hostile ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.dashboard.log_window import (
    MAX_MATCHES,
    MAX_WINDOW,
    clean_text,
    read_end,
    read_window,
    search,
)
from tests.dashboard.served import Dashboard
from tests.results.made_runs import make_run

NAME = "train.log"
PIECES = st.lists(
    st.sampled_from(
        ["a", "é", "日本", "😀", "\n", "\r\n", "\x1b[31m", "\x1b[0m", "\x1b]0;t\x07", "z" * 9]
    ),
    max_size=40,
)


def run_with_log(folders: pytest.TempPathFactory, content: bytes) -> Path:
    """Return a folder with this log, the same for each example of a property."""
    run = folders.getbasetemp() / "log"
    run.mkdir(exist_ok=True)
    (run / NAME).write_bytes(content)
    return run


def read_all(run: Path, size: int) -> str:
    """Return a log as a page does that asks for one window after the other."""
    text, offset = "", 0
    while True:
        window = read_window(run, NAME, offset, size)
        assert window["offset"] >= offset
        text += str(window["text"])
        if window["end"] >= window["size"]:
            return text
        assert window["end"] > offset
        offset = window["end"]


@given(PIECES, st.integers(8, 40))
@example(["a"] * 7 + ["\r\n"], 8)
def test_windows_make_up_the_whole_text(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], size: int
) -> None:
    content = "".join(pieces)
    run = run_with_log(tmp_path_factory, content.encode())
    plain = content
    for sequence in ("\x1b[31m", "\x1b[0m", "\x1b]0;t\x07"):
        plain = plain.replace(sequence, "")
    assert read_all(run, size) == plain.replace("\r\n", "\n")


@settings(max_examples=40)
@given(PIECES, st.integers(0, 60))
def test_each_line_of_a_window_knows_its_first_byte(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], offset: int
) -> None:
    content = "".join(pieces).encode()
    run = run_with_log(tmp_path_factory, content)
    window = read_window(run, NAME, offset, 30)
    ends = [*window["starts"][1:], window["end"]]
    lines = [content[start:end] for start, end in zip(window["starts"], ends, strict=True)]
    assert [clean_text(line).rstrip("\n") for line in lines] == window["text"].split("\n")


@settings(max_examples=40)
@given(PIECES, st.integers(30, 200))
def test_the_end_of_a_log_is_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], max_bytes: int
) -> None:
    content = "".join(f"{piece}\n" for piece in pieces).encode()
    run = run_with_log(tmp_path_factory, content)
    end = read_end(run, NAME, max_bytes)
    assert end["size"] == len(content)
    assert end["held"] <= max_bytes
    assert clean_text(content).endswith(end["text"])
    assert content[len(content) - end["held"] - 1 :][:1] in (b"\n", b"") or end["held"] == len(
        content
    )
    if max_bytes >= len(content):
        assert end["text"] == clean_text(content)


@given(st.binary(max_size=200), st.integers(1, 30), st.integers(-300, 300))
def test_any_bytes_are_safe_text(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int, offset: int
) -> None:
    run = run_with_log(tmp_path_factory, content)
    window = read_window(run, NAME, offset, size)
    assert 0 <= window["offset"] <= window["end"] <= window["size"] == len(content)
    assert printable_lines(window["text"]) == window["text"]


def test_escape_codes_and_reordering_marks_are_removed() -> None:
    text = clean_text(
        b"\x1b[1;31mred\x1b[0m \x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\ \xe2\x80\xaeback"
    )
    assert text == "red link \\u202eback"


def test_a_window_from_the_end_begins_with_a_line(tmp_path: Path) -> None:
    lines = [f"line {i}\n" for i in range(1000)]
    (tmp_path / NAME).write_text("".join(lines))
    window = read_window(tmp_path, NAME, -100, 1000)
    assert window["text"] == "".join(lines)[window["offset"] :]
    assert window["text"].startswith("line ")
    assert window["end"] == window["size"]


def test_a_giant_log_is_read_in_parts(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with (run / NAME).open("wb") as file:
        file.write(b"[t][a][WARNING] first\n")
        file.seek(3 << 30)
        file.write(b"\n[t][a][ERROR] the needle\n")
    dashboard = Dashboard(tmp_path)
    address = f"/api/run/{dashboard.key(run)}/log"
    window = dashboard.json(address)
    assert window["size"] > 3 << 30
    assert window["text"].endswith("the needle\n")
    large = dashboard.json(address, offset=0, size=MAX_WINDOW)
    assert large["end"] - large["offset"] <= MAX_WINDOW
    assert dashboard.client.get(f"{address}?size={MAX_WINDOW + 1}").status_code == 400
    found = dashboard.json(address, level="warning")
    assert [one["line"] for one in found["matches"]] == ["[t][a][WARNING] first"]
    assert (found["more"], found["next"] < 100 << 20) == (True, True)
    found = dashboard.json(address, search="NEEDLE", after=(3 << 30) - 10)
    assert [one["line"] for one in found["matches"]] == ["[t][a][ERROR] the needle"]
    at_match = dashboard.json(address, offset=found["matches"][0]["offset"], size=14)
    assert at_match["text"] == "[t][a][ERROR] "


def test_a_search_gives_its_matches_in_portions(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("hit\nmiss\n" * (MAX_MATCHES + 7))
    first = search(tmp_path, NAME, 0, "HIT", warnings=False)
    rest = search(tmp_path, NAME, first["next"], "HIT", warnings=False)
    assert (len(first["matches"]), first["more"]) == (MAX_MATCHES, True)
    assert (len(rest["matches"]), rest["more"]) == (7, False)


def test_a_run_without_logs(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    dashboard = Dashboard(tmp_path)
    window = dashboard.json(f"/api/run/{dashboard.key(run)}/log")
    assert (window["names"], window["size"], window["text"]) == ([], 0, "")
