"""Figure of the inside of a model over the steps of a run: one heat map per quantity.

Letters: S steps, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from spectral_exp.core.series import FloatArray
from spectral_exp.plots.text import log_axis, number_axis
from spectral_exp.plots.theme import Theme, new_figure
from spectral_exp.runs.spectra import Spectrum

_COLUMNS = 3
_ROW_HEIGHT = 1.45
_MAX_COLUMNS = 400
"""Steps side by side in a panel; more are merged, each bin with its largest share."""

_HEADS = "/head_"


def spectra_figure(spectra: Sequence[Spectrum], theme: Theme) -> Figure:
    """Return a panel per quantity: steps along, values up, the share of values as the colour.

    The heads of a layer share a panel. Left out are bins that stay empty at both ends, and the
    first bin of sizes, which holds the zeros. A triangle marks steps with NaN.
    """
    shown = pool_heads(spectra)
    rows = ceil(len(shown) / _COLUMNS)
    figure = new_figure(theme, _ROW_HEIGHT * rows * theme.width / 6.5)
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes, spectrum in zip(panels, shown, strict=False):
        _draw_heat(axes, spectrum, theme)
    for axes in panels[len(shown) :]:
        axes.remove()
    figure.supxlabel("step", fontsize=theme.font_size)
    return figure


def pool_heads(spectra: Sequence[Spectrum]) -> list[Spectrum]:
    """Return the spectra with those of the heads of a layer added up into one."""
    pooled: dict[object, Spectrum] = {}
    for spectrum in spectra:
        layer, is_head, _ = spectrum.name.partition(_HEADS)
        key = (layer, spectrum.bins, spectrum.steps.tobytes() if is_head else None)
        if is_head and key in pooled:
            before = pooled[key]
            counts, n_nan = before.counts + spectrum.counts, before.n_nan + spectrum.n_nan
            pooled[key] = replace(before, counts=counts, n_nan=n_nan)
        else:
            title = spectrum.title.rpartition(", head")[0] if is_head else spectrum.title
            pooled[key] = replace(spectrum, name=layer, title=title or spectrum.title)
    return list(pooled.values())


def _draw_heat(axes: Axes, spectrum: Spectrum, theme: Theme) -> None:
    shares, edges = _merge_steps(spectrum)
    used = spectrum.used_bins
    values = spectrum.edges[used.start : used.stop + 1]
    norm = PowerNorm(0.5, 0.0)
    axes.pcolormesh(edges, values, shares[:, used].T, cmap="magma", norm=norm, rasterized=True)
    axes.grid(False)
    axes.set_title(spectrum.title, fontsize=0.95 * theme.font_size)
    axes.set_ylabel(spectrum.unit, fontsize=0.9 * theme.font_size)
    axes.tick_params(labelsize=0.85 * theme.font_size)
    if spectrum.is_logarithmic:
        axes.set_ylim(values[0], values[-1])
        log_axis(axes)
    else:
        number_axis(axes, "y", 4)
    number_axis(axes, "x", 3, integer=True)
    with_nan = spectrum.steps[spectrum.n_nan > 0]
    axes.plot(
        with_nan,
        np.full(len(with_nan), 0.94),
        "v",
        color=theme.alert,
        markersize=theme.marker_size,
        transform=axes.get_xaxis_transform(),
    )


def _merge_steps(spectrum: Spectrum) -> tuple[FloatArray, FloatArray]:
    """Return the share of values in each bin (columns, B), and the edges of the columns."""
    totals = np.maximum(spectrum.counts.sum(axis=1, keepdims=True), 1)
    shares: FloatArray = spectrum.counts / totals
    steps = spectrum.steps.astype(np.float64)
    if len(steps) > _MAX_COLUMNS:
        starts = np.linspace(0, len(steps), _MAX_COLUMNS + 1).astype(np.intp)[:-1]
        shares, steps = np.maximum.reduceat(shares, starts, axis=0), steps[starts]
    half = np.diff(steps) / 2 if len(steps) > 1 else np.array([0.5])
    inner = (steps[1:] + steps[:-1]) / 2
    return shares, np.concatenate([[steps[0] - half[0]], inner, [steps[-1] + half[-1]]])
