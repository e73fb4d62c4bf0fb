"""The end of every command: one policy for exit codes, errors, signals and closed output.

Exit codes: 0 success; 1 the answer is negative (a difference, a broken checkpoint, a paper that
does not hold) or the command failed; 2 the user has to change something, reported in one line; 128
+ n stopped by signal n.
"""

from __future__ import annotations

import argparse
import io
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol, TextIO

from spectral_exp.core.display import colorize, give_up, is_terminal, print_error
from spectral_exp.core.errors import Interrupted, RunError, SettingError, UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.signals import StopRequest, restore_interruption

READER_GONE = 128 + signal.SIGPIPE
"""Exit code of a command whose output lost its reader, as a shell reports SIGPIPE."""

_MAX_MESSAGE = 500


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a mistake in one line, like all other mistakes."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(
            2,
            f"error: {printable(message, _MAX_MESSAGE)}; {self.prog} --help lists the arguments\n",
        )


class Main(Protocol):
    """The `main` of a command."""

    def __call__(self, arguments: list[str] | None = None) -> int:
        """Run the command with `arguments` (default: `sys.argv`) and return its exit code."""


def command(
    build_parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], int]
) -> Main:
    """Return the `main` of a command that parses its arguments and calls `run` with the options.

    A signal that asks it to stop raises `Interrupted` inside `run`, so temporary files are removed
    and child processes end; the exit code is 128 + its number.
    """

    def main(arguments: list[str] | None = None) -> int:
        if arguments is None and isinstance(sys.stdout, io.TextIOWrapper):
            # A model, or the name of a run, may hold what the encoding of the terminal lacks.
            sys.stdout.reconfigure(errors="backslashreplace")
        with StopRequest(immediate=True) as stop:
            try:
                code = exit_code(lambda: _run(build_parser, run, arguments))
            except Interrupted as error:
                print_error(f"stopped by {signal.Signals(error.signal_number).name}")
                code = error.exit_code
            if arguments is None:
                stop.finish()  # the process is about to end
        return code

    return main


def _run(
    build_parser: Callable[[], argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
    arguments: list[str] | None,
) -> int:
    """Parse the arguments and call `run`; a SettingError names a flag as users type it."""
    with restore_interruption():
        parser = build_parser()
        options = parser.parse_args(arguments)
        try:
            return run(options)
        except SettingError as error:
            flag = f"--{error.setting.replace('_', '-')}"
            if flag not in _flags(parser):
                raise
            raise error.as_flag(flag) from error


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the flags of a parser and of its subcommands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _flags(subparser)


def confirm(action: str, remedy: str) -> bool:
    """Ask on the terminal whether to do `action` and return the answer.

    Raises:
        UserError: there is no terminal; `remedy` is what to do instead.
    """
    if not is_terminal(sys.stdin):
        raise UserError(f"this command would {action}, and has no terminal to ask on; {remedy}")
    try:
        return input(f"{action}? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:  # Ctrl-D
        print()
        return False


def exit_code(call: Callable[[], int]) -> int:
    """Call a command, print its error in one line and return its exit code.

    A command whose standard output or error has no reader ends silently with `READER_GONE`. The
    default action of SIGPIPE would do the same, but for every pipe and socket of the process: a
    helper process that dies must not end training.
    """
    code = 0
    try:
        try:
            code = _call(call)
            failed = _flush()
        except SystemExit:  # argparse, after --help
            if failed := _flush():
                return failed
            raise
    except BrokenPipeError:
        if not _silence_streams_without_reader():
            raise
        failed = READER_GONE
    except OSError:
        if not (failed := _flush("\n")):  # the error does not come from a stream
            raise
    return code or failed


def _call(call: Callable[[], int]) -> int:
    try:
        return call()
    except (UserError, RunError) as error:
        print(colorize("error:", "red", sys.stderr), error, file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def _flush(text: str = "") -> int:
    """Write `text` and what is still buffered; 1 if the disk behind it is full, say, else 0.

    At its exit Python would do the same, and report on standard error what fails.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.write(text)
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
    gone = [
        stream
        for stream in (sys.stdout, sys.stderr)
        if stream is not None and _has_lost_reader(stream)
    ]
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
