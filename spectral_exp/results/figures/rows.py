"""Figures with a row for each group or difference: single values, mean and interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spectral_exp.plots.rows import ROW_INCHES, Row, draw_rows, row_limits
from spectral_exp.plots.text import printable
from spectral_exp.plots.theme import Theme, legend_on_top, new_figure
from spectral_exp.results.compared import Comparison, Difference
from spectral_exp.results.figures.captions import describe_metric, list_names, run_counts
from spectral_exp.results.figures.plot import Plot, find_theme
from spectral_exp.results.matching import UNEQUAL
from spectral_exp.results.statistics import Interval

_FRAME_INCHES = 0.85
"""Height of the axis, its name and the legend."""
_LABEL_CHARACTERS = 34
_TOO_FEW = 3
"""Below this number of values there is no interval."""


def intervals(comparison: Comparison, *, theme: str = "light") -> Plot:
    """Return the metric in every group, best first: runs, mean, interval, and the baseline."""
    name, chosen = f"intervals_{comparison.metric}", find_theme(theme)
    rows = interval_rows(comparison)
    if not rows:
        return Plot(
            name, f"{describe_metric(comparison)}: no group has a run with a value.", chosen, None
        )
    baseline = next(
        (s.mean for s in comparison.summaries if s.group.label == comparison.baseline), None
    )
    known = [summary for summary in comparison.summaries if summary.values]
    few = [summary.group.label for summary in known if summary.interval is None]
    words = [
        f"{describe_metric(comparison)}, {run_counts([len(s.values) for s in known])}; dots: single"
        " runs"
    ]
    if len(few) < len(known):
        words.append("diamonds and lines: mean and its 95 % bootstrap interval")
    if _has_tests(comparison) and len(few) < len(known):
        words.append(
            f"filled: separated from {comparison.baseline} (paired difference, Holm-corrected p <"
            " 0.05)"
        )
    if baseline is not None:
        words.append(f"dashed: mean of {comparison.baseline}")
    if few:
        why = _why_no_interval([len(s.values) for s in known if s.interval is None])
        words.append(f"no interval for {list_names(few)} ({why})")
    missing = [summary.group.label for summary in comparison.summaries if not summary.values]
    if missing:
        words.append(f"without a value: {list_names(missing)}")
    label = comparison.metric_info.axis_label
    better = comparison.direction_words
    draw = partial(_draw, rows, chosen, baseline, f"{label}  ({better})", "run", "", "")
    return Plot(name, _sentence(words, rows, baseline), chosen, draw)


def interval_rows(comparison: Comparison) -> list[Row]:
    """Return a row for each group with a value, the best first."""
    separated = {
        d.b.group.label for d in comparison.differences if d.kind == "baseline" and d.separated
    }
    compared = _has_tests(comparison)
    known = [summary for summary in comparison.summaries if summary.values]
    known.sort(key=comparison.sort_key)
    several = len({len(summary.values) for summary in known}) > 1
    rows = []
    for summary in known:
        enough = summary.interval is not None
        label = summary.group.label
        rows.append(
            Row(
                printable(label, _LABEL_CHARACTERS)
                + (" (baseline)" if label == comparison.baseline else ""),
                summary.values,
                summary.mean if enough else None,
                _ends(summary.interval),
                label in separated or not compared,
                compared and label == comparison.baseline,
                (
                    f"n = {len(summary.values)}" + ("" if enough else ", no interval")
                    if several or not enough
                    else ""
                ),
            )
        )
    return rows


def _has_tests(comparison: Comparison) -> bool:
    """Return whether some group was tested against the baseline."""
    return any(d.kind == "baseline" and d.interval is not None for d in comparison.differences)


def differences(
    comparison: Comparison,
    kind: Literal["ablation", "baseline"] = "ablation",
    *,
    theme: str = "light",
) -> Plot:
    """Return differences between groups with their intervals.

    Args:
        comparison: the differences to draw.
        kind: `ablation` for pairs of groups that differ in one part, by part; `baseline` for every
            group against the baseline, best first.
        theme: light or dark.
    """
    name, chosen = f"{kind}_differences_{comparison.metric}", find_theme(theme)
    drawn = {summary.group.label for summary in comparison.summaries}
    shown = [
        d
        for d in comparison.differences
        if d.kind == kind and d.mean is not None and {d.a.group.label, d.b.group.label} <= drawn
    ]
    if not shown:
        why = {
            "ablation": "no two groups differ in one part alone",
            "baseline": "no group can be held against a baseline",
        }[kind]
        return Plot(name, f"{describe_metric(comparison)}: {why}.", chosen, None)
    rows = difference_rows(comparison, shown)
    counts = run_counts([d.n for d in shown]).replace(
        "run", "pair" if all(d.paired for d in shown) else "run"
    )
    of_what = "when one part is exchanged" if kind == "ablation" else f"from {comparison.baseline}"
    words = [f"{describe_metric(comparison)}: differences {of_what}, {counts}"]
    if any(d.paired for d in shown):
        words.append("dots: runs of equal seed")
    if any(d.interval is not None for d in shown):
        words.append("diamonds and lines: mean difference and its 95 % interval")
        tested = {
            frozenset((d.a.group.label, d.b.group.label))
            for d in comparison.differences
            if d.p_value is not None
        }
        corrected = (
            f"Holm-corrected over {len(tested)} comparison{'' if len(tested) == 1 else 's'}, p <"
            " 0.05"
        )
        words.append(f"filled: separated from zero ({corrected}), hollow: not separated")
    if without := [d.n for d in shown if d.interval is None]:
        words.append(f"without an interval: {_why_no_interval(without)}")
    if any(_is_unequal(d) for d in shown):
        words.append("* the two groups do not match in all that should be equal")
    label = f"difference in {comparison.metric_info.axis_label}"
    sides = {True: ("better", "worse"), False: ("worse", "better"), None: ("", "")}
    left, right = sides[comparison.lower_is_better]
    draw = partial(_draw, rows, chosen, 0.0, label, "pair of runs", left, right)
    return Plot(name, _sentence(words, rows, 0.0), chosen, draw)


def _why_no_interval(counts: Sequence[int]) -> str:
    """Return why there is no interval of so many values each."""
    reasons = {f"n < {_TOO_FEW}" if n < _TOO_FEW else "all values are equal" for n in counts}
    return " or ".join(sorted(reasons, reverse=True))


def difference_rows(comparison: Comparison, shown: Sequence[Difference]) -> list[Row]:
    """Return a row for each difference: the best first, or ablations below their exchange."""
    several = len({d.n for d in shown}) > 1
    if shown[0].kind == "baseline":
        ordered = sorted(shown, key=lambda d: d.mean or 0.0, reverse=not comparison.lower_is_better)
        return [
            _difference_row(d, printable(d.b.group.label, _LABEL_CHARACTERS), several)
            for d in ordered
        ]
    rows = []
    for heading, part in groupby(sorted(shown, key=_exchange), key=_exchange):
        rows.append(Row(printable(heading, _LABEL_CHARACTERS + 6), heading=True))
        rows += [_difference_row(d, _pair_label(d), several) for d in part]
    return rows


def _exchange(difference: Difference) -> str:
    """Return the exchanged part and its choices, if known: `optimizer: adamw → rgd`."""
    part = difference.part or "several parts"
    before, after = (
        next((run.parts[part] for run in summary.group.runs if part in run.parts), None)
        for summary in (difference.a, difference.b)
    )
    return f"{part}: {before} → {after}" if before and after else part


def _pair_label(difference: Difference) -> str:
    return " → ".join(
        printable(each.group.label, _LABEL_CHARACTERS // 2) for each in (difference.a, difference.b)
    )


def _difference_row(difference: Difference, label: str, several: bool) -> Row:
    enough = difference.interval is not None
    note = (
        f"n = {difference.n}" + ("" if enough else ", no interval") if several or not enough else ""
    )
    return Row(
        label + (" *" if _is_unequal(difference) else ""),
        difference.pairs,
        difference.mean if enough or not difference.paired else None,
        _ends(difference.interval),
        difference.separated,
        note=note,
    )


def _is_unequal(difference: Difference) -> bool:
    """Return whether the two groups do not match in something that matters."""
    return any(warning.kind in UNEQUAL for warning in difference.warnings)


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _sentence(words: Iterable[str], rows: Sequence[Row], reference: float | None) -> str:
    low, high = row_limits(rows, reference)
    outside = any(not low <= value <= high for row in rows for value in row.dots)
    return "; ".join([*words, *(["arrows: values outside of the axis"] if outside else [])]) + "."


def _draw(
    rows: Sequence[Row],
    theme: Theme,
    reference: float | None,
    x_label: str,
    dot: str,
    left: str,
    right: str,
) -> Figure:
    height = (
        (_FRAME_INCHES + ROW_INCHES * len(rows) + (0.12 if left else 0.0)) * theme.font_size / 8.5
    )
    figure = new_figure(theme, height)
    axes = figure.add_subplot()
    draw_rows(axes, rows, theme, reference)
    axes.set_xlabel(x_label)
    place: dict[str, Any] = {"transform": axes.transAxes, "color": theme.muted, "va": "bottom"}
    if left:
        axes.text(0.0, 1.01, f"◂ {left}", ha="left", **place)
        axes.text(1.0, 1.01, f"{right} ▸", ha="right", **place)
    color = theme.series[0]
    size = theme.marker_size
    handles = [
        Line2D(
            [], [], marker="o", color=theme.muted, markersize=0.62 * size, linestyle="", label=dot
        )
    ]
    if any(row.interval is not None for row in rows):
        style: dict[str, Any] = {
            "marker": "D",
            "color": color,
            "markersize": 1.35 * size,
            "mew": theme.line_width,
        }
        drawn = {row.filled for row in rows if row.mean is not None and not row.muted}
        for filled in sorted(drawn, reverse=True):
            words = (
                ", separated"
                if filled and drawn == {True, False}
                else ""
                if filled
                else ", not separated"
            )
            face = color if filled else theme.panel
            handles.append(
                Line2D([], [], label=f"mean, 95 % interval{words}", markerfacecolor=face, **style)
            )
    legend_on_top(figure, handles)
    return figure
