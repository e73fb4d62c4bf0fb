"""Measures the machine and the processes of a run, and appends the numbers to a file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

from spectral_exp.core.append_file import AppendFile
from spectral_exp.core.errors import UserError
from spectral_exp.core.files import write_atomic
from spectral_exp.monitoring.companion.gpus import Gpus
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metric_lines import is_entry, last_entry, read_lines

_MB = 1e6


class SystemSampler:
    """Appends a line to `system.jsonl` at every interval.

    Args:
        root: of the run.
        pid: of the process that trains. Its descendants count too, without this process.
        interval_s: seconds between lines.
        max_mb: size of the file at which every second line is removed.
    """

    def __init__(self, root: Path, pid: int, interval_s: float, max_mb: float) -> None:
        self._paths = RunPaths(root)
        self._interval_s = interval_s
        self._max_bytes = max_mb * _MB
        self._lines = AppendFile(self._paths.system_file, is_entry)
        self._machine = Machine(root)
        self._processes = ProcessTree(pid)
        self._gpus = Gpus()
        self._next_s = time.monotonic() + min(interval_s, 1.0)  # rates need two readings

    def sample_if_due(self) -> None:
        """Append a line if the interval has passed since the last one."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = max(self._next_s + self._interval_s, now_s)
        values = {**self._machine.read(), **self._processes.read(), **self._gpus.read()}
        # A disk that is full must not fill the memory: a line that waits replaces newer ones.
        if self._lines.last_waiting_line is not None:
            self._lines.flush()
            return
        entry = {"step": self._step(), "timestamp": _now(), **_round(values)}
        self._lines.write(json.dumps(entry).encode() + b"\n")
        self._thin_out()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _step(self) -> int:
        try:
            entry = last_entry(self._paths.metrics_file)
        except UserError:
            return 0
        return max(0, int(entry["step"])) if entry else 0

    def _thin_out(self) -> None:
        """Remove every second line if the file is too large; new lines stay as dense as before."""
        file = self._paths.system_file
        with suppress(OSError, UserError):
            if file.stat().st_size > self._max_bytes:
                lines = list(read_lines(file))[::2]
                self._lines.while_closed(lambda: write_atomic(file, b"".join(lines)))


def _now() -> str:
    """Return the local time in ISO 8601 with milliseconds."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _round(values: Mapping[str, float]) -> dict[str, float]:
    """Return readings with four significant digits."""
    return {name: float(f"{value:.4g}") for name, value in values.items()}


class Machine:
    """Readings of the whole machine.

    Args:
        folder: whose disk is measured for free space.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        psutil.cpu_percent()
        self._time_s = time.monotonic()
        self._counters = dict(_counters())

    def read(self) -> dict[str, float]:
        """Return the readings by name; rates are averages since the last call."""
        memory = psutil.virtual_memory()
        values = {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/memory_percent": memory.percent,
            "system/memory_available_mb": memory.available / _MB,
        }
        with suppress(OSError, AttributeError):
            values["system/load_1_min"] = psutil.getloadavg()[0]
        with suppress(OSError):
            values["system/disk_free_mb"] = psutil.disk_usage(str(self._folder)).free / _MB
        now_s, counters = time.monotonic(), dict(_counters())
        elapsed_s = max(now_s - self._time_s, 1e-3)
        for name, count in counters.items():
            # A counter restarts if a device is removed.
            difference = max(0.0, count - self._counters.get(name, count))
            values[name] = difference / _MB / elapsed_s
        self._time_s, self._counters = now_s, counters
        return values


def _counters() -> Iterator[tuple[str, float]]:
    """Yield the bytes that disks and networks have moved since the machine started."""
    # Containers may hide them.
    with suppress(OSError, RuntimeError):
        if (disk := psutil.disk_io_counters()) is not None:
            yield "system/disk_read_mb_per_s", disk.read_bytes
            yield "system/disk_write_mb_per_s", disk.write_bytes
    with suppress(OSError, RuntimeError):
        if (network := psutil.net_io_counters()) is not None:
            yield "system/network_in_mb_per_s", network.bytes_recv
            yield "system/network_out_mb_per_s", network.bytes_sent


class ProcessTree:
    """Readings of a process and its descendants, without the process that reads."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._time_s = time.monotonic()
        self._cpu_s = _cpu_times(self._processes())

    def read(self) -> dict[str, float]:
        """Return the readings by name: 100 percent is one core; nothing if the process is gone."""
        processes = list(self._processes())
        now_s, cpu_s = time.monotonic(), _cpu_times(processes)
        if not cpu_s:
            return {}
        # A process that ends takes its time along, so the difference is taken of each.
        used_s = sum(max(0.0, used - self._cpu_s.get(pid, 0.0)) for pid, used in cpu_s.items())
        elapsed_s = max(now_s - self._time_s, 1e-3)
        self._time_s, self._cpu_s = now_s, cpu_s
        return {
            "system/run_cpu_percent": 100 * used_s / elapsed_s,
            "system/run_memory_mb": sum(map(_memory, processes)) / _MB,
            "system/run_threads": float(sum(map(_threads, processes))),
        }

    def _processes(self) -> Iterator[psutil.Process]:
        with suppress(psutil.Error):
            trainer = psutil.Process(self._pid)
            own = psutil.Process()
            ignored = {own.pid, *(child.pid for child in own.children(recursive=True))}
            for process in (trainer, *trainer.children(recursive=True)):
                if process.pid not in ignored:
                    yield process


def _cpu_times(processes: Iterable[psutil.Process]) -> dict[int, float]:
    found = {}
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _memory(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return float(process.memory_info().rss)
    return 0.0


def _threads(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.num_threads())
    return 0
