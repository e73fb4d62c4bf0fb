"""The looks: in force while drawing and no longer, legible, the same bytes for the same figure."""

from __future__ import annotations

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from spectral_exp.core.series import FloatArray
from spectral_exp.plots.theme import DARK, LIGHT, Theme, new_figure, render, render_all, use_theme

DPI = 50


def draw(theme: Theme = DARK) -> Figure:
    figure = new_figure(theme, 2.0)
    axes = figure.add_subplot()
    axes.plot([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], label="a name")
    axes.legend()
    return figure


def test_style_is_in_force_while_drawing_and_gone_afterwards() -> None:
    before = matplotlib.rcParams.copy()

    def fail_within() -> None:
        with use_theme(DARK):
            assert matplotlib.rcParams["axes.facecolor"] == DARK.panel
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_within()
    assert matplotlib.rcParams.copy() == before


def test_style_does_not_depend_on_the_callers_settings() -> None:
    plain = render(draw, DARK, DPI)
    with matplotlib.rc_context(
        {"font.size": 30, "axes.grid": False, "lines.linewidth": 9, "axes.facecolor": "red"}
    ):
        assert render(draw, DARK, DPI) == plain


def test_size_follows_the_resolution() -> None:
    png = render(draw, DARK, 60)
    assert int.from_bytes(png[16:20], "big") == DARK.width * 60


def test_vector_files_embed_their_letters_and_no_date() -> None:
    files = render_all(lambda: draw(LIGHT), LIGHT, DPI, ("png", "svg", "pdf"), "what → is shown")
    assert files["png"].startswith(b"\x89PNG")
    assert files["svg"].count("what → is shown".encode()) == 1
    assert b"<text" not in files["svg"]  # letters are outlines
    assert b"/FontFile2" in files["pdf"]  # TrueType, embedded
    assert b"/Type3" not in files["pdf"]
    assert b"/CreationDate" not in files["pdf"]
    assert b"<dc:date>" not in files["svg"]


@pytest.mark.slow
def test_equal_figures_are_equal_files_whatever_the_process() -> None:
    code = """
from hashlib import sha256
from spectral_exp.plots.theme import LIGHT, new_figure, render_all

def draw():
    figure = new_figure(LIGHT, 1.0)
    axes = figure.add_subplot()
    axes.plot([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], "o-", label="a name")
    axes.fill_between([1.0, 2.0], [0.0, 1.0], [2.0, 3.0], alpha=0.2)
    axes.legend()
    return figure

print(*[sha256(file).hexdigest() for file in render_all(draw, LIGHT, 40, ("png", "svg", "pdf")).values()])
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0].split() for process in processes)
    assert len(first) == 3
    assert first == second


def luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize(("theme", "least"), [(DARK, 4.5), (LIGHT, 3.0)], ids=["dark", "light"])
def test_series_colours_stand_out_from_the_panel(theme: Theme, least: float) -> None:
    for color in theme.series:
        darker, lighter = sorted([luminance(color), luminance(theme.panel)])
        assert (lighter + 0.05) / (darker + 0.05) > least


# Machado, Oliveira and Fernandes 2009, severity 1: what protanopes and deuteranopes see, on linear
# RGB.
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=["dark", "light"])
@pytest.mark.parametrize(
    "seen",
    [np.eye(3), np.array(PROTANOPIA), np.array(DEUTERANOPIA)],
    ids=["all", "no red", "no green"],
)
def test_colour_blind_readers_distinguish_series_colours(theme: Theme, seen: FloatArray) -> None:
    def lab(color: str) -> FloatArray:
        linear = np.array(
            [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        )
        rgb = np.clip(seen @ linear, 0, 1)
        to_xyz = np.array(
            [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        )
        x, y, z = np.cbrt(to_xyz @ rgb / [0.9505, 1.0, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    places = [lab(color) for color in theme.series]
    distances = [
        float(np.linalg.norm(a - b)) for i, a in enumerate(places) for b in places[i + 1 :]
    ]
    assert min(distances) > 8
