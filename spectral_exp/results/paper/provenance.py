"""`provenance.json`: the sources of a paper, complete enough to make it again and compare."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import read_json
from spectral_exp.results.document.model import figures_of
from spectral_exp.results.document.numbering import Entry, number_document
from spectral_exp.runs.budget import parse_at
from spectral_exp.runs.evaluations import parse_evaluation
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.run import Run
from spectral_exp.runs.schema import Count, Findings, conform

if TYPE_CHECKING:
    from spectral_exp.results.paper.generator import Paper
    from spectral_exp.results.paper.material import Choices

FORMAT = 1
"""The format of `provenance.json`."""

WRITER_VERSION = 7
"""The version of the writer; raise it when the same runs give other bytes."""

_PACKAGES = ("matplotlib", "numpy", "typst", "latex2mathml")


class RecordedRun(TypedDict):
    """A run of a paper."""

    number: Count
    run_id: str
    path: str
    config_hash: str
    files: dict[str, str]


class RecordedNumber(TypedDict):
    """A number of a paper."""

    where: str
    shown: str
    value: Any
    at: str
    runs: list[Count]


class RecordedChoices(TypedDict, total=False):
    """The author's choices."""

    metric: str
    at: str
    baseline: str | None
    margin: float | None
    attribute: str | None
    evaluations: list[str]
    where: list[str]
    group_by: list[str] | None
    title: str | None
    authors: list[str]
    notes: str
    notes_file: str | None


class Provenance(TypedDict):
    """The entries of `provenance.json` that verification reads."""

    format: Count
    name: Literal["paper", "report"]
    made_by: dict[str, str]
    choices: RecordedChoices
    formats: list[Literal["md", "html", "pdf", "tex"]]
    runs: list[RecordedRun]
    left_out: list[list[str]]
    numbers: list[RecordedNumber]
    files: dict[str, str]


def read_provenance(file: Path) -> Provenance:
    """Return the record of a paper.

    Raises:
        UserError: it is missing, damaged, or of another format.
    """
    content = read_json(file)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{file} has the format {content.get('format')!r:.40}; this version knows {FORMAT}"
        )
    provenance = conform(Provenance, content, findings := Findings(file.name))
    if findings.sentences:
        raise UserError(f"{file} was damaged: {findings.sentences[-1]}; write the paper anew")
    return cast("Provenance", provenance)


def record(
    paper: Paper, folder: Path, files: Mapping[str, bytes], formats: Sequence[str], name: str
) -> dict[str, Any]:
    """Return the content of `provenance.json` for a paper in `folder`."""
    runs = paper.material.runs
    return {
        "format": FORMAT,
        "name": name,
        "made_by": made_by(),
        "choices": _choices(paper.material.choices),
        "formats": list(formats),
        "runs": [_run(i, run, folder) for i, run in enumerate(runs, start=1)],
        "left_out": [list(item) for item in paper.material.left_out],
        "numbers": numbers(paper),
        "figures": _figures(paper),
        "files": {file: digest(content) for file, content in sorted(files.items())},
    }


def _choices(choices: Choices) -> dict[str, Any]:
    """Return the choices; later ones that were not made are left out, as in earlier records."""
    later = {"margin", "attribute", "evaluations"}
    return {name: value for name, value in asdict(choices).items() if value or name not in later}


def made_by() -> dict[str, str]:
    """Return the versions of writer and packages on which the bytes of a paper depend."""
    versions = {"writer": str(WRITER_VERSION)}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def numbers(paper: Paper) -> list[dict[str, Any]]:
    """Return every number with its text, place, exact value and source."""
    places = {run.run_id: i for i, run in enumerate(paper.material.runs, start=1)}
    by_id = {run.run_id: run for run in paper.material.runs}
    steps: dict[tuple[str, str, str], int | None] = {}
    return [_number(entry, places, by_id, steps) for entry in paper.entries]


def _number(
    entry: Entry,
    places: Mapping[str, int],
    by_id: Mapping[str, Run],
    steps: dict[tuple[str, str, str], int | None],
) -> dict[str, Any]:
    source = entry.number.source
    taken = set()
    for run_id in source.runs if source.at else ():
        key = (run_id, source.metric, source.at)
        if key not in steps:
            steps[key] = step_of(by_id[run_id], source.metric, source.at)
        taken.add(steps[key])
    return {
        "id": entry.number.id,
        "where": entry.where,
        "shown": entry.number.shown,
        "value": entry.number.value,
        "metric": source.metric,
        "at": source.at,
        "steps": sorted(step for step in taken if step is not None),
        "formula": source.formula,
        "runs": [places[run_id] for run_id in source.runs],
        "config_hashes": list(dict.fromkeys(by_id[run_id].config_hash for run_id in source.runs)),
    }


def step_of(run: Run, metric: str, at: str) -> int | None:
    """Return the step of a value; for a value without a series, the run's last step."""
    if metric == "tokens_per_s":  # a median, of no step
        return None
    if parse_evaluation(metric) is not None:
        return run.final_step(metric)
    summary = run.metrics.get(metric)
    if summary is None:
        return run.last_step or None
    if (budget := parse_at(at)) is not None:
        stop, steps = run.step_within(budget), run.series(metric).steps
        before = steps[steps <= (0 if stop is None else stop)]
        return int(before[-1]) if len(before) else None
    if at == "best":
        lower_is_better = run.metric_info(metric).lower_is_better
        return summary.lowest_step if lower_is_better else summary.highest_step
    return run.final_step(metric)


def _run(number: int, run: Run, folder: Path) -> dict[str, Any]:
    return {
        "number": number,
        "run_id": run.run_id,
        "path": Path(os.path.relpath(run.path.resolve(), folder.resolve())).as_posix(),
        "name": run.name,
        "seed": run.seed,
        "status": run.status,
        "config_hash": run.config_hash,
        "files": run_files(run.path),
    }


def run_files(root: Path) -> dict[str, str]:
    """Return the SHA-256 of the files of a run that a paper reads, if they exist."""
    paths = RunPaths(root)
    found = {}
    metrics = (paths.metrics_file, paths.metrics_summary_file)
    for path in (paths.config_file, paths.results_file, *metrics):
        if path.is_file():
            found[path.relative_to(root).as_posix()] = digest(path.read_bytes())
    return found


def _figures(paper: Paper) -> list[dict[str, Any]]:
    places = {run.run_id: i for i, run in enumerate(paper.material.runs, start=1)}
    labels = number_document(paper.document).labels
    return [
        {
            "where": labels[figure.key],
            "files": [figure.file_name(suffix) for suffix in figure.files],
            "metric": figure.source.metric,
            "at": figure.source.at,
            "formula": figure.source.formula,
            "runs": [places[run_id] for run_id in figure.source.runs],
        }
        for figure in figures_of(paper.document)
    ]


def digest(content: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
