"""Errors with a message for the user, one clear line each."""

from __future__ import annotations

import difflib
import re
import traceback
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

    def as_flag(self, flag: str) -> SettingError:
        """The same error about the flag of a command, which cannot be null: `--top-k`."""
        allowed = re.sub(r",? or null\b", "", self.allowed)
        return SettingError(flag, self.value, allowed, self.remedy)

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


_SYNONYMS = (
    ("learning_rate", "lr", "peak_lr", "max_lr"),
    ("max_steps", "steps", "max_iters", "iters", "iterations", "num_steps", "total_steps"),
    ("batch_size", "bs", "micro_batch_size", "per_device_train_batch_size"),
    ("grad_accum_steps", "gradient_accumulation_steps", "accumulate_grad_batches", "grad_accum"),
    ("grad_clip", "gradient_clip_val", "max_grad_norm", "clip_grad_norm"),
    ("weight_decay", "wd"),
    ("warmup_steps", "warmup", "warmup_iters", "num_warmup_steps"),
    ("block_size", "seq_len", "sequence_length", "context_length", "context", "max_seq_len"),
    ("n_layer", "n_layers", "num_layers", "layers", "depth"),
    ("n_head", "n_heads", "num_heads", "heads"),
    ("n_embd", "d_model", "dim", "hidden_size", "n_embed", "width"),
    ("log_interval", "log_every", "logging_steps", "log_every_n_steps"),
    ("eval_interval", "eval_every", "eval_steps"),
    ("save_interval", "save_every", "save_steps"),
    ("precision", "dtype", "amp"),
    ("nproc", "gpus", "num_gpus", "world_size", "nproc_per_node"),
    ("outputs", "output_dir", "out_dir", "outdir"),
    ("threads", "num_threads"),
    ("init_from", "pretrained", "init"),
)
"""Names of a setting in this package and in other tools."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The words "; did you mean X?" for a misspelt `name`, or nothing where no name is near."""
    candidates = sorted(set(names))
    found = names_with_last(name, candidates) or close_names(name, candidates)
    return f"; did you mean {found[0]}?" if found else ""


def names_with_last(name: str, names: Iterable[str]) -> list[str]:
    """Return the dotted names that end with the last part of `name` or a synonym of it.

    They are the right name in the wrong place: training.max_steps for max_steps, model.n_wave for
    model.mlp.n_wave. Those with fewer parts come first.
    """
    last = name.rpartition(".")[2]
    allowed = next((words for words in _SYNONYMS if last in words), (last,))
    found = [one for one in names if one.rpartition(".")[2] in allowed]
    return sorted(found, key=lambda one: (one.rpartition(".")[2] != last, one.count(".")))


def close_names(name: str, names: Iterable[str]) -> list[str]:
    """Return the dotted name that is spelt most like `name`, as a list of one or none."""
    candidates = list(names)
    if found := difflib.get_close_matches(name, candidates, n=1, cutoff=0.6):
        return found
    by_last = {one.rpartition(".")[2]: one for one in candidates}
    last = name.rpartition(".")[2]
    return [by_last[one] for one in difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)]


class Interrupted(KeyboardInterrupt):
    """A run was saved and stopped after a signal; as a KeyboardInterrupt it ends a whole sweep.

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


def describe_error(error: Exception) -> str:
    """Return an error of the user's code with its last place in a file, in one line."""
    places = traceback.extract_tb(error.__traceback__)
    where = f" ({places[-1].filename}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"
