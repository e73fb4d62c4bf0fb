"""Printing never fails the code that prints."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spectral_exp.core.display import ConsoleHandler, is_terminal, write
from spectral_exp.runs.log import RunLogHandler
from spectral_exp.training.progress import Progress

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the tests close descriptors")

_PRINT = """
import errno, logging, os, sys
from spectral_exp.core.display import ConsoleHandler, print_error, protect_output
from spectral_exp.runs.log import RunLogHandler
protect_output()
data = os.open("data", os.O_RDWR | os.O_CREAT)
assert data > 2
logging.basicConfig(handlers=[ConsoleHandler(), RunLogHandler("run.log")], level=logging.INFO, format="%(message)s")
for number in range(3):
    logging.info("line %d \\u2713 \\udcff", number)
    print_error("error")
print("printed")
for descriptor in (1, 2):  # as a library written in C prints
    try:
        os.write(descriptor, b"text")
    except OSError as error:
        assert error.errno in (errno.ENOSPC, errno.EPIPE), error
sys.stderr.write("x" * 100_000)
assert os.fstat(data).st_size == 0
"""


@pytest.mark.parametrize(
    "redirect",
    [
        "<&-",
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        ">/dev/full",
        ">/dev/full 2>&1",
        "| true",
        "2>&1 | true",
    ],
)
def test_a_stream_that_cannot_be_written_costs_no_line_of_the_log(
    redirect: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirect}; exit ${{PIPESTATUS[0]}}', sys.executable, _PRINT],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Logging error" not in done.stderr
    log = (tmp_path / "run.log").read_bytes().splitlines()
    assert [line for line in log if line.startswith(b"line")] == [
        b"line %d \xe2\x9c\x93 \\udcff" % number for number in range(3)
    ]


_LOG = """
import logging, os
{prepare}
from spectral_exp.core.display import ConsoleHandler
from spectral_exp.runs.log import RunLogHandler
logging.basicConfig(handlers=[ConsoleHandler(), RunLogHandler("run.log")], level=logging.INFO, format="%(message)s")
for number in range(3):
    logging.info("line %d", number)
"""


@pytest.mark.parametrize(
    "prepare",
    [
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
        "r, w = os.pipe(); os.dup2(w, 1); os.close(r)",
    ],
    ids=["full disk", "no reader"],
)
def test_without_protection_the_log_is_complete_too(prepare: str, tmp_path: Path) -> None:
    """Workers of a sweep print to inherited descriptors."""
    done = subprocess.run(
        [sys.executable, "-c", _LOG.format(prepare=prepare)], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    log = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line for line in log if line.startswith("line")] == ["line 0", "line 1", "line 2"]
    assert sum("standard output cannot be written" in line for line in log) == 1


def test_a_log_on_a_full_disk_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler = RunLogHandler(str(tmp_path / "run.log"))
    with open("/dev/full", "w") as full:  # noqa: PTH123
        os.dup2(full.fileno(), handler.stream.fileno())
    logger = logging.getLogger("tests.full_disk")
    logger.addHandler(handler)
    for _ in range(3):
        logger.warning("line")
    logger.removeHandler(handler)
    handler.close()
    (warning,) = [record.message for record in caplog.records if record.name != logger.name]
    assert warning.startswith(f"cannot write {tmp_path / 'run.log'}: ")


class Terminal(io.StringIO):
    """A terminal that raises `error` from a certain moment on."""

    error: BaseException | None = None

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    ("error", "is_gone"),
    [
        (OSError(5, "EIO"), True),
        (BrokenPipeError(), True),
        (ValueError("closed"), True),
        (BlockingIOError(), False),
    ],
)
def test_a_bar_on_a_terminal_that_is_gone_becomes_lines_of_the_log(
    error: BaseException, is_gone: bool
) -> None:
    stream = Terminal()
    progress = Progress(total=2, stream=stream)
    progress.update(2, {"loss": 2.0})
    assert "step 2/2" in stream.getvalue()
    stream.error = error
    progress.update(2, {"loss": 1.0})
    stream.error = None
    progress.update(2, {})
    progress.close()
    assert ("loss 1.0000" in stream.getvalue()) != is_gone


def test_closed_streams_are_no_terminals() -> None:
    stream = io.StringIO()
    stream.close()
    assert not is_terminal(stream)
    assert not is_terminal(None)
    assert not write(stream, "text")
    assert not write(None, "text")


def test_a_console_that_was_closed_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    handler = ConsoleHandler()
    sys.stdout.close()
    logging.getLogger().addHandler(handler)
    try:
        for _ in range(3):
            logging.getLogger("tests.closed").warning("line")
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.message for record in caplog.records].count("line") == 3
    assert (
        sum("standard output cannot be written" in record.message for record in caplog.records) == 1
    )
