"""What is taken for a step: whole numbers of any type, and nothing else."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError
from spectral_exp.core.steps import whole_step


@given(
    st.integers(0, 2**53),
    st.sampled_from([int, float, np.int64, np.uint64, np.float64, Fraction, torch.tensor]),
)
def test_whole_numbers_of_every_type_become_plain_ints(step: int, kind: Any) -> None:
    found = whole_step(kind(step))
    assert type(found) is int
    assert found == step


@pytest.mark.parametrize(
    "step",
    [
        *(
            True,
            False,
            np.True_,
            torch.tensor(True),
            -1,
            -1.0,
            2**63,
            1.5,
            float("nan"),
            float("inf"),
        ),
        *("10", None, 1j, [1], Decimal(10), np.float32(0.1), Fraction(10**400)),
        *(torch.tensor(1.0), torch.tensor([1, 2]), np.array([1, 2])),
        pytest.param(10**5000, id="huge"),
    ],
)
def test_everything_else_is_refused_in_one_line(step: Any) -> None:
    with pytest.raises(SettingError, match=r"^epoch=.* must be a whole number >= 0") as refusal:
        whole_step(step, "epoch")
    assert len(str(refusal.value)) < 150
    assert "\n" not in str(refusal.value)
