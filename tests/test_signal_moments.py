"""Signals at random moments of a run, from its first line to its exit: nothing is lost, and the end
is the same."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.train import main
from tests.conftest import NO_PLOTS, TINY, first_in_ci, python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="attempts are forked"),
]

SIGNALS_PER_SEED = 15
NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR2", "SIGXCPU")
TIMED = ("timestamp", "tokens_per_s", "steps_at_risk", "checkpoint_")


@pytest.mark.parametrize("seed", first_in_ci(20, 1))
def test_a_signal_at_any_moment_costs_nothing(seed: int, tmp_path: Path) -> None:
    """Attempts are forks of a process that has imported everything, so that a second holds several
    of them."""
    done = python("-m", "tests.test_signal_moments", str(seed), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["signals"] >= SIGNALS_PER_SEED
    assert report["wrong"] == []


def attempts(seed: int) -> dict[str, Any]:
    """Interrupt runs at random moments until there were enough signals; every run is continued to
    its end."""
    draw = random.Random(seed)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with Path("warm-up.out").open("w") as out, contextlib.redirect_stdout(out):
        assert main(command("warm-up")) == 0  # what is imported late is imported now
    start_s = time.monotonic()
    code, _ = start("reference")
    whole_s = time.monotonic() - start_s
    assert code == 0
    expected = state(Path("reference"))
    wrong: list[str] = []
    sent = 0
    for number in range(1000):
        if sent >= SIGNALS_PER_SEED:
            break
        run = f"run_{number}"
        for _ in range(20):
            names = draw.choice(
                [(draw.choice(NAMES),), ("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM")]
            )
            code, was_sent = start(run, names, draw.uniform(0.0, whole_s), draw.uniform(0.0, 0.02))
            sent += was_sent
            # A process that has not begun, or has done everything, is ended by the system itself.
            # The second of two signals is received first if it comes during the handler of the
            # first.
            numbers = [getattr(signal, name) for name in names]
            if code not in (0, *(128 + n for n in numbers), *(-n for n in numbers)):
                wrong.append(f"{run}: exit code {code} after {names}: {last_output(run)}")
            if code == 0:
                break
        code, _ = start(run)
        if code != 0:
            wrong.append(f"{run}: exit code {code} at the end: {last_output(run)}")
        elif state(Path(run)) != expected:
            wrong.append(f"{run}: another end")
    return {"signals": sent, "wrong": wrong}


def start(
    run: str, names: tuple[str, ...] = (), after_s: float = 0.0, apart_s: float = 0.0
) -> tuple[int, bool]:
    """Train in a fork; signals reach it `after_s`.

    Returns its exit code and whether it was alive to receive them.
    """
    # Ctrl-C waits until the child has chosen what it does: an inherited handler would lose it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    pid = os.fork()
    if pid == 0:
        train(run)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    was_sent = False
    if names:
        time.sleep(after_s)
        for name in names:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                os.kill(pid, getattr(signal, name))
                was_sent = True
            time.sleep(apart_s)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), was_sent


def command(run: str) -> list[str]:
    return ["+experiment=wave", *TINY, NO_PLOTS, f"hydra.run.dir={run}"]


def train(run: str) -> None:
    """Train as the command does, and leave as the interpreter would; never returns."""
    code = 1
    # Before `main` the system ends a process at Ctrl-C, as the interpreter would.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        with Path(f"{run}.out").open("a") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        sys.argv[1:] = command(run)
        code = main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def last_output(run: str) -> str:
    return Path(f"{run}.out").read_text()[-2000:]


def state(run: Path) -> list[Any]:
    """What a run has come to, but for times: weights, optimizer state, history, metrics lines and
    results."""
    found = torch.load(run / "checkpoints/checkpoint_latest.pt", weights_only=True)
    lines = [json.loads(line) for line in (run / "logs/metrics.jsonl").read_text().splitlines()]
    untimed = [{k: v for k, v in line.items() if not k.startswith(TIMED)} for line in lines]
    results = json.loads((run / "results.json").read_text())
    kept = ("step", "model_state_dict", "optimizer_state_dict", "loss_history")
    return [
        *(part for key in kept for part in flatten(found[key])),
        untimed,
        [results[key] for key in ("status", "final_metrics", "best_metrics", "generation_samples")],
    ]


def flatten(node: Any) -> Iterator[Any]:
    """The leaves of a state, tensors as their bytes."""
    if isinstance(node, dict):
        for key in node:
            yield from flatten(node[key])
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from flatten(item)
    else:
        yield node.numpy().tobytes() if isinstance(node, torch.Tensor) else node


if __name__ == "__main__":
    print(json.dumps(attempts(int(sys.argv[1]))))
