"""Monitoring of a training run: checkpoints, metrics, plots, histograms, the record of the
run, backups, and a companion process.

The components know nothing of each other or of a training loop, which calls them by name. Neither
torch nor matplotlib is imported before a component needs it.
"""

from __future__ import annotations

from spectral_exp.monitoring.backup.backup import Backup
from spectral_exp.monitoring.checkpoint.manager import CheckpointManager
from spectral_exp.monitoring.companion.companion import Companion
from spectral_exp.monitoring.companion.system import SystemMetrics
from spectral_exp.monitoring.metrics import MetricsLogger
from spectral_exp.monitoring.spectra import SpectraLogger
from spectral_exp.monitoring.tracking.tracker import ConfigTracker
from spectral_exp.monitoring.visualization.manager import VisualizationManager
from spectral_exp.runs.ids import create_experiment_directory, generate_experiment_id
from spectral_exp.runs.open_experiment import open_experiment

__all__ = [
    "Backup",
    "CheckpointManager",
    "Companion",
    "ConfigTracker",
    "MetricsLogger",
    "SpectraLogger",
    "SystemMetrics",
    "VisualizationManager",
    "create_experiment_directory",
    "generate_experiment_id",
    "open_experiment",
]
