from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from spectral_exp.core.errors import Interrupted, RunError, UserError
from spectral_exp.core.signals import (
    CATCHABLE,
    STOP_SIGNALS,
    StopRequest,
    restore_interruption,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no signals of this kind")

ALL = [signal.SIGINT, *(getattr(signal, name) for name in STOP_SIGNALS)]


class Clock:
    """Stands for the module `time`: tests that waited for a second would fail on a busy machine."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("spectral_exp.core.signals.time", clock)
    return clock


@pytest.fixture(autouse=True)
def _ordinary_handlers() -> Iterator[None]:
    """A process that a shell started in the background, or under nohup, ignores some signals from
    the beginning."""
    numbers = [signal.SIGINT, *(getattr(signal, name) for name in CATCHABLE)]
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_a_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal_number is None
        send(number)
        assert stop.signal_number == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_repeated_signal_means_at_once_only_after_a_second(
    first: int, second: int, clock: Clock
) -> None:
    with StopRequest() as stop:
        send(first)
        for _ in range(5):
            clock.now_s += 0.199
            send(second)
        assert stop.signal_number == first
        clock.now_s += 0.1
        with pytest.raises(Interrupted) as raised:
            send(second)
    assert raised.value.exit_code == 128 + second


@pytest.mark.parametrize("name", [name for name in STOP_SIGNALS if name != "SIGTERM"])
def test_a_warning_of_the_batch_system_is_never_urgent(name: str, clock: Clock) -> None:
    """A limit on processor time sends SIGXCPU every second; SIGTERM follows SIGUSR2 by minutes: the
    save goes on."""
    number = getattr(signal, name)
    with StopRequest() as stop:
        for _ in range(3):
            send(number)
            clock.now_s += 60
        send(signal.SIGTERM)
        clock.now_s += 60
        send(number)
        assert stop.signal_number == number
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)


def test_only_the_chosen_signals_are_handled() -> None:
    with StopRequest(immediate=True):
        assert signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, None)
        with StopRequest(["SIGTERM"]) as stop:
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
            send(signal.SIGTERM)
            assert stop.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_initially_ignored_signals_stay_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest(immediate=True), StopRequest() as stop:
        send(signal.SIGHUP)
        assert stop.signal_number is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_without_anything_to_save_a_signal_ends_at_once(clock: Clock) -> None:
    with StopRequest(immediate=True) as stop:
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        send(signal.SIGTERM)  # delivered twice: what was begun to clean up goes on
        clock.now_s += 1
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM


def test_a_request_that_some_library_swallowed_reaches_the_next_block() -> None:
    with StopRequest(immediate=True):
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        with StopRequest() as stop:
            assert stop.signal_number == signal.SIGTERM


def clean_up_badly(error: Exception) -> None:
    """Raise `error` as a library does whose state a signal has left half changed."""
    try:
        send(signal.SIGTERM)
    finally:
        raise error


@pytest.mark.parametrize("error", [AttributeError("no parent"), UserError("cannot build")], ids=str)
def test_an_interruption_that_a_library_has_turned_into_another_error_comes_back(
    error: Exception,
) -> None:
    with StopRequest(immediate=True), pytest.raises(Interrupted) as raised, restore_interruption():
        clean_up_badly(error)
    assert raised.value.signal_number == signal.SIGTERM
    assert raised.value.__cause__ is error


def test_a_second_signal_in_an_inner_block_is_an_interruption_too(clock: Clock) -> None:
    with StopRequest(immediate=True), pytest.raises(Interrupted), restore_interruption():
        interrupt_twice(clock)


def interrupt_twice(clock: Clock) -> None:
    with StopRequest():
        send(signal.SIGINT)
        clock.now_s += 1
        clean_up_badly(KeyError("no parent"))


def test_what_could_not_be_saved_is_not_hidden_by_the_interruption() -> None:
    with StopRequest(immediate=True), pytest.raises(RunError), restore_interruption():
        clean_up_badly(RunError("the last state was not saved"))


@pytest.mark.parametrize("immediate", [False, True])
def test_an_error_after_no_signal_or_a_noted_one_stays_what_it_is(immediate: bool) -> None:
    with StopRequest(immediate=immediate):
        if not immediate:
            send(signal.SIGTERM)  # nothing is raised
        with pytest.raises(KeyError), restore_interruption():
            raise KeyError("step")
    with pytest.raises(KeyError), restore_interruption():
        raise KeyError("step")


def test_the_outer_block_receives_the_signals_of_the_inner_one(clock: Clock) -> None:
    with StopRequest(immediate=True) as outer:
        with StopRequest():
            send(signal.SIGINT)
        assert outer.signal_number == signal.SIGINT
        send(signal.SIGINT)  # within the second
        clock.now_s += 1
        with pytest.raises(Interrupted):
            send(signal.SIGINT)


def test_a_signal_between_the_handlers_of_two_blocks_reaches_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with StopRequest() as outer:
        with monkeypatch.context() as patch:

            def install(block: StopRequest, number: signal.Signals) -> None:
                send(signal.SIGINT)
                patch.undo()
                block._install(number)

            patch.setattr(StopRequest, "_install", install)
            inner = StopRequest().__enter__()
        send(signal.SIGTERM)
        assert (outer.signal_number, inner.signal_number) == (signal.SIGINT, signal.SIGINT)
        inner.__exit__()


def test_work_that_has_ended_is_not_interrupted(clock: Clock) -> None:
    with StopRequest(immediate=True) as stop:
        stop.settle()
        send(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        clock.now_s += 2
        with pytest.raises(Interrupted):  # the message about the end may wait for a reader
            send(signal.SIGINT)


def test_a_worker_leaves_interrupts_and_haste_to_its_parent(clock: Clock) -> None:
    with StopRequest(is_worker=True), StopRequest() as stop:
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        send(signal.SIGTERM)
        clock.now_s += 5
        send(signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM


def test_other_handlers_are_called_once(clock: Clock) -> None:
    asked: list[bool] = []

    def delegate() -> bool:
        asked.append(True)
        return True

    with StopRequest(immediate=True, delegate=delegate) as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert (asked, stop.signal_number) == ([True], signal.SIGINT)
        clock.now_s += 1
        with pytest.raises(Interrupted):
            send(signal.SIGINT)
    assert asked == [True]


def test_outside_the_main_thread_nothing_is_installed() -> None:
    seen: list[object] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with StopRequest():
            seen.append(signal.getsignal(signal.SIGTERM) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]


_RECEIVE = """
import os, signal, sys
from spectral_exp.core.signals import StopRequest
{prepare}
with StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
{after}
os._exit(stop.signal_number)
"""
_PIPE = "r, w = os.pipe(); os.dup2(w, 2)"


@pytest.mark.parametrize(
    ("prepare", "after", "redirect"),
    [
        ("", "", "2>&-"),
        ("", "", "2>/dev/full"),
        (f"{_PIPE}; os.close(r)", "", ""),
        # Full: a handler that waited for its reader would wait for ever.
        (f"{_PIPE}; os.set_blocking(w, False)\nwhile True:\n try: os.write(w, b'x' * 4096)\n"
         " except BlockingIOError: break\nos.set_blocking(w, True)", "", ""),
        # Another file has the number by now.
        ("f = os.open('data', os.O_RDWR | os.O_CREAT); assert f == 2", "assert os.fstat(2).st_size == 0", "2>&-"),
    ],
    ids=["closed", "full disk", "no reader", "slow reader", "reused"],
)  # fmt: skip
def test_the_message_never_disturbs(
    prepare: str, after: str, redirect: str, tmp_path: object
) -> None:
    code = _RECEIVE.format(prepare=prepare, after=after)
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, code],
        cwd=str(tmp_path), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == signal.SIGTERM


def test_an_outer_block_knows_of_a_signal_at_once() -> None:
    """The next signal may come when the inner block has just ended."""
    with StopRequest(immediate=True) as outer:
        with StopRequest() as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner.signal_number == outer.signal_number == signal.SIGINT
        signal.raise_signal(signal.SIGTERM)  # within a second: the same request
        assert outer.signal_number == signal.SIGINT
