"""Small programs to interrupt: each continues from the run directory and always ends in one state.

Each is a function of the run directory. It calls `durable` with every step that has been reported
durable, and returns a text with everything that must not depend on interruptions.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from spectral_exp.monitoring import CheckpointManager, MetricsLogger
from spectral_exp.runs.layout import RunPaths
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, TINY

STEPS = 8
# Entries of a metrics line that measure the machine, not the training.
TIMED = ("timestamp", "tokens_per_s", "steps_at_risk", "checkpoint_")


def library_loop(root: Path, durable: Callable[[int], None], background: bool = False) -> str:
    """Train a little model with the stand-alone components: saves, best, retention, metrics,
    resume."""
    torch.manual_seed(0)
    model = nn.Linear(40, 40)
    optimizer = torch.optim.AdamW(model.parameters())
    manager = CheckpointManager(
        root, save_interval=2, keep_last_n=1, background=background, on_durable=durable
    )
    losses: list[float] = []
    with MetricsLogger(root / "logs", log_interval=1) as logger:
        manager.before_commit = logger.sync
        if (found := manager.load_latest_checkpoint()) is not None:
            model.load_state_dict(found["model_state_dict"])
            optimizer.load_state_dict(found["optimizer_state_dict"])
            losses = found["loss_history"]
        logger.cut_back(len(losses))
        for step in range(len(losses) + 1, STEPS + 1):
            x = torch.randn(4, 40, generator=torch.Generator().manual_seed(step))
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            logger.log_metrics(step, {"loss": loss.item()})
            is_best = step == 4
            if manager.should_checkpoint(step) or is_best:
                manager.save_checkpoint(step, model, optimizer, losses, {}, is_best=is_best)
    if not manager.close() or manager.steps_at_risk(STEPS):
        # A storage that failed at the last save is tried once more, as a user would.
        manager.save_checkpoint(STEPS, model, optimizer, losses, {})
        manager.close()
    return described(root, STEPS)


def background_loop(root: Path, durable: Callable[[int], None]) -> str:
    """The same with a writer in the background."""
    return library_loop(root, durable, background=True)


def short_writes(root: Path, durable: Callable[[int], None]) -> str:
    """The same on storage that writes only a random part of each request, at least one byte."""
    part, write = random.Random(0), os.write

    def write_some(descriptor: int, data: bytes | memoryview) -> int:
        return write(descriptor, memoryview(data)[: part.randint(1, max(1, len(data)))])

    with mock.patch("os.write", write_some):
        return library_loop(root, durable)


def whole_run(root: Path, durable: Callable[[int], None], *overrides: str) -> str:
    """The training command, typed again as it was."""
    code = main([*TINY, NO_PLOTS, f"hydra.run.dir={root}", *overrides])
    return f"exit code {code}\n{described(root, 12)}"


def synchronous_run(root: Path, durable: Callable[[int], None]) -> str:
    """The training command with checkpoints that are durable before training goes on."""
    return whole_run(root, durable, "monitoring/checkpoint=sync")


SCENARIOS: dict[str, Callable[[Path, Callable[[int], None]], str]] = {
    "library": library_loop,
    "background": background_loop,
    "short writes": short_writes,
    "run": whole_run,
    "synchronous run": synchronous_run,
}


def described(root: Path, steps: int) -> str:
    """The final state: a hash of the newest checkpoint's contents, and every metrics line."""
    state = CheckpointManager(root, enabled=False).load_latest_checkpoint()
    if state is None or state["step"] != steps:
        return f"no checkpoint of step {steps}: {None if state is None else state['step']}"
    for name in ("timestamp", "config"):
        del state[name]
    for seconds in ("usage", "speed_measured_at"):
        state.pop(seconds, None)
    if "train_state" in state:
        del state["train_state"]["train_s"]
    digest = hashlib.sha256()
    _feed(digest, state)
    metrics = RunPaths(root).metrics_file
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    entries = [
        {k: v for k, v in json.loads(line).items() if not k.startswith(TIMED)} for line in lines
    ]
    return "\n".join([digest.hexdigest(), *map(json.dumps, entries)])


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(
            f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes()
        )
    elif isinstance(value, dict):
        for key in value:
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())
