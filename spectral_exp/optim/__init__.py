"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from spectral_exp.optim.adamw import build_adamw as build_adamw
from spectral_exp.optim.muon import JoinedOptimizer as JoinedOptimizer
from spectral_exp.optim.muon import build_muon as build_muon
from spectral_exp.optim.rgd import RGD as RGD
from spectral_exp.optim.rgd import build_rgd as build_rgd
from spectral_exp.optim.schedule import Constant as Constant
from spectral_exp.optim.schedule import Cosine as Cosine
from spectral_exp.optim.schedule import Linear as Linear
from spectral_exp.optim.schedule import WarmupStableDecay as WarmupStableDecay
