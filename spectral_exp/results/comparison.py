"""Statistics of groups of runs, differences between them, and doubts about both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from spectral_exp.core.errors import SettingError, UserError, nearest, require
from spectral_exp.core.wording import format_count
from spectral_exp.results import checks, matching, statistics
from spectral_exp.results.compared import Comparison as Comparison
from spectral_exp.results.compared import Difference as Difference
from spectral_exp.results.compared import GroupSummary as GroupSummary
from spectral_exp.results.comparison_notes import BEST, comparison_notes
from spectral_exp.results.corrections import correct_differences
from spectral_exp.results.finding import Finding, Severity, finding, measurement, merge_findings
from spectral_exp.results.group import Group
from spectral_exp.results.group_summary import summarize_group
from spectral_exp.results.pairs import (
    ablation_pairs,
    differing_parts,
    other_differences,
    pairs_by_seed,
    why_unpaired,
)
from spectral_exp.results.statistics import Contrast
from spectral_exp.results.statistics import Interval as Interval
from spectral_exp.results.times import busy_machine
from spectral_exp.runs.budget import parse_at
from spectral_exp.runs.evaluations import evaluation_conditions, parse_evaluation
from spectral_exp.runs.metric_names import DERIVED, metric_info
from spectral_exp.runs.run import Run, shared_metric_info

_MAX_SHOWN = 5


def compare(
    groups: Sequence[Group],
    metric: str = "val_bpb",
    *,
    at: str = "final",
    baseline: str | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compare groups in one metric.

    A run counts if it has finished (or has used the budget of `at`) and its value is finite. Of
    runs that repeat a configuration with the same seed only the newest counts, since they are no
    independent evidence.

    Args:
        groups: from `ResultsAggregator.groups`.
        metric: a metric's name.
        at: which value of each run, as for `Run.value`.
        baseline: label of the group with which the others are compared; None chooses `classic`,
            else the first in the order of settings, and `best` the group with the best mean. The
            order of `groups` changes no number.
        margin: the largest difference that counts as none, in the unit of the metric; with it,
            equivalence is tested too.

    Raises:
        UserError: there are no groups, no run has the metric, `at` or `margin` is not allowed, or
            no group has the label `baseline`.
    """
    if not groups:
        raise UserError(
            "there is nothing to compare: no run was found, or none meets the conditions"
        )
    runs = [run for group in groups for run in group.runs]
    lower = shared_metric_info(metric, runs).lower_is_better
    _check_at(at, metric, lower)
    refuse_missing_series(runs, at)
    require(margin is None or 0 < margin < math.inf, "margin", margin, "> 0 and finite")
    if all(run.value(metric, at) is None for run in runs):
        raise UserError(_no_metric(metric, at, groups))
    odd = checks.find_outliers(runs)
    summaries = [summarize_group(group, metric, at, odd) for group in groups]
    base = _baseline(summaries, baseline, lower)
    others = [summary for summary in summaries if summary is not base]
    tested = [_difference(base, other, None, metric, at, lower) for other in others]
    tested += [
        _difference(a, b, part, metric, at, lower) for a, b, part in _ablations(summaries, base)
    ]
    differences = correct_differences(tested, metric, at, margin)
    return Comparison(
        metric=metric,
        at=at,
        lower_is_better=lower,
        summaries=summaries,
        baseline=base.group.label if len(summaries) > 1 else None,
        differences=differences,
        notes=comparison_notes(at, summaries, differences, base, chosen=baseline, lower=lower),
    )


def _check_at(at: str, metric: str, lower_is_better: bool | None) -> None:
    """Raise SettingError if `at` is malformed, or the metric has no value there in any run."""
    parse_at(at)
    if parse_evaluation(metric) is not None:
        require(at == "final", "at", at, f"final for the evaluation {metric}")
    if at == "best" and lower_is_better is None:
        raise SettingError(
            "at", at, f"final or a budget: of {metric} it is not known which values are better"
        )


def refuse_missing_series(runs: Sequence[Run], at: str) -> None:
    """Raise SettingError if `at` is a budget, and runs were published without their metrics."""
    without = [run for run in runs if not (run.record.get("packed") or {}).get("metrics", True)]
    if without and parse_at(at) is not None:
        of_all = f"{len(without):,} of {format_count(len(runs), 'run')}"
        raise SettingError(
            "at",
            at,
            f"final or best: {of_all}, such as {without[0].run_id}, were packed with --no-metrics, "
            "so that their values before the end are not known",
        )


def explain_unknown_metric(metric: str, runs: Sequence[Run]) -> str:
    """Return the sentence that no run has a metric, with the names of those that some run has."""
    found = {name for name in DERIVED if any(run.value(name) is not None for run in runs)}
    for run in runs:
        found.update(run.metrics, run.results.get("final_metrics") or {})
        found.update(one.name for one in evaluation_conditions(run.evaluations))
    known = sorted(found - {"step", metric})
    return f"no run has the metric {metric}{nearest(metric, known)}; known are {', '.join(known)}"


# --- two groups ---------------------------------------------------------------------------


def _ablations(
    summaries: Sequence[GroupSummary], base: GroupSummary
) -> Iterator[tuple[GroupSummary, GroupSummary, str]]:
    """Return pairs that differ in one part only; the first of a pair has the baseline's part."""
    ordered = sorted(summaries, key=lambda summary: summary.group.natural_order)
    for i, j, part in ablation_pairs([summary.group for summary in ordered]):
        a, b = ordered[i], ordered[j]
        usual = {run.parts.get(part) for run in base.group.runs}
        swapped = {run.parts.get(part) for run in b.group.runs} == usual
        yield (b, a, part) if swapped else (a, b, part)


def _difference(
    a: GroupSummary, b: GroupSummary, part: str | None, metric: str, at: str, lower: bool | None
) -> tuple[Difference, Contrast]:
    """Return `b` minus `a`, not yet corrected for the number of differences, and its test."""
    used_a, used_b = (replace(s.group, runs=s.runs, strata=s.strata) for s in (a, b))
    pairs = pairs_by_seed(used_a, used_b)
    paired = len(pairs) >= statistics.MIN_RUNS
    notes = []
    values_a: Sequence[float] = ()
    values_b: Sequence[float] = ()
    if paired:
        values_a, values_b = (
            [_value_of(a, one) for one, _, _ in pairs],
            [_value_of(b, other) for _, other, _ in pairs],
        )
        strata = [stratum for _, _, stratum in pairs]
        contrast = statistics.paired_contrast(values_a, values_b, strata)
        partners = {run.run_id for one, other, _ in pairs for run in (one, other)}
        alone = [run.run_id for run in (*a.runs, *b.runs) if run.run_id not in partners]
        if alone:
            heading = "without a partner of the same seed and not in the difference"
            notes.append(finding("without partner", heading, "{runs}", runs=", ".join(alone)))
    else:
        contrast = statistics.unpaired_contrast(a.values, b.values, a.strata, b.strata)
        if min(len(a.values), len(b.values)) >= statistics.MIN_RUNS:
            why = why_unpaired(used_a, used_b)
            notes.append(finding("unpaired", "taken as independent samples", "{why}", why=why))
    if contrast.reason:
        notes.append(_missing_test(contrast.reason, contrast.has_few_runs))
    busy = busy_machine(metric, [(a.runs, a.values), (b.runs, b.values)], at)
    notes += [busy] if busy is not None else []
    chance = None
    if lower is not None and paired and len({*strata}) > 1:
        chance = statistics.probability_of_improvement(
            values_a, values_b, strata, strata, lower_is_better=lower
        )
    elif lower is not None and min(len(a.values), len(b.values)) >= statistics.MIN_RUNS:
        chance = statistics.probability_of_improvement(a.values, b.values, lower_is_better=lower)
    matches, warnings = _fairness(a, b, part, metric, at)
    difference = Difference(
        a=a,
        b=b,
        kind="baseline" if part is None else "ablation",
        part=part,
        paired=paired,
        n=len(pairs) if paired else min(len(a.values), len(b.values)),
        mean=contrast.mean,
        interval=contrast.interval,
        probability_of_improvement=chance,
        p_value=contrast.p_value,
        p_holm=None,
        separated=False,
        matches=matches,
        warnings=[*warnings, *notes],
        lower_is_better=lower,
        pairs=[other - one for one, other in zip(values_a, values_b, strict=True)],
    )
    return difference, contrast


def _value_of(summary: GroupSummary, run: Run) -> float:
    return next(
        value
        for one, value in zip(summary.runs, summary.values, strict=True)
        if one.run_id == run.run_id
    )


def _missing_test(reason: str, has_few_runs: bool) -> Finding:
    """Return the finding that a difference has neither interval nor test."""
    kind = "too few runs" if has_few_runs else "no test"
    severity: Severity = "info" if has_few_runs else "warning"
    return Finding(kind, "no interval and no test", reason, severity=severity)


def _fairness(
    a: GroupSummary, b: GroupSummary, part: str | None, metric: str, at: str
) -> tuple[dict[str, bool | None], list[Finding]]:
    """Return what matches, and findings on what does not, the gravest first."""
    matches: dict[str, bool | None] = dict.fromkeys((*matching.QUANTITIES, "settings"))
    if not a.runs or not b.runs:
        return matches, []
    matched, warnings = matching.match_groups(a.runs, b.runs, metric, at)
    if metric_info(metric).kind == "validation":
        doubts = [
            (s.group.label, doubt)
            for s in (a, b)
            for run in s.runs
            if (doubt := checks.too_good(run))
        ]
        warnings = [*merge_findings(doubts), *warnings]
    parts, defaults = differing_parts(a.runs, b.runs), (a.runs[0].defaults, b.runs[0].defaults)
    settings = other_differences(a.settings, b.settings, parts, defaults)
    if settings:
        more = len(settings) - _MAX_SHOWN
        shown = "; ".join(settings[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        warnings.append(
            finding("settings", "settings differ beside the parts", "{shown}", shown=shown)
        )
    if part is not None:
        warnings += _size_differences(a.runs[0], b.runs[0], part)
    return matches | matched | {"settings": not settings}, warnings


def _size_differences(a: Run, b: Run, part: str) -> list[Finding]:
    """Return findings on other components whose size differs in an ablation."""
    sizes_a, sizes_b = (
        (run.record.get("model") or {}).get("parameters_by_component") or {} for run in (a, b)
    )
    return [
        finding(
            "size of another part",
            "the size of the {name} differs too",
            "{one} against {other} parameters",
            name=name,
            one=measurement(sizes_a[name], f"model.parameters_by_component.{name}", a),
            other=measurement(sizes_b[name], f"model.parameters_by_component.{name}", b),
        )
        for name in ("embedding", "attention", "mlp", "head")
        if name != part and name in sizes_a and name in sizes_b and sizes_a[name] != sizes_b[name]
    ]


# --- baseline and metric ------------------------------------------------------------------


def _baseline(
    summaries: Sequence[GroupSummary], label: str | None, lower_is_better: bool | None
) -> GroupSummary:
    by_label = {summary.group.label: summary for summary in summaries}
    if label == BEST and BEST not in by_label:
        return _best(summaries, lower_is_better)
    if label is None:
        ordered = sorted(summaries, key=lambda summary: summary.group.natural_order)
        named = [s for s in ordered if {run.name for run in s.group.runs} == {"classic"}]
        return by_label.get("classic") or (named or ordered)[0]
    if label not in by_label:
        allowed = f"{BEST}, or the label of a group: {', '.join(by_label)}"
        raise SettingError("baseline", label, f"{allowed}{nearest(label, list(by_label))}")
    return by_label[label]


def _best(summaries: Sequence[GroupSummary], lower_is_better: bool | None) -> GroupSummary:
    """Return the summary with the best mean, the first by its settings if several have it."""
    if lower_is_better is None:
        allowed = "the label of a group: it is not known which values of the metric are better"
        raise SettingError("baseline", BEST, allowed)
    sign = 1.0 if lower_is_better else -1.0
    return min(
        summaries,
        key=lambda s: (s.mean is None, sign * (s.mean or 0.0), s.group.natural_order),
    )


def _no_metric(metric: str, at: str, groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    first = [int(steps[0]) for run in runs if len(steps := run.series(metric).steps)]
    budget = parse_at(at)
    if budget is not None and all(run.step_within(budget) is None for run in runs):
        return f"no run records at which step it had used {budget.words}"
    if budget is not None and first:
        return (
            f"no run has a value of {metric} up to {budget.words}: the first is of step"
            f" {min(first)}"
        )
    return explain_unknown_metric(metric, runs)
