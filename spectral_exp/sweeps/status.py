"""The status of a sweep: a line for each planned job, read from its run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.wording import format_count
from spectral_exp.results.table_data import as_csv, as_json
from spectral_exp.results.table_formats import Cell, TableReport, TextTable
from spectral_exp.runs.layout import SWEEP_NAME
from spectral_exp.runs.load import load_run
from spectral_exp.sweeps.ledger import Ledger, read_ledger
from spectral_exp.sweeps.names import find_folders
from spectral_exp.sweeps.report import command_to_continue, count_states
from spectral_exp.sweeps.search.report import SearchReport, read_searches
from spectral_exp.sweeps.states import read_state
from spectral_exp.training.progress import duration

FORMATS = ("table", "csv", "json")


@dataclass(frozen=True)
class JobStatus:
    """The status of one job.

    Attributes:
        job: the name of its folder.
        state: done, running, interrupted, failed or waiting.
        status: of its results; "" without results.
        step: the last step of a job that is not done; None if it has not begun or is done.
        max_steps: its last step when it is done; None if `step` is None or it is unknown.
        remaining_s: seconds of training that are left for a running job, at its rate until now;
            None if that is unknown.
        reason: why it failed, or cannot be read.
    """

    job: str
    state: str
    status: str
    step: int | None = None
    max_steps: int | None = None
    remaining_s: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class SweepStatus:
    """The status of a sweep.

    Attributes:
        folder: of the sweep.
        commands: the commands that continue it, of which there are several if its jobs were planned
            by several; none if they are unknown.
        jobs: in the order in which they were planned.
        problems: of its ledger.
        searches: those that have proposed jobs of the sweep.
    """

    folder: Path
    commands: Sequence[str]
    jobs: Sequence[JobStatus]
    problems: Sequence[str] = ()
    searches: Sequence[SearchReport] = ()

    @property
    def remaining_s(self) -> float | None:
        """Seconds until all jobs are done; None unless every job that is left runs."""
        left = [job for job in self.jobs if job.state != "done"]
        times = [job.remaining_s for job in left if job.remaining_s is not None]
        return max(times) if left and len(times) == len(left) else None


def find_sweep(name: str) -> Path:
    """Return the folder of a sweep by its path, or by its name in `outputs`.

    Raises:
        UserError: there is no such sweep.
    """
    candidates = [Path(name), Path("outputs") / name]
    for folder in candidates:
        if (folder / SWEEP_NAME).is_file() or (folder.is_dir() and find_folders(folder)):
            return folder
    places = " or ".join(map(str, candidates))
    raise UserError(f"there is no sweep {places}; name one by its folder")


def read_status(folder: Path) -> SweepStatus:
    """Return the status of the sweep in `folder`, also while it runs."""
    problems = []
    ledger, names = Ledger(), list(find_folders(folder).values())
    try:
        ledger = read_ledger(folder)
        planned = [job.folder for job in ledger.jobs.values()]
        names = [*planned, *(name for name in names if name not in planned)]
    except UserError as error:
        problems.append(str(error))
    jobs = [_read_job(folder / name) for name in names]
    left = {job.job for job in jobs if job.state != "done"}
    commands = ledger.commands_of(key for key, job in ledger.jobs.items() if job.folder in left)
    lines = [command_to_continue(arguments) for arguments in commands]
    return SweepStatus(folder, lines, jobs, problems, read_searches(folder))


def _read_job(run: Path) -> JobStatus:
    state = read_state(run)
    if state.state in ("done", "waiting"):
        return JobStatus(run.name, state.state, state.status)
    try:
        loaded = load_run(run)
    except UserError as error:
        return JobStatus(run.name, state.state, state.status, reason=state.reason or str(error))
    last = loaded.planned_steps
    rate, tokens = loaded.value("tokens_per_s"), loaded.tokens_per_step
    remaining_s = None
    if state.state == "running" and last is not None and rate and tokens:
        remaining_s = max(last - loaded.last_step, 0) * tokens / rate
    return JobStatus(
        run.name, state.state, state.status, loaded.last_step, last, remaining_s, state.reason
    )


def render_status(status: SweepStatus, form: str) -> str:
    """Return the status of a sweep in one of `FORMATS`."""
    rows = [asdict(job) for job in status.jobs]
    if form == "csv":
        return as_csv(rows)
    counts = Counter(job.state for job in status.jobs)
    if form == "json":
        content = {
            "sweep": status.folder.name,
            "path": str(status.folder),
            "command": status.commands[-1] if status.commands else "",
            "commands": list(status.commands),
            "counts": dict(counts),
            "remaining_s": status.remaining_s,
            "jobs": rows,
            "searches": [search.content() for search in status.searches],
            "problems": list(status.problems),
        }
        return as_json(content, ())
    title = f"{status.folder}: {format_count(len(status.jobs), 'job')}"
    if counts:
        title += f", {count_states(counts.elements())}"
    if status.remaining_s is not None:
        title += f", about {duration(status.remaining_s)} left"
    reasons = [f"{job.job}: {job.reason}" for job in status.jobs if job.reason]
    notes = [("reasons", reasons), ("problems", list(status.problems))]
    tables = [_table(title, status.jobs), *(search.table() for search in status.searches)]
    text = TableReport(tables, notes).render("table")
    lines = [f"to continue it: {command}\n" for command in status.commands]
    return "\n".join([text, "".join(lines)]) if lines else text


def _table(title: str, jobs: Sequence[JobStatus]) -> TextTable:
    rows = [
        [
            Cell(job.job),
            Cell("done (pruned)" if job.status == "pruned" else job.state),
            Cell("" if job.step is None else f"{job.step}/{job.max_steps or '?'}"),
            Cell("" if job.remaining_s is None else duration(job.remaining_s)),
        ]
        for job in jobs
    ]
    columns = ("job", "state", "step", "left")
    # A column without entries is left out.
    used = [i for i in range(len(columns)) if i < 2 or any(row[i].text for row in rows)]
    shown = [[row[i] for i in used] for row in rows]
    return TextTable(title, [columns[i] for i in used], shown, n_texts=2)
