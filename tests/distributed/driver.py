"""One of several processes that train a list of runs one after the other, for the tests.

Starting processes takes longer than the runs of the tests, so one start serves many runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from spectral_exp.config.build import build, build_member
from spectral_exp.distributed.group import close_group
from spectral_exp.distributed.rendezvous import Rendezvous
from spectral_exp.distributed.world import Address, World, end_process
from spectral_exp.training.runner import Runner
from tests.conftest import NO_PLOTS, ROOT, TINY, compose


@dataclass
class Run:
    """A run of the tests.

    Attributes:
        name: of the run directory.
        experiment: its named experiment.
        settings: dotted settings and their values.
        fault: what happens: the rank, the step and "raise", "nan" or "full" (disk).
    """

    name: str
    experiment: str = "wave_rgd"
    settings: dict[str, Any] = field(default_factory=dict)
    fault: tuple[int, int, str] | None = None


def config_of(run: Run) -> dict[str, Any]:
    values = {
        "training.max_steps": 3,
        "training.eval_interval": 3,
        "monitoring.checkpoint.save_interval": 3,
        "monitoring.checkpoint.background": False,
        "monitoring.metrics.log_interval": 1,
        "monitoring.tracking.enabled": False,  # it takes longer than the steps
        "monitoring.spectra.enabled": False,
        "optimizer.warmup_steps": 4,
        **run.settings,
    }
    config = compose(f"+experiment={run.experiment}", *TINY, NO_PLOTS, "device=cpu")
    if "warmup_steps" not in config["optimizer"]:
        del values["optimizer.warmup_steps"]
    dotted = OmegaConf.create(config)
    for key, value in values.items():
        OmegaConf.update(dotted, key, value, merge=False)
    plain = OmegaConf.to_container(dotted)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


class NonFinite(nn.Module):
    """A loss that is NaN in one step."""

    def __init__(self, loss: nn.Module, runner: Runner, step: int) -> None:
        super().__init__()
        self._loss, self._runner, self._step = loss, runner, step

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        objective, parts = self._loss(logits, targets)
        if self._runner.state.step + 1 == self._step:
            return objective * torch.nan, {name: part * torch.nan for name, part in parts.items()}
        return objective, parts


def inject(runner: Runner, run: Run, rank: int) -> None:
    if run.fault is None or run.fault[0] != rank:
        return
    _, step, kind = run.fault
    if kind == "full":
        # What a full disk does to files, other than those that are already larger.
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        return
    if kind == "nan":
        runner.stepper.loss = NonFinite(runner.loss, runner, step)
        return
    batches = runner.stepper.batches

    def failing(now: int, micro_batch: int) -> tuple[Tensor, Tensor]:
        if now == step:
            raise ValueError(f"no batch for step {step}")
        return batches(now, micro_batch)

    runner.stepper.batches = failing


def train_here(run: Run, folder: Path) -> None:
    """Train a run in this process alone."""
    root = folder / run.name
    root.mkdir(exist_ok=True)
    with build(config_of(run), root, []) as runner:
        inject(runner, run, 0)
        runner.run()


@contextlib.contextmanager
def built(run: Run, folder: Path, rendezvous: Rendezvous) -> Iterator[Runner]:
    root = folder / run.name
    if rendezvous.world.is_main:
        root.mkdir(exist_ok=True)
        with build(config_of(run), root, [], rendezvous=rendezvous) as runner:
            yield runner
    else:
        with build_member(config_of(run), rendezvous) as runner:
            yield runner


def train_as_rank(world: World, port: int, folder: Path, runs: Sequence[Run]) -> None:
    for i, run in enumerate(runs):
        rendezvous = Rendezvous(world, Address("127.0.0.1", port, True, attempt=i), 120)
        problem = ""
        try:
            with built(run, folder, rendezvous) as runner:
                inject(runner, run, world.rank)
                runner.run()
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            rendezvous.report(error)
            close_group()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        (folder / f"{run.name}.rank{world.rank}").write_text(problem)


class Processes:
    """Processes that train `runs` together in `folder`; they start at once."""

    def __init__(self, size: int, folder: Path, runs: Sequence[Run]) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._store = TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=120)
        )
        listed = json.dumps([asdict(run) for run in runs])
        arguments = [str(size), str(self._store.port), str(folder), listed]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.driver", str(rank), *arguments],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()

    def wait(self) -> None:
        printed = [process.communicate(timeout=900)[1] for process in self._processes]
        codes = [process.returncode for process in self._processes]
        assert codes == [0] * len(codes), "\n".join(printed)


def problems(folder: Path, run: str) -> list[str]:
    """Return how a run ended in each process."""
    files = sorted(folder.glob(f"{run}.rank*"), key=lambda file: int(file.suffix[5:]))
    return [file.read_text() for file in files]


def main(arguments: Sequence[str]) -> NoReturn:
    rank, size, port = map(int, arguments[:3])
    runs: list[Mapping[str, Any]] = json.loads(arguments[4])
    os.environ["OMP_NUM_THREADS"] = "1"
    world = World(rank=rank, size=size, local_rank=rank, local_size=size)
    train_as_rank(world, port, Path(arguments[3]), [Run(**run) for run in runs])
    close_group()
    end_process(0)


if __name__ == "__main__":
    main(sys.argv[1:])
