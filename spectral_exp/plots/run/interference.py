"""Mixing weights of the tokens of one sentence in each head of a layer.

Letters: H heads, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from spectral_exp.core.series import FloatArray
from spectral_exp.plots.run.tokens import MAX_SENTENCE
from spectral_exp.plots.series import row_entropies
from spectral_exp.plots.text import token_text
from spectral_exp.plots.theme import current_theme, new_figure

MAX_HEADS = 16


def columns_for(n_heads: int) -> int:
    """Return the number of panels side by side; few heads are drawn large."""
    return next((columns for columns in (1, 2, 3) if n_heads <= columns * columns), 4)


def readable_tokens(n_heads: int) -> int:
    """Return how many tokens the axes of a panel can name legibly."""
    return {1: MAX_SENTENCE, 2: 24, 3: 18, 4: 14}[columns_for(n_heads)]


def interference_figure(title: str, weights: FloatArray, texts: Sequence[str]) -> Figure:
    """Return one panel per head: rows are queries, columns keys.

    Args:
        title: heading of the figure.
        weights: (H, T, T) mixing weights; the first `MAX_HEADS` are drawn, and the first tokens
            that the axes can name. Models are causal, so later tokens do not change them.
        texts: T token texts.
    """
    n_tokens = readable_tokens(len(weights))
    shown = weights[:MAX_HEADS, :n_tokens, :n_tokens]
    columns = columns_for(len(shown))
    rows = ceil(len(shown) / columns)
    names = [token_text(text, 6) for text in texts[:n_tokens]]
    cell = min(11.0 / columns, 7.5)
    figure = new_figure(
        current_theme(),
        0.8 + rows * (cell + 0.25),
        title,
        f"first {MAX_HEADS} of {len(weights)} heads" if len(weights) > MAX_HEADS else "",
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    norm = _norm(shown)
    for index, axes in enumerate(panels.flat):
        if index >= len(shown):
            axes.set_axis_off()
            continue
        image = axes.imshow(
            _hide_future(shown[index]), cmap="magma", norm=norm, interpolation="nearest"
        )
        bottom = index + columns >= len(shown)
        _name_tokens(
            axes,
            names,
            left=index % columns == 0,
            bottom=bottom,
            size=11.5 - 0.5 * max(0, columns - 2),
        )
        axes.set_title(f"head {index + 1}")
        axes.set_title(
            f"mixes {_effective_tokens(shown[index]):.1f} tokens",
            loc="right",
            color=current_theme().muted,
            fontsize=12,
        )
    figure.colorbar(
        image, ax=panels, label="weight (share of the mix)", shrink=0.6, aspect=30, pad=0.01
    )
    figure.supxlabel("token looked at", fontsize=13)
    figure.supylabel("token looking", fontsize=13)
    return figure


def _norm(weights: FloatArray) -> Normalize:
    """Return one colour scale for all heads; its square root keeps small weights visible."""
    finite = weights[np.isfinite(weights)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < 0:
        return Normalize(low, max(high, low + 1e-12))
    return PowerNorm(0.5, 0.0, max(high, 1e-12))


def _hide_future(weights: FloatArray) -> FloatArray:
    """Blank the upper triangle of a causal head, which holds no weights."""
    future = np.triu(np.ones_like(weights, dtype=bool), 1)
    return np.where(future, np.nan, weights) if not np.any(weights[future]) else weights


def _effective_tokens(weights: FloatArray) -> float:
    """Return the mean over rows of exp(entropy), the effective number of mixed tokens."""
    return float(np.exp(row_entropies(weights)).mean())


def _name_tokens(
    axes: Axes, names: Sequence[str], *, left: bool, bottom: bool, size: float
) -> None:
    places = list(range(len(names)))
    upright = all(len(name) <= 2 for name in names)
    axes.set_xticks([])
    axes.set_yticks([])
    if bottom:
        axes.set_xticks(
            places,
            labels=names,
            rotation=0 if upright else 90,
            family="DejaVu Sans Mono",
            fontsize=size,
        )
    if left:
        axes.set_yticks(places, labels=names, family="DejaVu Sans Mono", fontsize=size)
    axes.tick_params(length=0)
    axes.grid(False)
