"""Whether two groups of runs are alike in what a fair comparison keeps equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from spectral_exp.results.finding import COUNT, Finding, Piece, finding, measurement
from spectral_exp.results.identity import PLURAL, TITLES, identities_of
from spectral_exp.results.times import compare_used_times
from spectral_exp.runs.budget import Budget, parse_at
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.runs.run import Run

QUANTITIES = tuple(TITLES)
"""The quantities that `match_groups` compares."""

UNEQUAL = frozenset({*QUANTITIES, "schedule", "settings", "size of another part"})
"""Kinds of findings about quantities that a fair comparison keeps equal."""

NEARLY_SAME = 0.01
"""Relative difference up to which parameters and tokens count as equal.

Widths change in whole channels, and a skipped step loses its tokens."""

_QUANTITY_OF = {
    "n_parameters": "parameters",
    "tokens": "tokens",
    "steps": "steps",
    "train_s": "wall-clock",
    "tokens_per_s": "wall-clock",
}
_MAX_SHOWN = 4


def match_groups(
    a: Sequence[Run], b: Sequence[Run], metric: str = "val_bpb", at: str = "final"
) -> tuple[dict[str, bool | None], list[Finding]]:
    """Compare the quantities of two groups that a fair comparison keeps equal.

    Parameters and tokens may differ by 1 %, the median seconds of training by 5 %; all else must
    be equal in every run. Times differ only if the difference is separated from chance and larger
    than the slow-downs seen (`times.compare_used_times`).

    Args:
        a, b: the runs that count.
        metric: decides which differences matter: not the tokenizer for `val_bpb`, not the
            validation text and windows for other than validation metrics, and never the
            quantity that the metric itself measures.
        at: which value is compared, as for `Run.value`; with a budget, steps, tokens and seconds
            count until then.

    Returns:
        For each of `QUANTITIES` True, False, or None if a run did not record it; and a finding
        with both values for each mismatch that matters.
    """
    budget = parse_at(at)
    both = (a, b)
    found = {
        "parameters": _numbers(both, "n_parameters", lambda run: run.n_parameters, NEARLY_SAME),
        "tokens": _numbers(both, "tokens", lambda run: _tokens(run, budget), NEARLY_SAME, at),
        "steps": _numbers(both, "steps", lambda run: _steps(run, budget), 0.0, at),
        "wall-clock": _times(a, b, at),
        **{
            name: _texts([identity(r) for r in a], [identity(r) for r in b])
            for name, identity in identities_of(metric).items()
        },
    }
    matches = {name: found[name].is_same for name in QUANTITIES}
    sets_use = budget is not None and budget.kind in {"seconds", "flops"}
    unused = _unused_budget((*a, *b), budget) if budget is not None and sets_use else []
    warnings = [
        Finding(
            name,
            found[name].heading or _heading(name),
            found[name].detail + _why(name, metric),
            found[name].values,
        )
        for name in QUANTITIES
        if (found[name].is_same is False or found[name].heading)
        and _matters(name, metric, is_budget_equal=sets_use and not unused)
    ]
    warnings += unused
    if budget is not None:
        planned = _numbers(both, "planned_steps", lambda run: run.planned_steps, 0.0)
        if planned.is_same is False:
            matches["steps"] = False
            heading = "at {budget} the runs were on schedules of different length"
            words = {"budget": budget.words, **planned.values}
            warnings.append(Finding("schedule", heading, f"{planned.detail} steps", words))
    return matches, warnings


def _unused_budget(runs: Sequence[Run], budget: Budget) -> list[Finding]:
    """Return a finding if some runs ended before the budget."""
    ended = [run for run in runs if not run.has_used(budget)]
    if not ended:
        return []
    return [
        finding(
            "unused budget",
            "{n} of {all} runs ended before {budget}",
            n=measurement(len(ended), "steps", ended, COUNT),
            all=measurement(len(runs), "steps", runs, COUNT),
            budget=budget.words,
        )
    ]


def _heading(name: str) -> str:
    return f"{TITLES[name]} {'differ' if name in PLURAL else 'differs'}"


def _matters(name: str, metric: str, *, is_budget_equal: bool) -> bool:
    if name == _QUANTITY_OF.get(metric):
        return False
    if name in {"tokens", "steps"} and is_budget_equal:  # of seconds or FLOPs
        return False
    if name in {"validation", "evaluation"}:
        return metric_info(metric).kind == "validation"
    return name != "tokenizer" or metric != "val_bpb"


def _why(name: str, metric: str) -> str:
    if name == "tokenizer" and metric_info(metric).is_per_token:
        return f"; {metric} is per token and does not compare, val_bpb does"
    if name in {"validation", "evaluation"}:
        return f"; {metric} measured on other text does not compare"
    return ""


def _steps(run: Run, budget: Budget | None) -> int | None:
    """Return the steps of training, up to a budget if given."""
    steps = run.last_step or None
    stop = None if budget is None else run.step_within(budget)
    return steps if steps is None or stop is None else min(steps, stop)


def _tokens(run: Run, budget: Budget | None) -> float | None:
    """Return the tokens of training, up to a budget if given."""
    steps = _steps(run, budget)
    if steps is None or steps == run.last_step:
        return run.value("tokens")
    return None if run.tokens_per_step is None else steps * run.tokens_per_step


@dataclass(frozen=True)
class _Match:
    """Whether two groups agree in a quantity.

    Attributes:
        is_same: None if a run did not record the quantity.
        detail: template of both values.
        values: the values of the template.
        heading: replaces the words that the quantity differs.
    """

    is_same: bool | None
    detail: str = ""
    values: Mapping[str, Piece] = field(default_factory=dict)
    heading: str = ""


def _numbers(
    both: tuple[Sequence[Run], Sequence[Run]],
    name: str,
    read: Callable[[Run], float | None],
    tolerance: float,
    at: str = "",
) -> _Match:
    """Compare the numbers of both groups; they match within the relative `tolerance`."""
    known = [[(run, value) for run in runs if (value := read(run)) is not None] for runs in both]
    if not all(known):
        return _Match(None)
    templates: list[str] = []
    pieces: dict[str, Piece] = {}
    for side, found in enumerate(known):
        runs, values = [run for run, _ in found], [value for _, value in found]
        pieces[f"low_{side}"] = measurement(min(values), name, runs, SMALLEST, at=at)
        pieces[f"high_{side}"] = measurement(max(values), name, runs, LARGEST, at=at)
        templates.append(
            f"{{low_{side}}}" + (f" to {{high_{side}}}" if min(values) < max(values) else "")
        )
    numbers = [value for found in known for _, value in found]
    detail = " against ".join(templates)
    if max(numbers) > (1 + tolerance) * min(numbers):
        return _Match(False, detail, pieces)
    return _Match(True if len(numbers) == sum(map(len, both)) else None, detail, pieces)


SMALLEST, LARGEST = "smallest of the runs", "largest of the runs"
"""Formulas of numbers."""


def _times(a: Sequence[Run], b: Sequence[Run], at: str) -> _Match:
    """Compare the seconds of training, allowing for their spread."""
    found = compare_used_times(a, b, at)
    if found is None:
        return _Match(None)
    if found.is_same is True:
        return _Match(True)
    differs = "" if found.metric == "train_s" else f"{found.words} differs, on a busy machine"
    return _Match(found.is_same, *found.describe(), heading=found.doubt or differs)


def _texts(a: Sequence[str | None], b: Sequence[str | None]) -> _Match:
    """Compare texts, which must all be equal."""
    known_a, known_b = (
        list(dict.fromkeys(text for text in texts if text is not None)) for texts in (a, b)
    )
    if not known_a or not known_b:
        return _Match(None)
    if len({*known_a, *known_b}) > 1:
        return _Match(False, "{a} against {b}", {"a": _list(known_a), "b": _list(known_b)})
    return _Match(None if None in {*a, *b} else True)


def _list(texts: Sequence[str]) -> str:
    more = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
