"""The figure of one run's spectra for print."""

from __future__ import annotations

import logging

from spectral_exp.core.errors import UserError
from spectral_exp.plots.run.spectra import spectra_figure
from spectral_exp.plots.theme import LIGHT, render
from spectral_exp.results.document.model import Figure, Source
from spectral_exp.results.paper.passages import passage
from spectral_exp.runs.layout import SPECTRA_NAME
from spectral_exp.runs.run import Run
from spectral_exp.runs.spectra import read_spectra

log = logging.getLogger(__name__)

_DPI = 200


def run_spectra(run: Run) -> Figure | None:
    """Return the spectra of a run over its steps, or None if it recorded none."""
    try:
        spectra = read_spectra(run.path)
    except UserError as error:
        log.warning("%s; the report lacks the spectra", error)
        return None
    if not spectra:
        return None
    caption = passage("report", "spectra")
    png = render(lambda: spectra_figure(spectra, LIGHT), LIGHT, _DPI)
    source = Source(SPECTRA_NAME, (run.run_id,), formula="counts / values")
    return Figure("fig:spectra", caption, {"png": png}, source)
