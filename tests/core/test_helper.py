"""A helper answers in order, and its end is an error with the cause; no call waits for ever."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectral_exp.core.helper import HelperEndedError, HelperProcess

_MODULE = """
import os, sys, time
from spectral_exp.core.helper import serve
def make(send):
    print("a library prints")
    def answer(request):
        if request == "exit":
            os._exit(3)
        if request == "hang":
            time.sleep(1000)
        if request == "close":
            os.closerange(3, 50)
            time.sleep(1000)
        if request == "half":
            class Broken:
                def __reduce__(self):
                    os._exit(0)
            send([bytes(1 << 17), Broken()])
        for number in range(request):
            send(number)
        return {"sent": request, "niceness": os.nice(0)}
    return answer
def main():
    serve(make, 3)
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HelperProcess]:
    (tmp_path / "answering.py").write_text(_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    process = HelperProcess("answering")
    yield process
    process.end()


def test_answers_come_in_order_and_nothing_printed_comes_between(helper: HelperProcess) -> None:
    helper.send(2)
    helper.send(0)
    assert [helper.receive(60) for _ in range(3)] == [0, 1, {"sent": 2, "niceness": os.nice(0) + 3}]
    assert helper.receive(60)["sent"] == 0
    with pytest.raises(TimeoutError):
        helper.receive(0.0)
    assert helper.end() == helper.end() == "by SIGKILL"
    with pytest.raises(HelperEndedError):
        helper.send(1)


@pytest.mark.parametrize(
    ("request_", "how"),
    [("exit", "with exit code 3"), ("half", "with exit code 0"), ("close", "by SIGKILL")],
)
def test_an_end_is_an_error_with_its_cause(helper: HelperProcess, request_: str, how: str) -> None:
    helper.send(request_)
    with pytest.raises(HelperEndedError, match=how):
        helper.receive()
    # A request too large for the pipe, which nobody reads.
    with pytest.raises(HelperEndedError, match=how):
        helper.send(bytes(1 << 20))


def test_any_thread_may_kill_it(helper: HelperProcess) -> None:
    helper.send("hang")
    helper.kill()
    with pytest.raises(HelperEndedError, match="by SIGKILL"):
        helper.receive()


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a thread of the child looks now and then"
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_fork_does_not_use_the_helper_of_its_parent(helper: HelperProcess) -> None:
    child = os.fork()
    if child == 0:
        try:
            helper.send(0)
        except HelperEndedError:
            helper.kill()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    helper.send(0)
    assert helper.receive(60)["sent"] == 0
    assert signal.Signals.SIGKILL.name in helper.end()
