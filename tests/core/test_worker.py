from __future__ import annotations

import itertools
import os
import sys
import threading

import pytest

from spectral_exp.core.worker import BackgroundThread, ServiceThread
from tests.crash.interrupts import interrupt_at


def test_the_error_of_the_work_is_raised_once() -> None:
    thread = BackgroundThread("test")
    thread.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        thread.wait()
    assert thread.wait()
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 / 0)
    assert not thread.busy


def test_work_may_run_work() -> None:
    thread, done = BackgroundThread("test"), list[str]()

    def outer() -> None:
        thread.run(lambda: done.append("inner"))
        done.append("outer")

    thread.run(outer)
    assert done == ["inner", "outer"]


def test_interrupted_at_every_bytecode_work_is_done_once_or_not_at_all() -> None:
    for moment in itertools.count(1):
        thread, done = BackgroundThread("test"), list[int]()

        def use(thread: BackgroundThread = thread, done: list[int] = done) -> None:
            thread.start(lambda: done.append(1))
            thread.wait()

        struck = interrupt_at(moment, use, bytecodes=True)
        assert thread.wait(60)
        thread.run(lambda done=done: done.append(2))  # type: ignore[misc]
        assert done in ([1, 2], [2])
        if not struck:
            assert done == [1, 2]
            break
    assert moment > 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_thread_of_its_own() -> None:
    thread, gate = BackgroundThread("test"), threading.Event()
    thread.start(gate.wait)
    pid = os.fork()
    if pid == 0:
        done: list[int] = []
        thread.run(lambda: done.append(1))
        os._exit(0 if done == [1] and not thread.busy else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert thread.busy
    gate.set()
    assert thread.wait(60)


def test_without_a_thread_the_caller_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    who: list[int] = []
    thread = BackgroundThread("test")
    thread.start(lambda: who.append(threading.get_ident()))
    assert thread.wait(60)
    assert who == [threading.get_ident()]
    optional = BackgroundThread("test", is_optional=True)
    optional.start(lambda: who.append(0))
    assert optional.wait(60)
    assert 0 not in who


def test_an_exception_at_any_moment_of_a_start_leaves_a_service_thread_whole() -> None:
    for moment in itertools.count(1):
        ran: list[ServiceThread] = []
        thread = ServiceThread(ran.append, "test")
        interrupted = interrupt_at(moment, thread.start, bytecodes=True)
        if thread.is_started:
            assert thread.ended.wait(60)
            assert ran == [thread]
        if not interrupted:
            break
        assert not thread.ended.wait(0.0) or ran == [thread]
    assert thread.is_started
    assert moment > 3


def test_a_service_thread_that_fails_has_ended() -> None:
    hook, threading.excepthook = threading.excepthook, lambda _: None
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        thread = ServiceThread(lambda _: 1 / 0, "test")
        thread.start()
        assert thread.ended.wait(60)
    finally:
        threading.excepthook, sys.unraisablehook = hook, unraisable
