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
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.errors import RunError, UserError, require
from spectral_exp.fingerprint import (
    changed_settings,
    environment_differences,
    read_record,
    same,
    settings_differences,
    unequal,
)
from spectral_exp.run_dir import RunPaths, follow, write_json_atomic

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


@dataclass
class Findings:
    """What was compared, what could not be, and where it diverged."""

    compared: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)

    def add(self, what: str, divergence: Divergence | None) -> None:
        """Take in one comparison and its first difference."""
        self.compared.append(what)
        if divergence is not None:
            self.divergences.append(divergence)

    def in_order(self) -> list[str]:
        """The divergences, the first in time first."""
        return [str(d) for d in sorted(self.divergences, key=lambda d: (d.step, PARTS.index(d.part)))]


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
    for label in ("compared", "not_compared"):
        for line in certificate[label]:
            print(f"{label.replace('_', ' ')}: {line}")
    for what, lines in certificate["differences"].items():
        for line in lines:
            print(f"{what} changed: {line}")
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
        The certificate: `verdict` ("identical" or "diverged"), `divergences` (the first in time first), `compared`,
        `not_compared`, `differences` of settings, code and environment since, `hashes` and circumstances.

    Raises:
        UserError: no such run or checkpoint, the text has changed, or a setting that is not allowed.
    """
    require(steps >= 2, "--steps", steps, ">= 2")
    record, paths = read_record(run), RunPaths(run)
    start, last = _start(paths, record, steps, start)
    state = _read(paths, start)
    if state is None:
        raise UserError(f"the checkpoint of step {start} in {run} is broken; begin at another one with --from")

    config = _quiet(record["config"])
    middle = start + (last - start) // 2
    with tempfile.TemporaryDirectory(prefix="verify_resume_") as folder:
        whole, half = Path(folder) / "whole", Path(folder) / "half"
        for place in (whole, half):
            _prepare(paths, start, place, config, record.get("dataset"))
        try:
            undisturbed = _in_own_process(config, whole, start, last)
            interrupted = [
                *_in_own_process(config, half, start, middle),
                *_in_own_process(config, half, middle, last),
            ]
        except (UserError, RunError) as error:
            # What was told about the temporary copy is true of the run.
            message = str(error).replace(str(whole), str(run)).replace(str(half), str(run))
            raise UserError(f"cannot replay {run} from step {start}: {message}") from error

    findings = Findings()
    findings.add(
        f"steps {start + 1} to {last}, undisturbed, with the same interrupted after step {middle}: {', '.join(PARTS)}",
        compare(undisturbed, interrupted, "the undisturbed and the interrupted replay"),
    )
    _against_the_run(paths, undisturbed, findings)
    now = _circumstances()
    return {
        "run": run.resolve().name,
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "from_step": start,
        "to_step": last,
        "checkpoint": _identity(paths, start),
        "verdict": "diverged" if findings.divergences else "identical",
        "divergences": findings.in_order(),
        "compared": findings.compared,
        "not_compared": findings.not_compared,
        "differences": {
            "settings": settings_differences(state["config"], record["config"]),
            "code": unequal(*({"commit": r["git"]["hash"], "dirty": r["git"]["dirty"]} for r in (record, now))),
            "environment": environment_differences(record, now),
        },
        "hashes": _summary(undisturbed),
        "hashes_interrupted": _summary(interrupted),
        **now,
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


def replay(config: dict[str, Any], place: str, start: int, last: int) -> list[StepFingerprint]:
    """Continue the run in `place` from step `start` to step `last` and save it there.

    Returns:
        The fingerprint of every step done.

    Raises:
        UserError: the checkpoint of `start` is not there, the new one cannot be saved, or the text has changed.
        RunError: too many steps in a row were not finite.
    """
    from spectral_exp.build import build
    from spectral_exp.seeding import process_settings

    fingerprints = []
    with build(config, place, []) as runner, process_settings(runner.threads, runner.settings.deterministic):
        runner.restore()
        if runner.state.step != start:
            raise UserError(f"the checkpoint of step {start} could not be restored")
        while runner.state.step < last:
            report = runner.compute_gradients(runner.state.step + 1)
            gradients = {name: _digest(p.grad) for name, p in runner.model.named_parameters() if p.grad is not None}
            runner.update_weights(report)
            runner.advance(report)
            hashes = {"loss": {"loss": report.loss.hex()}, "gradients": gradients, **_state_hashes(runner)}
            fingerprints.append(StepFingerprint(runner.state.step, report.loss, report.grad_norm, hashes))
        runner.save()
        runner.checkpoint.close()
        if runner.checkpoint.durable_step != last:
            raise UserError(f"step {last} could not be saved; free space in the folder for temporary files (TMPDIR)")
    return fingerprints


def _start(paths: RunPaths, record: Mapping[str, Any], steps: int, start: int | None) -> tuple[int, int]:
    """The steps of the checkpoint to begin with and of the end."""
    known = paths.checkpoint_steps()
    if not known:
        raise UserError(f"{paths.root} has no checkpoint to replay from")
    shown = ", ".join(map(str, known))
    if start is not None and start not in known:
        raise UserError(f"--from={start} must be the step of a checkpoint; there are {shown}")
    max_steps = int(record["config"]["training"]["max_steps"])
    # A schedule of another length, or other threads, would make other steps than the run made then.
    changed_at, change = (changed_settings(record["attempts"]) or [(0, "")])[-1]
    usable = [step for step in known if step >= changed_at]
    changed = f"the run was continued after step {changed_at} with other settings ({change})"
    if start is not None and start not in usable:
        raise UserError(f"--from={start} must be >= {changed_at}: {changed}; there are {shown}")
    if not usable:
        raise UserError(f"{changed}, and no checkpoint since is there: there are {shown}; let it go on to the next one")
    if start is None:
        # From there every replayed step can be held against what the run itself has recorded.
        within = [step for step in usable if step + steps <= known[-1]]
        earlier = [step for step in usable if step + steps <= max_steps]
        start = within[-1] if within else earlier[-1] if earlier else usable[0]
    last = min(start + steps, max_steps)
    if last - start < 2:
        raise UserError(
            f"after step {start} the run has {last - start} steps left (training.max_steps={max_steps}) and 2 are "
            f"needed; begin earlier with --from: there are {shown}" + (f", but {changed}" if change else "")
        )
    return start, last


def _prepare(paths: RunPaths, step: int, place: Path, config: Mapping[str, Any], dataset: Any) -> None:
    """Make a run directory with one checkpoint, and with what the text must be like."""
    from spectral_exp.monitoring.checkpoint_file import sidecar_file

    target, source = RunPaths(place), paths.checkpoint_file(step)
    try:
        target.checkpoints.mkdir(parents=True)
        shutil.copy(source, target.checkpoints)
        if sidecar_file(source).is_file():
            shutil.copy(sidecar_file(source), target.checkpoints)
        write_json_atomic(target.config_file, {"config": config, "dataset": dataset})
    except OSError as error:
        raise UserError(
            f"cannot copy {source} to the folder for temporary files: {error.strerror}; choose another one with "
            "TMPDIR, or another checkpoint with --from"
        ) from error


def _quiet(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every component off but checkpoints, which are durable at once."""
    quiet: dict[str, Any] = copy.deepcopy(dict(config))
    for name in ("metrics", "visualization", "tracking"):
        quiet["monitoring"][name]["enabled"] = False
    quiet["monitoring"]["checkpoint"] |= {"enabled": True, "background": False, "keep_last_n": 2}
    return quiet


def _in_own_process(config: dict[str, Any], place: Path, start: int, last: int) -> list[StepFingerprint]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(replay, config, str(place), start, last).result()
        except BrokenProcessPool as error:
            raise UserError("the replaying process was killed; the machine may be short of memory") from error


def _read(paths: RunPaths, step: int) -> dict[str, Any] | None:
    """A checkpoint of the run, or None if it is broken or gone; unlike the run itself, this sets nothing aside."""
    from spectral_exp.monitoring.checkpoint_file import BrokenCheckpointError, read_checkpoint

    try:
        return read_checkpoint(paths.checkpoint_file(step))
    except (BrokenCheckpointError, OSError) as error:
        print(f"checkpoint of step {step} cannot be used: {error}", file=sys.stderr)
        return None


def _identity(paths: RunPaths, step: int) -> dict[str, Any]:
    """Name and checksum of a checkpoint."""
    from spectral_exp.monitoring.checksum import file_crc32

    path = paths.checkpoint_file(step)
    return {"file": path.name, "crc32": f"{file_crc32(path, 1):08x}"}


def _against_the_run(paths: RunPaths, replayed: Sequence[StepFingerprint], findings: Findings) -> None:
    """Compare with the recorded losses, metrics lines and checkpoints."""
    import torch

    from spectral_exp.monitoring import MetricsLogger

    first, last = replayed[0].step, replayed[-1].step
    between = "the run and its replay"
    compared_before = len(findings.compared)

    losses = _recorded_losses(paths)[first - 1 : last]
    wrong = [f.step for f, loss in zip(replayed, losses, strict=False) if not same(f.loss, loss)]
    if losses:
        divergence = Divergence(wrong[0], "loss", "loss", between) if wrong else None
        findings.add(f"losses of {len(losses)} steps with those that the run recorded", divergence)

    entries = {entry["step"]: entry for entry in MetricsLogger(paths.logs, enabled=False).load_metrics()}
    for metric, part, name in (("loss", "loss", "metrics line"), ("grad_norm", "gradients", "norm")):
        pairs = [(f, entries[f.step][metric]) for f in replayed if metric in entries.get(f.step, {})]
        wrong = [f.step for f, logged in pairs if not same(getattr(f, metric), logged)]
        if pairs:
            divergence = Divergence(wrong[0], part, name, between) if wrong else None
            findings.add(f"{metric} of {len(pairs)} steps with what the run logged", divergence)

    for step in [step for step in paths.checkpoint_steps() if first <= step <= last]:
        state = _read(paths, step)
        if state is None:
            findings.not_compared.append(f"the run's checkpoint of step {step}, which is broken")
            continue
        hashes = {
            "weights": _digests(state["model_state_dict"]) | _digests(state["loss_state_dict"], "loss"),
            "optimizer": _digests(state["optimizer_state_dict"]),
            "rng": _digests({k: v for k, v in state["rng_state"].items() if isinstance(v, torch.Tensor)}),
        }
        saved = StepFingerprint(step, math.nan, math.nan, hashes)
        ours = [f for f in replayed if f.step == step]
        divergence = compare(ours, [saved], between, ("weights", "optimizer", "rng"))
        findings.add(f"weights, optimizer, rng after step {step} with the run's checkpoint", divergence)
    if len(findings.compared) == compared_before:
        findings.not_compared.append("the run itself, which has recorded no step after this checkpoint")


def _recorded_losses(paths: RunPaths) -> list[float]:
    """The losses of all steps up to the newest checkpoint that is whole."""
    latest = follow(paths.latest_link)
    pointed = paths.checkpoint_step(latest) if latest else None
    steps = paths.checkpoint_steps()[::-1]
    for step in sorted(steps, key=lambda step: step != pointed):
        if (state := _read(paths, step)) is not None:
            return [float(loss) for loss in state["loss_history"]]
    return []


def _summary(fingerprints: Sequence[StepFingerprint]) -> list[dict[str, Any]]:
    """Of every step the loss and one hash for each part."""
    return [
        {"step": f.step, "loss": f.loss, **{part: _digest_of_names(f.hashes[part]) for part in PARTS}}
        for f in fingerprints
    ]


def _state_hashes(runner: Runner) -> dict[str, dict[str, str]]:
    from spectral_exp.seeding import rng_state

    return {
        "weights": _digests(runner.model.state_dict()) | _digests(runner.loss.state_dict(), "loss"),
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


def _circumstances() -> dict[str, Any]:
    from spectral_exp.monitoring import environment
    from spectral_exp.run_dir import code_directory

    git, _ = environment.git_facts(code_directory())
    return {
        "git": {"hash": git["hash"], "dirty": git["dirty"]},
        "hardware": environment.hardware_facts(),
        "host": environment.host_facts(),
        "packages": environment.package_versions(),
    }


if __name__ == "__main__":
    # The replaying processes find the functions by the name of their module, which must not be __main__.
    from spectral_exp.verify_resume import main as importable_main

    sys.exit(importable_main())
