"""Log metrics as JSON lines, written when the call returns, and as text for people."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from spectral_exp.core.append_file import AppendFile
from spectral_exp.core.errors import require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_value import MAX_DEPTH, jsonable
from spectral_exp.core.redact import redact_text, without_secrets
from spectral_exp.core.steps import whole_step
from spectral_exp.monitoring.component import Component
from spectral_exp.monitoring.metric_cuts import cut_back
from spectral_exp.monitoring.metric_summary import Summary
from spectral_exp.runs import layout
from spectral_exp.runs.metric_lines import (
    RESERVED,
    is_entry,
    last_entry,
    metric_number,
    parse_entry,
    read_lines,
    restore_entry,
)

log = logging.getLogger(__name__)

_MAX_LINE = 1 << 16  # characters of one entry in the log for people


class MetricsLogger(Component):
    """Appends metrics to `metrics.jsonl` and, as text, to `training.log`. Also a context manager.

    A written entry survives the death of the process; `sync` makes all entries survive a power cut.
    If the disk fails, entries wait in memory until they can be written.

    Any number of threads and processes may log to the same folder: every entry is written once and
    whole. Loggers can be forked and pickled; waiting entries stay with the original.

    Args:
        log_dir: folder of the log files, created with the first entry.
        log_interval: steps between entries, >= 1.
        enabled: False writes nothing; loading works.
    """

    files = tuple(
        f"{layout.LOGS_FOLDER}/{name}"
        for name in (layout.METRICS_NAME, layout.CUT_METRICS_NAME, layout.TRAINING_LOG_NAME)
    )

    def __init__(
        self, log_dir: str | Path, log_interval: int = 10, *, enabled: bool = True
    ) -> None:
        whole = isinstance(log_interval, int) and log_interval >= 1
        require(whole, "log_interval", log_interval, "a whole number >= 1")
        self.log_interval = log_interval
        self.enabled = enabled
        self.metrics_file = Path(log_dir) / layout.METRICS_NAME
        self.cut_file = Path(log_dir) / layout.CUT_METRICS_NAME
        self.training_log = Path(log_dir) / layout.TRAINING_LOG_NAME
        self._entries = AppendFile(self.metrics_file, is_entry)
        self._messages = AppendFile(self.training_log)

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def should_log(self, step: int) -> bool:
        """Return whether to log after `step`, counted from 1."""
        return self.enabled and step > 0 and step % self.log_interval == 0

    # --- writing ----------------------------------------------------------------------------------

    def log_metrics(self, step: int, metrics: Mapping[str, Any], flush: bool = True) -> None:
        """Append one entry.

        Args:
            step: step the metrics belong to, a whole number >= 0 of any type.
            metrics: numbers (Python, numpy, or torch tensors with one element) or strings by name.
                Nested mappings get joined names, `{"train": {"loss": 2.0}}` is `train/loss`. Other
                values are written as JSON, if need be as text.
            flush: False keeps the entry in memory until the next flush.

        Raises:
            SettingError: a metric is named `step` or `timestamp`, two metrics have the same name
                once joined, or `step` is not a whole number.
        """
        if not self.enabled:
            return
        if type(step) is not int or step < 0:
            step = whole_step(step)
        values = tuple(metrics.values())
        formats = _formats(tuple(metrics), tuple(map(type, values)))
        now = _now()
        if formats is not None and _all_finite(values):
            entry = formats[0] % (step, now, *values)
            words = formats[1] % (now, step, *values)
        else:
            entry, words = _any_entry(step, now, metrics)
        self._entries.write(entry.encode(), flush)
        self._messages.write(words.encode(), flush)

    def log_message(self, text: str) -> None:
        """Append a line of text with the time to `training.log`; further lines of the text are
        indented."""
        if self.enabled:
            indented = redact_text(text).rstrip().replace("\n", "\n    ")
            self._messages.write(f"{_now()} {indented}\n".encode(errors="replace"))

    def flush(self) -> None:
        """Write the entries that wait in memory."""
        self._entries.flush()
        self._messages.flush()

    def sync(self) -> None:
        """Write the entries that wait in memory, and make everything logged so far survive a power
        cut.

        With `CheckpointManager(before_commit=logger.sync)` no checkpoint becomes durable before the
        entries of its steps.
        """
        self._entries.sync()
        self._messages.sync()

    def close(self) -> None:
        """Call `sync` and close the files. A later entry opens them again."""
        self.sync()
        self._entries.close()
        self._messages.close()

    def cut_back(self, step: int, keep: Callable[[dict[str, Any]], None] | None = None) -> int:
        """Move entries after `step` from `metrics.jsonl` to `metrics.cut.jsonl` beside it.

        Used on resume: steps logged after the checkpoint are trained and logged again. Unreadable
        lines are moved too. A crash loses nothing. A disabled logger changes no file.

        Args:
            step: last step to keep.
            keep: called with every entry that stays, in order.

        Returns:
            The number of moved lines.

        Raises:
            UserError: the files cannot be read or written.
        """
        step = whole_step(step)

        def restore_and_keep(entry: dict[str, Any]) -> None:
            if keep is not None:
                keep(restore_entry(entry))

        if not self.enabled:
            for line in read_lines(self.metrics_file):
                if (entry := parse_entry(line)) is not None and entry["step"] <= step:
                    restore_and_keep(entry)
            return 0
        return cut_back(self._entries, self.cut_file, step, restore_and_keep)

    # --- reading ----------------------------------------------------------------------------------

    def load_metrics(self) -> list[dict[str, Any]]:
        """Return all entries in order. Unreadable lines are skipped with a warning."""
        self.flush()
        entries, unreadable = [], 0
        names: dict[str, str] = {}  # entries share the strings of their names
        for line in read_lines(self.metrics_file):
            if (entry := parse_entry(line)) is None:
                unreadable += 1
                continue
            entries.append(
                {
                    names.setdefault(name, name): value
                    for name, value in restore_entry(entry).items()
                }
            )
        self._warn_of_unreadable(unreadable)
        return entries

    def get_latest_step(self) -> int:
        """Return the step of the last entry, 0 without one."""
        self.flush()
        waiting = self._entries.last_waiting_line
        entry = last_entry(self.metrics_file) if waiting is None else parse_entry(waiting)
        return 0 if entry is None else int(entry["step"])

    def get_metrics_summary(self) -> dict[str, dict[str, float]]:
        """Return `min`, `max`, `mean`, `final`, `count` and `non_finite` of every numeric metric.

        The first four are of the finite values, NaN without one.
        """
        self.flush()
        summaries: dict[str, Summary] = defaultdict(Summary)
        unreadable = 0
        for line in read_lines(self.metrics_file):
            if (entry := parse_entry(line)) is None:
                unreadable += 1
                continue
            for name, value in entry.items():
                if name not in RESERVED and (number := metric_number(value)) is not None:
                    summaries[name].add(number)
        self._warn_of_unreadable(unreadable)
        return {name: summary.result() for name, summary in summaries.items()}

    def _warn_of_unreadable(self, count: int) -> None:
        if count:
            log.warning("%s: skipped %d unreadable line(s)", self.metrics_file, count)


@functools.lru_cache(maxsize=1024)
def _formats(names: tuple[str, ...], types: tuple[type, ...]) -> tuple[str, str] | None:
    """Return templates of an entry and its text for finite numbers; None for other types.

    Filling them takes half the time of `json.dumps`. Raises SettingError for a reserved name.
    """
    _check_names(names)
    if not {float, int}.issuperset(types) or set(map(type, names)) != {str}:
        return None
    quoted = [json.dumps(name).replace("%", "%%") for name in names]
    entry = (
        ", ".join(['{"step": %d', '"timestamp": "%s"', *(f"{name}: %r" for name in quoted)]) + "}\n"
    )
    plain = [printable(name).replace("%", "%%") for name in names]
    shown = (
        f"{name} {'%.5g' if kind is float else '%d'}"
        for name, kind in zip(plain, types, strict=True)
    )
    return entry, "  ".join(["%s step %d", *shown]) + "\n"


def _all_finite(numbers: tuple[float, ...]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _check_names(names: Iterable[object]) -> None:
    wrong = RESERVED.intersection(names)
    require(not wrong, "metrics", sorted(wrong), "free of the names step and timestamp")


def _any_entry(step: int, now: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return an entry and its text for metrics of any type."""
    flat = {name: _scalar(value) for name, value in _flatten(metrics).items()}
    plain = _hide_secrets(jsonable(flat))
    _check_names(plain)
    entry = json.dumps({"step": step, "timestamp": now, **plain})
    words = [
        f"{name} {value:.5g}" if type(value) is float else f"{name} {value}"
        for name, value in plain.items()
    ]
    return f"{entry}\n", printable("  ".join([f"{now} step {step}", *words]), _MAX_LINE) + "\n"


def _hide_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics without secrets. Numbers stay, whatever their names, as in `_formats`."""
    hidden = without_secrets(values)
    return {
        name: shown if metric_number(value) is None else value
        for value, (name, shown) in zip(values.values(), hidden.items(), strict=True)
    }


def _flatten(metrics: Mapping[str, Any], depth: int = 0) -> dict[Any, Any]:
    """Return metrics without nesting; names within a mapping follow its name and a slash."""
    flat: dict[Any, Any] = {}
    for name, value in metrics.items():
        inner = {name: value}
        if isinstance(value, Mapping) and value and depth < MAX_DEPTH:
            inner = {f"{name}/{key}": x for key, x in _flatten(value, depth + 1).items()}
        equal = sorted(map(str, flat.keys() & inner.keys()))
        require(not equal, "metrics", equal, "free of names that are equal once joined by /")
        flat.update(inner)
    return flat


def _now() -> str:
    """Return the local time in ISO 8601 with milliseconds."""
    now = time.time()
    second = int(now)
    whole, offset = _second(second)
    return f"{whole}.{int(1000 * (now - second)):03d}{offset}"


@functools.lru_cache(maxsize=2)
def _second(second: int) -> tuple[str, str]:
    """Return a second since the epoch in local time, and the UTC offset."""
    text = datetime.fromtimestamp(second).astimezone().isoformat()
    return text[:19], text[19:]


def _scalar(value: Any) -> Any:
    """Return the element of a one-element metric, a fraction as a float, else the value."""
    if isinstance(value, Decimal | Fraction):
        # A signalling NaN, or beyond every float.
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    if isinstance(value, Mapping):
        return value
    with contextlib.suppress(Exception):  # foreign code: no such method, more than one element
        return value.item()
    return value
