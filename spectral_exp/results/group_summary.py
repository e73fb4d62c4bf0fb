"""Statistics of the runs of one group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from spectral_exp.core.timestamps import seconds_since_epoch
from spectral_exp.core.wording import noun
from spectral_exp.results import checks, statistics
from spectral_exp.results.cautions import unite_errors
from spectral_exp.results.compared import GroupSummary
from spectral_exp.results.finding import COUNT, Finding, finding, measurement, merge_findings
from spectral_exp.results.group import Group
from spectral_exp.results.statistics import Interval
from spectral_exp.runs.budget import parse_at
from spectral_exp.runs.evaluations import parse_evaluation
from spectral_exp.runs.metric_names import DERIVED
from spectral_exp.runs.run import Run
from spectral_exp.runs.status import BROKEN


@dataclass(frozen=True)
class _Counted:
    run: Run
    stratum: int
    value: float


def summarize_group(
    group: Group, metric: str, at: str, odd: Mapping[str, Sequence[Finding]]
) -> GroupSummary:
    """Return the statistics of a group, its runs that do not count, and the doubts about it.

    Args:
        group: the runs, with their strata.
        metric, at: the value of each run.
        odd: findings on runs that differ from the others, by run id.
    """
    used, left_out, broken = _select_runs(group, metric, at)
    used, repeats = _without_repeats(used, metric, at)
    runs, strata, values = [c.run for c in used], [c.stratum for c in used], [c.value for c in used]
    interval = statistics.mean_interval(values, strata)
    flags = [
        (run.run_id, one)
        for run in runs
        for one in (*checks.run_flags(run, metric), *odd.get(run.run_id, ()))
    ]
    notes = _group_notes(metric, at, used, interval)
    notes += merge_findings(unite_errors(flags), everyone=f"all {len(runs)} runs", n_all=len(runs))
    if broken:
        notes.insert(0, _missing_runs("broken runs", "broke", broken, group))
    unused = {run_id for run_id, _ in left_out}
    pruned = [run for run in group.runs if run.status == "pruned" and run.run_id in unused]
    if pruned:
        were = "was" if len(pruned) == 1 else "were"
        verb = f"{were} pruned by a search for being worse than others"
        notes.insert(0, _missing_runs("pruned runs", verb, pruned, group))
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


def _select_runs(
    group: Group, metric: str, at: str
) -> tuple[list[_Counted], list[tuple[str, Finding]], list[Run]]:
    """Return the runs that count, id and reason of the others, and those others that broke."""
    used: list[_Counted] = []
    left_out: list[tuple[str, Finding]] = []
    broken: list[Run] = []
    for run, stratum in zip(group.runs, group.strata, strict=True):
        value = run.value(metric, at)
        if not _has_reached(run, at) and (reason := checks.why_unfinished(run)) is not None:
            left_out.append((run.run_id, reason))
            broken += [run] if run.status in BROKEN else []
        elif value is None:
            left_out.append((run.run_id, _no_value(metric, at)))
        elif not math.isfinite(value):
            shown = str(value)
            reason = finding("non-finite value", "{metric} is {value}", metric=metric, value=shown)
            left_out.append((run.run_id, reason))
            broken.append(run)
        else:
            used.append(_Counted(run, stratum, value))
    return used, left_out, broken


def _has_reached(run: Run, at: str) -> bool:
    """Return whether the run has finished, or used the budget."""
    budget = parse_at(at)
    return run.finished or (budget is not None and run.has_used(budget))


def _no_value(metric: str, at: str) -> Finding:
    budget = parse_at(at)
    if budget is None:
        return finding("no value", "no {metric}", metric=metric)
    return finding("no value", "no {metric} up to {budget}", metric=metric, budget=budget.words)


def _missing_runs(kind: str, verb: str, missing: Sequence[Run], group: Group) -> Finding:
    return finding(
        kind,
        "{missing} of {all} "
        + noun(len(group.runs), "run")
        + f" {verb} and are not among the values, which flatters them",
        missing=measurement(len(missing), "status", missing, COUNT),
        all=measurement(len(group.runs), "status", group.runs, COUNT),
    )


def _repeat_note(reason: Finding) -> Finding:
    return replace(reason, heading="repeated runs count once", detail=reason.heading)


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
    notes += _checkpoint_notes(metric, runs)
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


def _checkpoint_notes(metric: str, runs: Sequence[Run]) -> list[Finding]:
    """Return a finding if the checkpoints that were evaluated are of different steps."""
    evaluation = parse_evaluation(metric)
    if evaluation is None:
        return []
    steps = {run.run_id: step for run in runs if (step := run.final_step(metric)) is not None}
    if len({*steps.values()}) < 2:
        return []
    source = f"step@{evaluation.condition}"
    return [
        finding(
            "evaluated steps",
            "checkpoints of different steps were evaluated, {low} to {high}",
            severity="info",
            low=measurement(min(steps.values()), source, runs, "smallest of the runs", at="final"),
            high=measurement(max(steps.values()), source, runs, "largest of the runs", at="final"),
        )
    ]
