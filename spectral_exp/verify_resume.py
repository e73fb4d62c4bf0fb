"""Prove that a run continues exactly: `python -m spectral_exp.verify_resume outputs/<run> --steps 20`.

Steps are done again from an earlier checkpoint: once without a pause, and once interrupted half-way, saved and
continued in a new process. Loss, gradients, weights, optimizer state and random numbers of every step are compared
between the two by their hashes, and with what the run itself has recorded: every loss, the logged gradient norms, and
the checkpoints on the way.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.errors import UserError, require
from spectral_exp.run_dir import RunPaths, read_json, write_json_atomic

if TYPE_CHECKING:
    from spectral_exp.runner import Runner

PARTS = ("loss", "gradients", "weights", "optimizer", "rng")
"""What is compared, in the order in which a step makes it."""

CERTIFICATE_NAME = "resume_certificate.json"


@dataclass(frozen=True)
class StepFingerprint:
    """Hashes of one step: part -> name -> hash; `loss` and `grad_norm` as numbers too."""

    step: int
    loss: float
    grad_norm: float
    hashes: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Divergence:
    """The first difference between two executions of the same steps."""

    step: int
    part: str
    name: str
    between: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.part} ({self.name}) differ between {self.between}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0 if all is identical, 1 if not, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        "python -m spectral_exp.verify_resume", description="Prove that a run continues exactly."
    )
    parser.add_argument("run", type=Path, help="run directory, for example outputs/<run>")
    parser.add_argument("--steps", type=int, default=10, help="steps to do again, at least 2 (default: 10)")
    parser.add_argument("--from", type=int, dest="start", help="step of the checkpoint to begin with")
    parser.add_argument("--output", type=Path, help=f"where to write the certificate (default: RUN/{CERTIFICATE_NAME})")
    options = parser.parse_args(arguments)
    try:
        certificate = verify_resume(options.run, options.steps, options.start)
        output = options.output or options.run / CERTIFICATE_NAME
        try:
            write_json_atomic(output, certificate)
        except OSError as error:
            raise UserError(f"cannot write {output}: {error.strerror}; choose another file with --output") from error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in certificate["compared"]:
        print(f"compared: {line}")
    for line in certificate["divergences"]:
        print(f"DIVERGED: {line}")
    print(f"{certificate['verdict']}; certificate: {output}")
    return 0 if certificate["verdict"] == "identical" else 1


def verify_resume(run: Path, steps: int, start: int | None = None) -> dict[str, Any]:
    """Do `steps` steps of a run again and compare them; changes nothing in its directory.

    Args:
        run: the run directory.
        steps: how many, >= 2.
        start: step of the checkpoint to begin with; by default the newest after which the run has recorded `steps`
            steps, or else the newest.

    Returns:
        The certificate: `verdict` ("identical" or "diverged"), `divergences`, `compared`, `hashes` and circumstances.

    Raises:
        UserError: no such run or checkpoint, or a setting that is not allowed.
    """
    require(steps >= 2, "--steps", steps, ">= 2")
    paths = RunPaths(run)
    if not paths.config_file.is_file():
        raise UserError(f"{run} is not a run directory: it holds no {paths.config_file.name}; name one below outputs/")
    recorded = read_json(paths.config_file)
    start, last = _start(paths, recorded["config"], steps, start)

    with tempfile.TemporaryDirectory(prefix="verify_resume_") as folder:
        whole, half = Path(folder) / "whole", Path(folder) / "half"
        for place in (whole, half):
            copy_checkpoint(paths, start, place)
        config = _quiet(recorded["config"])
        middle = start + (last - start) // 2
        undisturbed = _in_own_process(config, whole, last)
        interrupted = [*_in_own_process(config, half, middle), *_in_own_process(config, half, last)]
        found = [compare(undisturbed, interrupted, "the undisturbed and the interrupted replay")]
        compared = [
            f"steps {start + 1} to {last}, undisturbed, with the same interrupted after step {middle}: "
            f"{', '.join(PARTS)}"
        ]
        for divergence, what in _against_the_run(paths, undisturbed):
            found.append(divergence)
            compared.append(what)
    divergences = [str(divergence) for divergence in found if divergence is not None]
    return {
        "run": run.resolve().name,
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "from_step": start,
        "to_step": last,
        "verdict": "diverged" if divergences else "identical",
        "divergences": divergences,
        "compared": compared,
        "hashes": [
            {"step": f.step, "loss": f.loss, **{part: _digest_of_names(f.hashes[part]) for part in PARTS}}
            for f in undisturbed
        ],
        **_circumstances(),
    }


def compare(
    one: Sequence[StepFingerprint], other: Sequence[StepFingerprint], between: str, parts: Sequence[str] = PARTS
) -> Divergence | None:
    """The first difference between two executions of the same steps, in the order of `PARTS` within a step."""
    for left, right in zip(one, other, strict=True):
        for part in parts:
            a, b = left.hashes[part], right.hashes[part]
            for name in sorted({*a, *b}):
                if a.get(name) != b.get(name):
                    return Divergence(left.step, part, name, between)
    return None


def copy_checkpoint(paths: RunPaths, step: int, place: Path) -> None:
    """Put a checkpoint and its sidecar into a run directory of their own."""
    target = RunPaths(place)
    target.checkpoints.mkdir(parents=True)
    for file in paths.checkpoints.glob(f"{paths.checkpoint_file(step).name}*"):
        if file.suffix in (".pt", ".zst", ".json"):
            shutil.copy(file, target.checkpoints)


def replay(config: dict[str, Any], place: str, last: int) -> list[StepFingerprint]:
    """Continue the run in `place` to step `last` and save it there; the fingerprint of every step done."""
    from spectral_exp.build import build
    from spectral_exp.seeding import process_settings

    fingerprints = []
    with build(config, place, []) as runner, process_settings(runner.threads, runner.settings.deterministic):
        runner.restore()
        while runner.state.step < last:
            report = runner.compute_gradients(runner.state.step + 1)
            gradients = {name: _digest(p.grad) for name, p in runner.model.named_parameters() if p.grad is not None}
            runner.update_weights(report)
            runner.advance(report)
            hashes = {"loss": {"loss": report.loss.hex()}, "gradients": gradients, **_state_hashes(runner)}
            fingerprints.append(StepFingerprint(runner.state.step, report.loss, report.grad_norm, hashes))
        runner.save()
        runner.checkpoint.close()
    return fingerprints


def _start(paths: RunPaths, config: Mapping[str, Any], steps: int, start: int | None) -> tuple[int, int]:
    """The steps of the checkpoint to begin with and of the end."""
    known = paths.checkpoint_steps()
    if not known:
        raise UserError(f"{paths.root} has no checkpoint to replay from")
    shown = ", ".join(map(str, known))
    if start is not None and start not in known:
        raise UserError(f"--from={start} must be the step of a checkpoint; there are {shown}")
    max_steps = int(config["training"]["max_steps"])
    if start is None:
        # From there every replayed step can be held against what the run itself has recorded.
        within = [step for step in known if step + steps <= known[-1]]
        earlier = [step for step in known if step + steps <= max_steps]
        start = within[-1] if within else earlier[-1] if earlier else known[0]
    last = min(start + steps, max_steps)
    if last - start < 2:
        raise UserError(
            f"after step {start} the run has {last - start} steps left (training.max_steps={max_steps}) and 2 are "
            f"needed; begin earlier with --from: there are {shown}"
        )
    return start, last


def _quiet(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every component off but checkpoints, which are durable at once."""
    quiet: dict[str, Any] = copy.deepcopy(dict(config))
    for name in ("metrics", "visualization", "tracking"):
        quiet["monitoring"][name]["enabled"] = False
    quiet["monitoring"]["checkpoint"] |= {"enabled": True, "background": False, "keep_last_n": 2}
    return quiet


def _in_own_process(config: dict[str, Any], place: Path, last: int) -> list[StepFingerprint]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(replay, config, str(place), last).result()


def _against_the_run(paths: RunPaths, replayed: Sequence[StepFingerprint]) -> list[tuple[Divergence | None, str]]:
    """Compare with the recorded losses, gradient norms and checkpoints; each comparison with its description."""
    import torch

    from spectral_exp.monitoring import CheckpointManager, MetricsLogger

    first, last = replayed[0].step, replayed[-1].step
    between = "the run and its replay"
    results: list[tuple[Divergence | None, str]] = []
    manager = CheckpointManager(paths.root, enabled=False)
    newest = manager.load_latest_checkpoint()
    recorded = [] if newest is None else newest["loss_history"][first - 1 : last]
    wrong = [f.step for f, loss in zip(replayed, recorded, strict=False) if not _same(f.loss, loss)]
    if recorded:
        divergence = Divergence(wrong[0], "loss", "loss", between) if wrong else None
        results.append((divergence, f"losses of {len(recorded)} steps with those that the run recorded"))
    norms = {
        entry["step"]: entry["grad_norm"]
        for entry in MetricsLogger(paths.logs, enabled=False).load_metrics()
        if first <= entry["step"] <= last and "grad_norm" in entry
    }
    wrong = [f.step for f in replayed if f.step in norms and not _same(f.grad_norm, norms[f.step])]
    if norms:
        divergence = Divergence(wrong[0], "gradients", "norm", between) if wrong else None
        results.append((divergence, f"gradient norms of {len(norms)} steps with those that the run logged"))
    for step in [step for step in paths.checkpoint_steps() if first <= step <= last]:
        state = manager.load_checkpoint(step)
        if state is None:
            continue
        hashes = {
            "weights": _digests(state["model_state_dict"]),
            "optimizer": _digests(state["optimizer_state_dict"]),
            "rng": _digests({k: v for k, v in state["rng_state"].items() if isinstance(v, torch.Tensor)}),
        }
        saved = StepFingerprint(step, math.nan, math.nan, hashes)
        ours = [f for f in replayed if f.step == step]
        divergence = compare(ours, [saved], between, ("weights", "optimizer", "rng"))
        results.append((divergence, f"weights, optimizer, rng after step {step} with the run's checkpoint"))
    if not results:
        results.append((None, "nothing of the run itself: it has recorded no step after this checkpoint"))
    return results


def _state_hashes(runner: Runner) -> dict[str, dict[str, str]]:
    from spectral_exp.seeding import rng_state

    return {
        "weights": _digests(runner.model.state_dict()),
        "optimizer": _digests(runner.optimizer.state_dict()),
        "rng": _digests(rng_state()),
    }


def _digests(value: Any, name: str = "") -> dict[str, str]:
    """The hash of every leaf in nested containers, by its path."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {name: _digest(value)}
    found: dict[str, str] = {}
    for key, item in items:
        found |= _digests(item, f"{name}.{key}" if name else key)
    return found


def _digest(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu().contiguous()
        content = f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.view(-1).view(torch.uint8).numpy().tobytes()
    else:
        content = repr(value).encode()
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _digest_of_names(hashes: Mapping[str, str]) -> str:
    return hashlib.blake2b(repr(sorted(hashes.items())).encode(), digest_size=8).hexdigest()


def _same(one: float, other: Any) -> bool:
    return one == other or (isinstance(other, float) and math.isnan(one) and math.isnan(other))


def _circumstances() -> dict[str, Any]:
    from spectral_exp.monitoring import environment
    from spectral_exp.run_dir import git_hash

    return {"git_hash": git_hash(), "hardware": environment.hardware_facts(), "host": environment.host_facts()}


if __name__ == "__main__":
    # The replaying processes find the functions by the name of their module, which must not be __main__.
    from spectral_exp.verify_resume import main as importable_main

    sys.exit(importable_main())
