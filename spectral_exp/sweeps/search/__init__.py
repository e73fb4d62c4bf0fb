"""Search for good settings: proposals, budgets and pruning, with the runs as the only storage."""

from __future__ import annotations

from spectral_exp.sweeps.search.best import best_trials, describe_best
from spectral_exp.sweeps.search.pruning import make_pruner
from spectral_exp.sweeps.search.search import Search
from spectral_exp.sweeps.search.trials import Trial, read_trial

__all__ = ["Search", "Trial", "best_trials", "describe_best", "make_pruner", "read_trial"]
