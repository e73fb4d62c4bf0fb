"""A run's text, tokenizer, validation, hardware and code as words that are equal if they agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spectral_exp.core.git import NO_GIT_HASH
from spectral_exp.core.wording import format_count
from spectral_exp.runs.evaluations import parse_evaluation
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.run import Run
from spectral_exp.runs.training_record import recorded_patch_crc32


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
    read = "all windows" if windows is None else format_count(windows, "window")
    return f"{read} of {run.settings['model.block_size']:,} tokens"


def _test_text(run: Run) -> str | None:
    return _fingerprint(run, "test_sha256")


def _test_windows(run: Run) -> str | None:
    windows = ((run.results.get("evaluation") or {}).get("test") or {}).get("windows")
    block_size = run.settings.get("model.block_size")
    if not isinstance(windows, int) or not isinstance(block_size, int):
        return None
    return f"{format_count(windows, 'window')} of {block_size:,} tokens"


def _hardware(run: Run) -> str | None:
    hardware: Mapping[str, Any] = run.record.get("hardware") or {}
    if not hardware:
        return None
    if hardware.get("gpu_available"):
        gpus = hardware.get("gpus") or []
        return (
            f"{len(gpus) or 1} x {hardware.get('gpu_model')}, CUDA {hardware.get('cuda_version')}"
        )
    threads = hardware.get("torch_threads")
    return f"{hardware.get('cpu_model')}, {threads} thread" + ("" if threads == 1 else "s")


def code_words(run: Run) -> str | None:
    """Return the commit, a checksum of uncommitted changes, and the version of torch."""
    git = run.record.get("git") or {}
    commit = git.get("hash")
    if not commit or commit == NO_GIT_HASH:
        return None
    patch = recorded_patch_crc32(RunPaths(run.path), git)
    changes = f" with patch {patch}" if patch else " with changes" if git.get("dirty") else ""
    torch = (run.record.get("packages") or {}).get("torch")
    return f"commit {commit[:8]}{changes}" + (f", torch {torch}" if torch else "")


def identities_of(metric: str) -> dict[str, Callable[[Run], str | None]]:
    """Return what must agree for a metric.

    For a test or an evaluation, these are the text and the windows that it read.
    """
    if metric.startswith("test_"):
        return IDENTITIES | {"validation": _test_text, "evaluation": _test_windows}
    evaluation = parse_evaluation(metric)
    if evaluation is None:
        return IDENTITIES

    def text(run: Run) -> str | None:
        known = (evaluation.newest(run.evaluations) or {}).get("text_sha256")
        return known and f"ids {known[:8]}"

    def windows(run: Run) -> str | None:
        known = (evaluation.newest(run.evaluations) or {}).get("windows")
        return known and f"{format_count(known, 'window')} of {evaluation.block_size:,} tokens"

    return IDENTITIES | {"validation": text, "evaluation": windows}


IDENTITIES: dict[str, Callable[[Run], str | None]] = {
    "data": _data,
    "validation": _validation,
    "tokenizer": _tokenizer,
    "evaluation": _evaluation,
    "hardware": _hardware,
    "code": code_words,
}
TITLES = {
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
PLURAL = frozenset({"parameters", "tokens", "steps", "evaluation"})
