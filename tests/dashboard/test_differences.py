"""The difference of two groups over the steps loses no spike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.dashboard.differences import choose_places
from tests.dashboard.served import Dashboard, log_values
from tests.results.made_runs import make_run


@given(st.lists(st.floats(), min_size=5, max_size=50), st.data())
def test_chosen_places_hold_the_extremes(values: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(4, len(values) - 1))
    chosen = choose_places(np.array(values), n)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= n
    assert {0, len(values) - 1} <= set(chosen) <= set(range(len(values)))
    finite = [value for value in values if np.isfinite(value)]
    if finite:
        found = [values[place] for place in chosen if np.isfinite(values[place])]
        assert (min(found), max(found)) == (min(finite), max(finite))


def test_a_spike_of_one_seed_is_in_the_difference(tmp_path: Path) -> None:
    for seed in range(3):
        values = np.full(5000, 2.0 + 0.01 * seed)
        log_values(make_run(tmp_path, "classic", seed, status=None), list(values))
        if seed == 1:
            values[[1233, 1300, 4000]] = [11.0, np.nan, -7.0]
        log_values(make_run(tmp_path, "wave", seed, status=None), list(values - 0.5))
    dashboard = Dashboard(tmp_path)
    known = {row["label"]: row["id"] for row in dashboard.json("/api/groups")["rows"]}
    pair = {"a": known["classic"], "b": known["wave"], "metric": "loss"}
    answer = dashboard.json("/api/difference", **pair)
    assert len(answer["steps"]) <= 100
    found = dict(zip(answer["steps"], answer["mean"], strict=True))
    assert {1234: 2.4967, 4001: -3.5033}.items() <= {
        step: round(mean, 4) for step, mean in found.items()
    }.items()
    assert sorted(set(np.round(list(found.values()), 4)))[1:-1] == [-0.5]
    assert f"{len(found)} of 5,000 logged steps" in answer["notes"][1]
