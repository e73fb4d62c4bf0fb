"""The figures of a comparison, as files with captions, and each of them by name.

It loads matplotlib; import it only to draw.
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
from spectral_exp.results.figures.plot import Plot, SavedPlot, save
from spectral_exp.results.figures.rows import differences, intervals
from spectral_exp.results.figures.scatter import pareto, scaling

__all__ = [
    "Plot",
    "SavedPlot",
    "comparison_figures",
    "comparison_plots",
    "curves",
    "differences",
    "intervals",
    "pareto",
    "save",
    "scaling",
]

MAX_GROUPS = 24
"""The largest number of groups in a figure; of more only the best are drawn, as captions note."""
_MAX_CAPTION = 4000  # characters
_AXES: tuple[Axis, ...] = ("step", "tokens", "train_s")


def comparison_figures(
    comparison: Comparison,
    folder: str | Path,
    *,
    theme: str = "light",
    formats: Sequence[FileFormat] = ("png",),
    force: bool = True,
) -> list[SavedPlot]:
    """Write every figure of a comparison below `folder`.

    Without `force`, it replaces no file but earlier figures.

    Returns:
        All figures in the order of a paper; one without data has no files and a caption with
        the reason.

    Raises:
        SettingError: an unknown theme or format, or a file would be lost.
    """
    plots = comparison_plots(comparison, theme=theme)
    return [save(plot, folder, formats, force=force) for plot in plots]


def comparison_plots(comparison: Comparison, *, theme: str = "light") -> Iterator[Plot]:
    """Yield the figures; of very many groups those of the best and the baseline."""
    shown = best_groups(comparison)
    n, n_shown = len(comparison.summaries), len(shown.summaries)
    for plot in _plots(shown, theme):
        note = (
            f" Of {n} groups the best {n_shown}, with the baseline, are drawn."
            if n_shown < n
            else ""
        )
        name = re.sub(r"[^\w.-]+", "-", plot.name)  # of a file, and it holds that of a metric
        yield replace(plot, name=name, caption=printable(plot.caption + note, _MAX_CAPTION))


def best_groups(comparison: Comparison, at_most: int = MAX_GROUPS) -> Comparison:
    """Return the comparison with its best groups and the baseline only, in their order."""
    if len(comparison.summaries) <= at_most:
        return comparison

    def badness(summary: GroupSummary) -> tuple[bool, tuple[bool, float, str]]:
        return summary.group.label != comparison.baseline, comparison.sort_key(summary)

    kept = {id(summary) for summary in sorted(comparison.summaries, key=badness)[:at_most]}
    return replace(
        comparison, summaries=[each for each in comparison.summaries if id(each) in kept]
    )


def _plots(comparison: Comparison, theme: str) -> Iterator[Plot]:
    yield intervals(comparison, theme=theme)
    yield differences(comparison, "baseline", theme=theme)
    yield differences(comparison, "ablation", theme=theme)
    for metric in dict.fromkeys((comparison.metric, "loss")):
        for by in _AXES:
            yield curves(comparison, metric, by, theme=theme)
    yield scaling(comparison, "learning_rate", theme=theme)
    yield scaling(comparison, "size", theme=theme)
    yield pareto(comparison, theme=theme)
