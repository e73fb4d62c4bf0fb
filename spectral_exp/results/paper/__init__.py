"""A paper draft from runs, `spectral-exp paper`; every number in it has a recorded source."""

from __future__ import annotations

from spectral_exp.results.paper.generator import PaperGenerator as PaperGenerator
from spectral_exp.results.paper.material import Choices as Choices
from spectral_exp.results.paper.verify import verify as verify
