"""Load runs from their directories.

The content of a run's files is first read into `Facts`, plain JSON that an index can store.
`python -m spectral_exp.runs.load` reads a JSON list of run directories from stdin and prints the
facts of each on a line, so that several processes can share the work.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.parent import die_with_parent_statement
from spectral_exp.runs.evaluations import read_evaluations
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import is_alive, read_owner
from spectral_exp.runs.marks import NO_MARKS, read_marks
from spectral_exp.runs.metrics_file import MetricFile
from spectral_exp.runs.metrics_summary import MetricFileSummary, summarize_metrics
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.parentage import origin_settings
from spectral_exp.runs.parts import config_hash, part_names
from spectral_exp.runs.record import known_settings, read_config, read_results
from spectral_exp.runs.run import MetricSummary, Run

log = logging.getLogger(__name__)

Facts = dict[str, Any]
"""Name, seed, settings, parts, record, results, evaluations, config_hash, problems, metrics,
speeds, last_step and unfinished_line of a run; only `unusable`, the reason, if the run cannot be
used."""

_STAMP = re.compile(r"_\d{8}_\d{6}_\w{8}(_\d+)?$")
# A job of a sweep: what was swept, its seed and a hash; before, its number, name and seed.
_SWEEP_JOB = re.compile(r".*_seed\d+_[0-9a-f]{8}|\d+_.*_seed-?\d+")
_BYTES_PER_PROCESS = 32 << 20
_MAX_PROCESSES = 16
# Settings of glibc: returning freed memory after every file costs a fifth of the time.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}


def load_run(path: Path) -> Run:
    """Load the run in a directory.

    Raises:
        UserError: its settings are damaged, or it holds neither settings nor metrics.
    """
    facts = read_facts(path)
    if "unusable" in facts:
        raise UserError(f"{path}: {facts['unusable']}")
    return run_of(path, facts)


def run_of(path: Path, facts: Mapping[str, Any], *, with_marks: bool = True) -> Run:
    """Return the run with these facts, its current status and, if `with_marks`, its marks."""
    marks, unreadable = read_marks(path) if with_marks else (NO_MARKS, ())
    problems = [*facts["problems"], *unreadable]
    owner = read_owner(path)
    is_running = owner is not None and is_alive(owner, path)
    if owner is not None and not is_running and owner["host"] != socket.gethostname():
        problems.append(
            f"process {owner['pid']} on {printable(owner['host'], 80)} holds its lock, but has not "
            "logged anything for an hour"
        )
    if facts["unfinished_line"] and not is_running:
        problems.append("the last line of metrics.jsonl is unfinished")
    return Run(
        path,
        run_id=_run_id(path),
        name=facts["name"],
        seed=facts["seed"],
        status="running" if is_running else facts["results"].get("status", "unfinished"),
        settings=facts["settings"],
        parts=facts["parts"],
        record=facts["record"],
        results=facts["results"],
        config_hash=facts["config_hash"],
        problems=tuple(problems),
        marks=marks,
        known_metrics={name: MetricSummary(*values) for name, values in facts["metrics"].items()},
        known_last_step=facts["last_step"],
        known_speeds=facts["speeds"],
        evaluations=facts["evaluations"],
    )


def _run_id(path: Path) -> str:
    # `resolve` would follow links, whose name may be the one that the user gave.
    path = Path(os.path.abspath(path))  # noqa: PTH100
    is_sweep_job = _SWEEP_JOB.fullmatch(path.name)
    return printable(f"{path.parent.name}/{path.name}" if is_sweep_job else path.name)


# --- reading --------------------------------------------------------------------------------------


def read_facts(path: Path, content: MetricFile | None = None) -> Facts:
    """Read the facts of a run; list damaged parts in `problems`.

    Args:
        path: the run directory.
        content: of its metrics file if it was read before; then the metrics are not summarized.
    """
    try:
        return _read_facts(path, content)
    except Exception as error:  # one broken run must not stop the reading of the others
        log.debug("reading %s failed", path, exc_info=True)
        return {"unusable": f"reading it failed: {type(error).__name__}: {printable(error, 200)}"}


def _read_facts(path: Path, content: MetricFile | None) -> Facts:
    paths = RunPaths(path)
    problems: list[str] = []
    record: dict[str, Any] = {}
    if os.path.lexists(paths.config_file):
        try:
            recorded, findings = read_config(paths.config_file)
        except UserError as error:
            reason = _shorten_path(error, paths.config_file)
            return {"unusable": f"{reason}, so its settings are unknown"}
        record = {**recorded}
        problems += findings
        _check_patch(paths, record, problems)
    else:
        problems.append(f"there is no {paths.config_file.name}: its settings are unknown")
    results = _read_results(paths, problems)
    metrics = _read_metrics(paths, problems, content)
    if record and "config" not in record and not metrics["metrics"] and not results:
        return {"unusable": f"its {paths.config_file.name} is not the record of a run"}
    if not record and not metrics["metrics"] and not results:
        return {"unusable": "it has neither readable settings nor readable metrics"}
    settings, findings = known_settings(
        dict(flatten(record.pop("config", {}))), paths.config_file.name
    )
    problems += findings
    settings = origin_settings(settings, record)
    folder = Path(os.path.abspath(path)).name  # noqa: PTH100
    return {
        "name": printable(settings.get("name") or _STAMP.sub("", folder)),
        "seed": settings.get("seed"),
        "settings": settings,
        "parts": part_names(settings),
        "record": record,
        "results": results,
        "evaluations": read_evaluations(path, problems),
        "config_hash": config_hash(settings),
        "problems": problems,
        **metrics,
    }


def _check_patch(paths: RunPaths, record: dict[str, Any], problems: list[str]) -> None:
    """Remove the patch of the code from `record` if its path is not a file."""
    git, patch = record.get("git", {}), paths.git_diff_file
    if git.get("diff_file") and os.path.lexists(patch) and not patch.is_file():
        problems.append(f"{patch.name} is not a file")
        record["git"] = {**git, "diff_file": None}


def _read_results(paths: RunPaths, problems: list[str]) -> dict[str, Any]:
    if not os.path.lexists(paths.results_file):
        return {}
    try:
        results, findings = read_results(paths.results_file)
    except UserError as error:
        problems.append(_shorten_path(error, paths.results_file))
        return {}
    problems += findings
    return {**results}


def _read_metrics(
    paths: RunPaths, problems: list[str], content: MetricFile | None
) -> dict[str, Any]:
    """Return the facts about metrics, of `content` without summaries."""
    summary = MetricFileSummary()
    try:
        if content is None:
            summary = summarize_metrics(paths, problems)
        else:
            end = (content.last_step, content.unreadable, content.unfinished)
            summary = MetricFileSummary({name: [] for name in content.series}, None, *end)
    except OSError as error:
        problems.append(f"{paths.metrics_file.name} cannot be read: {error.strerror}")
    if summary.unreadable:
        problems.append(f"{summary.unreadable} line(s) of {paths.metrics_file.name} cannot be read")
    return {
        "metrics": summary.metrics,
        "speeds": summary.speeds,
        "last_step": summary.last_step,
        "unfinished_line": summary.unfinished,
    }


def _shorten_path(error: UserError, file: Path) -> str:
    """Return the message of an error with the name of `file` in place of its path."""
    return str(error).replace(str(file), file.name)


# --- in several processes -------------------------------------------------------------------------


def read_many(paths: Sequence[Path]) -> list[Facts]:
    """Read the facts of many runs, in several processes if that is faster."""
    sizes = [_size(RunPaths(path).metrics_file) for path in paths]
    has_affinity = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    n_shares = min(n_cores, _MAX_PROCESSES, 1 + sum(sizes) // _BYTES_PER_PROCESS)
    # The shares are of similar size. This process reads the first one itself.
    order = sorted(range(len(paths)), key=lambda i: -sizes[i])
    shares = [order[first::n_shares] for first in range(n_shares)]
    helpers = [_Helper([paths[i] for i in share]) for share in shares[1:]]
    try:
        facts: dict[int, Facts] = {i: read_facts(paths[i]) for i in shares[0]}
        for share, helper in zip(shares[1:], helpers, strict=True):
            read = helper.facts()
            facts |= dict(zip(share, read, strict=False))
            # If the helper failed, the rest of its share is read here.
            facts |= {i: read_facts(paths[i]) for i in share[len(read) :]}
    finally:
        for helper in helpers:
            helper.end()
    return [facts[i] for i in range(len(paths))]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Helper:
    """A process that reads facts into a temporary file, so that it never waits for a reader."""

    def __init__(self, paths: Sequence[Path]) -> None:
        # `multiprocessing` would run the main script again.
        search_path = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100
        set_path = f"import sys; sys.path[:] = {search_path!r}"
        code = f"{set_path}; {die_with_parent_statement()}; from {__name__} import main; main()"
        self._answers = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=self._answers,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_KEEP_FREED_MEMORY},
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps([str(path) for path in paths]).encode())

    def facts(self) -> list[Facts]:
        """Wait for the process and return the facts in order; only the first ones if it failed."""
        self._process.wait()
        self._answers.seek(0)
        return [json.loads(line) for line in self._answers if line.endswith(b"\n")]

    def end(self) -> None:
        """Stop the process if it is still running."""
        self._process.kill()
        self._process.wait()
        self._answers.close()


def main() -> None:
    """Print the facts of the run directories that stdin lists."""
    with contextlib.suppress(KeyboardInterrupt):
        for path in json.load(sys.stdin):
            sys.stdout.write(json.dumps(read_facts(Path(path))) + "\n")


if __name__ == "__main__":
    main()
