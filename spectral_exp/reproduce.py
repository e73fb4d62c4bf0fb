"""Do a run over again from what it recorded: `python -m spectral_exp.reproduce outputs/<run>`.

The recorded overrides are trained anew with the recorded code (from a temporary git worktree where the checkout is at
another commit), and the new run is compared with the old one: fingerprints of the text, every metrics line, the final
metrics. Differences of machine and packages are listed; they are the first suspects when numbers differ.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from spectral_exp.errors import UserError, require
from spectral_exp.run_dir import RunPaths, code_directory, read_intact_json, read_json, run_git, write_json_atomic

REPORT_NAME = "reproduction.json"
# Metrics that measure the machine, not the training.
_TIMED = ("timestamp", "tokens_per_s", "steps_at_risk", "checkpoint_")
_PLACE = ("experiment_id", "hydra.run.dir", "outputs", "resume", "hydra.sweep.dir", "hydra.sweep.subdir")
_MAX_SHOWN = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0 if all numbers are equal, 1 if not, 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser("python -m spectral_exp.reproduce", description="Do a run over again and compare.")
    parser.add_argument("run", type=Path, help="run directory, for example outputs/<run>")
    parser.add_argument("--steps", type=int, help="stop after about so many steps (default: all that the run did)")
    parser.add_argument("--output", type=Path, help="directory of the new run (default: RUN_reproduced)")
    parser.add_argument("--current-code", action="store_true", help="train with the code as it is now")
    options = parser.parse_args(arguments)
    output = options.output or options.run.with_name(f"{options.run.resolve().name}_reproduced")
    try:
        report = reproduce(options.run, output, steps=options.steps, current_code=options.current_code)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in ("code", "environment", "data", "metrics"):
        found = report["differences"][name]
        print(f"{name}: {f'{len(found)} difference(s)' if found else 'equal'}")
        for line in found[:_MAX_SHOWN]:
            print(f"  {line}")
    print(f"compared {report['values_compared']} values of {report['lines_compared']} metrics lines")
    print(f"not compared, as they measure the machine: {', '.join(_TIMED)}*")
    print(f"{report['verdict']}; report: {output / REPORT_NAME}")
    return 0 if report["verdict"] == "identical" else 1


def reproduce(run: Path, output: Path, *, steps: int | None = None, current_code: bool = False) -> dict[str, Any]:
    """Train a run anew in `output` and compare the two; the report is written there too.

    Args:
        run: the run directory; nothing in it changes.
        output: directory of the new run; must not exist.
        steps: stop once a metrics line of this step or a later one is written; None does all that the run did.
        current_code: train with the code as it is now, even if the run was made by another version.

    Returns:
        The report: `verdict` ("identical" or "different", by data and metrics), `differences` of `code`, `environment`,
        `data` and `metrics`, and how much was compared.

    Raises:
        UserError: no such run, its code cannot be had, or training it failed.
    """
    paths, new = RunPaths(run), RunPaths(output)
    require(steps is None or steps >= 1, "--steps", steps, ">= 1")
    if not paths.config_file.is_file():
        raise UserError(f"{run} is not a run directory: it holds no {paths.config_file.name}; name one below outputs/")
    if output.exists():
        raise UserError(f"{output} exists; remove it, or choose another directory with --output")
    recorded = read_intact_json(paths.config_file)
    before = _metrics(paths)
    if not before:
        raise UserError(f"{run} has logged no metrics that could be compared")
    last = min(steps or before[-1]["step"], before[-1]["step"])
    with contextlib.nullcontext(code_directory()) if current_code else _recorded_code(paths, recorded) as code:
        _train(code, _command(recorded, output), new, last)
    again = read_json(new.config_file)
    data = _unequal(recorded.get("dataset") or {}, again.get("dataset") or {})
    after = _metrics(new)
    lines, values, metrics = _compare_metrics(before, after, last)
    report = {
        "run": run.resolve().name,
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "verdict": "different" if data or metrics else "identical",
        "steps": last,
        "lines_compared": lines,
        "values_compared": values,
        "differences": {
            "code": _unequal({"commit": recorded["git"]["hash"]}, {"commit": again["git"]["hash"]}),
            "environment": _environment(recorded, again),
            "data": data,
            "metrics": metrics,
        },
    }
    write_json_atomic(output / REPORT_NAME, report)
    return report


def _command(recorded: Mapping[str, Any], output: Path) -> list[str]:
    """The overrides of the run's last attempt, which are those of all, but with a place of its own."""
    overrides = [o for o in recorded["overrides"] if o.lstrip("+").partition("=")[0] not in _PLACE]
    secret = [o.partition("=")[0] for o in overrides if "<redacted>" in o]
    if secret:
        raise UserError(
            f"{', '.join(secret)} is a secret, which no file keeps: the run cannot be repeated from its record"
        )
    # The name and seed of a sweep's job are among its overrides already.
    from spectral_exp.command_line import quoted

    return [*overrides, f"hydra.run.dir={quoted(str(output.absolute()))}"]


@contextlib.contextmanager
def _recorded_code(paths: RunPaths, recorded: Mapping[str, Any]) -> Iterator[Path]:
    """A folder with the code that made the run: the checkout where that is it, else a temporary worktree."""
    from spectral_exp.monitoring.environment import git_facts

    here, git = code_directory(), recorded["git"]
    remedy = "with --current-code it is trained by the code as it is now"
    facts, diff = git_facts(here)
    patch = paths.git_diff_file.read_bytes() if git.get("diff_file") and paths.git_diff_file.is_file() else b""
    if facts["hash"] == git["hash"] and diff == patch:
        yield here
        return
    if git["hash"] is None:
        raise UserError(f"the run does not know the commit of its code; {remedy}")
    if run_git("cat-file", "-e", f"{git['hash']}^{{commit}}", directory=here) is None:
        raise UserError(f"the commit {git['hash']} that made the run is not in {here}; fetch it, or {remedy}")
    if git.get("diff_truncated") or git.get("untracked_total"):
        untracked = f"{git.get('untracked_total', 0)} files that git did not know"
        print(f"note: the run's code had {untracked}; they are not part of the reproduction", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="reproduce_") as folder:
        tree = Path(folder) / "code"
        if run_git("worktree", "add", "--detach", str(tree), git["hash"], directory=here, timeout_s=120) is None:
            raise UserError(f"git cannot check out {git['hash']}; {remedy}")
        try:
            if patch:
                applied = subprocess.run(
                    ["git", "-C", str(tree), "apply", "-"], input=patch, capture_output=True, check=False
                )
                if applied.returncode != 0:
                    raise UserError(f"{paths.git_diff_file} does not apply to {git['hash']}; {remedy}")
            yield tree
        finally:
            run_git("worktree", "remove", "--force", str(tree), directory=here, timeout_s=120)


def _train(code: Path, overrides: list[str], new: RunPaths, last: int) -> None:
    """Train in a process of its own, and stop it in order once it has logged step `last`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(code), os.environ.get("PYTHONPATH", "")])}
    print(f"training {new.root} with the code in {code}", flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.train", *overrides], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        stopped = False
        while process.poll() is None:
            time.sleep(0.2)
            if not stopped and _last_step(new) >= last:
                stopped = True
                process.send_signal(signal.SIGTERM)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    # The signal may also meet a process that has saved everything and is about to end by itself.
    if process.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
        raise UserError(f"training anew failed with exit code {process.returncode}; its messages stand above")
    if _last_step(new) < last:
        raise UserError(f"training anew ended at step {_last_step(new)}, and the run had logged step {last}")


def _metrics(paths: RunPaths) -> list[dict[str, Any]]:
    from spectral_exp.monitoring import MetricsLogger

    return MetricsLogger(paths.logs, enabled=False).load_metrics()


def _last_step(paths: RunPaths) -> int:
    from spectral_exp.monitoring import MetricsLogger

    return MetricsLogger(paths.logs, enabled=False).get_latest_step()


def _compare_metrics(
    before: list[dict[str, Any]], after: list[dict[str, Any]], last: int
) -> tuple[int, int, list[str]]:
    """How many lines and values were compared, and for each metric its first difference."""
    lines, values = 0, 0
    first: dict[str, str] = {}
    there = {entry["step"]: entry for entry in after}
    for entry in before:
        step = entry["step"]
        if step > last:
            break
        other = there.get(step)
        if other is None:
            first.setdefault("line", f"step {step} was not logged again")
            continue
        lines += 1
        for name in sorted({*entry, *other}):
            if name.startswith(_TIMED) or name == "step":
                continue
            values += 1
            a, b = entry.get(name), other.get(name)
            if a != b and not (a != a and b != b):  # NaN equals NaN here
                size = f", by {b - a:.3g}" if isinstance(a, float) and isinstance(b, float) else ""
                first.setdefault(name, f"{name} at step {step}: {a} -> {b}{size}")
    return lines, values, [first[name] for name in sorted(first)]


def _environment(recorded: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Every difference of hardware, operating system and packages."""
    return [
        *_unequal(recorded.get("hardware") or {}, again.get("hardware") or {}),
        *_unequal({"platform": recorded["host"]["platform"]}, {"platform": again["host"]["platform"]}),
        *_unequal(recorded.get("packages") or {}, again.get("packages") or {}),
    ]


def _unequal(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    keys = sorted({*before, *after})
    return [
        f"{k}: {before.get(k, 'absent')} -> {after.get(k, 'absent')}" for k in keys if before.get(k) != after.get(k)
    ]


if __name__ == "__main__":
    sys.exit(main())
