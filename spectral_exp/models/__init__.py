"""Language models built of interchangeable parts, classic and wave."""

from __future__ import annotations

from spectral_exp.models.generation import generate as generate
from spectral_exp.models.gpt import GPT as GPT
from spectral_exp.models.twin import match_parameters as match_parameters
