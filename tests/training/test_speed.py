from __future__ import annotations

import pytest
import torch

from spectral_exp.training.speed import SpeedWatch


def slowdowns(rates: list[float], tokens: float = 10_000.0) -> list[float]:
    """Return what is found about intervals of `tokens` tokens at `rates` tokens per second."""
    watch = SpeedWatch(torch.device("cpu"))
    found, train_s = [], 0.0
    for rate in rates:
        train_s += tokens / rate if rate > 0 else 1.0
        found.append(watch.check(rate, train_s))
    return found


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([900.0] * 8 + [300.0, 100.0, 900.0, 10.0], {10: 9.0, 12: 90.0}),
        ([900.0] * 8 + [301.0] * 20, {}),
        ([900.0] * 7 + [10.0], {}),  # too few to know what is usual
        ([100.0] + [900.0] * 20, {}),  # the first steps are slow
        ([900.0 / (1 + n / 50) for n in range(300)], {}),  # slower little by little
        ([float("nan"), 0.0] * 10, {}),
    ],
)
def test_sudden_slowness_is_found(rates: list[float], expected: dict[int, float]) -> None:
    found = {line: value for line, value in enumerate(slowdowns(rates), start=1) if value}
    assert found == pytest.approx(expected)


def test_steps_that_lose_little_time_do_not_count() -> None:
    rates = [900.0] * 8 + [90.0]
    assert slowdowns(rates, tokens=90 * 2.2)[-1] == 0.0
    assert slowdowns(rates, tokens=90 * 2.3)[-1] == pytest.approx(10.0)


def test_the_warning_is_given_once_and_names_the_remedy() -> None:
    threads = torch.get_num_threads()
    cpu, gpu = (SpeedWatch(torch.device(kind)) for kind in ("cpu", "cuda"))
    try:
        torch.set_num_threads(2)
        several = cpu.warning(9, 200.0, 4.0)
        torch.set_num_threads(1)
        one = SpeedWatch(torch.device("cpu")).warning(9, 200.0, 4.0)
    finally:
        torch.set_num_threads(threads)
    start = "steps up to step 9 took 4.0 times as long as before (200 instead of 800 tokens/s)"
    assert several.startswith(start)
    assert "(threads=1) may be faster" in several
    assert "threads=1" not in one
    assert "nvidia-smi" in gpu.warning(9, 200.0, 4.0)
    assert cpu.warning(10, 200.0, 4.0) == ""
