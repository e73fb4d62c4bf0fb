"""Lines from threads, processes and interrupted calls: each arrives once and whole."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from spectral_exp.core.append_file import AppendFile
from spectral_exp.monitoring import MetricsLogger
from tests.crash.interrupts import interrupt_at, release_logging_locks


def log_many(logger: MetricsLogger, who: int, count: int, flush: bool) -> None:
    for number in range(count):
        logger.log_metrics(number, {"who": who, "value": number + 0.5}, flush=flush)


def log_from_threads(
    logger: MetricsLogger, who: int, threads: int, count: int, flush: bool
) -> None:
    """Entries of `threads` writers, numbered from `who`."""
    workers = [
        threading.Thread(target=log_many, args=(logger, who + thread, count, flush))
        for thread in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    logger.close()


def logged(folder: Path) -> Counter[tuple[int, int]]:
    """(writer, step) of every line; fails for a line that is not whole."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_bytes().splitlines()]
    return Counter((entry["who"], entry["step"]) for entry in entries)


@pytest.mark.parametrize(("method", "flush"), [("fork", True), ("fork", False), ("spawn", False)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_and_processes_log_every_entry_once(
    tmp_path: Path, method: str, flush: bool
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    context: Any = multiprocessing.get_context(method)
    processes, threads, count = 2, 3, 150
    logger = MetricsLogger(tmp_path)
    logger.log_metrics(0, {"who": -1, "value": 0.0})
    logger.log_metrics(1, {"who": -1, "value": 0.0}, flush=False)  # waits while the processes start
    children = [
        context.Process(target=log_from_threads, args=(logger, 10 * process, threads, count, flush))
        for process in range(1, processes + 1)
    ]
    for child in children:
        child.start()
    log_from_threads(logger, 0, threads, count, flush)
    for child in children:
        child.join()
        assert child.exitcode == 0
    writers = [
        10 * process + thread for process in range(processes + 1) for thread in range(threads)
    ]
    expected = Counter(itertools.product(writers, range(count))) + Counter([(-1, 0), (-1, 1)])
    assert logged(tmp_path) == expected
    assert len((tmp_path / "training.log").read_bytes().splitlines()) == expected.total()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_while_another_thread_writes_can_log(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    stop = threading.Event()
    steps = itertools.count()

    def write() -> None:
        while not stop.is_set():
            logger.log_metrics(next(steps), {"who": 0})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(20):
            if (child := os.fork()) == 0:
                logger.log_metrics(number, {"who": 1})
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
    expected = Counter((0, step) for step in range(next(steps))) + Counter(
        (1, number) for number in range(20)
    )
    assert logged(tmp_path) == expected


def test_a_process_without_standard_error_keeps_it_out_of_the_file_and_writes_all_at_its_end(
    tmp_path: Path,
) -> None:
    program = (
        "import os, sys\nos.close(2)\nfrom spectral_exp.monitoring import MetricsLogger\n"
        "logger = MetricsLogger(sys.argv[1])\nlogger.log_metrics(1, {'who': 1})\n"
        "try:\n    os.write(2, b'a message of some library')\nexcept OSError:\n    pass\n"
        "logger.log_metrics(2, {'who': 1}, flush=False)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)
    assert logged(tmp_path) == Counter([(1, 1), (1, 2)])


def test_opening_a_file_that_another_process_writes_keeps_its_last_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    first, second = (AppendFile(path, is_whole=lambda line: False) for _ in range(2))
    first.write(b"whole\n")
    with path.open("ab") as file:
        file.write(b"on its w")
    second.write(b"second\n")
    assert path.read_bytes() == b"whole\non its w\nsecond\n"
    first.close()
    second.close()
    with path.open("ab") as file:
        file.write(b"of a killed process")
    first.write(b"third\n")
    assert path.read_bytes() == b"whole\non its w\nsecond\nthird\n"


# --- interruptions --------------------------------------------------------------------------------


class StopError(Exception):
    """Raised by the signal handler."""


@contextmanager
def alarms(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt(logger: MetricsLogger, tries: int, longest_s: float) -> None:
    """Log entries and read, flush or close, while an exception comes at a random moment of each
    try."""
    draw = random.Random(0)

    def stop(number: int, frame: FrameType | None) -> None:
        raise StopError

    interrupted = set()
    actions: list[Callable[[], object]] = [logger.flush, logger.close, logger.get_latest_step, int]
    with alarms(stop):
        for step in range(tries):
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, longest_s))
                logger.log_metrics(step, {"who": 0}, flush=draw.random() < 0.7)
                draw.choice(actions)()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except StopError:
                interrupted.add(step)
            signal.setitimer(signal.ITIMER_REAL, 0)
    release_logging_locks()
    logger.close()
    found = logged(logger.metrics_file.parent)
    assert found.keys() >= {(0, step) for step in range(tries) if step not in interrupted}
    assert set(found.values()) == {1}
    steps = [step for _, step in found]
    assert steps == sorted(steps)
    assert len(interrupted) > tries // 20


# An interrupted `open` of Python leaves its file to the garbage collector.
INTERRUPTED_OPEN = "ignore::pytest.PytestUnraisableExceptionWarning"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.filterwarnings(INTERRUPTED_OPEN)
def test_an_exception_at_any_moment_loses_and_repeats_no_entry(tmp_path: Path) -> None:
    interrupt(MetricsLogger(tmp_path), 1500, 200e-6)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.filterwarnings(INTERRUPTED_OPEN)
@pytest.mark.parametrize("longest_s", [30e-6, 100e-6, 1e-3])
def test_exceptions_at_thousands_of_moments(tmp_path: Path, longest_s: float) -> None:
    interrupt(MetricsLogger(tmp_path), 10_000, longest_s)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
def test_a_signal_handler_that_logs_neither_hangs_nor_loses_an_entry(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    draw = random.Random(0)
    handled = itertools.count()

    def log_too(number: int, frame: FrameType | None) -> None:
        logger.log_metrics(next(handled), {"who": 1})
        logger.flush()
        if draw.random() < 0.2:
            logger.close()

    with alarms(log_too):
        for step in range(500):
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, 60e-6))
            logger.log_metrics(step, {"who": 0}, flush=draw.random() < 0.7)
    logger.close()
    expected = Counter((0, step) for step in range(500)) + Counter(
        (1, number) for number in range(next(handled))
    )
    assert logged(tmp_path) == expected
    assert len(expected) > 600


def test_a_handler_of_log_records_may_log_to_the_same_file(tmp_path: Path) -> None:
    """As one that copies warnings to `training.log` does."""
    logger = MetricsLogger(tmp_path / "logs")

    class Copy(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger.log_message(record.getMessage())

    handler = Copy()
    logging.getLogger("spectral_exp").addHandler(handler)
    try:
        (tmp_path / "logs").touch()  # nothing can be written yet
        logger.log_metrics(1, {"who": 0})
        (tmp_path / "logs").unlink()
        logger.log_metrics(2, {"who": 0})
    finally:
        logging.getLogger("spectral_exp").removeHandler(handler)
    logger.close()
    assert logged(tmp_path / "logs") == Counter([(0, 1), (0, 2)])
    assert "cannot write" in logger.training_log.read_text()


def before_every_line(
    folder: Path, bytecodes: bool, call: Callable[[MetricsLogger], object]
) -> int:
    """Interrupt `call` before each line of ours; entries 1 to 3 are logged before it, 9 afterwards.

    Number of tries.
    """
    for moment in itertools.count(1):
        logger = MetricsLogger(folder / str(moment))
        for step in (1, 2, 3):
            logger.log_metrics(step, {"who": 0}, flush=step < 3)
        interrupted = interrupt_at(moment, functools.partial(call, logger), bytecodes=bytecodes)
        if call is CALLS["cut back"]:
            call(logger)  # the next attempt of the run does this before anything else
        logger.log_metrics(9, {"who": 0})
        logger.close()
        found = [entry["step"] for entry in logger.load_metrics()]
        cut = MetricsLogger(folder / str(moment))
        cut.metrics_file = cut.cut_file
        found_and_cut = found + [entry["step"] for entry in cut.load_metrics()]
        assert found == sorted(found)
        assert found[-1] == 9
        assert set(found_and_cut) - {4} == {1, 2, 3, 9}
        assert len(found_and_cut) == len(set(found_and_cut))
        if not interrupted:
            return moment
    raise AssertionError


CALLS: dict[str, Callable[[MetricsLogger], object]] = {
    "log": lambda logger: logger.log_metrics(4, {"who": 0}),
    "log text": lambda logger: logger.log_metrics(4, {"who": 0, "text": "odd"}, flush=False),
    "flush": MetricsLogger.flush,
    "sync": MetricsLogger.sync,
    "close": MetricsLogger.close,
    "latest step": MetricsLogger.get_latest_step,
    "load": MetricsLogger.load_metrics,
    "summary": MetricsLogger.get_metrics_summary,
    "cut back": lambda logger: logger.cut_back(1),
}


@pytest.fixture
def quick_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of real synchronizations would take minutes, and show nothing about
    interruptions."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("name", ["log", "close", "cut back"])
@pytest.mark.filterwarnings(INTERRUPTED_OPEN)
@pytest.mark.usefixtures("quick_storage")
def test_an_exception_before_every_line(tmp_path: Path, name: str) -> None:
    assert before_every_line(tmp_path, False, CALLS[name]) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings(INTERRUPTED_OPEN)
@pytest.mark.usefixtures("quick_storage")
def test_an_exception_before_every_bytecode(tmp_path: Path, name: str) -> None:
    assert before_every_line(tmp_path, True, CALLS[name]) > 50
