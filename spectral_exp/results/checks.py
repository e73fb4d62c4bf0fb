"""What makes a run doubtful, and what makes a comparison of two groups of runs unfair."""

from __future__ import annotations

import math
import statistics
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spectral_exp.git import NO_GIT_HASH
from spectral_exp.results.run import Run, check_at
from spectral_exp.run_dir import RunPaths
from spectral_exp.run_record import changed_settings, matters_for_steps, recorded_patch

QUANTITIES = (
    "parameters",
    "tokens",
    "steps",
    "wall-clock",
    "data",
    "validation",
    "tokenizer",
    "evaluation",
    "hardware",
    "code",
)
"""What `match_groups` compares."""

NEARLY_SAME = 0.01
"""Relative difference up to which parameters and tokens count as equal: a model widened to match meets its twin only
to the next channel, and steps that were skipped take their tokens with them."""

SAME_TIME = 0.05
"""The same for the median seconds of training. Repeats on a quiet machine differ by one or two per cent."""

VALIDATION_METRICS = frozenset({"val_loss", "val_bpb", "perplexity"})
"""Measured on the validation text, so that its text and windows have to match."""

PER_TOKEN_METRICS = frozenset({"loss", "val_loss", "perplexity"})
"""Depend on how much text a token stands for: across tokenizers they do not compare."""

# Chinchilla 70B needs 0.66 bits per byte of Wikipedia (Delétang et al., "Language Modeling Is Compression", 2024). Half
# of that, by a model that one trains oneself, is a leak or a trivial source.
_SUSPICIOUS_BPB = 0.3
_QUANTITY_OF = {
    "n_parameters": "parameters",
    "tokens": "tokens",
    "steps": "steps",
    "train_s": "wall-clock",
    "tokens_per_s": "wall-clock",
}
_MAX_SHOWN = 4


# --- single runs -----------------------------------------------------------------------------------------------------


def run_flags(run: Run, metric: str = "val_bpb") -> list[str]:
    """What is doubtful about a run by itself, a sentence each; `metric` is searched for non-finite values."""
    found = [unfinished(run), _stopped_early(run), _bad_steps(run), _non_finite(run, metric), too_good(run)]
    found += [_one_batch(run), _dirty(run), _continued_otherwise(run), *run.problems]
    return [sentence for sentence in found if sentence]


def unfinished(run: Run) -> str:
    """Why a run has no final values: a sentence, or nothing where it has."""
    if run.finished:
        return ""
    planned = run.settings.get("training.max_steps")
    where = f"step {run.last_step:,}" + (f" of {planned:,}" if isinstance(planned, int) else "")
    error = run.results.get("error")
    return f"{run.status} at {where}" + (f" ({error})" if error else "")


def odd_ones_out(runs: Sequence[Run]) -> dict[str, list[str]]:
    """In what single runs differ from most of `runs`: sentences by run id, for the runs that do.

    Compared are the training and validation text, the tokenizer, the code and the hardware, where a run recorded them.
    Of equally frequent ones the first met is taken as the usual one.
    """
    found: dict[str, list[str]] = {}
    for name in ("data", "validation", "tokenizer", "code", "hardware"):
        texts = {run.run_id: text for run in runs if (text := _IDENTITIES[name](run)) is not None}
        if len(set(texts.values())) < 2:
            continue
        usual = Counter(texts.values()).most_common(1)[0][0]
        for run_id, text in texts.items():
            if text != usual:
                found.setdefault(run_id, []).append(f"{_TITLES[name]} unlike most runs: {text} against {usual}")
    return found


def _stopped_early(run: Run) -> str:
    if run.status != "stopped_early":
        return ""
    planned = run.settings.get("training.max_steps")
    where = f" of {planned:,}" if isinstance(planned, int) else ""
    kept = run.settings.get("training.restore_best", True)
    best = "; its final value is the best of its validations, which flatters it" if kept else ""
    return f"stopped early at step {run.last_step:,}{where}{best}"


def _bad_steps(run: Run) -> str:
    bad = (run.results.get("totals") or {}).get("bad_steps")
    if bad is None:  # no results: the metrics tell
        bad = run.value("bad_steps") or 0
    return f"{bad:,.0f} steps skipped for a non-finite loss or gradient" if bad else ""


def _non_finite(run: Run, metric: str) -> str:
    summary = run.metrics.get(metric)
    if summary is None or not summary.non_finite:  # an index knows that, so that the file need not be read
        return ""
    series = run.series(metric)
    bad = ~np.isfinite(series.values)
    first = int(series.steps[int(np.argmax(bad))])
    return f"{metric} not finite at {int(bad.sum()):,} of {len(bad):,} logged steps, first at step {first:,}"


def too_good(run: Run) -> str:
    """Whether the best validation lies below what can honestly be reached."""
    sections = (run.results.get("final_metrics") or {}, run.results.get("best_metrics") or {})
    values = [section["val_bpb"] for section in sections if isinstance(section.get("val_bpb"), int | float)]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    value = min(values)
    entropy = (run.results.get("reference") or {}).get("entropy_bits_per_byte")
    if entropy is None:
        if value >= _SUSPICIOUS_BPB:
            return ""
        return (
            f"val_bpb {value:.4f} is suspiciously low: a model of 70 billion parameters needs 0.66 bits per byte of "
            "Wikipedia; look for validation text among the training text, or a model that sees what it is to predict"
        )
    if value >= entropy:
        return ""
    below = f"val_bpb {value:.4f} is below the entropy of the source, {entropy:.4f} bits per byte"
    n_bytes = _evaluated_bytes(run)
    # How far the validation text itself may be easier than the source: four standard errors, taking the standard
    # deviation of a byte's surprisal as its mean, as it is for an exponential distribution.
    if n_bytes and value >= entropy - 4 * entropy / math.sqrt(n_bytes):
        return f"{below}, by no more than the {n_bytes:,.0f} bytes of validation text may be easier by chance"
    return f"{below}: no model can do that honestly, so it sees what it is to predict or was trained on this text"


def _evaluated_bytes(run: Run) -> float | None:
    """Roughly the bytes of text that a validation reads."""
    dataset = run.record.get("dataset") or {}
    tokens, n_bytes = dataset.get("val_tokens"), dataset.get("val_bytes")
    if not tokens or not n_bytes:
        return None
    windows, block = run.settings.get("training.eval_windows"), run.settings.get("model.block_size")
    read = tokens if windows is None or block is None else min(tokens, windows * block)
    return float(n_bytes * read / tokens)


def _one_batch(run: Run) -> str:
    if not run.settings.get("training.overfit_one_batch"):
        return ""
    return "trained on a single batch (training.overfit_one_batch), so that its values measure no learning"


def _dirty(run: Run) -> str:
    git = run.record.get("git") or {}
    if git.get("dirty"):
        return f"code with uncommitted changes, {_code(run)}"
    if run.record and _code(run) is None:
        return "code version not recorded"
    return ""


def _continued_otherwise(run: Run) -> str:
    attempts = run.record.get("attempts") or []
    # An attempt that ended before its first checkpoint was done over by the next.
    beginning = max((i for i, attempt in enumerate(attempts) if attempt.get("from_step", 0) == 0), default=0)
    changes = changed_settings(attempts[beginning:], matters_for_steps)
    return "; ".join(f"continued after step {step:,} with other settings: {what}" for step, what in changes)


# --- two groups ------------------------------------------------------------------------------------------------------


def match_groups(
    a: Sequence[Run], b: Sequence[Run], metric: str = "val_bpb", at: str = "final"
) -> tuple[dict[str, bool | None], list[str]]:
    """Whether two groups of runs agree in what a fair comparison keeps equal.

    Parameters and tokens may differ by 1 %, the median seconds of training by 5 %; all else must be equal in every run.

    Args:
        a, b: the runs that count.
        metric: decides which differences matter: the tokenizer not for `val_bpb`, the validation text and windows only
            for validation metrics, and none whose quantity is the metric itself.
        at: which value is compared, as for `Run.value`; with `step:N` steps and tokens are those until then.

    Returns:
        For each of `QUANTITIES` True, False, or None where a run does not tell; and a sentence with both values for
        each that does not match and matters.
    """
    stop = check_at(at)
    steps_a, steps_b = ([_steps(run, stop) for run in runs] for runs in (a, b))
    found = {
        "parameters": _numbers([r.n_parameters for r in a], [r.n_parameters for r in b], NEARLY_SAME),
        "tokens": _numbers([_tokens(r, stop) for r in a], [_tokens(r, stop) for r in b], NEARLY_SAME),
        "steps": _numbers(steps_a, steps_b, 0.0),
        "wall-clock": _times([r.train_s for r in a], [r.train_s for r in b]),
        **{name: _texts([identity(r) for r in a], [identity(r) for r in b]) for name, identity in _IDENTITIES.items()},
    }
    matches = {name: found[name][0] for name in QUANTITIES}
    warnings = []
    for name in QUANTITIES:
        matched, values = found[name]
        if matched is False and _matters(name, metric):
            warnings.append(
                f"{_TITLES[name]} {'differ' if name in _PLURAL else 'differs'}: {values}{_why(name, metric)}"
            )
    if stop is not None:
        same, values = _numbers([_planned(r) for r in a], [_planned(r) for r in b], 0.0)
        if same is False:
            matches["steps"] = False
            warnings.append(f"at step {stop:,} the runs were on schedules of different length: {values} steps")
    return matches, warnings


def _matters(name: str, metric: str) -> bool:
    if name == _QUANTITY_OF.get(metric):
        return False
    if name in {"validation", "evaluation"}:
        return metric in VALIDATION_METRICS
    return name != "tokenizer" or metric != "val_bpb"


def _why(name: str, metric: str) -> str:
    if name == "tokenizer" and metric in PER_TOKEN_METRICS:
        return f"; {metric} is per token and does not compare, val_bpb does"
    if name in {"validation", "evaluation"}:
        return f"; {metric} measured on other text does not compare"
    return ""


def _steps(run: Run, stop: int | None) -> int | None:
    steps = run.last_step or None
    return steps if steps is None or stop is None else min(steps, stop)


def _tokens(run: Run, stop: int | None) -> float | None:
    """Tokens trained on; of a value before the end those of its steps."""
    steps = _steps(run, stop)
    if steps is None or steps == run.last_step:
        return run.value("tokens")
    return None if run.tokens_per_step is None else steps * run.tokens_per_step


def _planned(run: Run) -> int | None:
    steps = run.settings.get("training.max_steps")
    return steps if isinstance(steps, int) else None


Matched = tuple[bool | None, str]
"""Whether they match, and both values as words."""


def _numbers(a: Sequence[float | None], b: Sequence[float | None], tolerance: float) -> Matched:
    """All numbers of both within `tolerance` of each other."""
    known_a, known_b = ([value for value in values if value is not None] for values in (a, b))
    if not known_a or not known_b:
        return None, ""
    values = [*known_a, *known_b]
    words = f"{_range(known_a)} against {_range(known_b)}"
    if max(values) > (1 + tolerance) * min(values):
        return False, words
    return (True if len(values) == len(a) + len(b) else None), words


def _times(a: Sequence[float | None], b: Sequence[float | None]) -> Matched:
    """Medians, since single runs may have had a busy machine."""
    known_a, known_b = ([value for value in values if value is not None] for values in (a, b))
    if not known_a or not known_b:
        return None, ""
    one, other = statistics.median(known_a), statistics.median(known_b)
    words = f"{one:,.1f} s against {other:,.1f} s of training"
    return max(one, other) <= (1 + SAME_TIME) * min(one, other), words


def _texts(a: Sequence[str | None], b: Sequence[str | None]) -> Matched:
    """All texts of both the same."""
    known_a, known_b = (list(dict.fromkeys(text for text in texts if text is not None)) for texts in (a, b))
    if not known_a or not known_b:
        return None, ""
    if len({*known_a, *known_b}) > 1:
        return False, f"{_list(known_a)} against {_list(known_b)}"
    return (None if None in {*a, *b} else True), ""


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _list(texts: Sequence[str]) -> str:
    more = len(texts) - _MAX_SHOWN
    return ", ".join(texts[:_MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")


# --- what a run recorded ---------------------------------------------------------------------------------------------


def _fingerprint(run: Run, name: str) -> str | None:
    value = (run.record.get("dataset") or {}).get(name)
    return str(value)[:8] if value else None


def _data(run: Run) -> str | None:
    return _fingerprint(run, "train_sha256")


def _validation(run: Run) -> str | None:
    return _fingerprint(run, "val_sha256")


def _tokenizer(run: Run) -> str | None:
    fingerprint = _fingerprint(run, "tokenizer")
    size = (run.record.get("dataset") or {}).get("vocab_size")
    return fingerprint and (f"{fingerprint} ({size:,} tokens)" if size else fingerprint)


def _evaluation(run: Run) -> str | None:
    if not {"training.eval_windows", "model.block_size"} <= run.settings.keys():
        return None
    windows = run.settings["training.eval_windows"]
    return f"{'all' if windows is None else f'{windows:,}'} windows of {run.settings['model.block_size']:,} tokens"


def _hardware(run: Run) -> str | None:
    hardware: Mapping[str, Any] = run.record.get("hardware") or {}
    if not hardware:
        return None
    if hardware.get("gpu_available"):
        gpus = hardware.get("gpus") or []
        return f"{len(gpus) or 1} x {hardware.get('gpu_model')}, CUDA {hardware.get('cuda_version')}"
    threads = hardware.get("torch_threads")
    return f"{hardware.get('cpu_model')}, {threads} thread" + ("" if threads == 1 else "s")


def _code(run: Run) -> str | None:
    """The commit with what was changed on top of it, and the version of torch."""
    git = run.record.get("git") or {}
    commit = git.get("hash")
    if not commit or commit == NO_GIT_HASH:
        return None
    patch = recorded_patch(RunPaths(run.path), git) if git.get("diff_file") else b""
    changes = f" with patch {zlib.crc32(patch):08x}" if patch else " with changes" if git.get("dirty") else ""
    torch = (run.record.get("packages") or {}).get("torch")
    return f"commit {commit[:8]}{changes}" + (f", torch {torch}" if torch else "")


_IDENTITIES: dict[str, Callable[[Run], str | None]] = {
    "data": _data,
    "validation": _validation,
    "tokenizer": _tokenizer,
    "evaluation": _evaluation,
    "hardware": _hardware,
    "code": _code,
}
_TITLES = {
    "parameters": "parameters",
    "tokens": "training tokens",
    "steps": "steps",
    "wall-clock": "wall-clock",
    "data": "training text",
    "validation": "validation text",
    "tokenizer": "tokenizer",
    "evaluation": "validation windows",
    "hardware": "hardware",
    "code": "code",
}
_PLURAL = frozenset({"parameters", "tokens", "steps", "evaluation"})
