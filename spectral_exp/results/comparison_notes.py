"""Findings about a whole comparison: its baseline, its tests, and the tuning of its groups."""

from __future__ import annotations

from collections.abc import Sequence

from spectral_exp.results import statistics
from spectral_exp.results.compared import Difference, GroupSummary
from spectral_exp.results.finding import Finding, finding, measurement
from spectral_exp.results.pairs import LEARNING_RATE
from spectral_exp.runs.run import Run

BEST = "best"
"""The name of a baseline that stands for the group with the best mean."""

_FEW = 6  # runs, below which a note gives the assumption of the tests


def comparison_notes(
    at: str,
    summaries: Sequence[GroupSummary],
    differences: Sequence[Difference],
    base: GroupSummary,
    *,
    chosen: str | None,
    lower: bool | None,
) -> list[Finding]:
    """Return the findings about a whole comparison.

    Args:
        at: which value of each run.
        summaries, differences: of the comparison.
        base: the baseline's summary.
        chosen: the baseline that the user named: a label, or `BEST`.
        lower: whether lower values are better; None if the metric has no direction.
    """
    notes = (
        _about_baseline(summaries, base, chosen=chosen, lower=lower) if len(summaries) > 1 else []
    )
    if at == "best":
        best = (
            "values are the best of each run, chosen on the validation text itself: they flatter"
            " every run"
        )
        notes.append(finding("best values", best))
    few = [
        f"{s.group.label} ({len(s.values)})"
        for s in summaries
        if len(s.values) < statistics.MIN_RUNS
    ]
    if few:
        heading = "no interval and no test with fewer than three runs"
        notes.append(
            finding("too few runs", heading, "{groups}", severity="info", groups=", ".join(few))
        )
    tested = {pair_of(d): d.n for d in differences if d.p_value is not None}
    if len(tested) > 1:
        runs = list(
            {run.run_id: run for d in differences for s in (d.a, d.b) for run in s.runs}.values()
        )
        n = measurement(len(tested), "tests", runs, "count")
        notes.append(
            finding(
                "correction",
                "p-values are corrected for {n} comparisons (Holm)",
                severity="info",
                n=n,
            )
        )
    notes += _about_equivalence(differences)
    if tested and min(tested.values()) < _FEW:
        few_runs = (
            f"with fewer than {_FEW} runs in a group the t-tests rest on roughly normal differences"
        )
        notes.append(finding("small samples", few_runs))
    return [*notes, *_tuning(summaries)]


def _about_equivalence(differences: Sequence[Difference]) -> list[Finding]:
    """Return a finding on the meaning of the tests of equivalence, if there are any."""
    margins = {d.equivalence.margin for d in differences if d.equivalence is not None}
    heading = (
        "equivalent within {margin}: two one-sided t-tests exclude a true difference of {margin} or"
        " more in either direction (corrected as the other tests); neither separated nor"
        " equivalent: the runs are too few to decide"
    )
    return [
        finding("equivalence", heading, severity="info", margin=f"{margin:g}") for margin in margins
    ]


def _about_baseline(
    summaries: Sequence[GroupSummary], base: GroupSummary, *, chosen: str | None, lower: bool | None
) -> list[Finding]:
    """Return findings on a default baseline, and on one that may be selected for its value."""
    notes = []
    label = base.group.label
    if chosen is None:
        heading = "the baseline is {label}, by default"
        notes.append(finding("default baseline", heading, severity="info", label=label))
    elif chosen == BEST and label != BEST:
        n = str(sum(summary.mean is not None for summary in summaries))
        heading = "the baseline {label} was chosen as the best of {n}: its interval is optimistic"
        return [finding("selected baseline", heading, label=label, n=n)]
    variants = [s for s in summaries if s.mean is not None and _grid_point(s) == _grid_point(base)]
    if len(variants) > 1 and base.mean is not None and _grid_point(base):
        means = [s.mean for s in variants if s.mean is not None]
        if lower is not None and base.mean == (min if lower else max)(means):
            heading = (
                "the baseline {label} has the best mean of {n} configurations with the same parts:"
                " if it was selected for that, its mean is optimistic"
            )
            notes.append(finding("selected baseline", heading, label=label, n=str(len(variants))))
    return notes


def _grid_point(summary: GroupSummary) -> frozenset[tuple[str, str]]:
    """Return the parts that all runs of a group have in common."""
    common = [frozenset(run.parts.items()) for run in summary.group.runs]
    return frozenset.intersection(*common) if common else frozenset()


def _tuning(summaries: Sequence[GroupSummary]) -> list[Finding]:
    """Return findings on unequal or missing tuning of learning rates."""
    rates: dict[str, dict[float, list[Run]]] = {}
    names: dict[str, str] = {}
    labels: dict[str, str] = {}
    for group, run in ((s.group, run) for s in summaries for run in s.group.runs):
        rate = run.settings.get(LEARNING_RATE)
        if isinstance(rate, int | float):
            key = repr(sorted(run.parts.items())) if run.parts else run.name
            names.setdefault(key, run.name)
            labels.setdefault(key, group.label)
            rates.setdefault(key, {}).setdefault(float(rate), []).append(run)
    if len(rates) < 2:
        return []
    tried = {len(found) for found in rates.values()}
    if tried == {1}:
        by_rate: dict[float, list[Run]] = {}
        for found in rates.values():
            for rate, runs in found.items():
                by_rate.setdefault(rate, []).extend(runs)
        values = {
            f"rate_{i}": measurement(rate, LEARNING_RATE, by_rate[rate], show="g")
            for i, rate in enumerate(sorted(by_rate))
        }
        listed = ", ".join(f"{{{name}}}" for name in values)
        return [
            Finding(
                "not tuned",
                f"compared at one learning rate each ({listed}): no tuning is among these runs",
                values=values,
            )
        ]
    if len(tried) == 1:
        return []
    values = {
        f"n_{i}": measurement(
            len(found), LEARNING_RATE, [run for runs in found.values() for run in runs], "count"
        )
        for i, found in enumerate(rates.values())
    }
    if len(set(names.values())) < len(names):  # all runs of a sweep may have its name
        names = labels
    words = {f"name_{i}": names[key] for i, key in enumerate(rates)}
    counts = ", ".join(f"{{name_{i}}} {{n_{i}}}" for i in range(len(rates)))
    heading = "learning rates tried differ in number, which favours those with more"
    return [Finding("unequal tuning", heading, counts, {**values, **words})]


def pair_of(difference: Difference) -> frozenset[str]:
    """Return the labels of the two groups, in no order."""
    return frozenset((difference.a.group.label, difference.b.group.label))
