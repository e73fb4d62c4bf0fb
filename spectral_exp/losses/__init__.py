"""Losses: cross-entropy, and cross-entropy with the coherence term of QFE."""

from __future__ import annotations

from spectral_exp.losses.cross_entropy import CrossEntropy as CrossEntropy
from spectral_exp.losses.cross_entropy import Loss as Loss
from spectral_exp.losses.qfe import QFE as QFE
