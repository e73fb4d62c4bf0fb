"""Checks of single runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spectral_exp.core.wording import noun
from spectral_exp.results.cautions import cautions
from spectral_exp.results.finding import Finding, Measured, Piece, finding, measurement
from spectral_exp.results.identity import IDENTITIES, TITLES, code_words
from spectral_exp.results.slow_steps import slow_steps
from spectral_exp.runs.overrides import changed_settings, matters_for_steps
from spectral_exp.runs.parentage import loading_words, origin_words
from spectral_exp.runs.run import Run
from spectral_exp.runs.training_record import last_beginning

# Chinchilla 70B needs 0.66 bits per byte of Wikipedia (Delétang et al., "Language Modeling Is
# Compression", 2024). Half of that, by a small model, is a leak or a trivial source.
_SUSPICIOUS_BPB = 0.3


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
