from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.models.gpt import MLP
from spectral_exp.models.twin import match_parameters
from tests.models.tiny_models import ATTENTIONS, EMBEDDINGS, build


def counter(
    embedding: str, attention: str, n_layer: int = 4, n_head: int = 4
) -> Callable[[int, int | None], int]:
    def count(n_embd: int, n_hidden: int | None) -> int:
        with torch.device("meta"):
            model = build(
                embedding,
                attention,
                vocab_size=256,
                block_size=128,
                n_layer=n_layer,
                n_head=n_head,
                n_embd=n_embd,
                mlp=functools.partial(MLP, n_hidden=n_hidden),
            )
        return model.parameters_by_component()["total"]

    return count


# They have the sizes of rotary attention.
LIKE_ROTARY = {"alibi", "no_positions"}


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("attention", sorted(ATTENTIONS.keys() - LIKE_ROTARY))
def test_a_classic_model_matches_every_other(embedding: str, attention: str) -> None:
    target = counter(embedding, attention)(128, None)
    classic = counter("standard", "dot_product")
    n_embd, n_hidden = match_parameters(classic, target, 128, 8)
    assert n_embd % 8 == 0
    assert abs(classic(n_embd, n_hidden) - target) <= 0.01 * target
    # The widest that fits, and no other MLP size comes nearer.
    assert classic(n_embd, None) <= target < classic(n_embd + 8, None)
    errors = [abs(classic(n_embd, n_hidden + change) - target) for change in (-1, 0, 1)]
    assert min(errors) == errors[1]


def test_a_model_is_its_own_twin() -> None:
    classic = counter("standard", "dot_product")
    assert match_parameters(classic, classic(64, None), 64, 4) == (64, 256)


@pytest.mark.parametrize("start", [1, 8, 400])
def test_the_start_of_the_search_does_not_matter(start: int) -> None:
    classic = counter("standard", "dot_product", n_layer=1)
    assert match_parameters(classic, 100_000, start, 8) == match_parameters(classic, 100_000, 64, 8)


def test_impossible_matches_are_refused() -> None:
    classic = counter("standard", "dot_product")
    with pytest.raises(UserError, match="the narrowest model, n_embd=32, already has"):
        match_parameters(classic, 1000, 32, 32)
    with pytest.raises(UserError, match="within 1 % of 1000 parameters"):
        match_parameters(lambda n_embd, n_hidden: 300 * n_embd + 170 * (n_hidden or 1), 1000, 1, 1)
    with pytest.raises(SettingError, match="multiple=0"):
        match_parameters(classic, 1000, 32, 0)
