"""Runs without directories, for tests of computations on runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.results.finding import Finding
from spectral_exp.results.group import Group
from spectral_exp.runs.budget import parse_at
from spectral_exp.runs.run import MetricSummary, Run

CHOICES = {
    "classic": ("standard", "dot_product", "gelu", "adamw", "cross_entropy"),
    "classic_rotary": ("standard", "rotary", "gelu", "adamw", "cross_entropy"),
    "wave": ("wave", "interference", "resonance", "adamw", "cross_entropy"),
    "wave_rgd": ("wave", "interference", "resonance", "rgd", "cross_entropy"),
    "wave_qfe": ("wave", "interference", "resonance", "adamw", "qfe"),
    "wave_rgd_qfe": ("wave", "interference", "resonance", "rgd", "qfe"),
}
"""Experiments by name: embedding, attention, MLP, optimizer, loss."""

STEPS = 100
TOKENS_PER_STEP = 768


@dataclass(frozen=True)
class FakeRun(Run):
    """A run whose numbers are given: those of `values` at its end, or at every step of `curves`."""

    values: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @property
    def last_step(self) -> int:
        return int(self.values["steps"])

    @property
    def n_parameters(self) -> int | None:
        return int(self.values["n_parameters"])

    @property
    def tokens_per_step(self) -> int | None:
        return TOKENS_PER_STEP

    @property
    def train_s(self) -> float | None:
        return self.values.get("train_s")

    @property
    def metrics(self) -> Mapping[str, MetricSummary]:
        return {name: MetricSummary.of(self.series(name)) for name in self.curves}

    def series(self, metric: str) -> Series:
        curve = self.curves.get(metric) or {}
        return Series(
            np.array(list(curve), dtype=np.float64),
            np.array(list(curve.values()), dtype=np.float64),
        )

    def value(self, metric: str, at: str = "final") -> float | None:
        curve = self.curves.get(metric)
        if curve is None or at == "final":
            return self.values.get(metric)
        if at == "best":
            return min(curve.values())
        budget = parse_at(at)
        stop = 0 if budget is None else self.step_within(budget) or 0
        return [value for step, value in curve.items() if step <= stop][-1]

    def train_time_s(self, steps: FloatArray) -> FloatArray:
        return steps


def fake_run(
    name: str = "classic",
    seed: int | None = 1,
    val_bpb: float = 2.5,
    *,
    status: str = "completed",
    steps: int = STEPS,
    run_id: str | None = None,
    settings: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    values: Mapping[str, float] | None = None,
    curves: Mapping[str, Mapping[int, float]] | None = None,
) -> FakeRun:
    """A finished run; mappings replace single entries, those of `record` and `results` by their
    dotted name."""
    parts = dict(
        zip(("embedding", "attention", "mlp", "optimizer", "loss"), CHOICES[name], strict=True)
    )
    run_id = run_id or f"{name}_{seed}"
    known = {
        "val_bpb": val_bpb,
        "val_loss": val_bpb * 0.693,
        "steps": float(steps),
        "tokens": float(steps * TOKENS_PER_STEP),
        "n_parameters": 800_000.0,
        "train_s": 60.0,
        "tokens_per_s": 10_000.0,
    }
    return FakeRun(
        path=Path("/nowhere") / run_id,
        run_id=run_id,
        name=name,
        seed=seed,
        status=status,
        settings=_settings(name, seed, parts) | dict(settings or {}),
        parts=parts,
        record=_with(_record(), record or {}),
        results=_with(_results(val_bpb), results or {}),
        values=known | dict(values or {}),
        curves=curves or {},
    )


def said(findings: Iterable[Finding]) -> list[str]:
    """Findings as the sentences that are printed."""
    return [str(one) for one in findings]


def fake_group(
    runs: Sequence[Run], label: str | None = None, strata: Sequence[int] | None = None
) -> Group:
    """A group of these runs, named after the first."""
    return Group(label=label or runs[0].name, key={}, runs=runs, strata=strata or [0] * len(runs))


def seeds(name: str, values: Sequence[float], **same: Any) -> Group:
    """A group of runs with the seeds 1, 2, ... and these values of val_bpb."""
    return fake_group(
        [fake_run(name, seed, value, **same) for seed, value in enumerate(values, start=1)]
    )


def _settings(name: str, seed: int | None, parts: Mapping[str, str]) -> dict[str, Any]:
    own = (
        ("optimizer.resonance_strength", 0.3)
        if parts["optimizer"] == "rgd"
        else ("optimizer.fused", None)
    )
    return {
        "name": name,
        "seed": seed,
        "model.n_embd": 128,
        "model.block_size": 64,
        "model.embedding._target_": parts["embedding"],
        "model.attention._target_": parts["attention"],
        "model.mlp._target_": "spectral_exp.models.MLP",
        "model.mlp.activation": parts["mlp"],
        "model.mlp.expansion": 4,
        "optimizer._target_": parts["optimizer"],
        "optimizer.learning_rate": 1e-3,
        "optimizer.betas": [0.9, 0.99],
        "optimizer.weight_decay": 0.1,
        own[0]: own[1],
        "loss._target_": parts["loss"],
        "schedule.warmup_steps": 10,
        "training.max_steps": STEPS,
        "training.eval_windows": None,
        "monitoring.metrics.log_interval": 10,
        "outputs": f"outputs/{name}",
    }


def _record() -> dict[str, Any]:
    return {
        "timestamp": "2026-01-01T00:00:00",
        "dataset": {
            "train_sha256": "aa" * 32,
            "val_sha256": "bb" * 32,
            "tokenizer": "dd" * 32,
            "vocab_size": 256,
            "val_bytes": 100_000,
            "val_tokens": 100_000,
        },
        "model": {
            "parameters_by_component": {
                "embedding": 16_000,
                "attention": 260_000,
                "mlp": 540_000,
                "total": 816_000,
            }
        },
        "hardware": {"gpu_available": False, "cpu_model": "Test CPU", "torch_threads": 1},
        "git": {"hash": "abcd1234" * 5, "dirty": False, "diff_file": None},
        "packages": {"torch": "2.13.0"},
        "attempts": [{"from_step": 0, "overrides": ["seed=1"]}],
    }


def _results(val_bpb: float) -> dict[str, Any]:
    return {
        "final_metrics": {"step": STEPS, "val_bpb": val_bpb},
        "best_metrics": {"step": STEPS, "val_bpb": val_bpb},
        "totals": {"bad_steps": 0},
        "reference": {"unigram_bits_per_byte": 4.8, "entropy_bits_per_byte": None},
        "error": None,
    }


def _with(tree: dict[str, Any], replacements: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in replacements.items():
        node = tree
        *folders, leaf = name.split(".")
        for folder in folders:
            node = node[folder]
        node[leaf] = value
    return tree
