from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.models.generation import generate, sample
from spectral_exp.models.gpt import GPT
from tests.models.tiny_models import ATTENTIONS, EMBEDDINGS, build, loud, random_ids


def slow_greedy(model: GPT, ids: Tensor, n_tokens: int) -> Tensor:
    """Greedy decoding by full forward passes, with the rule for full blocks spelt out."""
    context = ids[:, -model.block_size :]
    text = ids
    for _ in range(n_tokens):
        if context.shape[1] > model.block_size:
            context = context[:, -(model.block_size // 2) :]
        token = model(context)[:, -1].argmax(-1, keepdim=True)
        context, text = torch.cat([context, token], 1), torch.cat([text, token], 1)
    return text


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("n_prompt", [3, 14])
def test_greedy_text_equals_that_of_full_forward_passes(
    embedding: str, attention: str, n_prompt: int
) -> None:
    model, ids = build(embedding, attention), random_ids(tokens=n_prompt)
    loud(model)
    assert torch.equal(generate(model, ids, 25, temperature=0.0), slow_greedy(model, ids, 25))


def test_a_token_costs_one_pass_of_length_one_on_average() -> None:
    model, lengths = build(), []
    model.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    generate(model, random_ids(tokens=3), 108)
    assert lengths.count(1) >= 108 * 0.8 - 1
    assert sum(lengths) <= 2 * 108
    assert max(lengths) <= 5


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_the_smallest_blocks_generate_too(block_size: int) -> None:
    assert generate(build(block_size=block_size), random_ids(tokens=4), 7).shape == (2, 11)


def test_a_given_generator_leaves_the_global_one_alone() -> None:
    model, ids = build(dropout=0.5), random_ids(tokens=3)
    model.train()
    before = torch.get_rng_state()
    one = generate(model, ids, 20, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert torch.equal(one, generate(model, ids, 20, generator=torch.Generator().manual_seed(5)))
    assert not torch.equal(
        one, generate(model, ids, 20, generator=torch.Generator().manual_seed(6))
    )
    assert torch.equal(one[:, :3], ids)


def test_the_global_generator_is_the_default() -> None:
    model, ids = build(), random_ids(tokens=3)
    torch.manual_seed(9)
    one = generate(model, ids, 20)
    torch.manual_seed(9)
    assert torch.equal(one, generate(model, ids, 20))


def test_training_mode_returns_after_an_error() -> None:
    model = build()
    model.train()
    with pytest.raises(IndexError):
        generate(model, torch.tensor([[99]]), 3)
    assert model.training


def test_no_tokens_returns_the_prompt() -> None:
    ids = random_ids()
    assert torch.equal(generate(build(), ids, 0), ids)


def frequencies(logits: list[float], **settings: float | int) -> Tensor:
    draws = sample(
        torch.tensor(logits).expand(40000, -1),
        generator=torch.Generator().manual_seed(0),
        **settings,  # type: ignore[arg-type]
    )
    return draws.bincount(minlength=len(logits)) / 40000


def test_temperature_divides_the_logits() -> None:
    logits = [math.log(4.0), 0.0]
    assert frequencies(logits)[0].item() == pytest.approx(0.8, abs=0.01)
    assert frequencies(logits, temperature=2.0)[0].item() == pytest.approx(2 / 3, abs=0.01)
    assert frequencies(logits, temperature=0.0)[0].item() == 1.0


def test_top_k_keeps_the_likeliest() -> None:
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    expected = torch.tensor([0.0, 4 / 7, 0.0, 3 / 7])
    torch.testing.assert_close(frequencies(logits, top_k=2), expected, rtol=0, atol=0.01)
    assert frequencies(logits, top_k=99)[0] > 0


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    kept = torch.tensor([0.0, 4 / 9, 2 / 9, 3 / 9])
    torch.testing.assert_close(frequencies(logits, top_p=0.75), kept, rtol=0, atol=0.01)
    assert frequencies(logits, top_p=0.01).tolist() == [0.0, 1.0, 0.0, 0.0]
    assert (frequencies(logits, top_p=1.0) > 0).all()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=9),
    st.integers(1, 12),
    st.floats(0.01, 1.0),
    st.integers(0, 99),
)
def test_a_drawn_token_is_among_the_k_likeliest(
    logits: list[float], k: int, p: float, seed: int
) -> None:
    token = sample(torch.tensor([logits]), 1.3, k, p, torch.Generator().manual_seed(seed)).item()
    assert sum(x > logits[int(token)] for x in logits) < k


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("n_tokens", -1),
        ("temperature", -0.5),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
    ],
)
def test_wrong_settings_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value} must be"):
        generate(build(), random_ids(), **{"n_tokens": 3, setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 0), (3,)])
def test_a_prompt_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="at least one token"):
        generate(build(), torch.zeros(shape, dtype=torch.int64), 3)
