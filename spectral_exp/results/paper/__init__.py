"""A paper draft from runs: `python -m spectral_exp paper`. Every number in it says which runs it came from."""

from __future__ import annotations

from spectral_exp.results.paper.generator import PaperGenerator as PaperGenerator
from spectral_exp.results.paper.material import Choices as Choices
from spectral_exp.results.paper.verify import verify as verify
