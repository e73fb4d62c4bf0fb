"""Sample texts of a run: the continuation that the model writes, and the sentence in its plots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectral_exp.data import Dataset
from spectral_exp.models.generation import generate
from spectral_exp.models.gpt import GPT
from spectral_exp.monitoring.visualization.manager import TextSample
from spectral_exp.training.seeding import step_seed
from spectral_exp.training.settings import TrainingSettings

_PROMPT_TOKENS = 16
_PLOT_TOKENS = 28


def build_sampler(
    model: GPT, dataset: Dataset, settings: TrainingSettings, seed: int, device: torch.device
) -> Callable[[int], tuple[str, str]]:
    """Return a function step -> (prompt, continuation by the model).

    Its random numbers depend only on the seed and the step.
    """
    tokenizer = dataset.tokenizer
    ids = prompt_ids(dataset, settings)
    prompt: Tensor = torch.from_numpy(ids.astype(np.int64))[None].to(device)

    def sample(step: int) -> tuple[str, str]:
        generator = torch.Generator(device).manual_seed(step_seed(seed, step))
        written = generate(model, prompt, settings.sample_tokens, generator=generator)[0]
        return tokenizer.decode(ids), tokenizer.decode(written.cpu().numpy()[len(ids) :])

    return sample


def prompt_ids(dataset: Dataset, settings: TrainingSettings) -> npt.NDArray[Any]:
    """Return the tokens of the prompt. Raises UserError if the tokenizer cannot encode it."""
    if settings.sample_prompt is None:
        return np.asarray(dataset.val[:_PROMPT_TOKENS])
    return dataset.tokenizer.encode(settings.sample_prompt)


def plot_sample(dataset: Dataset) -> TextSample:
    """Return the beginning of the validation text, for the plots of attention."""
    ids = [int(i) for i in dataset.val[:_PLOT_TOKENS]]
    return TextSample(ids, [dataset.tokenizer.token_text(i) for i in ids])
