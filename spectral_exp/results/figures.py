"""Every figure of a comparison, as files with captions. The single figures are here by name as well.

Loads matplotlib: import it where figures are wanted, not beside the rest of `spectral_exp.results`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from spectral_exp.plots.theme import FileFormat
from spectral_exp.results.comparison import Comparison
from spectral_exp.results.curve_figures import Axis, curves
from spectral_exp.results.picture import FigureFile, Picture, save
from spectral_exp.results.row_figures import differences, intervals
from spectral_exp.results.scatter_figures import pareto, scaling

__all__ = [
    "FigureFile",
    "Picture",
    "comparison_figures",
    "comparison_pictures",
    "curves",
    "differences",
    "intervals",
    "pareto",
    "save",
    "scaling",
]

_AXES: tuple[Axis, ...] = ("step", "tokens", "train_s")


def comparison_figures(
    comparison: Comparison, folder: str | Path, *, theme: str = "light", formats: Sequence[FileFormat] = ("png",)
) -> list[FigureFile]:
    """Write every figure of a comparison below `folder`.

    Returns:
        All of them, in the order of a paper; one that has nothing to show has no files, and its caption says why.

    Raises:
        SettingError: an unknown theme or format.
    """
    return [save(picture, folder, formats) for picture in comparison_pictures(comparison, theme=theme)]


def comparison_pictures(comparison: Comparison, *, theme: str = "light") -> Iterator[Picture]:
    """The figures, to be drawn one by one."""
    yield intervals(comparison, theme=theme)
    yield differences(comparison, "baseline", theme=theme)
    yield differences(comparison, "ablation", theme=theme)
    for metric in dict.fromkeys((comparison.metric, "loss")):
        for by in _AXES:
            yield curves(comparison, metric, by, theme=theme)
    yield scaling(comparison, "learning_rate", theme=theme)
    yield scaling(comparison, "size", theme=theme)
    yield pareto(comparison, theme=theme)
