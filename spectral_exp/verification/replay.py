"""Verify that a run resumes exactly: `python -m spectral_exp verify_resume outputs/<run>`.

Steps are repeated from an earlier checkpoint: once without a pause, and once interrupted half-way,
saved and continued in a new process. The two replays are compared by hashes of loss, gradients,
weights, optimizer state and random numbers of every step. Losses, gradient norms and checkpoints
are also compared with those that the run recorded.
"""

from __future__ import annotations

import copy
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectral_exp.config.packages import changed_packages
from spectral_exp.config.starting_point import pin_parent
from spectral_exp.config.trust import recorded_config, require_fingerprints
from spectral_exp.core.errors import RunError, UserError, explain_os_error, require
from spectral_exp.core.helper import HelperEndedError, HelperProcess, serve
from spectral_exp.core.json_files import write_json_atomic
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.core.timestamps import timestamp
from spectral_exp.core.wording import format_count
from spectral_exp.monitoring import CheckpointManager, MetricsLogger
from spectral_exp.runs.differences import (
    are_equal,
    code_differences,
    environment_differences,
    settings_differences,
)
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.overrides import changed_settings, flatten, matters_for_steps
from spectral_exp.runs.planned import describe_limits, planned_steps, refuse_time_budget
from spectral_exp.runs.renamed import update_names
from spectral_exp.runs.training_record import read_record, recorded_patch
from spectral_exp.verification.addition import is_trained_together, order_of_addition
from spectral_exp.verification.fingerprint import (
    PARTS,
    Divergence,
    StepFingerprint,
    first_divergence,
    state_hashes,
    train_step,
)

Replay = list[StepFingerprint]


@dataclass(frozen=True)
class Segment:
    """The steps after `start` up to `last`; `shortfall` explains why they are too few."""

    start: int
    last: int
    shortfall: str | None

    @property
    def middle(self) -> int:
        """The step after which the second replay is interrupted."""
        return self.start + (self.last - self.start) // 2


@dataclass
class Findings:
    """Comparisons that were made, comparisons that were not possible, and divergences."""

    compared: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)

    def add(self, comparison: str, divergence: Divergence | None) -> None:
        """Add a comparison and its first difference."""
        self.compared.append(comparison)
        if divergence is not None:
            self.divergences.append(divergence)

    def in_order(self) -> list[str]:
        """Return the divergences in chronological order."""
        return [str(found) for found in sorted(self.divergences, key=lambda found: found.order)]


def verify_resume(
    run: Path, steps: int, start: int | None = None, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """Repeat steps of a run and compare them; change nothing in its directory.

    Args:
        run: the run directory.
        steps: number of steps, >= 2; fewer if the run ends earlier.
        start: step of the checkpoint to start from, 0 for the start of the run. By default the
            newest one after which the run has recorded `steps` steps, or else the newest one with
            `steps` steps before the end of the run.
        packages: packages that may be imported, beside those that the run's record names and that
            the user has used on this machine.

    Returns:
        The certificate: `verdict` ("identical" or "diverged"), `divergences` in chronological
        order, `compared`, `not_compared`, `differences` of settings, code and environment to those
        of the run, `hashes`, and the facts of code, machine and packages.

    Raises:
        UserError: the run or checkpoint does not exist, the text has changed, or an argument is not
            allowed.
    """
    require(steps >= 2, "--steps", steps, ">= 2")
    record, paths = read_record(run), RunPaths(run)
    refuse_time_budget(run, record["config"])
    segment = choose_segment(paths, record, steps, start)
    old_config = _config_at(paths, record, segment.start)
    config = _disable_monitoring(recorded_config(record, packages))
    if is_trained_together(record) and config.get("threads") is None:
        config["threads"] = (record.get("hardware") or {}).get("torch_threads")
    require_fingerprints(run, config, record.get("dataset") or {})
    if segment.start == 0:
        pin_parent(run, config, record.get("parent"))
    whole, interrupted = replay_twice(paths, config, record.get("dataset"), segment)

    findings = _compare_replays(paths, record, segment, whole, interrupted)
    now, differences = _compare_facts(paths, record, config, old_config)
    return {
        "run": run.resolve().name,
        "timestamp": timestamp(),
        "from_step": segment.start,
        "to_step": segment.last,
        "checkpoint": _identity(paths, segment.start),
        "verdict": "diverged" if findings.divergences else "identical",
        "divergences": findings.in_order(),
        "compared": findings.compared,
        "not_compared": findings.not_compared,
        "differences": differences,
        "hashes": [fingerprint.summary() for fingerprint in whole],
        "hashes_interrupted": [fingerprint.summary() for fingerprint in interrupted],
        **now,
    }


def _compare_replays(
    paths: RunPaths,
    record: Mapping[str, Any],
    segment: Segment,
    whole: Replay,
    interrupted: Replay,
) -> Findings:
    """Compare the two replays with each other and, if that is possible, with the run."""
    findings = Findings()
    findings.add(
        f"steps {segment.start + 1} to {segment.last}, uninterrupted, with the same interrupted "
        f"after step {segment.middle}: {', '.join(PARTS)}",
        first_divergence(whole, interrupted, "the uninterrupted and the interrupted replay"),
    )
    if reason := order_of_addition(record):
        findings.not_compared.append(f"the replay with the run: {reason}")
    else:
        compare_with_run(paths, whole, findings)
    if segment.shortfall:
        findings.not_compared.append(segment.shortfall)
    return findings


def _compare_facts(
    paths: RunPaths,
    record: Mapping[str, Any],
    config: Mapping[str, Any],
    old_config: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the facts of code and machine, and the differences to those of the run."""
    now, patch = _current_facts(config.get("threads"))
    git = record["git"]
    return now, {
        "settings": settings_differences(old_config, record["config"], matters_for_steps),
        "code": [
            *code_differences(git, recorded_patch(paths, git), now["git"], patch),
            *(f"the package {package}" for package in changed_packages(record, config)),
        ],
        "environment": environment_differences(record, now),
    }


def choose_segment(
    paths: RunPaths, record: Mapping[str, Any], steps: int, start: int | None
) -> Segment:
    """Choose the steps to repeat, as `verify_resume` describes.

    Raises:
        UserError: no checkpoint is followed by two steps with the current settings of the run.
    """
    known = [0, *paths.checkpoint_steps()]
    shown = ", ".join(["0 (the start)", *map(str, known[1:])])
    require(
        start is None or start in known,
        "--from",
        start,
        f"the step of a checkpoint; choose from {shown}",
    )
    settings = dict(flatten(record["config"]))
    max_steps, limits = planned_steps(settings, record) or 0, describe_limits(settings)
    # With a longer schedule or other threads, earlier steps would have other results.
    changed_at, change = (changed_settings(record["attempts"], matters_for_steps) or [(0, "")])[-1]
    changed = f"the run was continued after step {changed_at} with other settings ({change})"
    if start is not None and start < changed_at:
        raise UserError(
            f"--from={start} must be >= {changed_at}: {changed}; the checkpoints are {shown}"
        )
    usable = [step for step in known if changed_at <= step <= max_steps - 2]
    if start is not None and start not in usable:
        raise UserError(
            f"--from={start} leaves less than 2 steps: {limits}; the checkpoints are {shown}"
        )
    if not usable:
        since = f" since {changed}" if change else ""
        raise UserError(
            f"{paths.root} has no checkpoint with 2 steps of the run after it{since}; "
            f"{limits}, and the checkpoints are {shown}. To keep more of them, raise "
            "monitoring.checkpoint.keep_last_n"
        )
    if start is None:
        # After these, every repeated step can be compared with the record of the run.
        recorded = [step for step in usable if step + steps <= known[-1]]
        complete = [step for step in usable if step + steps <= max_steps]
        start = recorded[-1] if recorded else complete[-1] if complete else usable[0]
    last = min(start + steps, max_steps)
    fewer = f"steps {last + 1} to {start + steps}: the run ends at {limits}"
    return Segment(start, last, fewer if last < start + steps else None)


def _config_at(paths: RunPaths, record: Mapping[str, Any], step: int) -> Mapping[str, Any]:
    """Return the settings of the run at `step`. Raises UserError if its checkpoint is broken."""
    if step == 0:
        return dict(record["config"])
    state = CheckpointManager(paths.root, enabled=False).load_checkpoint(step)
    if state is None:
        others = ", ".join(str(other) for other in [0, *paths.checkpoint_steps()] if other != step)
        raise UserError(
            f"the checkpoint of step {step} in {paths.root} is broken; choose another one with "
            f"--from: {others}"
        )
    return update_names(state["config"])


# --- repeating steps -------------------------------------------------------------------------


def replay_twice(
    paths: RunPaths, config: dict[str, Any], dataset: Mapping[str, Any] | None, segment: Segment
) -> tuple[Replay, Replay]:
    """Repeat the steps of `segment` in copies of the run: once uninterrupted, once interrupted.

    Raises:
        UserError: the steps cannot be repeated.
    """
    start, middle, last = segment.start, segment.middle, segment.last
    with scratch_folder("verify_resume") as folder:
        whole, half = folder / "whole", folder / "half"
        for copied in (whole, half):
            _copy_run(paths, start, copied, {"config": config, "dataset": dataset})
        try:
            uninterrupted = _run_in_process(replay, config, whole, start, last)
            interrupted = _run_in_process(replay_and_save, config, half, start, middle)
            interrupted += _run_in_process(replay, config, half, middle, last)
        except (UserError, RunError) as error:
            message, original = str(error), str(paths.root)
            for copied in (whole, half):
                message = message.replace(str(copied), original)
            raise UserError(f"cannot replay {original} from step {start}: {message}") from error
    return uninterrupted, interrupted


def replay(
    config: dict[str, Any], run_dir: Path, start: int, last: int, save: bool = False
) -> Replay:
    """Continue the run in `run_dir` from its checkpoint of step `start` to step `last`.

    Returns:
        The fingerprint of every step.

    Raises:
        UserError: the checkpoint is missing, a new one cannot be saved, or the text has changed.
        RunError: too many steps in a row were skipped.
    """
    from spectral_exp.config.build import build
    from spectral_exp.training.seeding import process_settings

    with (
        build(config, run_dir, []) as runner,
        process_settings(runner.threads, runner.settings.deterministic),
    ):
        runner.restore()
        if runner.state.step != start:
            raise UserError(f"the checkpoint of step {start} could not be restored")
        fingerprints = [train_step(runner) for _ in range(start, last)]
        if save:
            runner.save()
            if runner.checkpoint.durable_step != last:
                raise UserError(
                    f"step {last} could not be saved; free space in the folder for temporary files"
                )
    return fingerprints


def replay_and_save(config: dict[str, Any], run_dir: Path, start: int, last: int) -> Replay:
    """Do the same as `replay`, and save a checkpoint of step `last` in `run_dir`."""
    return replay(config, run_dir, start, last, save=True)


def _run_in_process(work: Callable[..., Replay], *arguments: object) -> Replay:
    """Return `work(*arguments)`, called in a new process."""
    helper = HelperProcess("spectral_exp.verification.replay")
    try:
        helper.send((work, arguments))
        answer = helper.receive()
    except HelperEndedError as error:
        raise UserError(
            "the replaying process was killed; the machine may be short of memory"
        ) from error
    finally:
        helper.end()
    if isinstance(answer, Exception):
        raise answer
    replayed: Replay = answer
    return replayed


def main() -> None:
    """Answer the request of `_run_in_process` in the new process."""
    serve(lambda send: _answer, niceness=0)


def _answer(request: tuple[Callable[..., Replay], tuple[object, ...]]) -> Replay | Exception:
    work, arguments = request
    try:
        return work(*arguments)
    except (UserError, RunError) as error:
        return error
    except Exception as error:  # a defect, whose traceback would otherwise be lost
        traceback.print_exc()
        return error


def _disable_monitoring(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with synchronous checkpoints and all other components disabled."""
    quiet: dict[str, Any] = copy.deepcopy(dict(config))
    recorded = {
        name: part if isinstance(part, dict) else {}
        for name, part in config.get("monitoring", {}).items()
    }
    quiet["monitoring"] = {
        name: {**recorded.get(name, {}), "enabled": False}
        for name in ("metrics", "visualization", "tracking")
    }
    # The configuration of an old run has no backup.
    quiet["monitoring"]["backup"] = {"_target_": "spectral_exp.monitoring.Backup", "url": None}
    checkpoint = recorded.get("checkpoint", {})
    kept = {name: checkpoint[name] for name in ("_target_", "compression") if name in checkpoint}
    quiet["monitoring"]["checkpoint"] = {**kept, "background": False}
    return quiet


def _copy_run(paths: RunPaths, step: int, run_dir: Path, record: Mapping[str, Any]) -> None:
    """Create a run directory with `record` and a copy of one checkpoint (none for step 0)."""
    from spectral_exp.monitoring.checkpoint.file import sidecar_file
    from spectral_exp.monitoring.checkpoint.shards import folder_of

    target, checkpoint = RunPaths(run_dir), paths.checkpoint_file(step)
    with explain_os_error(
        f"copy {checkpoint} to {run_dir}",
        "choose another folder for temporary files with TMPDIR, or another checkpoint with --from",
    ):
        target.checkpoints.mkdir(parents=True)
        for file in (checkpoint, sidecar_file(checkpoint)):
            if file.is_file():
                shutil.copy(file, target.checkpoints)
        if (shards := folder_of(checkpoint)) is not None:
            shutil.copytree(shards, target.checkpoints / shards.name)
        write_json_atomic(target.config_file, record)


# --- comparison with the run -----------------------------------------------------------------


def compare_with_run(
    paths: RunPaths, replayed: Sequence[StepFingerprint], findings: Findings
) -> None:
    """Compare repeated steps with the recorded losses, metrics and checkpoints of the run."""
    first, last = replayed[0].step, replayed[-1].step
    between = "the run and its replay"
    manager = CheckpointManager(paths.root, enabled=False)
    compared_before = len(findings.compared)

    newest = manager.load_latest_checkpoint()
    losses = newest["loss_history"][first - 1 : last] if newest is not None else []
    if losses:
        wrong = [
            f.step for f, loss in zip(replayed, losses, strict=False) if not are_equal(f.loss, loss)
        ]
        divergence = Divergence(wrong[0], "loss", "loss", between) if wrong else None
        findings.add(
            f"losses of {format_count(len(losses), 'step')} with those that the run recorded",
            divergence,
        )

    entries = {
        entry["step"]: entry for entry in MetricsLogger(paths.logs, enabled=False).load_metrics()
    }
    for metric, part, name in (
        ("loss", "loss", "metrics line"),
        ("grad_norm", "gradients", "norm"),
    ):
        pairs = [
            (f, entries[f.step][metric]) for f in replayed if metric in entries.get(f.step, {})
        ]
        if pairs:
            wrong = [f.step for f, logged in pairs if not are_equal(getattr(f, metric), logged)]
            divergence = Divergence(wrong[0], part, name, between) if wrong else None
            findings.add(
                f"{metric} of {format_count(len(pairs), 'step')} with the values that the run"
                " logged",
                divergence,
            )

    saved = [step for step in paths.checkpoint_steps() if step >= first]
    for fingerprint in replayed:
        if fingerprint.step in saved:
            _compare_with_checkpoint(manager, fingerprint, between, findings)
    if saved and saved[0] > last:
        findings.not_compared.append(
            f"weights, optimizer, rng with the run's next checkpoint, of step {saved[0]}; "
            f"--from={first - 1} --steps={saved[0] - first + 1} compares them"
        )
    if len(findings.compared) == compared_before:
        findings.not_compared.append(
            "the run itself, because it has not recorded a step after this checkpoint"
        )


def _compare_with_checkpoint(
    manager: CheckpointManager, replayed: StepFingerprint, between: str, findings: Findings
) -> None:
    step = replayed.step
    state = manager.load_checkpoint(step)
    if state is None:
        findings.not_compared.append(f"the run's checkpoint of step {step}, which is broken")
        return
    saved = state_hashes(
        state["model_state_dict"],
        state["loss_state_dict"],
        state["optimizer_state_dict"],
        state["rng_state"],
    )
    # A checkpoint contains neither the loss nor the gradients of its step.
    recorded = StepFingerprint(
        step, replayed.loss, replayed.grad_norm, {**replayed.hashes, **saved}
    )
    parts = ", ".join(saved)
    findings.add(
        f"{parts} after step {step} with the run's checkpoint",
        first_divergence([recorded], [replayed], between),
    )


# --- the certificate -------------------------------------------------------------------------


def _identity(paths: RunPaths, step: int) -> dict[str, str] | None:
    """Return name and checksum of the checkpoint of `step`, or None for step 0."""
    from spectral_exp.core.checksum import file_crc32

    checkpoint = paths.checkpoint_file(step)
    return {"file": checkpoint.name, "crc32": f"{file_crc32(checkpoint, 1):08x}"} if step else None


def _current_facts(threads: int | None) -> tuple[dict[str, Any], bytes]:
    """Return the facts of code, machine and packages of the replay, and its uncommitted patch."""
    from spectral_exp.core.git import code_directory
    from spectral_exp.monitoring.tracking import environment
    from spectral_exp.training.seeding import process_settings

    git, patch = environment.git_facts(code_directory())
    with process_settings(threads, deterministic=False):
        hardware = environment.hardware_facts()
    facts = {
        "git": {"hash": git["hash"], "dirty": git["dirty"]},
        "hardware": hardware,
        "host": environment.host_facts(),
        "packages": environment.package_versions(),
    }
    return facts, patch
