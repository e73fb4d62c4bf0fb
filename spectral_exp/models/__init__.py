"""Language models assembled from interchangeable classic and wave parts."""

from __future__ import annotations

from spectral_exp.models.attention import InterferenceAttention as InterferenceAttention
from spectral_exp.models.attention import PhasorAttention as PhasorAttention
from spectral_exp.models.dot_product import ALiBiAttention as ALiBiAttention
from spectral_exp.models.dot_product import DotProductAttention as DotProductAttention
from spectral_exp.models.dot_product import NoPositionAttention as NoPositionAttention
from spectral_exp.models.dot_product import RotaryAttention as RotaryAttention
from spectral_exp.models.embedding import StandardEmbedding as StandardEmbedding
from spectral_exp.models.generation import generate as generate
from spectral_exp.models.gpt import GPT as GPT
from spectral_exp.models.gpt import MLP as MLP
from spectral_exp.models.gpt import SwiGLU as SwiGLU
from spectral_exp.models.norms import LayerNorm as LayerNorm
from spectral_exp.models.norms import RMSNorm as RMSNorm
from spectral_exp.models.pure_wave import PureWaveAttention as PureWaveAttention
from spectral_exp.models.twin import match_parameters as match_parameters
from spectral_exp.models.wave import WaveEmbedding as WaveEmbedding
