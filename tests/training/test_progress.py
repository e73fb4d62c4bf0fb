from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import struct
import termios
import tty
from collections.abc import Iterator

import pytest

from spectral_exp.core.display import ConsoleHandler, StatusLine
from spectral_exp.training.progress import Progress, duration


class Pty:
    """A pseudo-terminal whose width a test chooses."""

    def __init__(self) -> None:
        self.reader, writer = pty.openpty()
        tty.setraw(writer)
        self.stream = os.fdopen(writer, "w")

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.stream, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self) -> str:
        """Return what was written since the last call."""
        os.write(self.stream.fileno(), b"\0")  # a single read may return a part of it
        written = b""
        while not written.endswith(b"\0"):
            written += os.read(self.reader, 1 << 16)
        return written.removesuffix(b"\0").decode()

    def close(self) -> None:
        self.stream.close()
        os.close(self.reader)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pty]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "300")  # which a shell exports once and never again
    opened = Pty()
    opened.resize(200)
    yield opened
    opened.close()


def test_the_live_line_begins_with_step_and_remaining_time(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    progress = Progress(total=10, checkpoint_interval=5, stream=terminal.stream)
    progress.update(9, {"loss": 2.0})
    progress.update(10, {"loss": 1.5, "tokens_per_s": 12345.0})
    assert terminal.read() == (
        "\r\x1b[Jstep 10/10  ETA 0 s  [####################]  loss 1.5000  12,345 tokens/s"
    )
    progress.close()
    assert terminal.read() == "\r\x1b[J"


@pytest.mark.parametrize("columns", [1, 5, 12, 24, 30, 53, 60, 100])
def test_the_live_line_is_cut_from_the_right(
    columns: int, terminal: Pty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.resize(columns)
    progress = Progress(total=10, stream=terminal.stream)
    progress.update(9, {"loss": 2.0})
    progress.update(10, {"loss": 1.5})
    line = terminal.read().removeprefix("\r\x1b[J")
    assert len(line) < max(columns, 2)
    whole = "step 10/10  ETA 0 s  [####################]  loss 1.5000"
    assert whole.startswith(line)
    assert line in (whole, whole[:43], whole[:20].strip(), whole[:10], whole[: columns - 1])


def test_a_terminal_that_becomes_narrower_keeps_nothing_of_the_line(terminal: Pty) -> None:
    status = StatusLine(terminal.stream)
    status.draw("x" * 150, 150)
    terminal.resize(60)  # the line is wrapped into three
    terminal.read()
    status.draw("y", 1)
    assert terminal.read() == "\x1b[2A\r\x1b[Jy"


@pytest.mark.parametrize(
    ("variables", "has_color"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)],
)
def test_colours_are_left_out_with_no_color(
    variables: dict[str, str],
    has_color: bool,
    terminal: Pty,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", terminal.stream)
    progress = Progress(total=10, stream=terminal.stream)
    progress.update(10, {"loss": 1.5})
    assert ("\x1b[32m" in terminal.read()) is has_color
    handler = ConsoleHandler()
    handler.emit(logging.LogRecord("x", logging.WARNING, "", 0, "careful", None, None))
    warned = "\x1b[33mcareful\x1b[0m\n" if has_color else "careful\n"
    assert terminal.read() == "\r\x1b[J" + warned


def test_a_dumb_terminal_gets_plain_lines(
    terminal: Pty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    progress = Progress(total=10, stream=terminal.stream)
    with caplog.at_level(logging.INFO):
        progress.update(10, {"val_loss": 1.5})
    terminal.stream.write("end")
    terminal.stream.flush()
    assert terminal.read() == "end"
    assert caplog.messages == ["step 10/10  val_loss 1.5000"]


def test_a_validation_stays_above_the_live_line(
    terminal: Pty, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress(total=10, stream=terminal.stream)
    with caplog.at_level(logging.INFO):
        progress.update(4, {"loss": 1.0})
        progress.update(5, {"val_loss": 1.5})
    assert [text.split("  ETA")[0] for text in caplog.messages] == ["step 5/10"]
    assert "val_loss 1.5000" in terminal.read()


def test_the_duration_of_a_delayed_first_step_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        progress = Progress(total=10, stream=io.StringIO(), compiles=True)
        progress.update(1, {})
        progress.update(2, {})
    announced, took = caplog.messages
    assert announced.startswith("compiling the model in the first step")
    assert took == "the first step, with compilation, took 0 s"


def test_lines_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    progress = Progress(total=10, checkpoint_interval=5, stream=stream)
    with caplog.at_level(logging.INFO):
        progress.update(1, {"loss": 3.0})
        progress.update(5, {"val_loss": 2.5})
    assert stream.getvalue() == ""
    (line,) = caplog.messages
    assert line.startswith("step 5/10  ETA 0 s  loss 3.0000  val_loss 2.5000")
    assert line.endswith("checkpoint at 10")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
