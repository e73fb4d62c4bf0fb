"""One run as its directory tells of it: settings, results, metric series, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One metric over a run, ascending by step; non-finite values are kept.

    Attributes:
        steps: optimizer steps (N,), counted from 1.
        values: the metric there (N,).
    """

    steps: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Run:
    """What a run directory holds. Missing parts are empty, and `problems` says so.

    Attributes:
        path: the run directory.
        run_id: unique among the runs loaded together: the folder's name, for a job of a sweep `sweep/job`.
        name: the experiment's name (setting `name`), or the folder's name.
        seed: the setting `seed`; None where it is not known.
        status: completed, stopped_early, interrupted, failed, diverged, running (locked by a live process), or
            unfinished (no results).
        settings: every resolved setting by dotted name.
        parts: the chosen parts by the names of the ablation grid: embedding, attention, mlp, optimizer, loss, and
            `size`, where they can be told.
        record: the rest of `config.json`: dataset, model, hardware, git, packages, attempts, command, overrides.
        results: `results.json`, non-finite numbers restored.
        config_hash: 8 hexadecimal digits that stand for the settings which matter for training, without the seed.
        problems: what could not be read, one sentence each.
    """

    path: Path
    run_id: str
    name: str
    seed: int | None
    status: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    problems: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the run did all that it was to do."""
        return self.status in {"completed", "stopped_early"}

    @property
    def last_step(self) -> int:
        """The last step that is known of, 0 for none."""
        raise NotImplementedError

    @property
    def n_parameters(self) -> int | None:
        """Trainable parameters of the model."""
        raise NotImplementedError

    @property
    def tokens_per_step(self) -> int | None:
        """Tokens of one optimizer step."""
        raise NotImplementedError

    @property
    def train_s(self) -> float | None:
        """Seconds of training, evaluation and waiting for monitoring apart as `results.json` tells them."""
        raise NotImplementedError

    def series(self, metric: str) -> Series:
        """The metric over the run; empty where it was never logged. Reads the file at its first use."""
        raise NotImplementedError

    def value(self, metric: str, at: str = "final") -> float | None:
        """The metric as one number; None where there is none.

        Args:
            metric: a name in the metric series or in `final_metrics`, or one of the derived `train_s`, `tokens`,
                `n_parameters`, `tokens_per_s` (median over the run), `steps`.
            at: `final` (the last value), `best` (the most favourable one; says so wherever it is shown), or
                `step:N` (the last value at or before step N).
        """
        raise NotImplementedError

    def train_time_s(self, steps: FloatArray) -> FloatArray:
        """Seconds of training until each of `steps`, from the throughput that was logged; NaN where unknown."""
        raise NotImplementedError
