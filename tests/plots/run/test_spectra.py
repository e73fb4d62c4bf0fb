"""The figure of spectra shows every quantity, step and NaN."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from spectral_exp.core.series import IntArray
from spectral_exp.plots.run import spectra as figures
from spectral_exp.plots.run.spectra import pool_heads, spectra_figure
from spectral_exp.plots.theme import LIGHT, render, use_theme
from spectral_exp.runs.spectra import FAMILIES, Spectrum, describe


def spectrum(name: str, counts: IntArray, n_nan: list[int] | None = None) -> Spectrum:
    n = len(counts)
    bins = FAMILIES[name.partition("/")[0]].bins
    nan = np.array(n_nan or [0] * n)
    return Spectrum(name, *describe(name), bins, 10 * np.arange(1, n + 1), counts, nan)


def one_bin(name: str, steps: int, place: int, n: int = 4) -> Spectrum:
    counts = np.zeros((steps, FAMILIES[name.partition("/")[0]].bins.n), dtype=np.int64)
    counts[:, place] = n
    return spectrum(name, counts)


def drawn(*spectra: Spectrum) -> Figure:
    figure: list[Figure] = []

    def draw() -> Figure:
        figure.append(spectra_figure(spectra, LIGHT))
        return figure[0]

    assert render(draw, LIGHT, 40).startswith(b"\x89PNG")
    return figure[0]


def shares(figure: Figure, panel: int = 0) -> list[list[float]]:
    (mesh,) = [c for c in figure.axes[panel].collections if isinstance(c, QuadMesh)]
    values = mesh.get_array()
    assert values is not None
    return np.asarray(values).tolist()  # type: ignore[no-any-return]


def test_heads_of_a_layer_are_added_up() -> None:
    names = [f"attention_entropy/layer_{layer}/head_{head}" for layer in (1, 2) for head in (1, 2)]
    pooled = pool_heads(
        [one_bin(name, 2, place) for place, name in enumerate(names)]
        + [one_bin("weights/head", 2, 9)]
    )
    assert [each.title for each in pooled] == [
        "Attention entropy: layer 1",
        "Attention entropy: layer 2",
        "Weights: head",
    ]
    assert pooled[0].counts[:, :3].tolist() == [[4, 4, 0]] * 2
    assert pooled[1].counts[:, 1:5].tolist() == [[0, 4, 4, 0]] * 2


def test_a_panel_shows_shares_without_empty_ends_and_zeros() -> None:
    counts = np.zeros((2, 48), dtype=np.int64)
    counts[0, [0, 30, 32]] = [6, 1, 1]
    counts[1, 31] = 2
    figure = drawn(spectrum("gradients/mlp", counts), one_bin("phases", 2, 5))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Gradients: mlp", "Phases"]
    assert shares(figure) == [[0.125, 0], [0, 1], [0.125, 0]]
    assert figure.axes[0].get_ylim() == (2.0**-10, 2.0**-7)
    assert shares(figure, 1) == [[1, 1]]


def test_a_single_step_is_kept_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_MAX_COLUMNS", 7)
    counts = np.zeros((1000, 36), dtype=np.int64)
    counts[:, 3] = 10
    counts[517] = 0
    counts[517, 20] = 10
    with use_theme(LIGHT):
        figure = spectra_figure([spectrum("phases", counts)], LIGHT)
    rows = np.array(shares(figure))
    assert rows.shape == (18, 7)
    assert rows[-1].tolist() == [0, 0, 0, 1, 0, 0, 0]


def test_nan_is_marked_and_odd_counts_are_drawn() -> None:
    counts = np.zeros((3, 36), dtype=np.int64)
    counts[0, 1] = 5
    figure = drawn(spectrum("phases", counts, [0, 0, 7]), one_bin("weights/mlp", 1, 0))
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [30]  # type: ignore[union-attr]
    assert drawn(one_bin("phases", 1, 35)).axes[0].get_title(loc="left") == "Phases"
