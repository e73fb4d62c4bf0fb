"""Cost of checkpoints relative to a memory copy, a plain write to the same disk, and other tools.

`python -m spectral_exp.bench.checkpoint CONTENDER SIZE_MB FOLDER` measures the memory of one
contender.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import mmap
import os
import statistics
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from spectral_exp.bench import measure, peers
from spectral_exp.bench.measure import Figures, Line, Options, Section, Spread, Target
from spectral_exp.bench.peers import Contender, MakeContender
from spectral_exp.bench.training import Training
from spectral_exp.core.errors import RunError
from spectral_exp.core.wording import format_count
from spectral_exp.monitoring import CheckpointManager

SYNCHRONOUS = "ours, synchronous"
BACKGROUND = "ours, background"
TORCH_SAVE = "torch.save + fsync"
MEMORY_COPY = "memory copy"
PLAIN_WRITE = "plain write + fsync"
DIRECT_WRITE = "direct write + fsync"
OVERLAPPED = "overlapped"

COPY_RATIO = Target(1.2)
OVERLAPPED_RATIO = Target(0.1)
DURABLE_RATIO = Target(1.2)
HISTORY_MS = Target(20, strict=True)
LOAD_RATIO = Target(1.3)
SLACK_MB = 64

_PIECE_BYTES = 8 << 20
_UNDISTURBED_STEPS = 3
_HISTORY_LENGTH = 1_000_000


class Ours(Contender):
    """`CheckpointManager`, saving in the background."""

    name = BACKGROUND

    def __init__(self, folder: Path, training: Training) -> None:
        super().__init__(folder, training)
        self.losses: list[float] | array[float] = []
        self.manager = CheckpointManager(folder, keep_last_n=1, background=self.background)
        self._started = 0.0

    def save(self) -> None:
        """Start a save in the background."""
        self._number += 1
        self._started = time.perf_counter()
        training = self._training
        self.manager.save_checkpoint(
            self._number, training.model, training.optimizer, self.losses, {}
        )

    def fence(self) -> None:
        """Wait until the state may be changed."""
        self.manager.fence()

    def busy(self) -> bool:
        """Return whether a save is in progress."""
        return self.manager.busy

    def wait(self) -> float:
        """Wait until the checkpoint is durable and the previous one is removed."""
        self.manager.wait()
        if self.manager.durable_step != self._number:
            raise RunError("a checkpoint was not saved; see the warning above for the reason")
        return self._started + self.manager.reports[-1].durable_s

    def close(self) -> None:
        """Release the staged copy."""
        self.manager.close()


class OursSynchronous(Ours):
    """`CheckpointManager`, saving synchronously."""

    name = SYNCHRONOUS
    background = False


class TorchSave(Contender):
    """`torch.save` to a file, followed by fsync."""

    name = TORCH_SAVE
    background = False

    def __init__(self, folder: Path, training: Training) -> None:
        super().__init__(folder, training)
        self._ended = 0.0

    def save(self) -> None:
        """Save."""
        self._number += 1
        with (self._folder / f"{self._number}.pt").open("wb") as file:
            torch.save(self._training.state(), file)
            file.flush()
            os.fsync(file.fileno())
        self._ended = time.perf_counter()

    def busy(self) -> bool:
        """Return False, since `save` is synchronous."""
        return False

    def wait(self) -> float:
        """Remove the previous checkpoint."""
        (self._folder / f"{self._number - 1}.pt").unlink(missing_ok=True)
        return self._ended


OURS: Mapping[str, MakeContender] = {
    SYNCHRONOUS: OursSynchronous,
    BACKGROUND: Ours,
    TORCH_SAVE: TorchSave,
}


def run(options: Options) -> Iterator[Section]:
    """Measure saving, memory and loading for each size of the state, then long histories."""
    with peers.process_group():
        for size_mb in options.sizes_mb:
            yield from _saving(options, size_mb)
            yield _memory(options, size_mb)
            yield _loading(options, size_mb)
    yield _history(options)


# --- time -----------------------------------------------------------------------------------------


def _saving(options: Options, size_mb: int) -> Iterator[Section]:
    """Measure one save alone, then its effect on training steps."""
    others, missing = peers.checkpoint_peers()
    training = Training(size_mb)
    with contextlib.ExitStack() as stack:
        folder = options.new_folder(f"saving_{size_mb}")
        contenders: list[Contender] = []
        for number, make in enumerate([*OURS.values(), *others.values()]):
            subfolder = folder / str(number)
            subfolder.mkdir()
            contenders.append(make(subfolder, training))
            stack.callback(contenders[-1].close)
        yield Section(
            f"saving {size_mb} MB",
            _measure_saves(options, size_mb, training, contenders, folder),
            missing,
        )
        in_background = [contender for contender in contenders if contender.background]
        yield Section(
            f"training while {size_mb} MB are saved",
            _measure_steps(options, size_mb, training, in_background),
        )


def _measure_saves(
    options: Options, size_mb: int, training: Training, contenders: list[Contender], folder: Path
) -> list[Line]:
    buffers = [torch.zeros_like(tensor) for tensor in training.tensors()]
    path = folder / "written"
    in_background = [contender for contender in contenders if contender.background]
    measurements: dict[str, Callable[[], Figures]] = {
        MEMORY_COPY: functools.partial(
            measure.milliseconds, lambda: _copy(training, buffers), "blocked_ms"
        ),
        PLAIN_WRITE: lambda: _write(path, buffers),
        DIRECT_WRITE: lambda: _write_directly(path, training.n_bytes),
        **{contender.name: functools.partial(_save, contender) for contender in contenders},
        **{
            f"{each.name}, {OVERLAPPED}": functools.partial(_save, each, training)
            for each in in_background
        },
    }
    measure.log_progress(
        f"saving {size_mb} MB: warm-up, then rounds of {len(measurements)} contenders"
    )
    (first,) = measure.interleave(measurements, 1, budget_s=0)
    has_direct_write = "durable_s" in first[DIRECT_WRITE]
    if not has_direct_write:
        del measurements[DIRECT_WRITE]
    n_rounds = options.rounds or (3 if options.quick else 7)
    rounds = measure.interleave(
        measurements, n_rounds, budget_s=options.budget_s(130 if size_mb > 500 else 45)
    )
    return _saving_lines(contenders, first, rounds, has_direct_write)


def _saving_lines(
    contenders: list[Contender],
    first: Mapping[str, Figures],
    rounds: measure.Rounds,
    has_direct_write: bool,
) -> list[Line]:
    limits = (PLAIN_WRITE, DIRECT_WRITE) if has_direct_write else (PLAIN_WRITE,)
    in_background = [each for each in contenders if each.background]
    lines = [
        Line(MEMORY_COPY, "limit: time", "ms", measure.spread(rounds, MEMORY_COPY, "blocked_ms"))
    ]
    for limit in limits:
        lines.append(Line(limit, "limit: time", "s", measure.spread(rounds, limit, "durable_s")))
    for each in contenders:
        blocked = Spread.of([first[each.name]["blocked_ms"]])
        lines.append(Line(each.name, "blocked, first save", "ms", blocked))
    for each in contenders:
        lines.append(
            Line(each.name, "blocked", "ms", measure.spread(rounds, each.name, "blocked_ms"))
        )
    for each in contenders:
        target = COPY_RATIO if each.name == BACKGROUND else None
        relative = measure.ratio(rounds, each.name, MEMORY_COPY, "blocked_ms")
        lines.append(Line(each.name, "blocked / memory copy", "x", relative, target))
    for each in in_background:
        blocked = measure.spread(rounds, f"{each.name}, {OVERLAPPED}", "blocked_ms")
        lines.append(Line(each.name, "overlapped: blocked", "ms", blocked))
    for each in in_background:
        target = OVERLAPPED_RATIO if each.name == BACKGROUND else None
        relative = measure.ratio(rounds, f"{each.name}, {OVERLAPPED}", MEMORY_COPY, "blocked_ms")
        lines.append(Line(each.name, "overlapped: blocked / memory copy", "x", relative, target))
    for each in contenders:
        durable = measure.spread(rounds, each.name, "durable_s")
        lines.append(Line(each.name, "until durable", "s", durable, note=each.note))
    for limit in limits:
        for each in contenders:
            has_target = limit == PLAIN_WRITE and each.name in (SYNCHRONOUS, BACKGROUND)
            target = DURABLE_RATIO if has_target else None
            relative = measure.ratio(rounds, each.name, limit, "durable_s")
            name = f"until durable / {limit}"
            lines.append(Line(each.name, name, "x", relative, target, each.note))
    return lines


def _save(contender: Contender, overlapped: Training | None = None) -> Figures:
    """Measure one save until it is durable, with a step of `overlapped` at the same time."""
    start = time.perf_counter()
    contender.save()
    if overlapped is None:
        contender.fence()
        blocked_s = time.perf_counter() - start
    else:
        blocked_s = time.perf_counter() - start
        blocked_s += overlapped.step(contender.fence)
    return {"blocked_ms": 1e3 * blocked_s, "durable_s": contender.wait() - start}


def _copy(training: Training, buffers: list[torch.Tensor]) -> None:
    for buffer, tensor in zip(buffers, training.tensors(), strict=True):
        buffer.copy_(tensor)


def _write(path: Path, buffers: list[torch.Tensor]) -> Figures:
    start = time.perf_counter()
    with path.open("xb", buffering=0) as file:
        for buffer in buffers:
            view = buffer.numpy().reshape(-1).view("uint8").data
            while view:
                view = view[file.write(view[:_PIECE_BYTES]) :]
        os.fsync(file.fileno())
    durable_s = time.perf_counter() - start
    path.unlink()
    return {"durable_s": durable_s}


def _write_directly(path: Path, n_bytes: int) -> Figures:
    """Write `n_bytes` past the page cache; return {} if the file system does not support it."""
    if not hasattr(os, "O_DIRECT"):
        return {}
    piece = mmap.mmap(-1, _PIECE_BYTES)
    piece[:] = os.urandom(1 << 20) * (_PIECE_BYTES >> 20)
    start = time.perf_counter()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    except OSError:
        path.unlink(missing_ok=True)
        return {}
    try:
        for begin in range(0, n_bytes, _PIECE_BYTES):
            with memoryview(piece) as whole, whole[: -(-(n_bytes - begin) // 4096) * 4096] as part:
                os.write(descriptor, part)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    durable_s = time.perf_counter() - start
    path.unlink()
    return {"durable_s": durable_s}


def _measure_steps(
    options: Options, size_mb: int, training: Training, contenders: list[Contender]
) -> list[Line]:
    """Measure steps during a save relative to undisturbed ones, with one and two threads."""
    keys = [(each, threads) for threads in (1, 2) for each in contenders]
    measurements: dict[str, Callable[[], Figures]] = {
        f"{each.name}, {threads}": functools.partial(_train, training, each, threads)
        for each, threads in keys
    }
    measure.log_progress(
        f"training while {size_mb} MB are saved: rounds of {len(measurements)} contenders"
    )
    n_rounds = options.rounds or (3 if options.quick else 7)
    before = torch.get_num_threads()
    try:
        rounds = measure.interleave(
            measurements, n_rounds, budget_s=options.budget_s(100 if size_mb > 500 else 45)
        )
    finally:
        torch.set_num_threads(before)
    lines = []
    for figure, unit, label in (
        ("undisturbed_ms", "ms", "a step undisturbed"),
        ("slowdown", "x", "a step meanwhile / undisturbed"),
        ("lost_ms", "ms", "training time lost by a save"),
    ):
        for each, threads in keys:
            value = measure.spread(rounds, f"{each.name}, {threads}", figure)
            title = f"{label}, {format_count(threads, 'thread')}"
            lines.append(Line(each.name, title, unit, value))
    return lines


def _train(training: Training, contender: Contender, threads: int) -> Figures:
    """Measure training steps before a save and during it.

    The time of a step excludes its wait for the fence. The lost time includes the call, the waits
    and the slowdown of steps.
    """
    torch.set_num_threads(threads)
    undisturbed_s = statistics.median(
        measure.time_call(training.step) for _ in range(_UNDISTURBED_STEPS)
    )
    wholly_s: list[float] = []
    partly_s: list[float] = []
    start = time.perf_counter()
    contender.save()
    while contender.busy() or not (wholly_s or partly_s):
        step_start = time.perf_counter()
        waited_s = training.step(contender.fence)
        step_s = time.perf_counter() - step_start - waited_s
        (wholly_s if contender.busy() else partly_s).append(step_s)
    lost_s = time.perf_counter() - start - undisturbed_s * (len(wholly_s) + len(partly_s))
    contender.wait()
    return {
        "undisturbed_ms": 1e3 * undisturbed_s,
        # If a short save ends within the first step, that step is used.
        "slowdown": statistics.fmean(wholly_s or partly_s) / undisturbed_s,
        "lost_ms": 1e3 * lost_s,
    }


# --- memory ---------------------------------------------------------------------------------------


def _memory(options: Options, size_mb: int) -> Section:
    """Measure peak memory beyond the state, with a separate process for each contender."""
    title = f"memory while {size_mb} MB are saved"
    if not measure.can_measure_peak():
        return Section(title, [], [measure.NO_PEAK])
    others, missing = peers.checkpoint_peers()
    lines = []
    measure.log_progress(f"{title}: a process for each contender")
    for number, name in enumerate([*OURS, *others]):
        folder = options.new_folder(f"memory_{size_mb}/{number}")
        memory = measure.child("spectral_exp.bench.checkpoint", name, str(size_mb), str(folder))
        is_ours = name in (SYNCHRONOUS, BACKGROUND)
        target = Target(memory["state_mb"] + SLACK_MB) if is_ours else None
        peak = Spread.of([memory["peak_mb"]])
        lines.append(Line(name, "peak beyond the state", "MB", peak, target))
    return Section(title, lines, missing)


def _measure_memory(name: str, size_mb: int, folder: Path) -> Figures:
    """Return the increase of peak resident memory by two saves, in MB."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(peers.process_group())
        make = {**OURS, **peers.checkpoint_peers()[0]}[name]
        training = Training(size_mb)
        contender = make(folder, training)
        stack.callback(contender.close)
        gc.collect()
        before_mb = measure.begin_peak()
        for _ in range(2):
            contender.save()
            contender.fence()
            contender.wait()
        return {"state_mb": training.n_bytes / 1e6, "peak_mb": measure.peak_mb() - before_mb}


# --- loading, and long histories ------------------------------------------------------------------


def _loading(options: Options, size_mb: int) -> Section:
    """Measure a verified load of a file in the page cache relative to torch.load."""
    measure.log_progress(f"loading {size_mb} MB")
    training = Training(size_mb)
    ours = OursSynchronous(options.new_folder(f"loading_{size_mb}"), training)
    ours.save()
    ours.wait()
    path = ours.manager.paths.checkpoint_file(ours.manager.durable_step)

    torch_load = functools.partial(torch.load, path, map_location="cpu", weights_only=True)
    contenders = {
        "ours, verified": functools.partial(
            measure.milliseconds, ours.manager.load_latest_checkpoint
        ),
        "torch.load": functools.partial(measure.milliseconds, torch_load),
    }
    # The warm-up also fills the page cache.
    rounds = measure.measure_rounds(options, contenders, 9, quick=5, budget_s=20)
    lines = [Line(name, "load", "ms", measure.spread(rounds, name, "ms")) for name in contenders]
    relative = measure.ratio(rounds, "ours, verified", "torch.load", "ms")
    lines.append(Line("ours, verified", "load / torch.load", "x", relative, LOAD_RATIO))
    return Section(f"loading {size_mb} MB", lines)


def _history(options: Options) -> Section:
    """Measure the cost of a million losses in a small checkpoint, as a list and as an array."""
    measure.log_progress("a loss history of a million")
    training = Training(2)
    many = array("d", (5.0 + 1e-6 * step for step in range(_HISTORY_LENGTH)))
    histories: dict[str, list[float] | array[float]] = {
        "none": [],
        "list": many.tolist(),
        "array": many,
    }
    measurements: dict[str, Callable[[], Figures]] = {}
    closing: list[Ours] = []
    for make in (OursSynchronous, Ours):
        for kind, losses in histories.items():
            ours = make(options.new_folder(f"history_{kind}_{make.background}"), training)
            ours.losses = losses
            closing.append(ours)
            measurements[f"{ours.name}, {kind}"] = functools.partial(_save, ours)
            if not make.background:
                load = functools.partial(
                    ours.manager.load_latest_checkpoint, history_as_array=kind == "array"
                )
                measurements[f"load, {kind}"] = functools.partial(
                    measure.milliseconds, load, "blocked_ms"
                )
    limits: dict[str, Callable[[], object]] = {
        "array of a list": functools.partial(array, "d", many.tolist()),
        "list of an array": many.tolist,
    }
    for name, convert in limits.items():
        measurements[name] = functools.partial(measure.milliseconds, convert, "blocked_ms")
    rounds = measure.measure_rounds(options, measurements, 15, quick=5, budget_s=20)
    for ours in closing:
        ours.close()
    lines = [
        Line(name, "limit: time", "ms", measure.spread(rounds, name, "blocked_ms"))
        for name in limits
    ]
    for kind in ("list", "array"):
        for name in (SYNCHRONOUS, BACKGROUND):
            added = measure.difference(rounds, f"{name}, {kind}", f"{name}, none", "blocked_ms")
            lines.append(
                Line(f"{name}, {kind}", "added to a save: blocked", "ms", added, HISTORY_MS)
            )
    for kind in ("list", "array"):
        added = measure.difference(rounds, f"load, {kind}", "load, none", "blocked_ms")
        lines.append(Line(f"ours, {kind}", "added to a load", "ms", added, HISTORY_MS))
    return Section(f"a loss history of {_HISTORY_LENGTH:,} steps", lines)


if __name__ == "__main__":
    print(json.dumps(_measure_memory(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
