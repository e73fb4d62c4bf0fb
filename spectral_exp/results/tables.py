"""Comparisons and runs as tables with notes, and as CSV and JSON for programs.

Tables round and carry everything that a reader must know; CSV and JSON hold every digit. A
difference is bold, if the format has bold, only if it is separated from zero. The same comparison
always gives the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spectral_exp.results.attribution import Attribution
from spectral_exp.results.attribution_tables import attribution_notes, attribution_table
from spectral_exp.results.compared import Comparison, Difference, GroupSummary, moment
from spectral_exp.results.evaluated import overview_tables
from spectral_exp.results.number_texts import (
    decimals,
    interval_text,
    number_text,
    probability_text,
)
from spectral_exp.results.statistics import MIN_FOR_IQM
from spectral_exp.results.table_data import (
    LeftOut,
    comparisons_as_csv,
    comparisons_as_json,
    runs_as_csv,
    runs_as_json,
)
from spectral_exp.results.table_formats import VERDICT, Cell, TableReport, TextTable
from spectral_exp.runs.run import Run


def render_comparisons(
    comparisons: Sequence[Comparison],
    form: str,
    left_out: LeftOut = (),
    remark: str = "",
    attributions: Sequence[Attribution] = (),
) -> str:
    """Return comparisons of one or several metrics in a format.

    Comparisons of several evaluations begin with an overview.

    Args:
        comparisons: of the same runs.
        form: the name of the format.
        left_out: path and reason of each unusable folder.
        remark: a sentence on the choice of the runs, or "".
        attributions: of differences among the comparisons to single parts.
    """
    if form == "json":
        return comparisons_as_json(comparisons, left_out, remark, attributions)
    if form == "csv":
        return comparisons_as_csv(comparisons, attributions)
    report, several = TableReport(), len(comparisons) > 1
    if several:
        report.tables.extend(overview_tables(comparisons))
    for one in comparisons:
        report.tables.extend(comparison_tables(one))
        report.notes.extend(titled_notes(one, several=several))
    for attribution in attributions:
        report.tables.append(attribution_table(attribution))
        report.notes.append(attribution_notes(attribution, several=several))
    report.notes.extend(notes_on_choice(left_out, remark))
    return report.render(form)


def render_runs(
    runs: Sequence[Run],
    metrics: Sequence[str],
    at: str,
    form: str,
    left_out: LeftOut = (),
    remark: str = "",
) -> str:
    """Return one line for each run in a format; see `render_comparisons`."""
    if form == "json":
        return runs_as_json(runs, metrics, at, left_out, remark)
    if form == "csv":
        return runs_as_csv(runs, metrics, at)
    notes = notes_on_choice(left_out, remark, runs)
    return TableReport([_runs_table(runs, metrics, at)], notes).render(form)


def notes_on_choice(
    left_out: LeftOut, remark: str, runs: Sequence[Run] = ()
) -> list[tuple[str, list[str]]]:
    """Return the titled notes on what is wrong with `runs`, on unusable folders and on the rest."""
    return [
        ("problems", [f"{run.run_id}: {problem}" for run in runs for problem in run.problems]),
        ("folders left out", [f"{path}: {reason}" for path, reason in left_out]),
        ("remarks", [remark] if remark else []),
    ]


# --- tables -------------------------------------------------------------------------------

_TEST_COLUMNS = ("n", "difference", "95 % interval", "P(better)", "p (Holm)")


def comparison_tables(comparison: Comparison) -> Iterable[TextTable]:
    """Yield the tables of groups, of differences to the baseline, and of single parts."""
    digits = decimals(value for summary in comparison.summaries for value in summary.values)
    yield _groups_table(comparison, digits)
    margins = [one.equivalence.margin for one in comparison.differences if one.equivalence]
    within = [f"p (within {margins[0]:g})"] if margins else []
    columns = (*_TEST_COLUMNS, *within, VERDICT)
    to_baseline = [one for one in comparison.differences if one.kind == "baseline"]
    if to_baseline:
        yield TextTable(
            f"{comparison.metric} minus that of {comparison.baseline}",
            ("group", *columns),
            [
                [Cell(one.b.group.label), *_difference_cells(one, digits, bool(margins))]
                for one in to_baseline
            ],
        )
    ablations = [one for one in comparison.differences if one.kind != "baseline"]
    if ablations:
        yield TextTable(
            f"{comparison.metric}: effect of a single part",
            ("part", "from", "to", *columns),
            [
                [
                    *map(Cell, (one.part or "", one.a.group.label, one.b.group.label)),
                    *_difference_cells(one, digits, bool(margins)),
                ]
                for one in ablations
            ],
            n_texts=3,
        )


def _groups_table(comparison: Comparison, digits: int) -> TextTable:
    # Below four runs the interquartile mean is the mean.
    with_iqm = any(summary.iqm is not None for summary in comparison.summaries)
    unit = comparison.metric_info.given_unit
    return TextTable(
        f"{comparison.metric}{f' ({unit})' if unit else ''}, "
        f"{moment(comparison.metric, comparison.at)}, "
        f"{comparison.direction_words}",
        ("group", "n", "mean", "95 % interval", "median", *(["IQM"] if with_iqm else [])),
        [
            [
                Cell(_group_name(summary, comparison)),
                Cell(str(len(summary.values))),
                Cell(number_text(summary.mean, digits)),
                Cell(interval_text(summary.interval, digits)),
                Cell(number_text(summary.median, digits)),
                *([Cell(number_text(summary.iqm, digits))] if with_iqm else []),
            ]
            for summary in comparison.summaries
        ],
    )


def _group_name(summary: GroupSummary, comparison: Comparison) -> str:
    label = summary.group.label
    return f"{label} (baseline)" if label == comparison.baseline else label


def _difference_cells(difference: Difference, digits: int, with_margin: bool) -> list[Cell]:
    equivalence = difference.equivalence
    within = [Cell(probability_text(equivalence.p_holm if equivalence else None))]
    return [
        Cell(f"{difference.n}{'' if difference.paired else '*'}"),
        Cell(number_text(difference.mean, digits, signed=True), bold=difference.separated),
        Cell(interval_text(difference.interval, digits, signed=True)),
        Cell(number_text(difference.probability_of_improvement, 2)),
        Cell(probability_text(difference.p_holm)),
        *(within if with_margin else []),
        Cell(difference.verdict, bold=difference.separated),
    ]


# --- notes --------------------------------------------------------------------------------


def titled_notes(comparison: Comparison, *, several: bool) -> Iterable[tuple[str, list[str]]]:
    """Yield titles and notes; the titles name the metric if there are several comparisons."""
    of = f" on {comparison.metric}" if several else ""
    summaries, differences = comparison.summaries, comparison.differences
    notes = [str(note) for note in comparison.notes]
    if any(not one.paired for one in differences):
        notes.append("n*: not paired by seed, but taken as independent samples")
    iqm = [summary.iqm is not None for summary in summaries if summary.values]
    if any(iqm) and not all(iqm):
        notes.append(f"IQM from {MIN_FOR_IQM} runs on: below, it is the mean")
    on_groups = [(s.group.label, str(note)) for s in summaries for note in s.notes]
    matches = [(_pair(one), _describe_matches(one.matches)) for one in differences]
    warnings = [(_pair(one), str(warning)) for one in differences for warning in one.warnings]
    labels, pairs = {s.group.label for s in summaries}, {_pair(one) for one in differences}
    left_out = [f"{run_id}: {reason}" for s in summaries for run_id, reason in s.left_out]
    yield f"notes{of}", notes
    yield f"notes on groups{of}", _merge_subjects(on_groups, len(labels))
    yield f"what is the same in both{of}", _merge_subjects(matches, len(pairs))
    yield f"warnings on differences{of}", _merge_subjects(warnings, len(pairs))
    yield f"runs that do not count{of}", left_out
    yield f"problems{of}", list(_other_problems(comparison))


def _other_problems(comparison: Comparison) -> Iterable[str]:
    """Return what could not be read of runs and no note on their group reports."""
    for summary in comparison.summaries:
        reported = {note.values.get("problem") for note in summary.notes}
        for run in summary.group.runs:
            for problem in run.problems:
                if problem not in reported:
                    yield f"{run.run_id}: {problem}"


def _describe_matches(matches: Mapping[str, bool | None]) -> str:
    """Return a sentence on what matches between two groups."""
    words = {True: "the same", False: "different", None: "unknown"}
    names = {word: [n for n, found in matches.items() if found is v] for v, word in words.items()}
    return "; ".join(f"{word}: {', '.join(found)}" for word, found in names.items() if found)


def _pair(difference: Difference) -> str:
    return f"{difference.a.group.label} -> {difference.b.group.label}"


def _merge_subjects(notes: Iterable[tuple[str, str]], n_all: int) -> list[str]:
    """Return each sentence once, after its subjects, or "all" for all `n_all` of them."""
    subjects: dict[str, dict[str, None]] = {}
    for subject, sentence in notes:
        subjects.setdefault(sentence, {})[subject] = None
    return [
        f"{'all' if len(names) == n_all > 1 else ', '.join(names)}: {sentence}"
        for sentence, names in subjects.items()
        if sentence
    ]


# --- runs ---------------------------------------------------------------------------------


def _runs_table(runs: Sequence[Run], metrics: Sequence[str], at: str) -> TextTable:
    values = {metric: [run.value(metric, at) for run in runs] for metric in metrics}
    digits = {
        metric: decimals(value for value in values[metric] if value is not None)
        for metric in metrics
    }
    rows = []
    for i, run in enumerate(runs):
        seed = "" if run.seed is None else str(run.seed)
        cells = {"run": run.run_id, "status": run.status, "seed": seed}
        cells |= {"steps": str(run.last_step)} if "steps" not in metrics else {}
        cells |= {metric: number_text(values[metric][i], digits[metric]) for metric in metrics}
        cells |= {"train_s": number_text(run.train_s, 1)} if "train_s" not in metrics else {}
        rows.append(cells)
    moments: dict[str, list[str]] = {}
    for metric in metrics:
        moments.setdefault(moment(metric, at), []).append(metric)
    caption = "; ".join(f"{', '.join(names)}: {words}" for words, names in moments.items())
    columns = list(rows[0]) if rows else []
    return TextTable(caption, columns, [list(map(Cell, row.values())) for row in rows], n_texts=2)
