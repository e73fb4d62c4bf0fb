"""The process that draws: drawings in, PNG files out. It knows nothing of torch, of models or of the disk."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
import time
import traceback

from spectral_exp.plots.load import import_matplotlib
from spectral_exp.plots.run import DrawFigure

NICE = 5
"""Below training in priority; at 19 the process would starve beside threads that spin while they wait."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer every pickled (drawing, dpi) on standard input until it ends.

    An answer is a PNG file, or an error, and the processor seconds that this process has taken so far.
    """
    _die_with_parent()
    if hasattr(os, "nice"):
        os.nice(NICE)
    requests = sys.stdin.buffer
    # Whatever else prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    messages = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    os.dup2(messages, sys.stdout.fileno())
    # The parent may end at any moment, also in the middle of a request.
    with contextlib.suppress(EOFError, pickle.UnpicklingError, BrokenPipeError):
        while True:
            drawing, dpi = pickle.load(requests)
            answer = _answer(drawing, dpi), time.process_time()
            pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()


def _answer(drawing: DrawFigure, dpi: int) -> bytes | tuple[str, str]:
    """The PNG file, or what went wrong and its traceback."""
    try:
        import_matplotlib()
        from spectral_exp.plots.theme import DARK, render

        return render(drawing, DARK, dpi)
    except Exception as error:
        return f"{type(error).__name__}: {error}", traceback.format_exc()


def _die_with_parent() -> None:
    """Be killed by the kernel when the parent dies, even if stopped or stuck then.

    Elsewhere than on Linux the process ends when it next looks for a request.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
