from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.training.seeding import process_settings, restore_rng_state, rng_state, step_seed


def test_neighbouring_steps_seeds_and_ranks_get_different_low_words() -> None:
    # torch's CPU generator looks at the low 32 bits only.
    seeds = [
        step_seed(seed, step, rank) & 0xFFFFFFFF
        for seed in range(8)
        for step in range(300)
        for rank in range(4)
    ]
    assert len(set(seeds)) == len(seeds)


@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(0, 2**20))
def test_seeds_are_pure_and_accepted_by_torch(seed: int, step: int, rank: int) -> None:
    value = step_seed(seed, step, rank)
    assert value == step_seed(seed, step, rank)
    assert 0 <= value < 2**63
    torch.Generator().manual_seed(value)


def test_process_settings_leave_no_trace() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with process_settings(threads=1, deterministic=True):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(3)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_rng_state_round_trip() -> None:
    with torch.random.fork_rng():
        state = rng_state()
        first = torch.rand(5)
        restore_rng_state(state)
        assert torch.equal(torch.rand(5), first)
