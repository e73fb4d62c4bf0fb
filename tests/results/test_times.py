"""Verdicts on time: effects of a busy machine are no difference between models."""

from __future__ import annotations

import pytest

from spectral_exp.results.comparison import Difference, compare
from spectral_exp.results.group import Group
from tests.results.fakes import fake_group, fake_run


def compared(a: Group, b: Group, metric: str) -> Difference:
    return compare([a, b], metric, baseline=a.label).differences[0]


def speeds(name: str, factor: float, slow: float, *, quick_entries: int = 4) -> Group:
    """Runs with a logged speed that was `slow` times lower in all but some entries, and times
    accordingly."""
    runs = []
    for seed in range(1, 6):
        quick = 1000.0 / factor * (1 + 0.003 * seed)
        curve = {10 * i: quick if i <= quick_entries else quick / slow for i in range(1, 21)}
        values = {"train_s": 76_800 / (quick / slow), "tokens_per_s": quick / slow}
        runs.append(fake_run(name, seed, curves={"tokens_per_s": curve}, values=values))
    return fake_group(runs)


@pytest.mark.parametrize(("metric", "sign"), [("train_s", 1), ("tokens_per_s", -1)])
def test_a_busy_machine_gives_no_verdict_on_time(metric: str, sign: int) -> None:
    # 1.3 times slower by itself, but the quicker one was slowed down 1.5 times by others.
    truth = compared(speeds("classic", 1.0, 1.0), speeds("wave", 1.3, 1.0), metric)
    assert truth.mean is not None
    assert (truth.separated, truth.better, sign * truth.mean > 0) == (True, False, True)
    busy = compared(speeds("classic", 1.0, 1.5), speeds("wave", 1.3, 1.0), metric)
    assert (busy.separated, busy.better) == (False, False)
    (said_so,) = [warning for warning in busy.warnings if warning.kind == "busy machine"]
    assert str(said_so).startswith(
        "the machine was busy, which may be the whole difference: classic_"
    )
    # A difference beyond what the machine was seen to do stands.
    far = compared(speeds("classic", 1.0, 1.5), speeds("wave", 6.0, 1.0), metric)
    assert (far.separated, far.better) == (True, False)
    # And entries that are slow at first alone, as while code is compiled, are no busy machine.
    warm = compared(speeds("classic", 1.0, 1.5, quick_entries=19), speeds("wave", 1.3, 1.0), metric)
    assert not [warning for warning in warm.warnings if warning.kind == "busy machine"]
