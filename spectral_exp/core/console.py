"""What commands have in common: a wrong argument, a signal, an output without a reader, each with its end."""

from __future__ import annotations

import argparse
import functools
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TextIO

from spectral_exp.core.display import give_up, print_error
from spectral_exp.core.errors import Interrupted
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.signals import StopRequest

READER_GONE = 128 + signal.SIGPIPE
"""Exit code of a command whose output has lost its reader: what a shell reports of one that SIGPIPE ended."""

P = ParamSpec("P")
_MAX_MESSAGE = 500


class Parser(argparse.ArgumentParser):
    """A parser of command lines that reports a mistake in one line, as all other mistakes are reported."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"error: {printable(message, _MAX_MESSAGE)}; {self.prog} --help lists the arguments\n")


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Make the `main` of a command end in order, and without a traceback, when it is stopped from outside.

    A signal that asks it to stop raises `Interrupted`, so that temporary files are removed and processes ended; the
    exit code is 128 + its number. A command whose standard output or error has no reader any more ends silently with
    `READER_GONE`. The default action of SIGPIPE would do so too, but for every pipe and socket of the process: a helper
    process that dies must not end training.
    """

    @functools.wraps(main)
    def wrapped(*arguments: P.args, **named: P.kwargs) -> int:
        with StopRequest(immediate=True) as stop:
            try:
                code = _run(main, *arguments, **named)
            except Interrupted as error:
                print_error(f"stopped by {signal.Signals(error.signal_number).name}")
                code = error.exit_code
            except Exception:
                # `Interrupted`, raised inside of an import or a library, may come out as another error.
                if stop.signal_number is None:
                    raise
                print_error(f"stopped by {signal.Signals(stop.signal_number).name}")
                code = 128 + stop.signal_number
            if not arguments and not named:
                stop.finish()  # the process is about to end
        return code

    return wrapped


def _run(main: Callable[P, int], *arguments: P.args, **named: P.kwargs) -> int:
    """The exit code of a command, or `READER_GONE`."""
    code = 0
    try:
        try:
            code = main(*arguments, **named)
            failed = _flush()
        except SystemExit:  # argparse, after --help
            if failed := _flush():
                return failed
            raise
    except BrokenPipeError:
        if not _silence_streams_without_reader():
            raise
        failed = READER_GONE
    return code or failed


def _flush() -> int:
    """Write out what is still buffered; 1 if the disk behind it is full, say, else 0.

    At its exit Python would do the same, and report on standard error what fails.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            give_up(stream)
            print(f"error: cannot write to {stream.name}: {error.strerror}", file=sys.stderr)
            return 1
    return 0


def _silence_streams_without_reader() -> bool:
    """Let the streams whose reader is gone write to nowhere; whether there are any."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _has_lost_reader(stream)]
    for stream in gone:
        give_up(stream)
    return bool(gone)


def _has_lost_reader(stream: TextIO) -> bool:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # not a file, or closed
        return False
    polled = select.poll()
    polled.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in polled.poll(0))
