"""Repeat a run from its record: `python -m spectral_exp reproduce outputs/<run>`.

A new run is trained with the overrides of the first attempt and the recorded code, from a temporary
clone if the checkout is at another commit. It is compared with the old run: fingerprints of the
text, every metrics line and the results. Differences in settings, machine and packages are listed
as likely reasons.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import spectral_exp
from spectral_exp.config import trust
from spectral_exp.core.display import print_error
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.git import CODE_VARIABLE, NO_GIT_HASH, code_directory
from spectral_exp.core.json_files import write_json_atomic
from spectral_exp.core.parent import die_with_parent_statement
from spectral_exp.core.redact import redact
from spectral_exp.core.timestamps import timestamp
from spectral_exp.monitoring import MetricsLogger
from spectral_exp.runs.differences import (
    are_equal,
    code_differences,
    environment_differences,
    list_differences,
    own_code_differences,
    package_differences,
    settings_differences,
)
from spectral_exp.runs.layout import REPRODUCTION_NAME, RunPaths
from spectral_exp.runs.metric_lines import RESERVED, last_entry
from spectral_exp.runs.metric_names import machine_metrics, metric_info
from spectral_exp.runs.output_file import refuse_loss
from spectral_exp.runs.overrides import (
    PLACE,
    changed_settings,
    flatten,
    is_among,
    matters_for_logs,
    setting_of,
)
from spectral_exp.runs.parentage import SETTING
from spectral_exp.runs.planned import refuse_time_budget
from spectral_exp.runs.record import ResultsRecord, read_results
from spectral_exp.runs.status import BROKEN, FINISHED
from spectral_exp.runs.training_record import read_record, recorded_patch
from spectral_exp.verification.recorded_code import REMEDY, recorded_code
from spectral_exp.verification.recorded_packages import OwnPlaces, recorded_packages

# The results that training determines. The best checkpoint also depends on which checkpoints are
# kept, and other results depend on the machine.
_RESULTS = ("status", "final_metrics", "best_metrics", "generation_samples", "reference", "totals")
_TIMED_RESULTS = tuple(
    f"totals.{name}" for name in ("train_s", "cpu_s", "device_s", "time_s", "tokens_per_s")
)
_PACKAGE_ROOT = Path(spectral_exp.__file__).resolve().parent.parent
_LAST_MESSAGES_S = 5.0  # a child process of the training may keep its standard error open
# `python -m` would search the current folder first, which may be a checkout of another version.
_TRAIN = (
    "import sys; sys.path[0] = sys.argv.pop(1); "
    "from spectral_exp.train import main; sys.exit(main())"
)

Code = Literal["known", "trusted", "current"]
"""The code that may train; `reproduce` explains the values."""


@dataclass(frozen=True)
class Extent:
    """The part of a run to repeat.

    Attributes:
        last: the last logged step to repeat.
        to_the_end: whether that is the end of the run, so that the results are compared too.
        status: status of the original run in its results, or "not over".
    """

    last: int
    to_the_end: bool
    status: str


def reproduce(
    run: Path, output: Path, *, steps: int | None = None, code: Code = "known"
) -> dict[str, Any]:
    """Repeat a run in `output`, compare the two, and write a report to `output`.

    Args:
        run: the run directory, which is not changed.
        output: directory of the new run; must not exist.
        steps: stop at the first logged step that is at least this one; None repeats the whole run.
        code: "known" uses the code of the run if its commit is in the history of this repository;
            "trusted" also allows other commits and uncommitted changes; "current" uses the current
            code.

    Returns:
        The report, as `compare_runs` describes it.

    Raises:
        UserError: the run does not exist or was continued with other settings, its code cannot be
            found, or training failed.
    """
    require(steps is None or steps >= 1, "--steps", steps, ">= 1")
    record, paths = read_record(run), RunPaths(run)
    refuse_time_budget(run, record["config"])
    if os.path.lexists(output):
        raise UserError(f"{output} exists; remove it, or choose another directory with --output")
    refuse_loss(output)
    extent = _extent(paths, steps)
    _refuse_changed_settings(run, record, extent.last)
    is_current, is_trusted = code == "current", code == "trusted"
    if not is_current:
        _refuse_several_versions(record, extent.last)
    with ExitStack() as stack:
        own = stack.enter_context(
            recorded_packages(paths, record, is_trusted=is_trusted, is_current=is_current)
        )
        overrides = _overrides(run, record, output, own)
        folders = [_PACKAGE_ROOT, code_directory()]
        if not is_current:
            code_of_run = recorded_code(paths, record, overrides, is_trusted=is_trusted)
            folders = stack.enter_context(code_of_run)
        _train(folders, overrides, RunPaths(output), extent, own.restored)
    report = compare_runs(run, output, extent)
    write_json_atomic(output / REPRODUCTION_NAME, redact(report))
    return report


def compare_runs(run: Path, new: Path, extent: Extent) -> dict[str, Any]:
    """Compare a run with its repetition within `extent`; write nothing.

    Returns:
        `verdict` ("identical" or "different", by data, metrics and results), `differences` in
        `code`, `settings`, `environment`, `data`, `metrics` and `results`, the numbers of compared
        lines and values, and `not_compared`.
    """
    from spectral_exp.config.components import component_prefixes

    before, after = RunPaths(run), RunPaths(new)
    record, again = read_record(run), read_record(new)
    own_prefixes = (*component_prefixes(), *record.get("machine_metric_prefixes", ()))
    lines, values, metrics = _compare_metrics(
        _metrics(before), _metrics(after), extent.last, own_prefixes
    )
    differences = {
        "code": code_differences(
            record["git"],
            recorded_patch(before, record["git"]),
            again["git"],
            recorded_patch(after, again["git"]),
        )
        + package_differences(record, again)
        + own_code_differences(record, again),
        "environment": environment_differences(record, again),
        "data": list_differences(_inputs(record), _inputs(again)),
        "metrics": metrics,
    }
    own = record.get("machine_metric_prefixes", ())
    of_machine = ["timestamp", *machine_metrics(), *own, *_TIMED_RESULTS]
    not_compared = [f"measurements of the machine: {', '.join(of_machine)}"]
    if changed_settings(record["attempts"]):
        not_compared.append("settings: the record has only those of the last attempt")
    else:
        # The address of the initial weights may differ; their checksum is compared with the data.
        differences["settings"] = settings_differences(
            record["config"],
            again["config"],
            lambda name: matters_for_logs(name) and name != SETTING,
        )
    if extent.to_the_end:
        differences["results"] = list_differences(
            *(_training_results(read_results(p.results_file)[0]) for p in (before, after))
        )
    else:
        not_compared.append(
            f"final results: compared up to step {extent.last}, and the run is {extent.status}"
        )
    is_different = any(map(differences.get, ("data", "metrics", "results")))
    return {
        "run": run.resolve().name,
        "timestamp": timestamp(),
        "verdict": "different" if is_different else "identical",
        "steps": extent.last,
        "lines_compared": lines,
        "values_compared": values,
        "not_compared": not_compared,
        "differences": differences,
    }


def _inputs(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fingerprints of the text, and the checksum of the initial weights if recorded."""
    weights = (record.get("parent") or {}).get("weights_sha256")
    return {**(record.get("dataset") or {}), **({"initial_weights": weights} if weights else {})}


# --- the extent ------------------------------------------------------------------------------


def _extent(paths: RunPaths, steps: int | None) -> Extent:
    """Return the part of the run to repeat if `steps` steps are requested (None for all)."""
    logged = [int(entry["step"]) for entry in _metrics(paths)]
    if not logged:
        raise UserError(f"{paths.root} has not logged metrics, so a repetition cannot be compared")
    last = logged[-1]
    if steps is not None:
        last = next((step for step in logged if step >= steps), last)
    results: ResultsRecord = {}
    if paths.results_file.is_file():
        results = read_results(paths.results_file)[0]
    status = results.get("status", "not over")
    # While a finished run is prolonged, its results still have the former number of steps.
    is_end = status in FINISHED and results.get("totals", {}).get("steps") == last
    return Extent(last, is_end, status)


def _refuse_changed_settings(run: Path, record: Mapping[str, Any], last: int) -> None:
    """Raise a UserError if the run was continued with other settings before step `last`."""
    for step, change in changed_settings(record["attempts"]):
        if step < last:
            raise UserError(
                f"{run} was continued after step {step} with other settings ({change}), so a "
                f"single run cannot repeat it; --steps {step} repeats the steps before"
            )


def _overrides(run: Path, record: Mapping[str, Any], output: Path, own: OwnPlaces) -> list[str]:
    """Return the overrides of the first attempt, with `output` as the run directory.

    Args:
        run: the run directory.
        record: its record.
        output: the new run directory.
        own: where the user's packages and configuration files are.
    """
    first = record["attempts"][0]
    left_out = (
        *PLACE, "monitoring.backup", "monitoring.companion", "monitoring.system", SETTING
    )  # fmt: skip
    # The number of processes may change the last bits.
    moved = ("distributed",) if own.packages else ("distributed", "packages")
    kept = [o for o in first["overrides"] if is_among(setting_of(o), moved)]
    kept += [o for o in first["overrides"] if not is_among(setting_of(o), left_out)]
    processes = first.get("processes", 1)
    overrides = [*kept, f"distributed.nproc={processes}"] if processes > 1 else kept
    secret = [setting_of(o) for o in overrides if "<redacted>" in o]
    if secret:
        raise UserError(
            f"{', '.join(secret)} is a secret, which is never written to a file, so the run cannot "
            "be repeated from its record"
        )
    # The overrides of a sweep's job include its name and seed.
    from spectral_exp.config.command_line import (
        format_value,
        known_search,
        plain_search,
        quote,
        trusted_overrides,
    )

    search = first.get("search") or []
    known = known_search(search) if search else {}
    if own.config_dir is not None and (named := plain_search(search)) is not None:
        known = {**named, "--config-dir": str(own.config_dir)}
    if known is None:
        raise UserError(
            "the run was made with configuration files from elsewhere "
            f"({' '.join(map(str, search))}), which its record does not hold and you have not used "
            "on this machine; train it with its own command"
        )
    files = _text_settings(run, record)
    overrides = [
        o for o in trusted_overrides(overrides, "the run", files) if setting_of(o) not in files
    ]
    overrides += [f"{key}={quote(path)}" for key, path in files.items()]
    if (address := _parent_address(run, record)) is not None:
        overrides.append(f"{SETTING}={quote(address)}")
    if own.packages:
        overrides.append(f"packages={format_value(own.packages)}")
    flags = [word for pair in known.items() for word in pair]
    return [*flags, *overrides, f"hydra.run.dir={quote(str(output.absolute()))}"]


def _parent_address(run: Path, record: Mapping[str, Any]) -> str | None:
    """Return the value of `init_from` that names the initial weights of the run, if it has some."""
    from spectral_exp.config.starting_point import pin_parent

    config = {SETTING: record["config"].get(SETTING)}
    pin_parent(run, config, record.get("parent"))
    address: str | None = config[SETTING]
    return address


def _text_settings(run: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that locate the text of the run, with absolute paths.

    Raises:
        UserError: the text differs from that of the run.
    """
    config = trust.recorded_config(record)
    trust.refuse_other_files(run, config, record.get("dataset") or {})
    found = trust.named_files(config)
    if "data.path" in found and isinstance(pattern := config["data"].get("pattern"), str):
        found["data.pattern"] = pattern
    return found


# --- training --------------------------------------------------------------------------------


def _refuse_several_versions(record: Mapping[str, Any], last: int) -> None:
    """Raise a UserError if the steps up to `last` were made by several versions of the code."""
    git, attempts = record["git"], record["attempts"]
    # The record has only the uncommitted changes of the last attempt.
    counted = [a for a in attempts if a is attempts[0] or a["from_step"] < last]
    # Earlier versions of this package recorded none.
    known = {str(a["own_code"]) for a in (*counted, attempts[-1]) if "own_code" in a}
    if len(known) > 1:
        raise UserError(
            f"the run was made by several versions of your own packages in turn; {REMEDY}"
        )
    used = {a["git_hash"] for a in counted}
    if others := sorted(hash_ for hash_ in used if hash_ != (git["hash"] or NO_GIT_HASH)[:8]):
        versions = ", ".join([*others, str(git["hash"])])
        raise UserError(
            f"the run was made by several versions of the code ({versions}) in turn; {REMEDY}"
        )


def _train(
    code: Sequence[Path],
    overrides: Sequence[str],
    new: RunPaths,
    extent: Extent,
    restored: Path | None,
) -> None:
    """Train in a new process, to the end or until step `extent.last` is logged.

    Args:
        code: the folders of this package and of the user's code.
        overrides: of the command.
        new: the new run directory.
        extent: what to repeat.
        restored: a folder with packages of the user, which counts before all others.
    """
    path = os.pathsep.join(filter(None, [*map(str, code), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    if restored is not None:
        # That the user trains with these temporary files is not remembered.
        environment["XDG_STATE_HOME"] = str(restored / ".state")
    if code[-1] not in (_PACKAGE_ROOT, code_directory()):
        environment[CODE_VARIABLE] = str(code[-1])
    folders = [*code, *([restored] if restored else [])]
    print(
        f"training {new.root} with the code in {' and '.join(dict.fromkeys(map(str, folders)))}",
        flush=True,
    )
    train = f"{die_with_parent_statement(signal.SIGTERM)}; {_TRAIN}"
    process = subprocess.Popen(
        [sys.executable, "-c", train, str(restored or code[0]), *overrides],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    )
    messages = _Messages(cast("IO[str]", process.stderr))
    try:
        needs_stop = not extent.to_the_end
        while process.poll() is None:
            time.sleep(0.2)
            if needs_stop and _last_step(new) >= extent.last:
                needs_stop = False
                messages.hold()
                process.send_signal(signal.SIGTERM)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        messages.join(_LAST_MESSAGES_S)
    _check_end(process.returncode, new, extent, messages)


def _check_end(exit_code: int, new: RunPaths, extent: Extent, messages: _Messages) -> None:
    """Raise UserError unless the repeated training has ended as it should."""
    expected = {0}
    if not extent.to_the_end:
        # The signal may reach a process that is already exiting.
        expected |= {128 + signal.SIGTERM, -signal.SIGTERM}
    if extent.status in BROKEN:
        expected.add(1)  # the repetition fails too
    if exit_code not in expected:
        messages.print_held()
        raise UserError(
            f"the repeated training failed with exit code {exit_code}; its messages are above"
        )
    if _last_step(new) < extent.last:
        raise UserError(
            f"the repeated training ended at step {_last_step(new)}, but the run has logged step "
            f"{extent.last}"
        )


class _Messages(threading.Thread):
    """Prints the standard error of a process until `hold` is called; later lines are kept.

    After the last step this module stops the process by a signal. The process reports that signal,
    which would confuse a user who has not sent it.
    """

    def __init__(self, source: IO[str]) -> None:
        super().__init__(name="messages", daemon=True)
        self._source = source
        self._is_held = threading.Event()
        self._held: list[str] = []
        self.start()

    def run(self) -> None:
        """Read until the process closes its standard error."""
        with self._source as lines:
            for line in lines:
                if self._is_held.is_set():
                    self._held.append(line)
                else:
                    print_error(line.rstrip("\n"))

    def hold(self) -> None:
        """Keep later lines instead of printing them."""
        self._is_held.set()

    def print_held(self) -> None:
        """Print the kept lines."""
        for line in self._held:
            print_error(line.rstrip("\n"))


def _last_step(paths: RunPaths) -> int:
    """Return the step of the newest whole metrics line, or 0."""
    entry = last_entry(paths.metrics_file)
    return 0 if entry is None else int(entry["step"])


# --- comparison ------------------------------------------------------------------------------


def _metrics(paths: RunPaths) -> list[dict[str, Any]]:
    return MetricsLogger(paths.logs, enabled=False).load_metrics()


def _compare_metrics(
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    last: int,
    own_prefixes: tuple[str, ...],
) -> tuple[int, int, list[str]]:
    """Return the numbers of compared lines and values, and the first difference of each metric."""
    lines, values = 0, 0
    first: dict[str, str] = {}
    old, new = ({entry["step"]: entry for entry in entries} for entries in (before, after))
    for step in sorted(step for step in {*old, *new} if step <= last):
        if step not in old or step not in new:
            missing = "by its repetition" if step not in new else "by the run"
            first.setdefault("lines", f"lines: step {step} was not logged {missing}")
            continue
        lines += 1
        for name in sorted({*old[step], *new[step]}):
            is_of_machine = metric_info(name).measures_machine or name.startswith(own_prefixes)
            if name in RESERVED or is_of_machine:
                continue
            values += 1
            a, b = old[step].get(name, "absent"), new[step].get(name, "absent")
            if not are_equal(a, b):
                size = f", by {b - a:.3g}" if isinstance(a, float) and isinstance(b, float) else ""
                first.setdefault(name, f"{name} at step {step}: {a} -> {b}{size}")
    return lines, values, [first[name] for name in sorted(first)]


def _training_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted name -> value of the results that training determines."""
    chosen = {name: results.get(name) for name in _RESULTS}
    return {name: value for name, value in flatten(chosen) if name not in _TIMED_RESULTS}
