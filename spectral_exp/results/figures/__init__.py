"""Every figure of a comparison, as files with captions. The single figures are here by name as well.

Loads matplotlib: import it where figures are wanted, not beside the rest of `spectral_exp.results`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from spectral_exp.core.foreign_text import printable
from spectral_exp.plots.theme import FileFormat
from spectral_exp.results.comparison import Comparison, GroupSummary
from spectral_exp.results.figures.curves import Axis, curves
from spectral_exp.results.figures.picture import FigureFile, Picture, save
from spectral_exp.results.figures.rows import differences, intervals
from spectral_exp.results.figures.scatter import pareto, scaling

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

MAX_GROUPS = 24
"""More than so many groups can be told apart in no figure: only the best are drawn, and every caption says so."""
_MAX_CAPTION = 4000  # characters
_AXES: tuple[Axis, ...] = ("step", "tokens", "train_s")


def comparison_figures(
    comparison: Comparison,
    folder: str | Path,
    *,
    theme: str = "light",
    formats: Sequence[FileFormat] = ("png",),
    force: bool = True,
) -> list[FigureFile]:
    """Write every figure of a comparison below `folder`; without `force`, over no file but earlier figures.

    Returns:
        All of them, in the order of a paper; one that has nothing to show has no files, and its caption says why.

    Raises:
        SettingError: an unknown theme or format, or a file would be lost.
    """
    return [save(picture, folder, formats, force=force) for picture in comparison_pictures(comparison, theme=theme)]


def comparison_pictures(comparison: Comparison, *, theme: str = "light") -> Iterator[Picture]:
    """The figures, to be drawn one by one; of very many groups those of the best and the baseline."""
    shown = best_groups(comparison)
    n, n_shown = len(comparison.summaries), len(shown.summaries)
    for picture in _pictures(shown, theme):
        note = f" Of {n} groups the best {n_shown}, with the baseline, are drawn." if n_shown < n else ""
        name = re.sub(r"[^\w.-]+", "-", picture.name)  # of a file, and it holds that of a metric
        yield replace(picture, name=name, caption=printable(picture.caption + note, _MAX_CAPTION))


def best_groups(comparison: Comparison, at_most: int = MAX_GROUPS) -> Comparison:
    """The comparison with its best groups alone, in their order, the baseline among them; its differences are kept."""
    if len(comparison.summaries) <= at_most:
        return comparison

    def badness(summary: GroupSummary) -> tuple[bool, tuple[bool, float, str]]:
        return summary.group.label != comparison.baseline, comparison.sort_key(summary)

    kept = {id(summary) for summary in sorted(comparison.summaries, key=badness)[:at_most]}
    return replace(comparison, summaries=[each for each in comparison.summaries if id(each) in kept])


def _pictures(comparison: Comparison, theme: str) -> Iterator[Picture]:
    yield intervals(comparison, theme=theme)
    yield differences(comparison, "baseline", theme=theme)
    yield differences(comparison, "ablation", theme=theme)
    for metric in dict.fromkeys((comparison.metric, "loss")):
        for by in _AXES:
            yield curves(comparison, metric, by, theme=theme)
    yield scaling(comparison, "learning_rate", theme=theme)
    yield scaling(comparison, "size", theme=theme)
    yield pareto(comparison, theme=theme)
