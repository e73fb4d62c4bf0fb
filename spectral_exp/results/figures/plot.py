"""A figure to draw with its caption, and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from spectral_exp.core.errors import explain_os_error, require
from spectral_exp.plots.theme import DARK, LIGHT, FileFormat, Theme, render_all
from spectral_exp.runs.output_file import refuse_loss, write_output

THEMES = {"light": LIGHT, "dark": DARK}
_OPTION = "--plots"
FORMATS: tuple[FileFormat, ...] = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Plot:
    """A figure to draw.

    Attributes:
        name: the stem of its file.
        caption: the quantity, the meaning of marks and bands, and the number of runs; or the reason
            why there is nothing to draw.
        theme: its colours and sizes.
        draw: draws it, under `use_theme(theme)`; None if there is nothing to draw.
    """

    name: str
    caption: str
    theme: Theme
    draw: Callable[[], Figure] | None


@dataclass(frozen=True)
class SavedPlot:
    """The files of a plot.

    Attributes:
        name: the plot's.
        caption: the plot's.
        paths: one for each requested format; none if there was nothing to draw.
    """

    name: str
    caption: str
    paths: tuple[Path, ...]


def find_theme(name: str) -> Theme:
    """Return the theme `light` or `dark`.

    Raises:
        SettingError: there is no such theme.
    """
    require(name in THEMES, "theme", name, "light or dark")
    return THEMES[name]


def save(
    plot: Plot,
    folder: str | Path,
    formats: Sequence[FileFormat] = ("png",),
    dpi: int = 200,
    *,
    force: bool = True,
) -> SavedPlot:
    """Write a plot as `<folder>/<name>.<format>`, each file atomically.

    Equal plots give equal bytes.

    Raises:
        SettingError: a format is not among png, svg and pdf; a file there belongs to a run or,
            without `force`, was not written by this function.
        UserError: the file cannot be written.
    """
    for kind in formats:
        require(kind in FORMATS, "formats", kind, "png, svg or pdf")
    if plot.draw is None:
        return SavedPlot(plot.name, plot.caption, ())
    paths = {kind: Path(folder) / f"{plot.name}.{kind}" for kind in formats}
    for path in paths.values():
        refuse_loss(path, _OPTION, force=force)
    with explain_os_error(f"make the folder {folder}", f"choose another with {_OPTION}"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for kind, content in render_all(plot.draw, plot.theme, dpi, formats, plot.caption).items():
        write_output(paths[kind], content, _OPTION, force=force)
    return SavedPlot(plot.name, plot.caption, tuple(paths.values()))
