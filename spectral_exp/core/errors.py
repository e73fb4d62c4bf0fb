"""Errors with a message for the user, one clear line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.core.wording import install


class UserError(Exception):
    """A mistake that the user can fix; commands print its message without a stack trace.

    Messages quote names and values that others may have written; control characters in them are
    escaped.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable_lines(str(message)))


class SettingError(UserError, ValueError):
    """A setting has a value that is not allowed.

    Args:
        setting: name as the user writes it, e.g. `warmup_steps`; outer layers prepend their own
            path (`optimizer.warmup_steps`) with `within`.
        value: the received value.
        allowed: the allowed values, as the end of the sentence "<setting>=<value> must be
            ...".
        remedy: an instruction, unless `allowed` contains it already.
    """

    def __init__(self, setting: str, value: object, allowed: str, remedy: str = "") -> None:
        self.setting, self.value, self.allowed, self.remedy = setting, value, allowed, remedy
        super().__init__(f"{setting}={value} must be {allowed}" + (f"; {remedy}" if remedy else ""))

    def within(self, path: str) -> SettingError:
        """The same error with `path` (e.g. `optimizer`) put before the setting's name."""
        return SettingError(
            f"{path}.{self.setting}" if path else self.setting,
            self.value,
            self.allowed,
            self.remedy,
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (parallel sweeps) by their constructor's arguments.
        return SettingError, (self.setting, self.value, self.allowed, self.remedy)


def require(condition: bool, setting: str, value: object, allowed: str, remedy: str = "") -> None:
    """Raise a SettingError unless `condition` holds."""
    if not condition:
        raise SettingError(setting, value, allowed, remedy)


@contextmanager
def explain_os_error(action: str, remedy: str = "") -> Iterator[None]:
    """Raise a UserError for an OSError in the block: `cannot <action>: <cause>; <remedy>`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot {action}: {error.strerror}" + (f"; {remedy}" if remedy else "")
        ) from error


@contextmanager
def explain_missing(need: str, extra: str) -> Iterator[None]:
    """Raise a UserError for a failed import in the block: `<need>: pip install ...[<extra>]`."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{need}: {install(extra)}") from error


_SYNONYMS = {"lr": "learning_rate", "learning_rate": "lr"}


def nearest(name: str, names: Iterable[str]) -> str:
    """The words "; did you mean X?" for a misspelt `name`, or nothing where no name is near."""
    candidates = sorted(set(names))
    # The right name in the wrong place: max_steps for training.max_steps, model.mlp.n_wave for
    # model.n_wave.
    last = name.rpartition(".")[2]
    by_last = {c.rpartition(".")[2]: c for c in candidates}
    same_last = [c for c in candidates if c.rpartition(".")[2] in (last, _SYNONYMS.get(last))]
    if same_last:
        return f"; did you mean {min(same_last, key=lambda c: c.count('.'))}?"
    found = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not found:
        found = [
            by_last[m] for m in difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.75)
        ]
    return f"; did you mean {found[0]}?" if found else ""


class Interrupted(KeyboardInterrupt):
    """A run stopped in order after a signal; as a KeyboardInterrupt it ends a whole sweep.

    Args:
        signal_number: of the signal.
        problem: the state that could not be saved, and the remedy; makes the exit code 1.
    """

    def __init__(self, signal_number: int, problem: str = "") -> None:
        super().__init__(signal_number, problem)
        self.signal_number = signal_number
        self.problem = problem
        self.exit_code = 1 if problem else 128 + signal_number


JobEnding = Literal["failed", "diverged", "mistake", "busy"]
"""How a job ends without success: diverged, if its loss is no longer finite, which another attempt
would repeat; mistake of the user; busy, if another process runs it; or failed for another reason.
"""


class JobError(Exception):
    """A run ended with an error; its own log has the details.

    Args:
        message: one line for the user.
        ending: how the run ended.

    Attributes:
        exit_code: of a command that trains this run.
    """

    def __init__(self, message: str, ending: JobEnding = "failed") -> None:
        super().__init__(message, ending)
        self.message, self.ending = message, ending
        self.exit_code = 2 if ending in ("mistake", "busy") else 1

    def __str__(self) -> str:
        return self.message


class RunError(Exception):
    """A run cannot go on, and its message holds the whole reason.

    Not the user's mistake, nor a defect.
    """


class DivergedError(RunError):
    """The loss of a run is no longer finite, which each further attempt would repeat."""
