"""The machine of a run over time, as the dashboard serves it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_exp.core.foreign_text import printable
from spectral_exp.dashboard import system_store
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.system_metrics import read_system_metrics
from tests.dashboard.served import Dashboard, columns_of, split_frame
from tests.dashboard.test_export import exported
from tests.results.made_runs import make_run

HOSTILE = {"system/<img src=x onerror=alert(1)>": 1e308, "system/\u202egnp.exe": 1, "system/": -1}
REFUSED = {"system/nan": "NaN", "system/text": "<b>", "system/list": [1], "other": 1}


def measure(
    run: Path, values: Sequence[float], first: int = 0, more: Mapping[str, object] | None = None
) -> None:
    """Append lines of ten seconds each, as the companion does."""
    with RunPaths(run).system_file.open("a") as file:
        for place, value in enumerate(values, first):
            time = f"2026-01-01T{place // 360:02}:{place // 6 % 60:02}:{place % 6}0+00:00"
            entry = {"timestamp": time, "step": place, "system/cpu_percent": value}
            file.write(json.dumps({**entry, **(more or {})}) + "\n")


def curve_of(dashboard: Dashboard, key: str, **parameters: Any) -> dict[str, Any]:
    metric = parameters.pop("metric", "system/cpu_percent")
    _, (curve,) = dashboard.frame("/api/system", metric=metric, runs=key, **parameters)
    return curve


def test_the_machine_of_a_run_is_served_exported_and_followed(tmp_path: Path) -> None:
    run, other = make_run(tmp_path, "wave", 1), make_run(tmp_path, "classic", 1)
    dashboard = Dashboard(tmp_path)
    key, other_key = dashboard.key(run), dashboard.key(other)
    assert not dashboard.json(f"/api/run/{key}")["has_system"]
    assert dashboard.json(f"/api/run/{key}/system") == {"metrics": []}
    before = dashboard.json("/api/changes", watch=key)["watched"][key]
    values = np.linspace(40, 60, 3000)
    values[1234] = 99.0
    measure(run, values.tolist())
    assert dashboard.json("/api/changes", watch=key)["watched"][key] != before
    assert dashboard.json(f"/api/run/{key}")["has_system"]
    (listed,) = dashboard.json(f"/api/run/{key}/system")["metrics"]
    assert (listed["name"], listed["unit"]) == ("system/cpu_percent", "%")
    series = read_system_metrics(run)["system/cpu_percent"]
    raw = curve_of(dashboard, key, bins=8000)
    assert raw["y"].tolist() == series.values.tolist()
    assert raw["x"].tolist() == (series.hours * 3600).tolist()
    binned = curve_of(dashboard, key, bins=50)
    assert (len(binned["x"]), binned["max"].max(), binned["count"].sum()) == (50, 99.0, 3000)
    # Another run without measurements is beside it, without points.
    _, both = dashboard.frame("/api/system", metric=listed["name"], runs=f"{key},{other_key}")
    assert [len(curve["x"]) > 0 for curve in both] == [True, False]
    measure(run, [7.0], first=3000)
    assert curve_of(dashboard, key, bins=8000)["y"].tolist() == [*values, 7.0]
    answers = exported(dashboard, f"#/run/{key}")
    assert json.loads(answers[f"api/run/{key}/system"])["metrics"] == [listed]
    name = f"api/system?metric=system%2Fcpu_percent&runs={key}&x=wall_s"
    header, numbers = split_frame(answers[name])
    assert columns_of(header["series"][0], numbers)["max"].max() == 99.0
    assert not json.loads(exported(dashboard)[f"api/run/{key}"])["has_system"]


def test_hostile_measurements_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, "wave", 1)
    file = RunPaths(run).system_file
    file.write_text("no JSON\n[]\n")
    measure(run, [5.0], more={**HOSTILE, **REFUSED, f"gpu/{'9' * 9000}": 1})
    measure(run, [6.0], more={**HOSTILE, "timestamp": "0001-01-01T00:00:00+00:00"})
    dashboard = Dashboard(tmp_path)
    key = dashboard.key(run)
    listed = dashboard.json(f"/api/run/{key}/system")["metrics"]
    names = [one["name"] for one in listed]
    assert names == ["system/cpu_percent", "system/<img src=x onerror=alert(1)>", "system/"]
    assert all(printable(one["title"]) == one["title"] for one in listed)
    assert curve_of(dashboard, key, metric=names[1])["y"].tolist() == [1e308, 1e308]
    assert dashboard.client.get(f"/api/system?metric=x&runs={key}&x=step").status_code == 400
    monkeypatch.setattr(system_store, "MAX_FILE_BYTES", 1000)
    answer = dashboard.client.get(f"/api/run/{key}/system")
    assert (answer.status_code, "too much to show" in answer.text) == (400, True)
    answers = exported(dashboard, f"#/run/{key}")
    assert f"api/run/{key}" in answers
    assert not any("system" in name for name in answers)
    file.unlink()
    file.symlink_to(RunPaths(run).metrics_file)
    assert not dashboard.json(f"/api/run/{key}")["has_system"]
