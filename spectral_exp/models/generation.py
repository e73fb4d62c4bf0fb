"""Autoregressive sampling from a model.

Letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spectral_exp.core.errors import UserError, require
from spectral_exp.models.gpt import GPT

_MIN_TEMPERATURE = 1e-30
"""Lowest temperature that divides logits; below it they may overflow, so sampling is greedy."""


@torch.no_grad()
def generate(
    model: GPT,
    ids: Tensor,
    n_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return `ids` (B, T) with each sequence continued by `n_tokens` tokens, (B, T + n_tokens).

    A token costs one forward pass of length 1. When the model's block is full, its last half is
    read again and becomes the new context, so any number of tokens can be generated at a constant
    average cost. Only the last `block_size` tokens of a longer prompt are used. The model's
    training mode is restored.

    Args:
        model: the model, on the device of `ids`.
        ids: the prompt, at least one token.
        n_tokens: how many tokens to add, >= 0.
        temperature: > 0 divides the logits; 0 selects the likeliest token without drawing.
        top_k: draw only from the k likeliest tokens.
        top_p: draw from the smallest set of likeliest tokens whose probabilities sum to at least
            this, in (0, 1].
        generator: random generator on the device of `ids`; torch's global generator by default.
    """
    require(n_tokens >= 0, "n_tokens", n_tokens, ">= 0")
    require(0 <= temperature < math.inf, "temperature", temperature, "finite and >= 0")
    require(top_k is None or top_k >= 1, "top_k", top_k, ">= 1 or null")
    require(top_p is None or 0 < top_p <= 1, "top_p", top_p, "> 0 and <= 1, or null")
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise UserError(
            f"the prompt must be ids (B, T) with at least one token; got shape {tuple(ids.shape)}"
        )
    was_training = model.training
    model.eval()
    try:
        return _continue(model, ids, n_tokens, temperature, top_k, top_p, generator)
    finally:
        model.train(was_training)


def _continue(
    model: GPT,
    ids: Tensor,
    n_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Tensor:
    batch_size, n_prompt = ids.shape
    text = torch.cat([ids, ids.new_zeros(batch_size, n_tokens)], dim=1)
    kept = max(1, model.block_size // 2)
    cache = model.new_cache(batch_size)
    begin = max(0, n_prompt - model.block_size)
    for end in range(n_prompt, n_prompt + n_tokens):
        if cache.length == model.block_size:
            cache, begin = model.new_cache(batch_size), end - kept
        logits = model(text[:, begin:end], cache)[:, -1]
        text[:, end] = sample(logits, temperature, top_k, top_p, generator)
        begin = end
    return text


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one token (B) from each row of `logits` (B, V); settings as for `generate`."""
    if temperature < _MIN_TEMPERATURE:
        return logits.argmax(-1)
    ranked, tokens = (logits.float() / temperature).sort(stable=True, dim=-1, descending=True)
    if top_k is not None:
        n_kept = min(top_k, logits.shape[-1])
        ranked, tokens = ranked[:, :n_kept], tokens[:, :n_kept]
    probabilities = ranked.softmax(-1)
    if top_p is not None:
        # A token is kept if the likelier ones sum to less than top_p; the likeliest is always kept.
        likelier = probabilities.cumsum(-1) - probabilities
        excess = likelier >= top_p
        excess[:, 0] = False
        probabilities = probabilities.masked_fill(excess, 0.0)
    drawn: Tensor = tokens.gather(-1, torch.multinomial(probabilities, 1, generator=generator))
    return drawn[:, 0]
