"""A figure that can be drawn, what it shows in words, and the files it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from spectral_exp.core.errors import UserError, require
from spectral_exp.plots.theme import DARK, LIGHT, FileFormat, Theme, render_all
from spectral_exp.runs.output_file import refuse_loss, write_output

THEMES = {"light": LIGHT, "dark": DARK}
_OPTION = "--plots"
FORMATS: tuple[FileFormat, ...] = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn.

    Attributes:
        name: for its file.
        caption: what was measured, what marks and bands mean, how many runs; where there is nothing to draw, why.
        theme: its look.
        draw: draws it, under `styled(theme)`; None where there is nothing to draw.
    """

    name: str
    caption: str
    theme: Theme
    draw: Callable[[], Figure] | None


@dataclass(frozen=True)
class FigureFile:
    """The files of a picture.

    Attributes:
        name: the picture's.
        caption: the picture's; where there are no files, why not.
        paths: one for each format, in the order asked for; none where there was nothing to draw.
    """

    name: str
    caption: str
    paths: tuple[Path, ...]


def theme_named(name: str) -> Theme:
    """The theme `light` or `dark`.

    Raises:
        SettingError: there is no such theme.
    """
    require(name in THEMES, "theme", name, "light or dark")
    return THEMES[name]


def save(
    picture: Picture,
    folder: str | Path,
    formats: Sequence[FileFormat] = ("png",),
    dpi: int = 200,
    *,
    force: bool = True,
) -> FigureFile:
    """Write a picture as `<folder>/<name>.<format>`, each file whole or not at all; equal pictures give equal bytes.

    Raises:
        SettingError: a format is not among png, svg and pdf; a file there belongs to a run, or, without `force`, was
            not written by this function.
        UserError: the file cannot be written.
    """
    for kind in formats:
        require(kind in FORMATS, "formats", kind, "png, svg or pdf")
    if picture.draw is None:
        return FigureFile(picture.name, picture.caption, ())
    paths = {kind: Path(folder) / f"{picture.name}.{kind}" for kind in formats}
    for path in paths.values():
        refuse_loss(path, _OPTION, force=force)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another with {_OPTION}") from error
    for kind, content in render_all(picture.draw, picture.theme, dpi, formats, picture.caption).items():
        write_output(paths[kind], content, _OPTION, force=force)
    return FigureFile(picture.name, picture.caption, tuple(paths.values()))
