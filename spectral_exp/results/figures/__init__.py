"""The figures of a comparison, as files with captions, and each of them by name.

It loads matplotlib; import it only to draw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from spectral_exp.core.foreign_text import printable
from spectral_exp.plots.theme import FileFormat
from spectral_exp.results.comparison import Comparison, GroupSummary
from spectral_exp.results.figures.curves import Axis
from spectral_exp.results.figures.curves import curves as curves
from spectral_exp.results.figures.plot import Plot as Plot
from spectral_exp.results.figures.plot import SavedPlot as SavedPlot
from spectral_exp.results.figures.plot import save as save
from spectral_exp.results.figures.rows import differences as differences
from spectral_exp.results.figures.rows import intervals as intervals
from spectral_exp.results.figures.scatter import pareto as pareto
from spectral_exp.results.figures.scatter import scaling as scaling

MAX_GROUPS = 24
"""The largest number of groups in a figure; of more only the best are drawn, as captions note."""
_MAX_CAPTION = 4000  # characters
AXES: tuple[Axis, ...] = ("step", "tokens", "train_s")
Topic = Literal["values", "differences", "ablations", "cost"]
"""The subject of a figure, by which a paper arranges them."""


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
    return [save(plot, folder, formats, force=force) for _, plot in plots]


def comparison_plots(
    comparison: Comparison,
    *,
    metrics: Sequence[str] | None = None,
    axes: Sequence[Axis] = AXES,
    theme: str = "light",
) -> Iterator[tuple[Topic, Plot]]:
    """Yield the figures with their topics; of very many groups those of the best and the baseline.

    Args:
        comparison: of all groups.
        metrics: those whose curves are drawn; by default the comparison's and the loss.
        axes: horizontal axes of the curves.
        theme: light or dark.
    """
    metrics = (comparison.metric, "loss") if metrics is None else metrics
    shown = best_groups(comparison)
    n, n_shown = len(comparison.summaries), len(shown.summaries)
    note = f" Of {n} groups the best {n_shown}, with the baseline, are drawn."
    for topic, plot in _plots(shown, metrics, axes, theme):
        name = re.sub(r"[^\w.-]+", "-", plot.name)  # of a file, and it holds that of a metric
        caption = plot.caption + (note if n_shown < n else "")
        yield topic, replace(plot, name=name, caption=printable(caption, _MAX_CAPTION))


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


def _plots(
    comparison: Comparison, metrics: Sequence[str], axes: Sequence[Axis], theme: str
) -> Iterator[tuple[Topic, Plot]]:
    yield "values", intervals(comparison, theme=theme)
    yield "differences", differences(comparison, "baseline", theme=theme)
    yield "ablations", differences(comparison, "ablation", theme=theme)
    for metric in dict.fromkeys(metrics):
        for by in axes:
            topic: Topic = "cost" if by == "train_s" else "values"
            yield topic, curves(comparison, metric, by, theme=theme)
    yield "values", scaling(comparison, "learning_rate", theme=theme)
    yield "values", scaling(comparison, "size", theme=theme)
    yield "cost", pareto(comparison, theme=theme)
