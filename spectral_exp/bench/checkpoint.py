"""What a checkpoint costs: blocked time, time until durable, steps meanwhile, loading, long histories.

State: weights of float32 and both moments of Adam. Limits: one copy of the same bytes in memory; one sequential write
of them and fsync. Every contender leaves one file, removed outside the clock.
"""

from __future__ import annotations

import os
import shutil
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectral_exp.bench.measure import Report, figure, take_turns
from spectral_exp.monitoring import CheckpointManager

_LAYERS = 12
_CHUNK = 16 << 20


def run(folder: Path, quick: bool) -> Iterator[Report]:
    """One report for each size of state."""
    for name, megabytes in ({"20 MB": 20} if quick else {"100 MB": 100, "1 GB": 1000}).items():
        yield _Bench(folder / name.replace(" ", "_"), megabytes).report(f"checkpoint, {name}", 3 if quick else 7)


class _Bench:
    """A state of a given size, and the contenders that save it."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir()
        self.folder = folder
        width = int((megabytes * 1e6 / (3 * 4 * 8 * _LAYERS)) ** 0.5)
        blocks = [
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(_LAYERS)
        ]
        self.model = nn.Sequential(*blocks)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.bytes = 12 * sum(p.numel() for p in self.model.parameters())
        self.source, self.target = torch.ones(self.bytes, dtype=torch.uint8), torch.zeros(self.bytes, dtype=torch.uint8)
        self.input = torch.randn(max(1, 20_000_000 // (width * width)), width)
        self.manager = CheckpointManager(folder / "ours", background=True, keep_last_n=1)
        self.plain = CheckpointManager(folder / "plain", keep_last_n=1)
        self.manager.prepare(self.model, self.optimizer)
        self.manager.wait()
        self.step = 0

    def report(self, name: str, rounds: int) -> Report:
        saved = take_turns(
            {
                "memory copy": self._copy,
                "raw write + fsync": self._raw,
                "ours": self._ours,
                "ours, overlapped": self._overlapped,
                "ours, synchronous": self._synchronous,
                "torch.save + fsync": self._torch_save,
            },
            rounds,
        )
        losses = array("d", range(1_000_000))
        loaded = take_turns(
            {
                "torch.load": lambda: self._timed_load(lambda path: torch.load(path, weights_only=True)),
                "ours": lambda: self._timed_load(lambda _: self.plain.load_latest_checkpoint()),
            },
            rounds,
        )
        history = take_turns(
            {
                "without": lambda: self._history(array("d")),
                "with": lambda: self._history(losses),
            },
            rounds,
        )
        copy, raw = "memory copy: ms", "raw write + fsync: ms"
        report = Report(name)
        report.figures = [
            figure(saved, copy, "ms"),
            figure(saved, raw, "ms"),
            figure(saved, "ours: blocked ms", "ms", copy, 1.2, "copy waited for at once"),
            figure(saved, "ours, overlapped: blocked ms", "ms", copy, 0.1, "copy beside a forward and backward"),
            figure(saved, "ours, synchronous: ms", "ms", raw),
            figure(saved, "torch.save + fsync: ms", "ms", raw, note="no checksum of the file, folder not synchronised"),
            figure(saved, "ours: durable ms", "ms", raw, 1.2),
            figure(saved, "ours, overlapped: step ms", "ms", "ours, overlapped: quiet step ms", note="while writing"),
            figure(loaded, "torch.load: ms", "ms"),
            figure(loaded, "ours: ms", "ms", "torch.load: ms", 1.3, "every byte verified"),
        ]
        for what in ("save", "load"):
            key = f"a million losses, {what}: added ms"
            history[key] = [
                a - b for a, b in zip(history[f"with: {what} ms"], history[f"without: {what} ms"], strict=True)
            ]
            report.figures.append(figure(history, key, "ms", target=20))
        shutil.rmtree(self.folder)
        return report

    def _copy(self) -> Mapping[str, float]:
        return {"ms": _ms(lambda: self.target.copy_(self.source))}

    def _raw(self) -> Mapping[str, float]:
        path = self.folder / "raw"
        view = memoryview(self.source.numpy())  # type: ignore[arg-type]

        def write() -> None:
            with path.open("wb", buffering=0) as file:
                for start in range(0, len(view), _CHUNK):
                    file.write(view[start : start + _CHUNK])
                os.fsync(file.fileno())

        elapsed = _ms(write)
        path.unlink()
        return {"ms": elapsed}

    def _save(self, manager: CheckpointManager) -> None:
        self.step += 1
        manager.save_checkpoint(self.step, self.model, self.optimizer, array("d"), {})

    def _ours(self) -> Mapping[str, float]:
        def save() -> None:
            self._save(self.manager)
            self.manager.fence()

        blocked = _ms(save)
        self.manager.wait()
        return {"blocked ms": blocked, "durable ms": 1e3 * self.manager.reports[-1].durable_s}

    def _overlapped(self) -> Mapping[str, float]:
        quiet = _ms(self._train)
        call = _ms(lambda: self._save(self.manager))
        steps = []
        self._forward_backward()
        fence = _ms(self.manager.fence)
        while self.manager.busy:
            steps.append(_ms(self._train))
        self.manager.wait()
        return {
            "blocked ms": call + fence,
            "step ms": sum(steps) / len(steps) if steps else quiet,
            "quiet step ms": quiet,
        }

    def _synchronous(self) -> Mapping[str, float]:
        return {"ms": _ms(lambda: self._save(self.plain))}

    def _torch_save(self) -> Mapping[str, float]:
        path = self.folder / "torch.pt"

        def save() -> None:
            state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            with path.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())

        elapsed = _ms(save)
        path.unlink()
        return {"ms": elapsed}

    def _timed_load(self, load: Callable[[Path], Any]) -> Mapping[str, float]:
        return {"ms": _ms(lambda: load(self.plain.paths.latest_link))}

    def _history(self, losses: array[float]) -> Mapping[str, float]:
        manager = CheckpointManager(self.folder / "history", keep_last_n=1)
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters())
        self.step += 1
        save = _ms(lambda: manager.save_checkpoint(self.step, model, optimizer, losses, {}))
        return {"save ms": save, "load ms": _ms(manager.load_latest_checkpoint)}

    def _forward_backward(self) -> None:
        self.model(self.input).square().mean().backward()

    def _train(self) -> None:
        self._forward_backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)
