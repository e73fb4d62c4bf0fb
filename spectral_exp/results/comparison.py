"""Statistics of groups of runs, differences between them, and doubts about both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spectral_exp.core.errors import SettingError, UserError, nearest
from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.core.wording import noun
from spectral_exp.results import checks, statistics
from spectral_exp.results.compared import Comparison, Difference, GroupSummary
from spectral_exp.results.comparison_notes import comparison_notes, pair_of
from spectral_exp.results.finding import Finding, Severity, finding, measurement, merge_findings
from spectral_exp.results.group import Group
from spectral_exp.results.pairs import (
    ablation_pairs,
    differing_parts,
    other_differences,
    pairs_by_seed,
    why_unpaired,
)
from spectral_exp.results.statistics import Interval
from spectral_exp.results.times import busy_machine
from spectral_exp.runs.metric_names import DERIVED, metric_info
from spectral_exp.runs.parts import PARTS
from spectral_exp.runs.run import Run, check_at

__all__ = [
    "Comparison",
    "Difference",
    "GroupSummary",
    "Interval",
    "compare",
    "factor_effects",
    "pareto_front",
]

SIGNIFICANCE = 0.05

_MAX_SHOWN = 5


def compare(
    groups: Sequence[Group],
    metric: str = "val_bpb",
    *,
    at: str = "final",
    baseline: str | None = None,
) -> Comparison:
    """Compare groups in one metric.

    A run counts if it has finished (for `step:N`: has reached step N) and its value is finite. Of
    runs that repeat a configuration with the same seed only the newest counts, since they are no
    independent evidence.

    Args:
        groups: from `ResultsAggregator.groups`.
        metric: a metric's name.
        at: which value of each run, as for `Run.value`.
        baseline: label of the group with which the others are compared; None chooses `classic`,
            else the first in the order of settings. The order of `groups` changes no number.

    Raises:
        UserError: there are no groups, no run has the metric, `at` is not allowed, or no group
            has the label `baseline`.
    """
    if not groups:
        raise UserError(
            "there is nothing to compare: no run was found, or none meets the conditions"
        )
    check_at(at)
    lower = metric_info(metric).lower_is_better
    if at == "best" and lower is None:
        raise SettingError(
            "at", at, f"final or step:N: of {metric} it is not known which values are better"
        )
    reference = _baseline(groups, baseline)
    if all(run.value(metric, at) is None for group in groups for run in group.runs):
        raise UserError(_no_metric(metric, at, groups))
    odd = checks.odd_ones_out([run for group in groups for run in group.runs])
    summaries = [_summary(group, metric, at, odd) for group in groups]
    base = next(summary for summary in summaries if summary.group.label == reference)
    differences = [
        _difference(base, other, None, metric, at) for other in summaries if other is not base
    ]
    differences += [
        _difference(a, b, part, metric, at) for a, b, part in _ablations(summaries, base)
    ]
    differences = _correct(differences, metric, at)
    return Comparison(
        metric=metric,
        at=at,
        lower_is_better=lower,
        summaries=summaries,
        baseline=reference if len(summaries) > 1 else None,
        differences=differences,
        notes=comparison_notes(
            at, summaries, differences, base, chosen=baseline is not None, lower=lower
        ),
    )


def factor_effects(comparison: Comparison) -> dict[str, list[Difference]]:
    """Return the ablations by the part that differs, in the order of the grid."""
    found: dict[str, list[Difference]] = {part: [] for part in PARTS}
    for difference in comparison.differences:
        if difference.part is not None:
            found[difference.part].append(difference)
    return {part: differences for part, differences in found.items() if differences}


def pareto_front(comparison: Comparison, cost_metric: str = "train_s") -> list[GroupSummary]:
    """Return the groups that no other group beats in mean metric and mean cost, by ascending cost.

    Runs count for the cost if they count for the metric. Groups without a value are left out. A
    metric without direction has no front.
    """
    if comparison.lower_is_better is None:
        return []
    sign = 1.0 if comparison.lower_is_better else -1.0
    points = []
    for summary in comparison.summaries:
        costs = [
            cost
            for run in summary.runs
            if (cost := run.value(cost_metric)) is not None and math.isfinite(cost)
        ]
        if summary.mean is not None and costs:
            points.append((math.fsum(costs) / len(costs), sign * summary.mean, summary))
    points.sort(key=lambda point: point[:2])
    return [
        summary
        for cost, loss, summary in points
        if not any(c <= cost and v <= loss and (c, v) != (cost, loss) for c, v, _ in points)
    ]


# --- one group ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Counted:
    run: Run
    stratum: int
    value: float


def _summary(
    group: Group, metric: str, at: str, odd: Mapping[str, Sequence[Finding]]
) -> GroupSummary:
    used: list[_Counted] = []
    left_out: list[tuple[str, Finding]] = []
    broken: list[Run] = []
    for run, stratum in zip(group.runs, group.strata, strict=True):
        value = run.value(metric, at)
        if not _has_reached(run, at) and (reason := checks.why_unfinished(run)) is not None:
            left_out.append((run.run_id, reason))
            broken += [run] if run.status in {"failed", "diverged"} else []
        elif value is None:
            left_out.append((run.run_id, _no_value(metric, at)))
        elif not math.isfinite(value):
            left_out.append(
                (
                    run.run_id,
                    finding(
                        "non-finite value", "{metric} is {value}", metric=metric, value=str(value)
                    ),
                )
            )
            broken.append(run)
        else:
            used.append(_Counted(run, stratum, value))
    used, repeats = _without_repeats(used, metric, at)
    runs, strata, values = [c.run for c in used], [c.stratum for c in used], [c.value for c in used]
    interval = statistics.mean_interval(values, strata)
    flags = [
        (run.run_id, one)
        for run in runs
        for one in (*checks.run_flags(run, metric), *odd.get(run.run_id, ()))
    ]
    notes = _group_notes(metric, at, used, interval)
    notes += merge_findings(flags, everyone=f"all {len(runs)} runs", n_all=len(runs))
    if broken:
        notes.insert(0, _broken_runs(broken, group))
    notes += [_repeat_note(reason) for _, reason in repeats]
    return GroupSummary(
        group=group,
        values=values,
        seeds=[run.seed for run in runs],
        left_out=[*left_out, *repeats],
        mean=float(statistics.mean(values)) if values else None,
        median=float(statistics.median(values)) if values else None,
        iqm=(
            float(statistics.interquartile_mean(values))
            if len(values) >= statistics.MIN_FOR_IQM
            else None
        ),
        interval=interval,
        notes=notes,
        runs=runs,
        strata=strata,
    )


def _has_reached(run: Run, at: str) -> bool:
    """Return whether the run reached the step of the value."""
    stop = check_at(at)
    return run.finished or (stop is not None and run.last_step >= stop)


def _no_value(metric: str, at: str) -> Finding:
    stop = check_at(at)
    if stop is None:
        return finding("no value", "no {metric}", metric=metric)
    return finding(
        "no value", "no {metric} at or before step {step}", metric=metric, step=f"{stop:,}"
    )


def _broken_runs(broken: Sequence[Run], group: Group) -> Finding:
    return finding(
        "broken runs",
        "{broken} of {all} "
        + noun(len(group.runs), "run")
        + " broke and are not among the values, which flatters them",
        broken=measurement(len(broken), "status", broken, COUNT),
        all=measurement(len(group.runs), "status", group.runs, COUNT),
    )


def _repeat_note(reason: Finding) -> Finding:
    return replace(reason, heading="repeated runs count once", detail=reason.heading)


COUNT = "number of runs"
"""The formula of a number."""


def _without_repeats(
    used: Sequence[_Counted], metric: str, at: str
) -> tuple[list[_Counted], list[tuple[str, Finding]]]:
    """Return the newest of the runs of one stratum and seed, and a reason for each other run."""
    newest: dict[tuple[int, int | None], _Counted] = {}
    for one in used:
        key = (one.stratum, one.run.seed)
        if key not in newest or _age(one.run) > _age(newest[key].run):
            newest[key] = one
    kept: list[_Counted] = []
    repeats = []
    for one in used:
        last = newest[one.stratum, one.run.seed]
        if one is last or one.run.seed is None:
            kept.append(one)
            continue
        reason = finding(
            "repeated",
            "seed {seed} was run again as {run}"
            + ("" if one.value == last.value else " (the values differ: {value} and {last})"),
            seed=str(one.run.seed),
            run=last.run.run_id,
            value=measurement(one.value, metric, one.run, at=at, show=".6g"),
            last=measurement(last.value, metric, last.run, at=at, show=".6g"),
        )
        repeats.append((one.run.run_id, reason))
    return kept, repeats


def _age(run: Run) -> tuple[float, str]:
    """Return a key that sorts runs by their start; those that do not record it come first."""
    begun_s = seconds_since_epoch(run.record.get("timestamp"))
    return -math.inf if math.isnan(begun_s) else begun_s, run.run_id


def _group_notes(
    metric: str, at: str, used: Sequence[_Counted], interval: Interval | None
) -> list[Finding]:
    values, strata, runs = [c.value for c in used], [c.stratum for c in used], [c.run for c in used]
    n, sizes = len(values), [strata.count(stratum) for stratum in sorted({*strata})]
    notes = []
    if n < statistics.MIN_RUNS:
        needed = "{n} " + noun(n, "run") + ", three are needed"
        n_runs = measurement(n, metric, runs, COUNT, at=at)
        notes.append(finding("too few runs", "no interval", needed, severity="info", n=n_runs))
    elif interval is None:
        spread = (
            "too few runs of each configuration"
            if n - len(sizes) < 2
            else f"no spread in {metric} between runs"
        )
        notes.append(finding("no interval", "no interval", "{why}", why=spread))
    if len({*sizes}) > 1:
        notes.append(
            finding(
                "unequal configurations",
                "its configurations have different numbers of runs ({sizes}); the mean weighs every"
                " run the same",
                sizes=", ".join(map(str, sizes)),
            )
        )
    first: dict[float, Run] = {}
    for one in used if metric not in DERIVED else ():
        twin = first.setdefault(one.value, one.run)
        if twin.seed != one.run.seed:
            heading = (
                "{one} and {other} have exactly the same {metric} although their seeds differ: the"
                " seed changed nothing, or one is a copy"
            )
            notes.append(
                finding(
                    "equal values", heading, one=twin.run_id, other=one.run.run_id, metric=metric
                )
            )
    return notes


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
    a: GroupSummary, b: GroupSummary, part: str | None, metric: str, at: str
) -> Difference:
    """Return `b` minus `a`, not yet corrected for the number of differences."""
    lower = metric_info(metric).lower_is_better
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
    busy = busy_machine(metric, [*a.runs, *b.runs], _ratio(a, b))
    notes += [busy] if busy is not None else []
    chance = None
    if lower is not None and paired and len({*strata}) > 1:
        chance = statistics.probability_of_improvement(
            values_a, values_b, strata, strata, lower_is_better=lower
        )
    elif lower is not None and min(len(a.values), len(b.values)) >= statistics.MIN_RUNS:
        chance = statistics.probability_of_improvement(a.values, b.values, lower_is_better=lower)
    matches, warnings = _fairness(a, b, part, metric, at)
    return Difference(
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
        detectable=contrast.detectable,
    )


def _ratio(a: GroupSummary, b: GroupSummary) -> float | None:
    return b.mean / a.mean if a.mean and b.mean is not None else None


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
    matches: dict[str, bool | None] = dict.fromkeys((*checks.QUANTITIES, "settings"))
    if not a.runs or not b.runs:
        return matches, []
    matched, warnings = checks.match_groups(a.runs, b.runs, metric, at)
    if metric_info(metric).kind == "validation":
        doubts = [
            (s.group.label, doubt)
            for s in (a, b)
            for run in s.runs
            if (doubt := checks.too_good(run))
        ]
        warnings = [*merge_findings(doubts), *warnings]
    settings = other_differences(a.settings, b.settings, differing_parts(a.runs, b.runs))
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


def _correct(differences: Sequence[Difference], metric: str, at: str) -> list[Difference]:
    """Apply Holm's correction over all pairs of groups; a pair that appears twice is one test.

    Differences that are not separated get a note on the size that a test would find.
    """
    tests = {pair_of(d): d.p_value for d in differences if d.p_value is not None}
    corrected = dict(zip(tests, statistics.holm(list(tests.values())), strict=True))
    found = []
    for difference in differences:
        p = corrected.get(pair_of(difference))
        interval = difference.interval
        separated = (
            p is not None and p < SIGNIFICANCE and interval is not None and interval.excludes_zero
        )
        if any(warning.kind == "busy machine" for warning in difference.warnings):
            separated = False
        warnings = [
            *difference.warnings,
            *([] if separated else _detectable(difference, metric, at)),
        ]
        found.append(replace(difference, p_holm=p, separated=separated, warnings=warnings))
    return found


DETECTABLE = "true difference that a test finds with a probability of 80 %"
"""The formula of a number."""


def _detectable(difference: Difference, metric: str, at: str) -> list[Finding]:
    if difference.detectable is None:
        return []
    runs = [*difference.a.runs, *difference.b.runs]
    size = measurement(difference.detectable, metric, runs, DETECTABLE, at=at, show=_two_digits)
    detail = (
        "a true difference of {size} would be found in four of five such comparisons, a smaller one"
        " less often"
    )
    return [finding("power", "not separated, which does not mean equal", detail, size=size)]


def _two_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


# --- baseline and metric ------------------------------------------------------------------


def _baseline(groups: Sequence[Group], label: str | None) -> str:
    labels = [group.label for group in groups]
    if label is None:
        ordered = sorted(groups, key=lambda group: group.natural_order)
        named = [
            group.label for group in ordered if {run.name for run in group.runs} == {"classic"}
        ]
        return "classic" if "classic" in labels else named[0] if named else ordered[0].label
    if label not in labels:
        raise SettingError(
            "baseline", label, f"the label of a group: {', '.join(labels)}{nearest(label, labels)}"
        )
    return label


def _no_metric(metric: str, at: str, groups: Sequence[Group]) -> str:
    runs = [run for group in groups for run in group.runs]
    first = [int(steps[0]) for run in runs if len(steps := run.series(metric).steps)]
    if check_at(at) is not None and first:
        return (
            f"no run has a value of {metric} at or before step {check_at(at)}: the first is of step"
            f" {min(first)}"
        )
    found = {name for run in runs for name in run.results.get("final_metrics") or {}}
    names = sorted({*found, *DERIVED} - {"step"})
    return (
        f"no run has the metric {metric}{nearest(metric, names)}; known are {', '.join(names)}, and"
        " all that is logged"
    )
