"""Training on two processes beside a bare DDP loop, and beside two that do not communicate.

All loops run in the same two processes with copies of one model, one micro-batch in each process,
and one thread each. They alternate in blocks of steps, and the processes meet before each block.
The measured step is that of the training loop with its exchange of losses and signals; that
exchange is also measured alone. The start-up is the time until two processes have trained the first
step, beside two processes of torchrun that import torch and form a group.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.bench import measure
from spectral_exp.bench.measure import (
    Figures,
    Line,
    Options,
    Section,
    Spread,
    Target,
    difference,
    log_progress,
    spread,
)
from spectral_exp.bench.startup import train_one_step

OURS = "ours, 2 processes"
BARE = "bare DDP loop"
ALONE = "2 processes without communication"
EXCHANGE = "exchange of losses and signals"
TORCHRUN = "torchrun"
FIRST_STEP = "command to first step"

OVER_ALONE = Target(1.08)
EXCHANGE_MS = Target(0.3)

_RUN = (
    "+experiment=classic",
    "data=markov",
    "data.n_tokens=100000",
    "threads=1",
    "device=cpu",
    "model.n_embd=128",
    "model.n_layer=4",
    "model.n_head=4",
    "model.block_size=64",
    "training.batch_size=8",
    "training.grad_accum_steps=2",
    "training.sample_tokens=0",
)
_STARTED = ("training.grad_accum_steps=2", "distributed.nproc=2")
_GROUP = "import torch, torch.distributed as d; d.init_process_group('gloo'); d.barrier()"


def run(options: Options) -> Iterator[Section]:
    """Measure the steps, then the start-up."""
    blocks = options.rounds or (3 if options.quick else 30)
    log_progress(f"{blocks} blocks of steps of each loop")
    taken = _measure_steps(options.new_folder("steps"), blocks)
    ours, bare, alone = (taken[name] for name in (OURS, BARE, ALONE))

    def relative(to: Sequence[float]) -> Spread:
        return Spread.of(a / b for a, b in zip(ours, to, strict=True))

    yield Section(
        "a step on two processes",
        [
            *(Line(n, "a step", "ms", Spread.of(taken[n])) for n in (ALONE, BARE, OURS)),
            Line(OURS, f"time / {BARE}", "x", relative(bare)),
            Line(OURS, f"time / {ALONE}", "x", relative(alone), OVER_ALONE),
            Line(EXCHANGE, "time", "ms", Spread.of(taken[EXCHANGE]), EXCHANGE_MS),
        ],
    )
    yield _start_up(options)


def _start_up(options: Options) -> Section:
    numbers = itertools.count(1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = options.folder / "group.py"
    script.write_text(_GROUP, encoding="utf-8")
    start_group = functools.partial(
        measure.run_process, [*torchrun, str(script)], measure.environment()
    )
    contenders: dict[str, Callable[[], Figures]] = {
        TORCHRUN: lambda: {"s": measure.time_call(start_group)},
        FIRST_STEP: lambda: train_one_step(
            options.new_folder(f"start_{next(numbers)}"), options.folder / "cache", *_STARTED
        ),
    }
    log_progress("starting processes")
    rounds = measure.measure_rounds(options, contenders, 5, quick=1, budget_s=60)
    return Section(
        "fresh processes",
        [
            *(Line(name, "time", "s", spread(rounds, name, "s")) for name in contenders),
            Line(
                FIRST_STEP, f"time - {TORCHRUN}", "s", difference(rounds, FIRST_STEP, TORCHRUN, "s")
            ),
        ],
    )


def _measure_steps(folder: Path, blocks: int) -> dict[str, list[float]]:
    """Return the milliseconds of a step in each block, by loop."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    arguments = [str(store.port), str(folder), str(blocks)]
    member, main = (
        subprocess.Popen(
            [sys.executable, "-m", "spectral_exp.bench.distributed", str(rank), *arguments],
            env=measure.environment(),
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in (1, 0)
    )
    try:
        printed, _ = main.communicate()
    finally:
        member.kill()
        member.wait()
    taken: dict[str, list[float]] = json.loads(measure.last_line(printed))
    return taken


def _bare_loop(runner: Any, rank: int) -> Callable[[int], None]:
    """Return a function that makes one step of a DDP loop as anybody would write it."""
    import torch
    from torch.nn import functional as F
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(copy.deepcopy(runner.model))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(number: int) -> None:
        x, y = runner.batches(number, rank)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _exchange_only(ranks: Any, rank: int) -> Callable[[int], None]:
    import torch

    parts = [{"loss": torch.ones(())}]
    return lambda number: ranks.exchange(number, parts, 2)


def _step_alone(runner: Any) -> Callable[[int], None]:
    """Return a function that makes one step of our loop on one micro-batch, in this process."""
    from dataclasses import replace

    from spectral_exp.distributed.ranks import Ranks

    model = copy.deepcopy(runner.model)
    parts = {
        id(old): new for old, new in zip(runner.model.parameters(), model.parameters(), strict=True)
    }
    optimizer = type(runner.optimizer)(
        [
            {**g, "params": [parts[id(p)] for p in g["params"]]}
            for g in runner.optimizer.param_groups
        ]
    )
    stepper = replace(
        runner.stepper,
        settings=replace(runner.settings, grad_accum_steps=1),
        model=model,
        compute=model,
        optimizer=optimizer,
        ranks=Ranks(),
        state=copy.deepcopy(runner.state),
    )
    return lambda number: stepper.record(stepper.take_step(number))


def main(arguments: Sequence[str]) -> None:
    """Measure all loops as one of the two processes; the first prints the times."""
    import torch
    import torch.distributed as dist

    from spectral_exp.config.build import build, build_member
    from spectral_exp.config.command_line import CommandLine
    from spectral_exp.distributed.rendezvous import Rendezvous
    from spectral_exp.distributed.world import Address, World, end_process

    rank, port, blocks = int(arguments[0]), int(arguments[1]), int(arguments[3])
    torch.set_num_threads(1)
    (job,) = CommandLine.parse(list(_RUN)).compose()
    world = World(rank, 2, rank, 2)
    rendezvous = Rendezvous(world, Address("127.0.0.1", port, True), 120)
    root = Path(arguments[2])
    context = (
        build(job.config, root, [], rendezvous=rendezvous)
        if rank == 0
        else build_member(job.config, rendezvous)
    )
    with context as runner:
        loops = {
            ALONE: (_step_alone(runner), 5),
            BARE: (_bare_loop(runner, rank), 5),
            OURS: (lambda number: runner.stepper.record(runner.stepper.take_step(number)), 5),
            EXCHANGE: (_exchange_only(runner.ranks, rank), 50),
        }
        taken: dict[str, list[float]] = {name: [] for name in loops}
        for block in range(blocks + 1):  # the first one warms up
            for name, (step, count) in loops.items():
                dist.barrier()
                seconds = [measure.time_call(functools.partial(step, 1 + i)) for i in range(count)]
                if block:
                    taken[name].append(1e3 * statistics.mean(seconds))
        rendezvous.meet("measured")
    print(json.dumps(taken))
    dist.destroy_process_group()
    end_process(0)


if __name__ == "__main__":
    main(sys.argv[1:])
