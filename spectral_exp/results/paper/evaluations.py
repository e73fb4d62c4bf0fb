"""The section on evaluations of trained models on other texts and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from spectral_exp.results.compared import Comparison, GroupSummary
from spectral_exp.results.document.model import (
    Block,
    Code,
    Heading,
    Number,
    Paragraph,
    Source,
    Strong,
    Table,
    Text,
    column_titles,
)
from spectral_exp.results.paper.material import DASH, Material, plain_number
from spectral_exp.results.paper.passages import passage
from spectral_exp.runs.evaluations import EvaluationMetric, parse_evaluation
from spectral_exp.runs.run import Run

_passage = partial(passage, "findings")


def evaluations(material: Material) -> tuple[Block, ...]:
    """Return the scores of every configuration by text and window, and the differences."""
    found = [
        (evaluation, comparison)
        for comparison in material.evaluations
        if (evaluation := parse_evaluation(comparison.metric)) is not None
    ]
    if not found:
        return ()
    rows = [
        row
        for evaluation, comparison in found
        for row in _rows(replace(material, comparison=comparison), evaluation)
    ]
    base = material.evaluations[0].baseline
    columns = ("Text", "window", "Configuration", "n", "mean", "95 % interval")
    against = (f"minus {base}", "95 % interval", "verdict") if base else ()
    table = Table(
        "tab:evaluations",
        _passage("evaluations table"),
        column_titles(*columns, *against),
        tuple(rows),
        "lrlrrr" + "rrl" * bool(base),
    )
    text = _passage("evaluations", conditions=material.number_of(len(found), "evaluations"))
    return (Heading("Other texts and lengths", 2), Paragraph(text), table)


def _rows(material: Material, evaluation: EvaluationMetric) -> list[tuple[Text, ...]]:
    comparison = material.comparison
    first: tuple[Text, ...] = ((Code(evaluation.text),), (_window_words(evaluation),))
    return [
        (
            *first,
            (Code(summary.group.label),),
            material.count(summary),
            material.mean(summary),
            material.interval(summary),
            *(_difference_cells(material, comparison, summary) if comparison.baseline else ()),
        )
        for summary in comparison.summaries
    ]


def _difference_cells(
    material: Material, comparison: Comparison, summary: GroupSummary
) -> tuple[Text, ...]:
    of = (d for d in comparison.differences if d.kind == "baseline" and d.b is summary)
    difference = next(of, None)
    if difference is None:
        return ((DASH,), (DASH,), (DASH,))
    mean = material.difference(difference)
    return (
        (Strong(mean),) if difference.separated else mean,
        material.difference_interval(difference),
        (difference.verdict if difference.interval else "no test",),
    )


def _window_words(evaluation: EvaluationMetric) -> str:
    if evaluation.stride == evaluation.block_size:
        return str(evaluation.block_size)
    return f"{evaluation.block_size}, every {evaluation.stride}"


def evaluations_of_run(run: Run, metrics: Sequence[str]) -> tuple[Block, ...]:
    """Return a table of the newest evaluations of one run, by the names of these."""
    known = [one for one in map(parse_evaluation, metrics) if one is not None]
    rows: list[tuple[Text, ...]] = [
        (
            (Code(one.text),),
            (_window_words(one),),
            _score_text(run, one, "step", ",.0f"),
            _score_text(run, one, "windows", ",.0f"),
            _score_text(run, one, "bpb", ".4f"),
            _score_text(run, one, "standard_error_bpb", ".4f"),
            _score_text(run, one, "loss", ".4f"),
        )
        for one in known
    ]
    if not rows:
        return ()
    titles = ("Text", "window", "step", "windows read", "bits per byte", "standard error", "loss")
    table = Table(
        "tab:evaluations",
        passage("report", "evaluations"),
        column_titles(*titles),
        tuple(rows),
        "lrrrrrr",
    )
    return (Heading("Evaluations"), table)


def _score_text(run: Run, evaluation: EvaluationMetric, number: str, show: str) -> Text:
    metric = replace(evaluation, number=number).name
    value = run.value(metric)
    if value is None:
        return (DASH,)
    shown = plain_number(round(value)) if show == ",.0f" else f"{value:{show}}"
    return (Number(shown, value, Source(metric, (run.run_id,), "final")),)
