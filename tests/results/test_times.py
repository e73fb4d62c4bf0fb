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


def timed(name: str, wall: tuple[float, ...], cpu: tuple[float, ...] = ()) -> Group:
    """Runs with these seconds of training and of the processors."""
    runs = [
        fake_run(
            name, seed, values={"train_s": seconds} | ({"cpu_s": cpu[seed - 1]} if cpu else {})
        )
        for seed, seconds in enumerate(wall, start=1)
    ]
    return fake_group(runs)


QUIET, BUSY = (60.0, 60.6, 60.2, 60.4), (100.0, 130.0, 101.0, 131.0)


def test_runs_of_one_group_that_differ_give_no_verdict_on_time() -> None:
    found = compared(timed("classic", QUIET), timed("wave", (72.0, 73.0, 72.5, 72.2)), "train_s")
    assert (found.separated, found.verdict) == (True, "worse")
    # The test separates these, but equal runs differ by more.
    quiet, near = (*QUIET, 60.1, 60.3), (64.0, 66.0, 70.0, 72.0, 74.0, 84.0)
    busy = compared(timed("classic", quiet), timed("wave", near), "train_s")
    assert busy.p_holm is not None
    assert busy.p_holm < 0.05
    (warning,) = [one for one in busy.warnings if one.kind == "busy machine"]
    assert str(warning) == (
        "runs of one group differ as on a busy machine, which may be the whole difference: train_s "
        "is 64 in wave_1 and 84 in wave_6"
    )
    assert not busy.separated
    far = compared(timed("classic", QUIET), timed("wave", BUSY), "train_s")
    assert far.separated
    equal = compare(
        [timed("classic", BUSY), timed("wave", tuple(x + 0.1 * i for i, x in enumerate(BUSY)))],
        "train_s",
        baseline="classic",
        margin=5.0,
    ).differences[0]
    assert equal.equivalence is not None
    assert equal.equivalence.p_holm < 0.05
    assert not equal.equivalence.equivalent


@pytest.mark.parametrize(
    ("cpu", "same", "words"),
    [
        ((), None, "wall-clock is not separated, equal runs differ as on a busy machine"),
        ((58.0, 58.5, 58.2, 58.1), True, ""),
        ((70.0, 70.5, 70.2, 70.1), False, "processor time differs, on a busy machine"),
        ((58.0, 90.0, 58.2, 70.1), None, "processor time is not separated, equal runs differ as"),
    ],
)
def test_on_a_busy_machine_processor_seconds_decide(
    cpu: tuple[float, ...], same: bool | None, words: str
) -> None:
    quiet = tuple(x - 2 for x in QUIET) if cpu else ()
    one, other = timed("classic", QUIET, quiet), timed("wave", (70.0, 95.0, 71.0, 60.0), cpu)
    found = compared(one, other, "val_bpb")
    assert found.matches["wall-clock"] is same
    about = [str(warning) for warning in found.warnings if warning.kind == "wall-clock"]
    assert [warning.startswith(words) for warning in about] == [True] * bool(words)


def test_speeds_within_runs_put_equal_times_in_doubt() -> None:
    found = compared(speeds("classic", 1.0, 1.5), speeds("wave", 1.3, 1.0), "val_bpb")
    assert found.matches["wall-clock"] is None
    quiet = compared(speeds("classic", 1.0, 1.0), speeds("wave", 1.3, 1.0), "val_bpb")
    assert quiet.matches["wall-clock"] is False
