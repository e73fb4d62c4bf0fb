"""Comparisons and runs as tables for a terminal, Markdown and LaTeX, and as CSV and JSON for programs.

Tables round, and say everything that a reader must know; CSV and JSON hold every digit. A difference is bold, where the
format knows bold, only if it is separated from zero. The same comparison always gives the same text.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectral_exp.core.foreign_text import printable, printable_json
from spectral_exp.core.json_value import jsonable
from spectral_exp.results.compared import Comparison, Difference, GroupSummary, moment
from spectral_exp.results.statistics import MIN_FOR_IQM, Interval
from spectral_exp.runs.run import Run

WIDTH = 100
"""Columns that a terminal table keeps to, where its labels let it."""

LeftOut = Sequence[tuple[Path, str]]


_VERDICT = "verdict"
_MAX_CELL, _MAX_NOTE = 200, 4000  # characters
_LARGE = 1e15  # from here on a float has no digits after the point


@dataclass(frozen=True)
class Cell:
    """One entry; `bold` marks what is statistically separated."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table: the first `n_texts` columns hold texts, the others numbers; a verdict comes last."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    n_texts: int = 1

    def is_text(self, column: int) -> bool:
        """Whether a column holds words, which stand to the left."""
        return column < self.n_texts or self.columns[column] == _VERDICT


@dataclass(frozen=True)
class Document:
    """What is printed: tables, and below them notes by title."""

    tables: list[Table] = field(default_factory=list)
    notes: list[tuple[str, list[str]]] = field(default_factory=list)


def render_comparisons(comparisons: Sequence[Comparison], form: str, left_out: LeftOut = ()) -> str:
    """Comparisons of one or several metrics in one of `FORMS`, with the folders that could not be used."""
    if form == "json":
        content = {"comparisons": [comparison_json(one) for one in comparisons], "left_out": _left_out_json(left_out)}
        return _json(content)
    if form == "csv":
        return _csv([row for one in comparisons for row in _csv_rows(one)])
    document = Document()
    for one in comparisons:
        document.tables.extend(_comparison_tables(one))
        document.notes.extend(_comparison_notes(one, several=len(comparisons) > 1))
    return FORMS[form](_with_left_out(document, left_out))


def render_runs(runs: Sequence[Run], metrics: Sequence[str], at: str, form: str, left_out: LeftOut = ()) -> str:
    """One line for each run, in one of `FORMS`."""
    if form in ("json", "csv"):
        rows = [_run_row(run, metrics, at) for run in runs]
        return _json({"at": at, "runs": rows, "left_out": _left_out_json(left_out)}) if form == "json" else _csv(rows)
    document = Document()
    document.tables.append(_runs_table(runs, metrics, at))
    problems = [f"{run.run_id}: {problem}" for run in runs for problem in run.problems]
    document.notes.append(("problems", problems))
    return FORMS[form](_with_left_out(document, left_out))


def _with_left_out(document: Document, left_out: LeftOut) -> Document:
    """The whole document, in which names and reasons from records are safe to print."""
    notes = [*document.notes, ("folders left out", [f"{path}: {reason}" for path, reason in left_out])]
    return Document(
        [_printable_table(table) for table in document.tables],
        [(printable(title), [printable(note, _MAX_NOTE) for note in lines]) for title, lines in notes],
    )


def _printable_table(table: Table) -> Table:
    return Table(
        printable(table.caption),
        [printable(column, _MAX_CELL) for column in table.columns],
        [[Cell(printable(cell.text, _MAX_CELL), cell.bold) for cell in row] for row in table.rows],
        table.n_texts,
    )


# --- what is said ----------------------------------------------------------------------------------------------------


def _comparison_tables(comparison: Comparison) -> Iterable[Table]:
    values = [value for summary in comparison.summaries for value in summary.values]
    digits = _decimals(values)
    # Without four runs the interquartile mean is the mean.
    with_iqm = any(summary.iqm is not None for summary in comparison.summaries)
    rows = []
    for summary in comparison.summaries:
        is_baseline = summary.group.label == comparison.baseline
        texts = [
            summary.group.label + (" (baseline)" if is_baseline else ""),
            str(len(summary.values)),
            _number(summary.mean, digits),
            _interval(summary.interval, digits),
            _number(summary.median, digits),
            *([_number(summary.iqm, digits)] if with_iqm else []),
        ]
        rows.append([Cell(text) for text in texts])
    columns = ("group", "n", "mean", "95 % interval", "median", *(["IQM"] if with_iqm else []))
    yield Table(_title(comparison), columns, rows)
    to_baseline = [one for one in comparison.differences if one.kind == "baseline"]
    if to_baseline:
        yield Table(
            f"{comparison.metric} minus that of {comparison.baseline}",
            ("group", *_DIFFERENCE_COLUMNS),
            [[Cell(one.b.group.label), *_difference_cells(one, digits)] for one in to_baseline],
        )
    ablations = [one for one in comparison.differences if one.kind != "baseline"]
    if ablations:
        yield Table(
            f"{comparison.metric}: effect of a single part",
            ("part", "from", "to", *_DIFFERENCE_COLUMNS),
            [
                [
                    *(Cell(text) for text in (one.part or "", one.a.group.label, one.b.group.label)),
                    *_difference_cells(one, digits),
                ]
                for one in ablations
            ],
            n_texts=3,
        )


_DIFFERENCE_COLUMNS = ("n", "difference", "95 % interval", "P(better)", "p (Holm)", _VERDICT)


def _difference_cells(difference: Difference, digits: int) -> list[Cell]:
    return [
        Cell(f"{difference.n}{'' if difference.paired else '*'}"),
        Cell(_number(difference.mean, digits, signed=True), bold=difference.separated),
        Cell(_interval(difference.interval, digits, signed=True)),
        Cell(_number(difference.probability_of_improvement, 2)),
        Cell(_probability(difference.p_holm)),
        Cell(difference.verdict, bold=difference.separated),
    ]


def _title(comparison: Comparison) -> str:
    return f"{comparison.metric}, {moment(comparison.metric, comparison.at)}, {comparison.direction_words}"


def _comparison_notes(comparison: Comparison, *, several: bool) -> Iterable[tuple[str, list[str]]]:
    of = f" on {comparison.metric}" if several else ""
    notes = [str(note) for note in comparison.notes]
    if any(not one.paired for one in comparison.differences):
        notes.append("n*: not paired by seed, but taken as independent samples")
    iqm = [summary.iqm is not None for summary in comparison.summaries if summary.values]
    if any(iqm) and not all(iqm):
        notes.append(f"IQM from {MIN_FOR_IQM} runs on: below, it is the mean")
    yield f"notes{of}", notes
    labels = [summary.group.label for summary in comparison.summaries]
    yield (
        f"notes on groups{of}",
        _gathered(((s.group.label, str(note)) for s in comparison.summaries for note in s.notes), labels),
    )
    pairs = [_pair(one) for one in comparison.differences]
    yield (
        f"what is the same in both{of}",
        _gathered(((_pair(one), _matching(one.matches)) for one in comparison.differences), pairs),
    )
    warnings = ((_pair(one), str(warning)) for one in comparison.differences for warning in one.warnings)
    yield f"warnings on differences{of}", _gathered(warnings, pairs)
    yield (
        f"runs that do not count{of}",
        [f"{run_id}: {reason}" for summary in comparison.summaries for run_id, reason in summary.left_out],
    )
    yield f"problems{of}", list(_untold_problems(comparison))


def _untold_problems(comparison: Comparison) -> Iterable[str]:
    """What could not be read of runs, as far as no note on their group says it: of those that do not count, mostly."""
    for summary in comparison.summaries:
        for run in summary.group.runs:
            for problem in run.problems:
                if not any(problem in str(note) for note in summary.notes):
                    yield f"{run.run_id}: {problem}"


def _matching(matches: Mapping[str, bool | None]) -> str:
    """A sentence on what matches between two groups."""
    named = {True: "the same", False: "different", None: "unknown"}
    told = {word: [name for name, found in matches.items() if found is value] for value, word in named.items()}
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in told.items() if names)


def _pair(difference: Difference) -> str:
    return f"{difference.a.group.label} -> {difference.b.group.label}"


def _gathered(told: Iterable[tuple[str, str]], everyone: Sequence[str]) -> list[str]:
    """Each sentence once, after the names of all whom it concerns."""
    concerned: dict[str, list[str]] = {}
    for who, sentence in told:
        names = concerned.setdefault(sentence, [])
        if who not in names:
            names.append(who)
    return [
        f"{'all' if len(names) == len(set(everyone)) > 1 else ', '.join(names)}: {sentence}"
        for sentence, names in concerned.items()
        if sentence
    ]


def _runs_table(runs: Sequence[Run], metrics: Sequence[str], at: str) -> Table:
    values = {metric: [run.value(metric, at) for run in runs] for metric in metrics}
    digits = {metric: _decimals(value for value in values[metric] if value is not None) for metric in metrics}
    rows = []
    for i, run in enumerate(runs):
        cells = {"run": run.run_id, "status": run.status, "seed": "" if run.seed is None else str(run.seed)}
        cells |= {"steps": str(run.last_step)} if "steps" not in metrics else {}
        cells |= {metric: _number(values[metric][i], digits[metric]) for metric in metrics}
        cells |= {"train_s": _number(run.train_s, 1)} if "train_s" not in metrics else {}
        rows.append(cells)
    caption = "; ".join(f"{', '.join(names)}: {words}" for words, names in _moments(metrics, at).items())
    columns = list(rows[0]) if rows else []
    return Table(caption, columns, [[Cell(text) for text in cells.values()] for cells in rows], n_texts=2)


def _moments(metrics: Sequence[str], at: str) -> dict[str, list[str]]:
    """The metrics by which number of each run they stand for."""
    found: dict[str, list[str]] = {}
    for metric in metrics:
        found.setdefault(moment(metric, at), []).append(metric)
    return found


# --- numbers ---------------------------------------------------------------------------------------------------------

NOTHING = "-"
"""Stands where there is no number."""


def _decimals(values: Iterable[float]) -> int:
    """Digits after the point at which the largest value has five in all."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=1.0)
    return min(max(4 - math.floor(math.log10(largest)), 0), 8) if largest > 0 else 1


def _number(value: float | None, digits: int, *, signed: bool = False) -> str:
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= _LARGE:
        return f"{value:{'+' if signed else ''}.6g}"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    # A difference that rounds to nothing has no sign.
    return text.lstrip("+-") if float(text) == 0 else text


def _interval(interval: Interval | None, digits: int, *, signed: bool = False) -> str:
    if interval is None:
        return NOTHING
    return f"[{_number(interval.low, digits, signed=signed)}, {_number(interval.high, digits, signed=signed)}]"


def _probability(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


# --- for a terminal --------------------------------------------------------------------------------------------------


def _text(document: Document) -> str:
    blocks = [_text_table(table) for table in document.tables]
    for title, notes in document.notes:
        if notes:
            lines = [
                textwrap.fill(
                    note, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False,
                    break_on_hyphens=False,
                )
                for note in notes
            ]  # fmt: skip
            blocks.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(blocks) + "\n"


def _text_table(table: Table) -> str:
    rows = [list(table.columns), *([cell.text for cell in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.columns))]
    gap = "  " if sum(widths) + 2 * len(widths) <= WIDTH else " "
    lines = [table.caption]
    for row in rows:
        cells = [
            f"{text:<{width}}" if table.is_text(i) else f"{text:>{width}}"
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {gap.join(cells)}".rstrip())
    return "\n".join(lines)


# --- Markdown --------------------------------------------------------------------------------------------------------


def _markdown(document: Document) -> str:
    blocks = []
    for table in document.tables:
        marks = ["---" if table.is_text(i) else "---:" for i in range(len(table.columns))]
        lines = [f"**{_markdown_escaped(table.caption)}**", "", _markdown_row(map(_markdown_escaped, table.columns))]
        lines.append(_markdown_row(marks))
        for row in table.rows:
            texts = (_markdown_escaped(cell.text) for cell in row)
            lines.append(
                _markdown_row(f"**{text}**" if cell.bold else text for cell, text in zip(row, texts, strict=True))
            )
        blocks.append("\n".join(lines))
    for title, notes in document.notes:
        if notes:
            blocks.append("\n".join([f"{title.capitalize()}:", "", *(f"- {_markdown_note(note)}" for note in notes)]))
    return "\n\n".join(blocks) + "\n"


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_escaped(text: str) -> str:
    return re.sub(r"([\\`*|<\[\]])", r"\\\1", text)


def _markdown_note(text: str) -> str:
    """A note that makes no heading, quotation or list of its own, whatever it begins with."""
    return re.sub(r"^\s*(?=[#>+=~-])", r"\\", _markdown_escaped(text))


# --- LaTeX -----------------------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "\n": " ",
}  # fmt: skip


def _latex(document: Document) -> str:
    """Tables with the rules of the package booktabs."""
    blocks = [_latex_table(table) for table in document.tables]
    for title, notes in document.notes:
        if notes:
            items = [rf"  \item {latex_escaped(note)}" for note in notes]
            heading = rf"\paragraph{{{latex_escaped(title.capitalize())}}}"
            blocks.append("\n".join([heading, r"\begin{itemize}", *items, r"\end{itemize}"]))
    return "\n\n".join(blocks) + "\n"


def _latex_table(table: Table) -> str:
    alignment = "".join("l" if table.is_text(i) else "r" for i in range(len(table.columns)))
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_escaped(table.caption)}}}",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        f"    {' & '.join(map(latex_escaped, table.columns))} \\\\",
        r"    \midrule",
    ]
    for row in table.rows:
        cells = []
        for i, cell in enumerate(row):
            text = latex_escaped(cell.text)
            if not table.is_text(i):
                text = re.sub(r"(?<![\w.])-(?=\d)", "$-$", text)
            cells.append(rf"\textbf{{{text}}}" if cell.bold else text)
        lines.append(f"    {' & '.join(cells)} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines)


def latex_escaped(text: str) -> str:
    """A text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


# --- for programs ----------------------------------------------------------------------------------------------------


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison with every digit, runs by their ids."""
    return {
        "metric": comparison.metric,
        "at": comparison.at,
        "lower_is_better": comparison.lower_is_better,
        "baseline": comparison.baseline,
        "groups": [_summary_json(summary) for summary in comparison.summaries],
        "differences": [_difference_json(difference) for difference in comparison.differences],
        "notes": [str(note) for note in comparison.notes],
    }


def _summary_json(summary: GroupSummary) -> dict[str, Any]:
    return {
        "label": summary.group.label,
        "key": dict(summary.group.key),
        "runs": [{"run_id": run.run_id, "path": str(run.path), "seed": run.seed} for run in summary.group.runs],
        "strata": list(summary.group.strata),
        "n": len(summary.values),
        "values": list(summary.values),
        "seeds": list(summary.seeds),
        "mean": summary.mean,
        "interval": _interval_json(summary.interval),
        "median": summary.median,
        "iqm": summary.iqm,
        "left_out": [{"run_id": run_id, "reason": str(reason)} for run_id, reason in summary.left_out],
        "notes": [str(note) for note in summary.notes],
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "a": difference.a.group.label,
        "b": difference.b.group.label,
        "kind": difference.kind,
        "part": difference.part,
        "paired": difference.paired,
        "n": difference.n,
        "mean": difference.mean,
        "interval": _interval_json(difference.interval),
        "probability_of_improvement": difference.probability_of_improvement,
        "p_value": difference.p_value,
        "p_holm": difference.p_holm,
        "separated": difference.separated,
        "detectable": difference.detectable,
        "better": difference.better,
        "matches": dict(difference.matches),
        "warnings": [str(warning) for warning in difference.warnings],
    }


def _interval_json(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _left_out_json(left_out: LeftOut) -> list[dict[str, str]]:
    return [{"path": str(path), "reason": reason} for path, reason in left_out]


def _json(content: Mapping[str, Any]) -> str:
    return printable_json(json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _csv_rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    """A row for each group, then one for each difference."""
    shared = {"metric": comparison.metric, "at": comparison.at}
    for summary in comparison.summaries:
        low, high = _interval_json(summary.interval) or (None, None)
        yield {
            **shared,
            "row": "group",
            "part": None,
            "group": summary.group.label,
            "against": None,
            "n": len(summary.values),
            "mean": summary.mean,
            "low": low,
            "high": high,
            "median": summary.median,
            "iqm": summary.iqm,
            "paired": None,
            "probability_of_improvement": None,
            "p_value": None,
            "p_holm": None,
            "separated": None,
            "detectable": None,
            "notes": "; ".join(
                [
                    *map(str, summary.notes),
                    *(f"{run_id} does not count: {reason}" for run_id, reason in summary.left_out),
                ]
            ),
        }
    for one in comparison.differences:
        low, high = _interval_json(one.interval) or (None, None)
        yield {
            **shared,
            "row": one.kind,
            "part": one.part,
            "group": one.b.group.label,
            "against": one.a.group.label,
            "n": one.n,
            "mean": one.mean,
            "low": low,
            "high": high,
            "paired": one.paired,
            "probability_of_improvement": one.probability_of_improvement,
            "p_value": one.p_value,
            "p_holm": one.p_holm,
            "separated": one.separated,
            "detectable": one.detectable,
            "notes": "; ".join(map(str, one.warnings)),
        }


def _run_row(run: Run, metrics: Sequence[str], at: str) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "path": str(run.path),
        "name": run.name,
        "status": run.status,
        "seed": run.seed,
        "config_hash": run.config_hash,
        "steps": run.last_step,
        "n_parameters": run.n_parameters,
        "train_s": run.train_s,
        **{metric: run.value(metric, at) for metric in metrics},
        "problems": "; ".join(run.problems),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of which the first has all columns; floats with every digit, nothing for what there is not."""
    if not rows:
        return ""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(map(_csv_cell, rows[0]))
    writer.writerows([_csv_cell(row.get(name)) for name in rows[0]] for row in rows)
    return written.getvalue()


def _csv_cell(value: Any) -> Any:
    """A number as it is; a text on one line, with an apostrophe before what a spreadsheet would compute."""
    if not isinstance(value, str):
        return value
    text = printable(value, _MAX_NOTE)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


FORMS: dict[str, Callable[[Document], str]] = {"table": _text, "markdown": _markdown, "latex": _latex}
"""How a document is set; `csv` and `json` are made from the comparison itself."""
