"""Comparisons of evaluations of trained models: which ones to compare, and their overview."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from spectral_exp.core.errors import SettingError, UserError, nearest
from spectral_exp.results.compared import Comparison, GroupSummary
from spectral_exp.results.conditions import compare_numbers, is_equal, split_condition
from spectral_exp.results.number_texts import decimals, interval_text, number_text
from spectral_exp.results.table_formats import Cell, TextTable
from spectral_exp.runs.evaluations import (
    SCORES,
    EvaluationMetric,
    evaluation_conditions,
    parse_evaluation,
)
from spectral_exp.runs.run import Run

ALL = "all"
"""The condition that every evaluation meets."""

_NAMES: dict[str, Callable[[EvaluationMetric], str | int]] = {
    "text": lambda one: one.text,
    "block_size": lambda one: one.block_size,
    "stride": lambda one: one.stride,
}


def evaluation_metrics(
    runs: Sequence[Run], conditions: Sequence[str], numbers: Sequence[str] = SCORES[:1]
) -> list[str]:
    """Return the metrics of the recorded evaluations that meet all conditions.

    Args:
        runs: whose records are looked through.
        conditions: `all`, `text=val`, `block_size=128,256`, `block_size>64`, `stride=64`.
        numbers: of `SCORES`.

    Raises:
        UserError: a condition or number is unknown, or no evaluation meets the conditions.
    """
    for number in numbers:
        if number not in SCORES:
            allowed = f"among {', '.join(SCORES)} with --evaluation{nearest(number, SCORES)}"
            raise SettingError("metric", number, allowed)
    meets = [_predicate(text) for text in conditions if text != ALL]
    known = sorted({one for run in runs for one in evaluation_conditions(run.evaluations)})
    found = [one for one in known if all(is_met(one) for is_met in meets)]
    if not found:
        recorded = ", ".join(one.condition for one in known)
        raise UserError(
            f"no run has an evaluation with {' and '.join(conditions)}; recorded are {recorded}"
            if known
            else "no run has an evaluation; spectral-exp evaluate makes and records one"
        )
    return [
        EvaluationMetric(one.text, one.block_size, one.stride, number).name
        for number in numbers
        for one in found
    ]


def _predicate(text: str) -> Callable[[EvaluationMetric], bool]:
    name, sign, value = split_condition(text, "evaluation", "block_size=256")
    if name not in _NAMES:
        allowed = f"{ALL}, or a condition on {', '.join(_NAMES)}{nearest(name, list(_NAMES))}"
        raise SettingError("evaluation", text, allowed)
    read = _NAMES[name]
    if sign in ("=", "!="):
        # The path of a text may hold commas.
        wanted = [value, *(part.strip() for part in value.split(","))]
        return lambda one: any(is_equal(read(one), each) for each in wanted) == (sign == "=")
    return lambda one: compare_numbers(read(one), sign, value)


# --- overview -----------------------------------------------------------------------------


def overview_tables(comparisons: Sequence[Comparison]) -> Iterable[TextTable]:
    """Yield a table for each number with a row for each group and a column for each evaluation."""
    by_number: dict[str, list[tuple[EvaluationMetric, Comparison]]] = {}
    for comparison in comparisons:
        evaluation = parse_evaluation(comparison.metric)
        if evaluation is not None:
            by_number.setdefault(evaluation.number, []).append((evaluation, comparison))
    for number, found in by_number.items():
        labels = [summary.group.label for summary in found[0][1].summaries]
        digits = decimals(value for _, one in found for s in one.summaries for value in s.values)
        yield TextTable(
            f"{number} by evaluation: mean, 95 % interval, number of runs",
            ("group", *(evaluation.condition for evaluation, _ in found)),
            [
                [
                    Cell(label),
                    *(Cell(_cell_text(_summary_of(one, label), digits)) for _, one in found),
                ]
                for label in labels
            ],
        )


def _summary_of(comparison: Comparison, label: str) -> GroupSummary:
    return next(one for one in comparison.summaries if one.group.label == label)


def _cell_text(summary: GroupSummary, digits: int) -> str:
    mean = number_text(summary.mean, digits)
    if summary.mean is None:
        return mean
    interval = f" {interval_text(summary.interval, digits)}" if summary.interval else ""
    return f"{mean}{interval} ({len(summary.values)})"
