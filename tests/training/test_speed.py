from __future__ import annotations

import pytest
import torch

from spectral_exp.training.speed import SpeedWatch


def warnings(rates: list[float], device: str = "cpu") -> list[str]:
    watch = SpeedWatch(torch.device(device))
    return [watch.check(step, rate) for step, rate in enumerate(rates, start=1)]


@pytest.mark.parametrize(
    ("rates", "warned_at"),
    [
        ([900.0] * 8 + [299.0, 100.0, 900.0, 10.0], [9]),
        ([900.0] * 8 + [301.0] * 20, []),
        ([900.0] * 7 + [10.0], []),  # too few to know what is usual
        ([100.0] + [900.0] * 20, []),  # the first steps are slow
        ([900.0 / (1 + n / 50) for n in range(300)], []),  # slower little by little
        ([float("nan"), 0.0] * 10, []),
    ],
)
def test_sudden_slowness_is_reported_once(rates: list[float], warned_at: list[int]) -> None:
    found = warnings(rates)
    assert [step for step, text in enumerate(found, start=1) if text] == warned_at


def test_the_warning_names_the_remedy() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        several = warnings([800.0] * 8 + [200.0])[-1]
        torch.set_num_threads(1)
        one = warnings([800.0] * 8 + [200.0])[-1]
    finally:
        torch.set_num_threads(threads)
    assert several.startswith("steps up to step 9 took 4.0 times as long as before (200 instead")
    assert "(threads=1) may be faster" in several
    assert "threads=1" not in one
    assert "nvidia-smi" in warnings([800.0] * 8 + [200.0], "cuda")[-1]
