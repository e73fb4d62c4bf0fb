"""Figures of a wave embedding: base frequencies, phases and harmonic amplitudes.

Letters: V vocabulary, N tokens shown, W waves, M harmonics. The tokens have base frequencies f
(N, W) in cycles, phases phi (N, W) in radians and amplitudes a (N, W, M); at position t a wave is
a sin(2 pi m f + phi + gamma t), m = 1..M.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, FigureBase
from matplotlib.projections.polar import PolarAxes
from numpy.typing import NDArray

from spectral_exp.core.series import FloatArray
from spectral_exp.plots.run.tokens import TAU, Tokens, heat_rows, named_rows
from spectral_exp.plots.series import column_means, column_quantiles, even_rows, largest
from spectral_exp.plots.text import number_axis, short_number, token_text
from spectral_exp.plots.theme import current_theme, label, new_figure


def frequency_figure(step: int, tokens: Tokens, freqs: FloatArray) -> Figure:
    """Return base frequencies: heat map by token and wave, histogram, range of each wave."""
    figure = new_figure(current_theme(), 7.0, f"Base frequencies at step {step:,}", tokens.note)
    grid = figure.add_gridspec(2, 2, width_ratios=[1.25, 1])
    heat = figure.add_subplot(grid[:, 0])
    low, high = (float(q) for q in _finite_quantiles(freqs, 0.005, 0.995))
    _token_map(
        figure, heat, tokens, freqs, "frequency f (cycles)", cmap="viridis", vmin=low, vmax=high
    )
    _histogram(
        figure.add_subplot(grid[0, 1]),
        freqs,
        current_theme().series[0],
        "All frequencies",
        "frequency f (cycles)",
    )
    _range_per_wave(figure.add_subplot(grid[1, 1]), freqs)
    return figure


def phase_figure(step: int, tokens: Tokens, phases: FloatArray) -> Figure:
    """Return phases: heat map by token and wave, distribution, alignment of each wave."""
    figure = new_figure(current_theme(), 7.6, f"Phases at step {step:,}", tokens.note)
    left, right = figure.subfigures(1, 2, width_ratios=[1.7, 1])
    wrapped = np.mod(phases, TAU)
    bar = _token_map(
        left,
        left.subplots(),
        tokens,
        wrapped,
        "phase φ (radians)",
        cmap="twilight",
        vmin=0.0,
        vmax=TAU,
    )
    bar.set_ticks(list(np.arange(5) * np.pi / 2), labels=["0", "π/2", "π", "3π/2", "2π"])
    rose, alignment = right.subplots(2, 1, subplot_kw={"projection": "polar"})
    _rose(rose, wrapped)
    _alignment(alignment, phases)
    return figure


def amplitude_figure(step: int, tokens: Tokens, amps: FloatArray) -> Figure:
    """Return amplitudes: mean profile, distribution per harmonic, mean by wave and harmonic."""
    figure = new_figure(current_theme(), 4.6, f"Harmonic amplitudes at step {step:,}", tokens.note)
    profile, distribution, heat = figure.subplots(1, 3, width_ratios=[1, 1.15, 1])
    _profile(profile, np.abs(amps))
    _amplitude_histograms(distribution, amps)
    by_wave = column_means(np.abs(amps))
    harmonics = by_wave.shape[1]
    extent = (0.5, harmonics + 0.5, by_wave.shape[0] + 0.5, 0.5)
    image = heat.imshow(
        by_wave, aspect="auto", interpolation="nearest", cmap="viridis", extent=extent
    )
    label(heat, "Mean size per wave", "harmonic m", "wave w")
    heat.grid(False)
    number_axis(heat, "x", 8, integer=True)
    number_axis(heat, "y", 8, integer=True)
    bar = figure.colorbar(image, ax=heat, label="mean |a|")
    number_axis(bar.ax, "y")
    return figure


def _token_map(
    figure: FigureBase,
    axes: Axes,
    tokens: Tokens,
    values: FloatArray,
    name: str,
    cmap: str,
    vmin: float,
    vmax: float,
) -> Colorbar:
    """Draw a heat map of tokens (rows) by waves (columns); label some rows with id and text."""
    rows = heat_rows(len(values))
    extent = (0.5, values.shape[1] + 0.5, len(rows) - 0.5, -0.5)
    norm = Normalize(vmin, vmax if vmax > vmin else vmin + 1)
    image = axes.imshow(
        values[rows], aspect="auto", interpolation="nearest", cmap=cmap, norm=norm, extent=extent
    )
    ticks = named_rows(len(rows))
    names = [_row_name(tokens, int(tokens.ids[rows[tick]])) for tick in ticks]
    axes.set_yticks(ticks.tolist(), labels=names, family="DejaVu Sans Mono", fontsize=11)
    axes.grid(False)
    label(axes, "Tokens by waves", "wave w", "token text and id" if tokens.texts else "token id")
    number_axis(axes, "x", 9, integer=True)
    return figure.colorbar(image, ax=axes, label=name, pad=0.015, aspect=45)


def _row_name(tokens: Tokens, token: int) -> str:
    return (
        f"{token_text(tokens.texts[token], 8)} {token:>4}" if token in tokens.texts else str(token)
    )


def _histogram(axes: Axes, values: FloatArray, color: str, title: str, name: str) -> None:
    finite = values[np.isfinite(values)]
    axes.hist(finite, bins=_bins(finite).tolist(), color=color, alpha=0.85)
    if finite.size:
        middle = float(np.median(finite))
        axes.axvline(middle, color=current_theme().series[1], linewidth=2)
        axes.set_title(
            f"median {short_number(middle)}", loc="right", color=current_theme().series[1]
        )
    label(axes, title, name, "number of waves")
    number_axis(axes, "x", 6)
    number_axis(axes, "y", 4, integer=True)


def _bins(finite: FloatArray) -> FloatArray:
    """Return the edges of 8 to 60 equal bins over the range of `finite`."""
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, int(np.clip(np.sqrt(finite.size), 8, 60)) + 1)


def _finite_quantiles(values: FloatArray, *quantiles: float) -> FloatArray:
    finite = values[np.isfinite(values)]
    return (
        np.quantile(finite, quantiles, method="nearest")
        if finite.size
        else np.zeros(len(quantiles))
    )


def _range_per_wave(axes: Axes, freqs: FloatArray) -> None:
    waves = np.arange(1, freqs.shape[1] + 1)
    low, middle, high = column_quantiles(freqs, [0.05, 0.5, 0.95])
    _middle_and_spread(axes, waves, middle, low, high, current_theme().series[2])
    label(axes, "Each wave: median, 5 to 95 % shaded", "wave w", "frequency f (cycles)")
    number_axis(axes, "x", 8, integer=True)
    number_axis(axes, "y")


def _middle_and_spread(
    axes: Axes,
    x: NDArray[np.int64],
    middle: FloatArray,
    low: FloatArray,
    high: FloatArray,
    color: str,
) -> None:
    """Draw a line in a shaded band, or a dot on a bar for a single point."""
    if len(x) == 1:
        axes.vlines(x, low, high, color=color, alpha=0.4, linewidth=12)
    axes.fill_between(x, low, high, color=color, alpha=0.3, linewidth=0)
    axes.plot(x, middle, color=color, marker="o" if len(x) <= 32 else "", markersize=5)
    axes.set_xlim(0.5, len(x) + 0.5)


def _rose(axes: PolarAxes, wrapped: FloatArray) -> None:
    """Draw a histogram round the circle; the area of a petal, not its length, is its share."""
    finite = wrapped[np.isfinite(wrapped)]
    counts, edges = np.histogram(finite, bins=36, range=(0, TAU))
    even = max(finite.size / 36, 1e-12)
    axes.bar(
        (edges[:-1] + edges[1:]) / 2,
        np.sqrt(counts / even),
        width=TAU / 36,
        color=current_theme().series[0],
        alpha=0.85,
        edgecolor=current_theme().panel,
        linewidth=0.4,
    )
    axes.plot(
        np.linspace(0, TAU, 200), np.ones(200), color=current_theme().series[1], linewidth=1.6
    )
    axes.set_title("Density (orange: uniform)", pad=14, loc="center")
    axes.set_yticks([])
    _angle_ticks(axes)


def _alignment(axes: PolarAxes, phases: FloatArray) -> None:
    """Draw the mean direction of each wave's phases; the radius is their agreement."""
    resultant = column_means(np.cos(phases)) + 1j * column_means(np.sin(phases))
    waves = np.arange(1, len(resultant) + 1)
    length = np.abs(resultant)
    axes.scatter(
        np.angle(resultant) % TAU,
        length,
        c=waves,
        cmap="viridis",
        s=42,
        edgecolor="white",
        linewidth=0.5,
    )
    top = next((r for r in (0.1, 0.2, 0.5) if largest(length) <= 0.95 * r), 1.0)
    axes.set_ylim(0, top)
    axes.set_yticks([top / 2, top], labels=[short_number(top / 2), short_number(top)])
    axes.set_rlabel_position(22.5)
    axes.tick_params(axis="y", labelsize=11)
    axes.set_title("Mean per wave, radius = alignment", pad=14, loc="center")
    _angle_ticks(axes)


def _angle_ticks(axes: PolarAxes) -> None:
    axes.set_xticks(list(np.arange(4) * np.pi / 2), labels=["0", "π/2", "π", "3π/2"])
    axes.grid(color=current_theme().grid)
    axes.spines["polar"].set_color(current_theme().grid)


def _profile(axes: Axes, sizes: FloatArray) -> None:
    harmonics = np.arange(1, sizes.shape[2] + 1)
    flat = sizes.reshape(-1, sizes.shape[2])
    mean = column_means(flat)
    low, high = column_quantiles(flat, [0.1, 0.9])
    _middle_and_spread(axes, harmonics, mean, low, high, current_theme().series[0])
    label(axes, "Mean profile, 10 to 90 % shaded", "harmonic m", "size |a| of the amplitude")
    axes.set_ylim(0, max(largest(high), largest(mean), 1e-12) * 1.08)
    number_axis(axes, "x", 8, integer=True)
    number_axis(axes, "y")


def _amplitude_histograms(axes: Axes, amps: FloatArray) -> None:
    """Draw the outlines of the amplitudes' distribution, for at most six harmonics."""
    low, high = _finite_quantiles(amps, 0.001, 0.999)
    bins = _bins(np.clip(amps[np.isfinite(amps)], low, high))
    for color, index in zip(current_theme().series, even_rows(amps.shape[2], 6), strict=False):
        values = amps[:, :, index]
        counts, _ = np.histogram(values[np.isfinite(values)], bins=bins)
        density = counts / (max(values.size, 1) * np.diff(bins))
        axes.stairs(density, bins, color=color, linewidth=2, label=f"m = {index + 1}")
    label(axes, "Distribution per harmonic", "amplitude a", "density")
    number_axis(axes, "x", 5)
    number_axis(axes, "y")
    axes.legend(loc="upper right", fontsize=11, handlelength=1.4)
