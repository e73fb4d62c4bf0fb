"""Checks of single runs, and of the fairness of a comparison of two groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from spectral_exp.core.wording import noun
from spectral_exp.results.cautions import cautions
from spectral_exp.results.finding import COUNT, Finding, Measured, Piece, finding, measurement
from spectral_exp.results.identity import IDENTITIES, PLURAL, TITLES, code_words, identities_of
from spectral_exp.results.slow_steps import slow_steps
from spectral_exp.results.times import compare_used_times
from spectral_exp.runs.budget import Budget, parse_at
from spectral_exp.runs.metric_names import metric_info
from spectral_exp.runs.overrides import changed_settings, matters_for_steps
from spectral_exp.runs.parentage import loading_words, origin_words
from spectral_exp.runs.run import Run
from spectral_exp.runs.training_record import last_beginning

QUANTITIES = tuple(TITLES)
"""The quantities that `match_groups` compares."""

UNEQUAL = frozenset({*QUANTITIES, "schedule", "settings", "size of another part"})
"""Kinds of findings about quantities that a fair comparison keeps equal."""

NEARLY_SAME = 0.01
"""Relative difference up to which parameters and tokens count as equal.

Widths change in whole channels, and a skipped step loses its tokens."""

# Chinchilla 70B needs 0.66 bits per byte of Wikipedia (Delétang et al., "Language Modeling Is
# Compression", 2024). Half of that, by a small model, is a leak or a trivial source.
_SUSPICIOUS_BPB = 0.3
_QUANTITY_OF = {
    "n_parameters": "parameters",
    "tokens": "tokens",
    "steps": "steps",
    "train_s": "wall-clock",
    "tokens_per_s": "wall-clock",
}
_MAX_SHOWN = 4


# --- single runs --------------------------------------------------------------------------


def run_flags(run: Run, metric: str = "val_bpb") -> list[Finding]:
    """Return the doubts about a single run, including non-finite values of `metric`."""
    found = [
        why_unfinished(run),
        _stopped_early(run),
        _bad_steps(run),
        _non_finite(run, metric),
        too_good(run),
    ]
    found += [_started_from(run), _one_batch(run), _dirty(run), *_continued_otherwise(run)]
    found += [*cautions(run), slow_steps(run)]
    found += [finding("unreadable", "{problem}", problem=problem) for problem in run.problems]
    return [one for one in found if one is not None]


def why_unfinished(run: Run) -> Finding | None:
    """Return why a run has no final values, or None if it has."""
    if run.finished:
        return None
    error = run.results.get("error") or run.results.get("pruned_because")
    return finding(
        "unfinished",
        "{status} at step {step}" + _of_planned_steps(run) + (" ({error})" if error else ""),
        status=run.status,
        step=_last_step(run),
        planned=_planned_steps(run),
        error=str(error),
    )


def find_outliers(runs: Sequence[Run]) -> dict[str, list[Finding]]:
    """Return findings by run id for runs that differ from most of `runs`.

    They compare training and validation text, tokenizer, code and hardware, if recorded. Of
    equally frequent values the first counts as the usual one.
    """
    found: dict[str, list[Finding]] = {}
    for name in ("data", "validation", "tokenizer", "code", "hardware"):
        texts = {run.run_id: text for run in runs if (text := IDENTITIES[name](run)) is not None}
        if len(set(texts.values())) < 2:
            continue
        usual = Counter(texts.values()).most_common(1)[0][0]
        for run_id, text in texts.items():
            if text != usual:
                odd = finding(
                    f"odd {name}",
                    "{what} unlike most runs",
                    "{text} against {usual}",
                    what=TITLES[name],
                    text=text,
                    usual=usual,
                )
                found.setdefault(run_id, []).append(odd)
    return found


def _last_step(run: Run) -> Measured:
    return measurement(run.last_step, "steps", run, "last step")


def _planned_steps(run: Run) -> Piece:
    planned = run.settings.get("training.max_steps")
    return measurement(planned, "training.max_steps", run) if isinstance(planned, int) else ""


def _of_planned_steps(run: Run) -> str:
    return " of {planned}" if _planned_steps(run) else ""


def _stopped_early(run: Run) -> Finding | None:
    if run.status != "stopped_early":
        return None
    kept = run.settings.get("training.restore_best", True)
    best = "; its final value is the best of its validations, which flatters it" if kept else ""
    return finding(
        "stopped early",
        "stopped early at step {step}" + _of_planned_steps(run) + best,
        step=_last_step(run),
        planned=_planned_steps(run),
    )


def _bad_steps(run: Run) -> Finding | None:
    name = "totals.bad_steps"
    bad = (run.results.get("totals") or {}).get("bad_steps")
    if bad is None:  # no results yet: read the metrics
        name, bad = "bad_steps", run.value("bad_steps") or 0
    if not bad:
        return None
    at = "" if "." in name else "final"
    steps = noun(bad, "step")
    return finding(
        "bad steps",
        f"{{bad}} {steps} skipped for a non-finite loss or gradient",
        bad=measurement(bad, name, run, at=at),
    )


def _non_finite(run: Run, metric: str) -> Finding | None:
    summary = run.metrics.get(metric)
    if summary is None or not summary.non_finite:  # known without reading the file
        return None
    return finding(
        "non-finite",
        "{metric} not finite at {bad} of {all} logged "
        + noun(summary.count, "step")
        + ", first at step {first}",
        metric=metric,
        bad=measurement(summary.non_finite, metric, run, "number of values that are not finite"),
        all=measurement(summary.count, metric, run, "number of values"),
        first=measurement(
            summary.first_non_finite, metric, run, "first step with a value that is not finite"
        ),
    )


TOO_GOOD = frozenset({"suspiciously low", "below entropy", "below entropy by chance"})
"""Kinds of the findings of `too_good`."""


def too_good(run: Run) -> Finding | None:
    """Return a finding if the best validation is lower than any honest model's."""
    values = {}
    for section in ("final_metrics", "best_metrics"):
        value = (run.results.get(section) or {}).get("val_bpb")
        if isinstance(value, int | float) and math.isfinite(value):
            values[f"{section}.val_bpb"] = value
    if not values:
        return None
    name = min(values, key=lambda name: values[name])
    value = measurement(values[name], name, run, show=".4f")
    entropy = (run.results.get("reference") or {}).get("entropy_bits_per_byte")
    if entropy is None:
        if values[name] >= _SUSPICIOUS_BPB:
            return None
        return finding(
            "suspiciously low",
            "val_bpb {value} is suspiciously low",
            "a model of 70 billion parameters needs 0.66 bits per byte of Wikipedia; look for"
            " validation text among the training text, or a model that sees what it is to predict",
            value=value,
        )
    if values[name] >= entropy:
        return None
    heading = "val_bpb {value} is below the entropy of the source, {entropy} bits per byte"
    limit = measurement(entropy, "reference.entropy_bits_per_byte", run, show=".4f")
    n_bytes = _evaluated_bytes(run)
    # The validation text may be easier than its source by chance: allow four standard errors,
    # with the mean surprisal of a byte as its standard deviation (exponential distribution).
    if n_bytes and values[name] >= entropy - 4 * entropy / math.sqrt(n_bytes):
        return finding(
            "below entropy by chance",
            heading
            + ", by no more than the {n_bytes} bytes of validation text may be easier by chance",
            value=value,
            entropy=limit,
            n_bytes=measurement(n_bytes, "dataset.val_bytes", run, EVALUATED_BYTES),
        )
    return finding(
        "below entropy",
        heading,
        "no model can do that honestly, so it sees what it is to predict or was trained on this"
        " text",
        value=value,
        entropy=limit,
    )


EVALUATED_BYTES = "bytes of the validation text that a validation reads"
"""The formula of a number."""


@dataclass(frozen=True)
class Evaluated:
    """How much of its validation text a run reads in a validation.

    Attributes:
        windows: the windows that it reads.
        all_windows: the windows that fit into the text without overlap.
        share: the share of the text's tokens that are predicted.
    """

    windows: int
    all_windows: int
    share: float


def evaluated_share(run: Run) -> Evaluated | None:
    """Return how much of its validation text a run reads, or None if that is unknown."""
    tokens, block = (
        (run.record.get("dataset") or {}).get("val_tokens"),
        run.settings.get("model.block_size"),
    )
    most = run.settings.get("training.eval_windows", 0)
    if not isinstance(tokens, int) or not isinstance(block, int) or not 0 < block < tokens:
        return None
    if most is not None and not (isinstance(most, int) and most > 0):
        return None
    fitting = (tokens - 1) // block
    windows = fitting if most is None else min(most, fitting)
    return Evaluated(windows, fitting, windows * block / tokens)


def _evaluated_bytes(run: Run) -> float | None:
    """Return roughly how many bytes of text a validation reads."""
    dataset = run.record.get("dataset") or {}
    tokens, n_bytes = dataset.get("val_tokens"), dataset.get("val_bytes")
    if not tokens or not n_bytes:
        return None
    windows, block = run.settings.get("training.eval_windows"), run.settings.get("model.block_size")
    read = tokens if windows is None or block is None else min(tokens, windows * block)
    return float(n_bytes * read / tokens)


def _one_batch(run: Run) -> Finding | None:
    if not run.settings.get("training.overfit_one_batch"):
        return None
    return finding(
        "one batch",
        "trained on a single batch (training.overfit_one_batch), so that its values measure no"
        " learning",
    )


def _started_from(run: Run) -> Finding | None:
    parent = run.record.get("parent")
    if not parent:
        return None
    words = loading_words(parent)
    return finding(
        "started from weights",
        "started from the weights of {parent}",
        "{what}" if words else "",
        severity="info",
        parent=origin_words(parent),
        what=words,
    )


def _dirty(run: Run) -> Finding | None:
    git = run.record.get("git") or {}
    if git.get("dirty"):
        return finding(
            "uncommitted changes",
            "code with uncommitted changes, {code}",
            code=str(code_words(run)),
        )
    if run.record and code_words(run) is None:
        return finding("unknown code", "code version not recorded")
    return None


def _continued_otherwise(run: Run) -> list[Finding]:
    attempts = last_beginning(run.record.get("attempts") or [])
    return [
        finding(
            "continued otherwise",
            "continued after step {step} with other settings",
            "{what}",
            step=measurement(step, "attempts", run, "step after which the run was continued"),
            what=what,
        )
        for step, what in changed_settings(attempts, matters_for_steps)
    ]


# --- two groups ---------------------------------------------------------------------------


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
