from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spectral_exp.verification.fingerprint import (
    PARTS,
    StepFingerprint,
    first_divergence,
    state_hashes,
)


def hashed(value: object) -> str:
    return state_hashes({"a": value}, {}, {}, {})["weights"]["model.a"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(4, dtype=torch.bfloat16)),
        (torch.tensor([True, False]), torch.tensor([True, True])),
        (torch.zeros(1), torch.tensor([1e-45])),
        (1, 1.0),
        (0.1, math.nextafter(0.1, 1.0)),
    ],
)
def test_every_bit_counts(one: object, other: object) -> None:
    assert hashed(one) == hashed(one)
    assert hashed(one) != hashed(other)


@pytest.mark.parametrize(
    "tensor", [torch.arange(6.0).view(2, 3).T, torch.ones(3).expand(2, 3), torch.empty(0)]
)
def test_memory_layout_does_not_count(tensor: Tensor) -> None:
    assert hashed(tensor) == hashed(tensor.contiguous().clone())


@pytest.mark.parametrize("part", PARTS)
def test_the_first_difference_is_named(part: str) -> None:
    def executed(changed: str | None) -> list[StepFingerprint]:
        # What comes after the part that changed is different as well.
        late = [] if changed is None else PARTS[PARTS.index(changed) :]
        second = {p: {"a": "1", "b": "3" if p in late else "2"} for p in PARTS}
        return [
            StepFingerprint(1, 1.0, 1.0, {p: {"a": "1", "b": "2"} for p in PARTS}),
            StepFingerprint(2, 1.0, 1.0, second),
        ]

    assert first_divergence(executed(None), executed(None), "two") is None
    assert (
        str(first_divergence(executed(None), executed(part), "two"))
        == f"step 2: {part} (b) differ between two"
    )


def test_a_hash_that_one_side_lacks_is_a_difference() -> None:
    complete = StepFingerprint(1, 1.0, 1.0, {p: {"a": "1"} for p in PARTS})
    lacking = StepFingerprint(1, 1.0, 1.0, {**complete.hashes, "optimizer": {}})
    assert (
        str(first_divergence([complete], [lacking], "two"))
        == "step 1: optimizer (a) differ between two"
    )
