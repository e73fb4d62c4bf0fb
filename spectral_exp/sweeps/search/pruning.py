"""Pruning: a run ends early if it is worse than others of its search at the same step.

The decision is that of optuna's pruners on the validations in the files of the other runs, which
may be unfinished, damaged, or changing. It reads files and draws no random numbers.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.config.search import SearchSettings, read_search_settings
from spectral_exp.core.errors import UserError
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metrics_file import read_metrics
from spectral_exp.runs.record import read_config, read_results
from spectral_exp.sweeps.names import key_of_folder
from spectral_exp.sweeps.search.sampler import import_optuna
from spectral_exp.sweeps.search.trials import is_same_experiment, trial_state

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

Reports = Mapping[int, float]
"""Step -> value, for each validation."""


def make_pruner(
    config: Mapping[str, Any], run_dir: Path, overrides: list[str]
) -> Callable[[int, Mapping[str, float]], str] | None:
    """Return a function from a step and its metrics to why the run ends there, or "".

    None if the run belongs to no search that prunes.

    Args:
        config: plain resolved configuration of the run.
        run_dir: the run directory, beside those of the other runs of its search.
        overrides: of the run, as they will be recorded.

    Raises:
        UserError: the settings of the search have mistakes, or optuna is missing.
    """
    settings = read_search_settings(config)
    if settings.sampler is None or settings.pruner == "none":
        return None
    interval = int(config["training"]["eval_interval"])
    # Between two validations nothing can be decided.
    min_steps = max(settings.min_steps or 0, interval)
    return Pruner(settings, min_steps, run_dir, overrides).why_prune


class Pruner:
    """Compares a run with the others of its search.

    Args:
        settings: of the search.
        min_steps: no run is pruned before this step.
        run_dir: of the run.
        overrides: of the run.
    """

    def __init__(
        self, settings: SearchSettings, min_steps: int, run_dir: Path, overrides: list[str]
    ) -> None:
        self._optuna = import_optuna(f"search.pruner={settings.pruner}")
        self._settings = settings
        self._min_steps = min_steps
        self._pruner: optuna.pruners.BasePruner
        if settings.pruner == "asha":
            self._pruner = self._optuna.pruners.SuccessiveHalvingPruner(
                min_resource=min_steps, reduction_factor=settings.reduction_factor
            )
        else:
            self._pruner = self._optuna.pruners.MedianPruner(
                n_startup_trials=settings.startup_trials, n_warmup_steps=min_steps
            )
        self._own = _Peer(run_dir, settings.objectives[0])
        self._peers = _Peers(run_dir, overrides, settings)
        self._reports: dict[int, float] | None = None

    def why_prune(self, step: int, metrics: Mapping[str, float]) -> str:
        """Return why the run ends after the validation of `step`, or ""."""
        metric = self._settings.objectives[0]
        if self._reports is None:  # a continued run has validated before
            self._reports = {s: v for s, v in self._own.read().items() if s < step}
        self._reports[step] = metrics[metric]
        if not self._is_due(self._reports):
            return ""
        peers = self._peers.read()
        if not self.decides_to_prune(self._reports, peers):
            return ""
        reached = sum(any(s >= step for s in reports) for _, reports in peers)
        rule = (
            f"not among the best 1/{self._settings.reduction_factor}"
            if self._settings.pruner == "asha"
            else "worse than the median"
        )
        return (
            f"{metric} {metrics[metric]:.6g} at step {step} is {rule} of the runs of this search "
            f"at that step (search.pruner={self._settings.pruner}, {reached} other runs came this "
            "far)"
        )

    def _is_due(self, reports: Reports) -> bool:
        """Return whether the pruner may end the run now, whatever the other runs do."""
        step = list(reports)[-1]
        if self._settings.pruner == "median":
            return step >= self._min_steps
        reached = len(self._rungs(_without_last(reports)))
        rung: int = self._min_steps * self._settings.reduction_factor**reached
        return step >= rung

    def decides_to_prune(self, reports: Reports, peers: Sequence[tuple[bool, Reports]]) -> bool:
        """Return whether a run with these validations ends after the last of them.

        Args:
            reports: of the run.
            peers: for each other run, whether it has completed, and its validations.
        """
        states, trials = self._optuna.trial.TrialState, self._optuna.trial
        lower = self._settings.lower_is_better[0]
        study = self._optuna.create_study(
            direction="minimize" if lower else "maximize",
            sampler=self._optuna.samplers.RandomSampler(seed=0),
            study_name="search",
        )
        study.add_trials(
            [
                trials.create_trial(
                    state=states.COMPLETE if is_complete else states.RUNNING,
                    value=0.0 if is_complete else None,  # pruners read only the validations
                    intermediate_values=dict(other),
                    system_attrs=self._rungs(other),
                )
                for is_complete, other in peers
            ]
        )
        study.add_trial(
            trials.create_trial(
                state=states.RUNNING,
                intermediate_values=dict(reports),
                system_attrs=self._rungs(_without_last(reports)),
            )
        )
        with warnings.catch_warnings():
            # NumPy warns where no run has a finite value.
            warnings.simplefilter("ignore", RuntimeWarning)
            return bool(self._pruner.prune(study, study.trials[-1]))

    def _rungs(self, reports: Reports) -> dict[str, float]:
        """Return the values with which a run has reached each rung, as optuna stores them."""
        rungs: dict[str, float] = {}
        if self._settings.pruner != "asha":
            return rungs
        for step, value in reports.items():
            while step >= self._min_steps * self._settings.reduction_factor ** len(rungs):
                if value != value:  # NaN ends a run without a rung
                    break
                rungs[f"completed_rung_{len(rungs)}"] = value
        return rungs


def _without_last(reports: Reports) -> Reports:
    return dict(list(reports.items())[:-1])


class _Peers:
    """The other runs of a search, which lie in the same folder."""

    def __init__(self, run_dir: Path, overrides: list[str], settings: SearchSettings) -> None:
        self._run_dir = run_dir
        self._overrides = overrides
        self._settings = settings
        self._known: dict[str, _Peer | None] = {}

    def read(self) -> list[tuple[bool, Reports]]:
        """Return, for each run, whether it has completed, and its validations."""
        try:
            with os.scandir(self._run_dir.parent) as entries:
                found = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError as error:
            log.warning("no other run of the search can be read: %s", error.strerror)
            return []
        # A reproduction of a run lies beside it.
        names = [name for name in found if key_of_folder(name) and name != self._run_dir.name]
        peers = map(self._find, names)
        return [(peer.is_complete(), peer.read()) for peer in peers if peer is not None]

    def _find(self, name: str) -> _Peer | None:
        """Return the run in a folder, or None if it is no run of this search."""
        if name not in self._known:
            path = self._run_dir.parent / name
            try:
                record, _ = read_config(RunPaths(path).config_file)
            except UserError:  # no run, not yet written, or damaged
                return None
            is_same = is_same_experiment(
                record.get("overrides", []), self._overrides, self._settings.settings
            )
            self._known[name] = _Peer(path, self._settings.objectives[0]) if is_same else None
        return self._known[name]


@dataclass
class _Peer:
    """A run whose validations are read again only if its files have changed."""

    path: Path
    metric: str
    _stamp: tuple[int, int, int] | None = None
    _reports: Reports | None = None
    _is_complete: bool = False

    def read(self) -> Reports:
        """Return the validations so far; none if they cannot be read."""
        file = RunPaths(self.path).metrics_file
        try:
            state = file.stat()
            stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
            if self._reports is None or stamp != self._stamp:
                series = read_metrics(file).series.get(self.metric)
                pairs = () if series is None else zip(series.steps, series.values, strict=True)
                self._reports = {int(s): float(v) for s, v in pairs if s >= 0}
                self._stamp = stamp
        except OSError:
            return {}
        return self._reports

    def is_complete(self) -> bool:
        """Return whether the run has ended with results."""
        if not self._is_complete:
            try:
                results, _ = read_results(RunPaths(self.path).results_file)
            except UserError:
                return False
            self._is_complete = trial_state(results.get("status", "")) == "done"
        return self._is_complete
