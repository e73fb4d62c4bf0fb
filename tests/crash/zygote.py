"""A process that has imported everything and forks one child for each attempt: milliseconds instead
of seconds.

Reads one request per line, {"scenario", "root", "traced"}; answers {"pid"} and, when the child has
ended, {"signal", "code", "durable", "text"}. A traced child waits for the tracer and SIGCONT before
it begins.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import signal
import struct
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.crash.scenarios import SCENARIOS

_DURABLE = struct.Struct("<q")
_LENGTH = struct.Struct("<q")
_START = _DURABLE.size + _LENGTH.size


def serve() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    # What is imported late is imported now, so that the children's file operations are those of the
    # run alone.
    with tempfile.TemporaryDirectory() as folder, quiet():
        for name in SCENARIOS:
            for _ in range(2):
                SCENARIOS[name](Path(folder) / name.replace(" ", "_"), lambda step: None)
    answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        # Shared with the child, which reports without a system call.
        shared = mmap.mmap(-1, 1 << 20)
        shared[:_START] = bytes(_START)
        pid = os.fork()
        if pid == 0:
            child(request, shared)
        answer({"pid": pid})
        _, status = os.waitpid(pid, 0)
        (durable,), (length,) = (
            _DURABLE.unpack_from(shared),
            _LENGTH.unpack_from(shared, _DURABLE.size),
        )
        killed = os.WIFSIGNALED(status)
        answer(
            {
                "signal": os.WTERMSIG(status) if killed else 0,
                "code": 0 if killed else os.WEXITSTATUS(status),
                "durable": durable,
                "text": shared[_START : _START + length].decode(),
            }
        )


def child(request: dict[str, str], shared: mmap.mmap) -> None:
    """One attempt; never returns."""
    try:
        with quiet():
            if request["traced"]:
                os.kill(os.getpid(), signal.SIGSTOP)
            text = SCENARIOS[request["scenario"]](
                Path(request["root"]), lambda step: _DURABLE.pack_into(shared, 0, step)
            )
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    content = text.encode()
    shared[_START : _START + len(content)] = content
    _LENGTH.pack_into(shared, _DURABLE.size, len(content))
    os._exit(0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the scenarios print to nowhere: the output is for answers."""
    with (
        Path(os.devnull).open("w") as sink,
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        yield


def answer(content: object) -> None:
    sys.__stdout__.write(json.dumps(content) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    serve()
