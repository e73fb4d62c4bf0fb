"""Optimizers and learning-rate schedules."""

from __future__ import annotations

# The factories adamw and rgd are imported from their modules, whose names they would hide here.
from spectral_exp.optim.rgd import RGD as RGD
