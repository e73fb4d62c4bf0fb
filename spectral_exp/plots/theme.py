"""The two themes of figures, dark for the screen and light for print, and rendering to files."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spectral_exp.plots.text import printable

LineStyle: TypeAlias = str | tuple[int, tuple[float, ...]]
FileFormat: TypeAlias = Literal["png", "svg", "pdf"]

LINE_STYLES: tuple[LineStyle, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Seven, so that with eight colours each of 56 has a pair of its own."""

_TITLE_INCHES = 0.14
_SUBJECT_LENGTH = 40
_SHARED_STYLE = Path(__file__).with_name("figure.mplstyle")


@dataclass(frozen=True)
class Theme:
    """Colours and sizes of a figure.

    Attributes:
        background, panel: behind everything, behind the data.
        grid, axis, text, muted, alert: colours of lines, axes, words, remarks and warnings.
        series: colours that stay distinct for the colour-blind and stand out from `panel`.
        width: of a figure, inches.
        font_size: points; headings are a little larger, tick labels a little smaller.
        rule_width, line_width: of axes and grid, and of a curve, points.
        marker_size: of a dot, points.
    """

    background: str
    panel: str
    grid: str
    axis: str
    text: str
    muted: str
    alert: str
    series: tuple[str, ...]
    width: float
    font_size: float
    rule_width: float
    line_width: float
    marker_size: float


DARK = Theme(
    background="#0f141b",
    panel="#161c26",
    grid="#2b3443",
    axis="#2b3443",
    text="#e3e8ef",
    muted="#a3aebd",
    alert="#ff7a59",
    # Okabe and Ito's colour-blind-safe set, with lighter dark colours for a dark panel.
    series=("#56b4e9", "#e69f00", "#2cc79a", "#e78ac3", "#f0e442", "#e8633a", "#8c8cf0", "#c9ced6"),
    # 1800 pixels at 150 dpi, so that 13 pt text is still 13 px high in a 900 px column.
    width=12.0,
    font_size=12.5,
    rule_width=0.8,
    line_width=2.0,
    marker_size=4.5,
)
"""For the screen, while a run goes on."""

LIGHT = Theme(
    background="#ffffff",
    panel="#ffffff",
    grid="#e2e5ea",
    axis="#5c6570",
    text="#1c2026",
    muted="#5c6570",
    alert="#c22f1a",
    # Greatest distance under normal sight and each colour blindness, at 3:1 or more on white.
    series=("#2743c0", "#c2491d", "#0b7a4e", "#d56e9e", "#ab8b10", "#2f95ee", "#222222", "#7e255f"),
    # The text width of a one-column paper, so that font sizes are true.
    width=6.5,
    font_size=8.5,
    rule_width=0.6,
    line_width=1.3,
    marker_size=3.2,
)
"""For print."""

LIGHT_SCREEN = replace(
    LIGHT,
    **{name: getattr(DARK, name) for name in (
        "width", "font_size", "rule_width", "line_width", "marker_size",
    )},
)  # fmt: skip
"""For the screen, with the colours for print."""

SCREEN_THEMES = {"dark": DARK, "light": LIGHT_SCREEN}
_in_use = [DARK]


def current_theme() -> Theme:
    """Return the theme of the innermost `use_theme`; the dark one outside of any."""
    return _in_use[-1]


def _settings(theme: Theme) -> dict[str, object]:
    size = theme.font_size
    return {
        "figure.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "axes.facecolor": theme.panel,
        "axes.edgecolor": theme.axis,
        "axes.linewidth": theme.rule_width,
        "axes.labelcolor": theme.text,
        "axes.titlecolor": theme.text,
        "axes.titlesize": 1.08 * size,
        "axes.titlepad": 0.64 * size,
        "axes.labelsize": 1.04 * size,
        "grid.color": theme.grid,
        "grid.linewidth": theme.rule_width,
        "text.color": theme.text,
        "font.size": size,
        "figure.titlesize": 1.36 * size,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.text,
        "ytick.labelcolor": theme.text,
        "xtick.labelsize": 0.96 * size,
        "ytick.labelsize": 0.96 * size,
        "xtick.major.width": theme.rule_width,
        "ytick.major.width": theme.rule_width,
        "xtick.major.size": 0.28 * size,
        "ytick.major.size": 0.28 * size,
        "legend.fontsize": 0.96 * size,
        "legend.facecolor": theme.panel,
        "legend.edgecolor": theme.grid,
        "lines.linewidth": theme.line_width,
        "lines.markersize": theme.marker_size,
        "figure.constrained_layout.w_pad": 0.0064 * size,
        "figure.constrained_layout.h_pad": 0.0064 * size,
    }


_style_lock = threading.Lock()


@contextmanager
def use_theme(theme: Theme) -> Iterator[None]:
    """Draw in `theme`; restore the caller's matplotlib settings afterwards.

    These settings are global to the process; the lock keeps two threads from mixing them.
    """
    styles: list[Path | dict[str, object]] = [_SHARED_STYLE, _settings(theme)]
    with _style_lock, matplotlib.style.context(styles, after_reset=True):
        _in_use.append(theme)
        try:
            yield
        finally:
            _in_use.pop()


def render(draw: Callable[[], Figure], theme: Theme, dpi: int, subject: str = "") -> bytes:
    """Return the PNG file of the figure that `draw` returns.

    Args:
        subject: the name of what it shows, which follows its title.
    """

    def draw_with_subject() -> Figure:
        figure = draw()
        if subject:
            title = f"{figure.get_suptitle()}  {printable(subject, _SUBJECT_LENGTH)}".strip()
            figure.suptitle(title, x=0.012, ha="left")
        return figure

    return render_all(draw_with_subject, theme, dpi, ("png",))["png"]


def render_all(
    draw: Callable[[], Figure],
    theme: Theme,
    dpi: int,
    formats: Sequence[FileFormat],
    description: str = "",
) -> dict[FileFormat, bytes]:
    """Return the files of the figure that `draw` returns, by format; equal figures, equal bytes.

    Args:
        dpi: dots per inch of a PNG file; the others are vector graphics.
        description: a text for readers who cannot see the figure, kept inside each file.
    """
    with use_theme(theme):
        figure = draw()
        return {kind: _file(figure, kind, dpi, description) for kind in formats}


def _file(figure: Figure, kind: FileFormat, dpi: int, description: str) -> bytes:
    buffer = io.BytesIO()
    no_date: dict[str, dict[str, str | None]] = {
        "png": {},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    text = {"Subject" if kind == "pdf" else "Description": description} if description else {}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata={**no_date[kind], **text})
    return buffer.getvalue()


def new_figure(theme: Theme, height: float, title: str = "", note: str = "") -> Figure:
    """Return an empty figure of the theme's width with a title and a note at its right."""
    figure = Figure(figsize=(theme.width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.012, ha="left")
    if note:
        figure.text(
            0.988, 1 - _TITLE_INCHES / height, note, ha="right", va="top", color=theme.muted
        )
    return figure


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Name a panel and its two axes."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def legend_above(axes: Axes) -> None:
    """Draw the panel's legend on the line of its title, where it covers no data."""
    names = axes.get_legend_handles_labels()[1]
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(names),
        frameon=False,
        borderpad=0.1,
        columnspacing=1.4,
    )


def legend_on_top(figure: Figure, handles: Sequence[Artist]) -> None:
    """Draw a legend above all panels, in one row if it fits."""
    inches_per_em = matplotlib.rcParams["legend.fontsize"] / 72
    widths = [inches_per_em * (0.55 * len(str(handle.get_label())) + 3.9) for handle in handles]
    rows = math.ceil(sum(widths) / figure.get_figwidth())
    figure.legend(
        handles=list(handles),
        loc="outside upper left",
        ncols=math.ceil(len(handles) / max(rows, 1)),
        frameon=False,
        borderpad=0,
        handlelength=2.0,
        columnspacing=1.4,
    )
