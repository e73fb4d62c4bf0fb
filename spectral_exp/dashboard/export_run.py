"""What the exported page of one run holds beside its curves: plots, histograms and logs.

A file that is mailed should not hold gigabytes, so each kind has a limit, and the page reports what
was left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.wording import format_count
from spectral_exp.dashboard.addresses import address, path_part
from spectral_exp.dashboard.answers import json_bytes
from spectral_exp.dashboard.details import plots_by_name, spectrum_answer
from spectral_exp.dashboard.log_window import log_files, read_end
from spectral_exp.dashboard.run_files import PlotFile, list_plots, read_plot

MAX_PLOTS_BYTES = 12 << 20
MAX_SPECTRA_BYTES = 8 << 20  # before compression
MAX_LOG_BYTES = 1 << 20  # of the end of each log

Answers = Iterator[tuple[str, bytes]]


def details_without_files(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a run of which the file holds neither plots nor histograms."""
    note = "Saved with many runs, this file holds no plots. Save the page of the run for them."
    has_some = details["plots"] or details["spectra"]
    left_out = [note] if has_some else []
    return {**details, "plots": [], "spectra": [], "has_system": False, "left_out": left_out}


def answers_with_files(details: Mapping[str, Any], key: str, run: Path) -> Answers:
    """Yield the answer with the details of a run, and those with its files."""
    name = f"api/run/{key}"
    plots = list_plots(run)
    kept = choose_plots(plots, MAX_PLOTS_BYTES)
    held = []
    for plot in kept:
        try:
            content = read_plot(run, plot)
        except UserError:  # replaced or removed meanwhile, or no picture
            continue
        held.append(plot)
        yield f"{name}/image/{path_part(plot.plot)}/{plot.step}", content
    spectra = dict(_spectra(details["spectra"], run))
    for kind, content in spectra.items():
        yield address(f"{name}/spectra", {"name": kind}), content
    left_out = []
    if len(held) < len(plots):
        pictures = format_count(len(plots), "picture")
        left_out.append(f"This file holds {len(held):,} of the {pictures} of the run.")
    if len(spectra) < len(details["spectra"]):
        kinds = format_count(len(details["spectra"]), "kind")
        left_out.append(f"This file holds {len(spectra):,} of the {kinds} of histograms.")
    kept_spectra = [one for one in details["spectra"] if one["name"] in spectra]
    yield (
        name,
        json_bytes(
            {
                **details,
                "plots": plots_by_name(held),
                "spectra": kept_spectra,
                "left_out": left_out,
            }
        ),
    )
    for number, content in enumerate(_logs(run)):
        yield address(f"{name}/log", {"file": number}), content


def choose_plots(plots: Sequence[PlotFile], max_bytes: int) -> list[PlotFile]:
    """Return plots of evenly spaced steps, among them the last, that fit into a number of bytes."""
    steps = sorted({plot.step for plot in plots}, reverse=True)
    stride = 1
    while True:
        kept_steps = set(steps[::stride])
        kept = [plot for plot in plots if plot.step in kept_steps]
        if sum(plot.size for plot in kept) <= max_bytes:
            return kept
        if len(kept_steps) <= 1:
            break
        stride *= 2
    fitting, free = [], max_bytes
    for plot in sorted(kept, key=lambda plot: plot.size):
        free -= plot.size
        if free < 0:
            break
        fitting.append(plot)
    return sorted(fitting, key=plots.index)


def _spectra(listed: Sequence[Mapping[str, Any]], run: Path) -> Iterator[tuple[str, bytes]]:
    free = MAX_SPECTRA_BYTES
    for one in listed:
        try:
            content = json_bytes(spectrum_answer(run, one["name"]))
        except UserError:
            continue
        free -= len(content)
        if free < 0:
            return
        yield one["name"], content


def _logs(run: Path) -> Iterator[bytes]:
    files = log_files(run)
    names = [name for name, _ in files]
    for number, name in enumerate(names):
        try:
            end = read_end(run, name, MAX_LOG_BYTES)
        except UserError as error:
            end = {"text": str(error), "size": 0, "held": 0}
        yield json_bytes({"file": number, "names": names, **end})
