"""The tables of groups: what `compare` prints, with the source of every number."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from spectral_exp.core.foreign_text import printable
from spectral_exp.dashboard.certificate import certificate_verdict
from spectral_exp.dashboard.curves import describe_metric
from spectral_exp.dashboard.groups import Answer, compare_groups, group_id
from spectral_exp.dashboard.identity import color_of, run_key
from spectral_exp.dashboard.query import View
from spectral_exp.dashboard.rows import finite
from spectral_exp.results import statistics, tables
from spectral_exp.results.compared import Comparison, Difference, GroupSummary, moment
from spectral_exp.results.finding import SAME, merge_findings
from spectral_exp.results.group import Group
from spectral_exp.results.names import ABSENT, Names, value_text
from spectral_exp.results.number_texts import (
    NOTHING,
    decimals,
    interval_text,
    number_text,
    probability_text,
)
from spectral_exp.results.statistics import Interval
from spectral_exp.runs.evaluations import score_names
from spectral_exp.runs.metric_names import DERIVED, METRICS, USE
from spectral_exp.runs.run import Run, metric_describer

_MEAN = "mean of the runs"
_FORMULAS = {
    "n": "number of the runs, or of their pairs by seed",
    "95 % interval": "interval of that mean by bootstrap, expanded for few runs",
    "median": "median of the runs",
    "IQM": "mean of the runs without the lowest and the highest quarter",
    "P(better)": "share of pairs in which the run is better",
    "p (Holm)": "two-sided t-test, corrected for the number of differences (Holm)",
}
"""What the columns of a table hold beside the mean or the difference of a row."""

_MAX_SCORES = 300  # of evaluations, among which the page offers a choice


def groups_answer(answer: Answer, folders: Sequence[str]) -> dict[str, Any]:
    """Return the table of groups as plain values."""
    comparison, view = answer.comparison, answer.view
    columns = _setting_columns(answer)
    texts = _Texts(comparison)
    names = Names(answer.chosen.runs)
    describe = metric_describer(answer.chosen.runs)
    logged = {name for run in answer.chosen.runs for name in run.metrics}
    groups = list(answer.groups)
    if comparison is not None:
        order = {label: place for place, label in enumerate(comparison.best_first())}
        groups.sort(key=lambda group: order[group.label])
    return {
        "seq": answer.seq,
        "metric": describe_metric(view.metric, describe(view.metric)),
        "at": view.at,
        "moment": moment(view.metric, view.at),
        "baseline": comparison.baseline if comparison else None,
        "metrics": [
            {
                **describe_metric(name, describe(name)),
                "panel": name in METRICS,
                "curve": name in logged,
            }
            for name in metric_names(answer.chosen.runs)
        ],
        "settings": [{"name": name, "short": names.short(name)} for name in columns],
        "rows": [texts.row(group, answer, columns) for group in groups],
        "is_outline": answer.is_outline,
        "notes": [*map(str, comparison.notes)] if comparison else [answer.problem],
        "problem": answer.problem or None,
        "n_runs": len(answer.chosen.runs),
        "n_archived": len(answer.chosen.archived),
        "left_out": [
            {"path": str(path), "reason": reason} for path, reason in answer.chosen.left_out
        ],
        "command": compare_command(view, folders),
    }


def comparison_answer(answer: Answer, ids: Sequence[str], folders: Sequence[str]) -> dict[str, Any]:
    """Return the tables and notes that `compare` prints for some groups.

    Raises:
        UserError: a group is not there, or none has the metric.
    """
    comparison = compare_groups(answer, ids)
    found = [table.printable() for table in tables.comparison_tables(comparison)]
    sources = _table_sources(comparison, answer.view)
    return {
        "seq": answer.seq,
        "metric": describe_metric(answer.view.metric, comparison.metric_info),
        "baseline": comparison.baseline,
        "tables": [
            {
                "title": table.caption,
                "columns": table.columns,
                "is_text": [table.is_text(i) for i in range(len(table.columns))],
                "rows": [[{"text": c.text, "bold": c.bold} for c in row] for row in table.rows],
                "sources": of_rows,
                "formulas": [_FORMULAS.get(column) for column in table.columns],
            }
            for table, of_rows in zip(found, sources, strict=True)
        ],
        "notes": [
            {"title": title, "notes": notes}
            for title, notes in tables.titled_notes(comparison, several=False)
            if notes
        ],
        "figures": None,
        "command": compare_command(answer.view, folders),
    }


def _table_sources(comparison: Comparison, view: View) -> list[list[dict[str, Any]]]:
    """Return where the numbers in each row of each table of a comparison come from."""
    of_groups = [_source(view.metric, one.runs, view.at, _MEAN) for one in comparison.summaries]
    kinds: dict[bool, list[dict[str, Any]]] = {}
    for one in comparison.differences:
        kinds.setdefault(one.kind != "baseline", []).append(_difference_source(one, view))
    return [of_groups, *(kinds[is_part] for is_part in sorted(kinds))]


def metric_names(runs: Sequence[Run]) -> list[str]:
    """Return the metrics that some run has, in the order in which they were logged.

    The scores of evaluations come last. Metrics whose names hold invisible characters are left out.
    """
    found = dict.fromkeys(name for run in runs for name in run.metrics)
    found |= dict.fromkeys(name for run in runs for name in run.results.get("final_metrics") or ())
    # Times of processors and devices, and FLOPs, are not in the records of older runs.
    later = {"flops", *USE}
    found |= dict.fromkeys(
        name
        for name in DERIVED
        if name not in later or any(run.value(name) is not None for run in runs)
    )
    scores = dict.fromkeys(name for run in runs for name in score_names(run.evaluations))
    found |= dict.fromkeys(islice(scores, _MAX_SCORES))
    hidden = ("step", "val_step")
    return [name for name in found if name not in hidden and printable(name) == name]


def compare_command(view: View, folders: Sequence[str]) -> str:
    """Return the command that prints the same comparison."""
    words = ["spectral-exp", "compare", *folders]
    words += [word for condition in view.where for word in ("--where", condition)]
    words += ["--group-by", ",".join(view.group_by)] if view.group_by else []
    words += ["--metric", view.metric]
    words += ["--at", view.at] if view.at != "final" else []
    words += ["--baseline", view.baseline] if view.baseline is not None else []
    words += ["--archived"] if view.archived else []
    return shlex.join(words)


def _setting_columns(answer: Answer) -> list[str]:
    """Return the settings in which the groups differ."""
    names = dict.fromkeys(name for group in answer.groups for name in group.key)
    columns = []
    for name in names:
        values = {value_text(group.key.get(name, ABSENT)) for group in answer.groups}
        if name != "name" and len(values) > 1:
            columns.append(name)
    return columns


class _Texts:
    """Makes rows whose texts have the digits of the tables that `compare` prints."""

    def __init__(self, comparison: Comparison | None) -> None:
        self._comparison = comparison
        summaries = comparison.summaries if comparison else []
        self._digits = decimals(value for summary in summaries for value in summary.values)
        self._summaries = {summary.group.label: summary for summary in summaries}
        self._differences = {
            one.b.group.label: one
            for one in (comparison.differences if comparison else [])
            if one.kind == "baseline"
        }
        ablations = [
            one for one in (comparison.differences if comparison else []) if one.kind != "baseline"
        ]
        self._ablations: dict[str, list[Difference]] = {}
        for one in ablations:
            self._ablations.setdefault(one.b.group.label, []).append(one)

    def row(self, group: Group, answer: Answer, columns: Sequence[str]) -> dict[str, Any]:
        """Return the row of a group."""
        view, hashed = answer.view, group_id(group, answer.view)
        summary = self._summaries.get(group.label)
        counted = summary.runs if summary else ()
        difference = self._differences.get(group.label)
        return {
            "id": hashed,
            "label": group.label,
            "color": color_of(hashed),
            "name": group.runs[0].name,
            "is_baseline": bool(self._comparison and self._comparison.baseline == group.label),
            "keys": [run_key(run.path) for run in group.runs],
            "seeds": [run.seed for run in group.runs],
            "n": len(group.runs),
            "n_used": len(group.runs if answer.is_outline else counted),
            "settings": {name: value_text(group.key.get(name, ABSENT)) for name in columns},
            "value": self._value(summary, view),
            "best": self._best(group.runs, view),
            "difference": difference and self._difference(difference, view),
            "ablations": [
                {"part": one.part, "against": one.a.group.label, **self._difference(one, view)}
                for one in self._ablations.get(group.label, ())
            ],
            "parameters": _mean(counted or group.runs, "n_parameters", lambda r: r.n_parameters),
            "tokens": _mean(counted or group.runs, "tokens", lambda run: run.value("tokens")),
            "train_s": _mean(counted or group.runs, "train_s", lambda run: run.train_s, 1),
            "monitoring_share": _mean(
                counted or group.runs, "monitoring_cost.share_of_training", _monitoring_share, 4
            ),
            "status": dict(Counter(run.status for run in group.runs)),
            "runs": [self._member(run, summary, view) for run in group.runs],
            "warnings": _warnings(group, summary, difference),
            "certificate": _certificates(group.runs),
            "tags": sorted({tag for run in group.runs for tag in run.marks.tags}),
        }

    def _value(self, summary: GroupSummary | None, view: View) -> dict[str, Any]:
        runs = summary.runs if summary else ()
        return {
            **self._number(
                summary.mean if summary else None, summary.interval if summary else None
            ),
            "source": _source(view.metric, runs, view.at, _MEAN),
        }

    def _number(
        self, value: float | None, interval: Interval | None, *, signed: bool = False
    ) -> dict[str, Any]:
        return {
            "value": finite(value),
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "text": number_text(value, self._digits, signed=signed),
            "interval_text": interval_text(interval, self._digits, signed=signed),
        }

    def _best(self, runs: Sequence[Run], view: View) -> dict[str, Any]:
        values = [(run, run.value(view.metric, "best")) for run in runs]
        known = [(run, value) for run, value in values if value is not None]
        lower = self._comparison.lower_is_better if self._comparison else None
        chosen = None
        if known and lower is not None:
            chosen = (min if lower else max)(known, key=lambda pair: pair[1])
        formula = f"{'lowest' if lower else 'highest'} logged value of the runs"
        return {
            **self._number(chosen[1] if chosen else None, None),
            "source": _source(view.metric, [chosen[0]] if chosen else [], "best", formula),
        }

    def _difference(self, one: Difference, view: View) -> dict[str, Any]:
        chance = one.probability_of_improvement
        source = _difference_source(one, view)
        return {
            **self._number(one.mean, one.interval, signed=True),
            "source": source,
            "separated": one.separated,
            "better": one.better,
            "verdict": one.verdict,
            "paired": one.paired,
            "n": one.n,
            "n_text": f"{one.n}{'' if one.paired else '*'}",
            "p_value": one.p_value,
            "p_holm": one.p_holm,
            "p_text": probability_text(one.p_holm),
            "probability_of_improvement": {
                "value": chance,
                "low": None,
                "high": None,
                "text": number_text(chance, 2),
                "interval_text": NOTHING,
                "source": {**source, "formula": _FORMULAS["P(better)"]},
            },
            "warnings": [*map(str, one.warnings)],
        }

    def _member(self, run: Run, summary: GroupSummary | None, view: View) -> dict[str, Any]:
        value = run.value(view.metric, view.at)
        reasons = dict(summary.left_out) if summary else {}
        reason = reasons.get(run.run_id)
        return {
            "key": run_key(run.path),
            "id": run.run_id,
            "seed": run.seed,
            "status": run.status,
            "value": {
                **self._number(value, None),
                "source": _source(view.metric, [run], view.at, SAME),
            },
            "best": self._best([run], view),
            "used": bool(summary) and reason is None,
            "reason": str(reason) if reason else None,
        }


def _mean(
    runs: Sequence[Run], metric: str, value_of: Callable[[Run], float | None], digits: int = 0
) -> dict[str, Any]:
    pairs = [(run, value) for run in runs if (value := value_of(run)) is not None]
    mean = float(statistics.mean([value for _, value in pairs])) if pairs else None
    return {
        "value": finite(mean),
        "low": None,
        "high": None,
        "text": NOTHING if mean is None else f"{mean:,.{digits}f}",
        "interval_text": NOTHING,
        "source": _source(metric, [run for run, _ in pairs], "", _MEAN),
    }


def _certificates(runs: Sequence[Run]) -> str | None:
    """Return how many runs have which certificate of an exact resume."""
    verdicts = Counter(certificate_verdict(run.path) for run in runs)
    known = {verdict: n for verdict, n in verdicts.items() if verdict is not None}
    words = [f"{verdict} ({n} of {len(runs)} runs)" for verdict, n in sorted(known.items())]
    return "; ".join(words) or None


def _monitoring_share(run: Run) -> float | None:
    share = (run.results.get("monitoring_cost") or {}).get("share_of_training")
    return share if isinstance(share, float) else None


def _source(metric: str, runs: Sequence[Run], at: str, formula: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "runs": [run.run_id for run in runs],
        "at": at,
        "formula": formula
        if len(runs) != 1 or "of the runs" not in formula
        else "the value itself",
    }


def _difference_source(one: Difference, view: View) -> dict[str, Any]:
    formula = "mean of the differences by seed" if one.paired else "difference of the means"
    return _source(view.metric, [*one.a.runs, *one.b.runs], view.at, formula)


def _warnings(
    group: Group, summary: GroupSummary | None, difference: Difference | None
) -> list[str]:
    if summary is None:
        return []
    found = [*map(str, summary.notes)]
    left_out = merge_findings(summary.left_out, "all runs", len(group.runs))
    found += [*map(str, left_out)]
    return found + ([*map(str, difference.warnings)] if difference else [])
