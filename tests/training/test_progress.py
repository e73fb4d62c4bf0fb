from __future__ import annotations

import io
import logging

import pytest

from spectral_exp.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_shows_the_progress() -> None:
    stream = Terminal()
    progress = Progress(total=10, checkpoint_interval=5, stream=stream)
    progress.update(9, {"loss": 2.0})
    progress.update(10, {"loss": 1.5, "tokens_per_s": 12345.0})
    progress.close()
    last = stream.getvalue().split("\r\x1b[K")[-2]
    assert last.startswith("[####################] step 10/10")
    assert "loss 1.5000" in last
    assert "12,345 tokens/s" in last
    assert "ETA 0 s" in last
    assert "checkpoint" not in last
    assert stream.getvalue().endswith("\r\x1b[K")


def test_lines_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    progress = Progress(total=10, checkpoint_interval=5, stream=stream)
    with caplog.at_level(logging.INFO):
        progress.update(1, {"loss": 3.0})
        progress.update(5, {"val_loss": 2.5})
    assert stream.getvalue() == ""
    (line,) = caplog.messages
    assert line.startswith("step 5/10  loss 3.0000  val_loss 2.5000")
    assert line.endswith("checkpoint at 10")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
