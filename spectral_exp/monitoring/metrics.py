"""Metrics: one JSON line per entry, on disk when the call returns, and the same for human readers."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from spectral_exp import run_dir
from spectral_exp.errors import UserError, require
from spectral_exp.monitoring.append_file import AppendFile
from spectral_exp.monitoring.redact import redact_text, without_secrets

log = logging.getLogger(__name__)

_RESERVED = frozenset({"step", "timestamp"})


class MetricsLogger:
    """Appends metrics to `metrics.jsonl` and, readable by people, to `training.log`. Also a context manager.

    A written entry survives the death of the process. If the disk fails, training goes on: entries wait in memory and
    are written once it takes them again.

    Args:
        log_dir: folder of the log files; made with the first entry.
        log_interval: steps between entries, >= 1.
        enabled: when false nothing is due and nothing is written; loading works.
    """

    def __init__(self, log_dir: str | Path, log_interval: int = 10, *, enabled: bool = True) -> None:
        whole = isinstance(log_interval, int) and log_interval >= 1
        require(whole, "log_interval", log_interval, "a whole number >= 1")
        self.log_interval = log_interval
        self.enabled = enabled
        self.metrics_file = Path(log_dir) / run_dir.METRICS_NAME
        self.cut_file = Path(log_dir) / run_dir.CUT_METRICS_NAME
        self.training_log = Path(log_dir) / run_dir.TRAINING_LOG_NAME
        self._entries = AppendFile(self.metrics_file)
        self._messages = AppendFile(self.training_log)
        self._repaired = False
        self._latest_step: int | None = None

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def should_log(self, step: int) -> bool:
        """Whether an entry is due after `step`, counted from 1."""
        return self.enabled and step > 0 and step % self.log_interval == 0

    # --- writing -----------------------------------------------------------------------------------------------------

    def log_metrics(self, step: int, metrics: Mapping[str, Any], flush: bool = True) -> None:
        """Append one entry.

        Args:
            step: step the metrics belong to.
            metrics: numbers (Python, numpy, or torch tensors with one element) or strings by name.
            flush: False lets the entry wait in memory for the next flush.

        Raises:
            SettingError: a metric is named `step` or `timestamp`.
        """
        if not self.enabled:
            return
        values = tuple(metrics.values())
        formats = _formats(tuple(metrics), tuple(map(type, values)))
        if not self._repaired:
            self._repair()
        now = _now()
        if formats is not None and _all_finite(values):
            entry = formats[0] % (step, now, *values)
            words = formats[1] % (now, step, *values)
        else:
            entry, words = _any_entry(step, now, metrics)
        self._entries.write(entry.encode(), flush)
        self._messages.write(words.encode(errors="replace"), flush)
        self._latest_step = step

    def log_message(self, text: str) -> None:
        """Append a line of text with the time to `training.log`; further lines of the text are indented."""
        if self.enabled:
            indented = redact_text(text).rstrip().replace("\n", "\n    ")
            self._messages.write(f"{_now()} {indented}\n".encode(errors="replace"))

    def flush(self) -> None:
        """Write the entries that wait in memory."""
        self._entries.flush()
        self._messages.flush()

    def close(self) -> None:
        """Flush and close the files. A later entry opens them again."""
        self._entries.close()
        self._messages.close()

    def cut_back(self, step: int) -> int:
        """Take entries after `step` out of `metrics.jsonl`, and append them to `metrics.cut.jsonl` beside it.

        For resuming: steps logged after the checkpoint are trained, and logged, again. Lines that cannot be read go
        too. A crash in between loses nothing. Returns the number of lines taken out.

        Raises:
            UserError: the files cannot be written.
        """
        if not self.enabled:
            return 0
        self.close()
        kept: list[bytes] = []
        cut: list[bytes] = []
        for line in _lines(self.metrics_file):
            entry = _parse(line)
            (kept if entry is not None and entry["step"] <= step else cut).append(line.rstrip(b"\n") + b"\n")
        self._latest_step = None
        if not cut:
            return 0
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(run_dir.open_run_file(self.cut_file, flags), "ab") as file:
                file.writelines(cut)
            with run_dir.atomic_writer(self.metrics_file) as file:
                file.writelines(kept)
        except OSError as error:
            raise UserError(f"cannot cut {self.metrics_file} back to step {step}: {error.strerror}") from error
        return len(cut)

    def _repair(self) -> None:
        """Cut off a last line that a killed process left unfinished, before anything is appended to it."""
        self._repaired = True
        try:
            with os.fdopen(run_dir.open_run_file(self.metrics_file, os.O_RDWR), "r+b") as file:
                content = file.read()
                end = content.rfind(b"\n") + 1
                if end < len(content) and _parse(content[end:]) is None:
                    file.truncate(end)
                    log.warning("%s: cut off an unfinished last line", self.metrics_file)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s: cannot look for an unfinished last line: %s", self.metrics_file, error.strerror)

    # --- reading -----------------------------------------------------------------------------------------------------

    def load_metrics(self) -> list[dict[str, Any]]:
        """All entries in the order they were logged; lines that cannot be read are passed over with a warning."""
        self.flush()
        entries, unreadable = [], 0
        for line in _lines(self.metrics_file):
            if (entry := _parse(line)) is None:
                unreadable += 1
            else:
                entries.append({key: value if key in _RESERVED else _restored(value) for key, value in entry.items()})
        if unreadable:
            log.warning("%s: passed over %d unreadable line(s)", self.metrics_file, unreadable)
        return entries

    def get_latest_step(self) -> int:
        """The step of the last entry, 0 if there is none."""
        if self._latest_step is not None:
            return self._latest_step
        entries = self.load_metrics()
        return int(entries[-1]["step"]) if entries else 0

    def get_metrics_summary(self) -> dict[str, dict[str, float]]:
        """Of every numeric metric `min`, `max`, `mean` and `final` over its finite values, `count` and `non_finite`.

        Without a finite value the first four are NaN.
        """
        values: dict[str, list[float]] = defaultdict(list)
        for entry in self.load_metrics():
            for name, value in entry.items():
                if name not in _RESERVED and isinstance(value, int | float):
                    values[name].append(float(value))
        return {name: _summary(series) for name, series in values.items()}


@functools.lru_cache(maxsize=1024)
def _formats(names: tuple[str, ...], types: tuple[type, ...]) -> tuple[str, str] | None:
    """Templates of an entry and of its line for people, for finite metrics of these types; None if not all are numbers.

    Filled by one operation, they take half the time of `json.dumps`. Raises SettingError where a name is not allowed.
    """
    if not _RESERVED.isdisjoint(names):
        require(False, "metrics", sorted(_RESERVED & set(names)), "free of the names step and timestamp")
    if not {float, int}.issuperset(types):
        return None
    quoted = [json.dumps(str(name)).replace("%", "%%") for name in names]
    entry = ", ".join(['{"step": %d', '"timestamp": "%s"', *(f"{name}: %r" for name in quoted)]) + "}\n"
    plain = [str(name).replace("%", "%%") for name in names]
    shown = (f"{name} {'%.5g' if kind is float else '%d'}" for name, kind in zip(plain, types, strict=True))
    return entry, "  ".join(["%s step %d", *shown]) + "\n"


def _all_finite(numbers: tuple[float, ...]) -> bool:
    """False where one is not finite, and also where only their sum is not."""
    try:
        return math.isfinite(sum(numbers))
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _any_entry(step: int, now: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    """An entry and its line for people, whatever the metrics are."""
    plain = without_secrets({str(name): _plain(value) for name, value in metrics.items()})
    entry = json.dumps({"step": int(step), "timestamp": now, **{k: run_dir.jsonable(v) for k, v in plain.items()}})
    words = [
        f"{name} {value:.5g}" if type(value) is float and math.isfinite(value) else f"{name} {value}"
        for name, value in plain.items()
    ]
    return f"{entry}\n", "  ".join([f"{now} step {step}", *words]) + "\n"


def _now() -> str:
    """The local time in milliseconds as ISO 8601 writes it."""
    second, fraction = divmod(time.time(), 1.0)
    return f"{_second(int(second))}.{int(1000 * fraction):03d}"


@functools.lru_cache(maxsize=2)
def _second(second: int) -> str:
    """A second since the epoch in local time. Most entries share theirs with others, and finding it costs more."""
    return datetime.fromtimestamp(second).isoformat()


def _plain(value: Any) -> Any:
    """A metric as a Python float where it is a number with a fraction, else as JSON knows it."""
    if hasattr(value, "item"):
        with contextlib.suppress(RuntimeError, ValueError):  # more than one element: a list
            value = value.item()
    return float(value) if isinstance(value, float) else run_dir.jsonable(value)


def _restored(value: Any) -> Any:
    """The number that a string in a JSON file stands for; other values as they are."""
    return run_dir.NON_FINITE.get(value, value) if isinstance(value, str) else value


def _lines(path: Path) -> Iterable[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _parse(line: bytes) -> dict[str, Any] | None:
    """The entry in a line, or None if it is not a whole one."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else None


def _summary(series: list[float]) -> dict[str, float]:
    finite = [value for value in series if math.isfinite(value)]
    counts = {"count": len(series), "non_finite": len(series) - len(finite)}
    if not finite:
        return {"min": math.nan, "max": math.nan, "mean": math.nan, "final": math.nan, **counts}
    mean = math.fsum(finite) / len(finite)
    return {"min": min(finite), "max": max(finite), "mean": mean, "final": finite[-1], **counts}
