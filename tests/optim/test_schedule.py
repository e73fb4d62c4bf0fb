from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError
from spectral_exp.optim.schedule import Constant, Cosine, Linear, WarmupStableDecay

DECAYING = (Linear, Cosine, WarmupStableDecay)
ALL = (Constant, *DECAYING)
shapes = pytest.mark.parametrize("shape", ALL)
decaying = pytest.mark.parametrize("shape", DECAYING)


@shapes
@given(max_steps=st.integers(1, 300), warmup_steps=st.integers(0, 400))
def test_warmup_is_linear_from_zero_and_the_peak_is_one(
    shape: type[Constant], max_steps: int, warmup_steps: int
) -> None:
    schedule = shape(max_steps, warmup_steps)
    factors = [schedule.factor(step) for step in range(1, max_steps + 1)]
    warming = range(1, min(warmup_steps, max_steps) + 1)
    assert factors[: len(warming)] == [step / warmup_steps for step in warming]
    assert all(0 < f <= 1 for f in factors)


@decaying
@given(
    max_steps=st.integers(1, 300),
    warmup_steps=st.integers(0, 50),
    min_ratio=st.floats(0, 1),
    decay_steps=st.none() | st.integers(1, 400),
)
def test_after_warmup_the_rate_only_falls_to_the_floor(
    shape: type[Linear],
    max_steps: int,
    warmup_steps: int,
    min_ratio: float,
    decay_steps: int | None,
) -> None:
    schedule = shape(max_steps, warmup_steps, min_ratio, decay_steps)
    horizon = decay_steps or max_steps
    factors = [schedule.factor(step) for step in range(max(warmup_steps, 1), horizon + 50)]
    assert all(a >= b for a, b in itertools.pairwise(factors))
    if horizon > warmup_steps:
        assert factors[-1] == pytest.approx(min_ratio)
        assert schedule.factor(horizon) == pytest.approx(min_ratio)


def test_shapes_half_way() -> None:
    assert Constant(210, 10).factor(110) == 1.0
    assert Linear(210, 10, 0.1).factor(110) == pytest.approx(0.55)
    assert Linear(210, 10, 0.1).factor(60) == pytest.approx(0.775)
    assert Cosine(210, 10, 0.1).factor(110) == pytest.approx(0.55)
    assert Cosine(210, 10, 0.1).factor(60) == pytest.approx(
        0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    )


def test_warmup_stable_decay_has_three_phases() -> None:
    schedule = WarmupStableDecay(100, 10, 0.1, decay_fraction=0.3)
    assert schedule.factor(5) == 0.5
    assert {schedule.factor(step) for step in range(10, 71)} == {1.0}
    assert schedule.factor(85) == pytest.approx(0.55)
    assert schedule.factor(100) == pytest.approx(0.1)


@decaying
def test_a_fixed_horizon_repeats_its_rates_in_a_longer_run(shape: type[Linear]) -> None:
    short, long = shape(100, 10, decay_steps=80), shape(1000, 10, decay_steps=80)
    assert [short.factor(s) for s in range(1, 101)] == [long.factor(s) for s in range(1, 101)]
    assert short.factor(75) != shape(100, 10).factor(75)


@shapes
def test_the_factor_depends_on_the_step_alone(shape: type[Constant]) -> None:
    schedule = shape(50, 5)
    forward = [schedule.factor(step) for step in range(1, 51)]
    assert [schedule.factor(step) for step in range(50, 0, -1)] == forward[::-1]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_steps", 0),
        ("warmup_steps", -5),
        ("min_ratio", -0.1),
        ("min_ratio", 1.1),
        ("decay_steps", 0),
        ("decay_fraction", 1.5),
    ],
)
def test_wrong_settings_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^{setting}={value} must be"):
        WarmupStableDecay(**{"max_steps": 100, setting: value})  # type: ignore[arg-type]
