"""The exported page of one run: its plots, histograms and logs, up to some size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.dashboard import export_run
from spectral_exp.dashboard.export_run import choose_plots
from spectral_exp.dashboard.run_files import PlotFile
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.plot_files import PNG_SIGNATURE
from tests.dashboard.served import Dashboard
from tests.dashboard.test_export import exported
from tests.results.made_runs import make_run

STEPS = (10, 20, 30, 40, 50)
KIND = "attention_entropy/layer 1"
LOG = "".join(f"line {number}\n" for number in range(1000))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = make_run(tmp_path, "wave", 1)
    make_run(tmp_path, "classic", 1)
    (run / "visualizations").mkdir()
    for step in STEPS:
        for name in ("phase", "loss curve"):
            file = run / "visualizations" / f"{name}_step_{step}.png"
            file.write_bytes(PNG_SIGNATURE + bytes([step]) * 1000)
    (run / "visualizations" / "broken_step_10.png").write_bytes(b"no picture")
    (run / "train.log").write_text(LOG)
    with RunPaths(run).spectra_file.open("w") as lines:
        for step in STEPS:
            counts = {"attention_entropy/layer 1": [3, step, 1, 2]}
            bins = {"attention_entropy": ["linear", 0, 1, 20]}
            line = {"step": step, "bins": bins, "counts": counts, "nan": {}}
            lines.write(json.dumps(line) + "\n")
    return run


def of_run(answers: dict[str, bytes], key: str) -> tuple[Any, dict[str, bytes]]:
    """Return the details of a run, and the answers below them by the rest of their address."""
    start = f"api/run/{key}"
    below = {name.removeprefix(start): body for name, body in answers.items() if start in name}
    return json.loads(below.pop("")), below


def test_a_file_of_a_run_holds_its_plots_histograms_and_log(run: Path) -> None:
    dashboard = Dashboard(run.parent)
    key = dashboard.key(run)
    details, below = of_run(exported(dashboard, f"#/run/{key}"), key)
    served = dashboard.json(f"/api/run/{key}")
    plots = [one for one in served["plots"] if one["name"] != "broken"]
    assert details["plots"] == plots
    assert details["left_out"] == ["This file holds 10 of the 11 pictures of the run."]
    assert details["spectra"] == served["spectra"]
    for step in STEPS:
        content = dashboard.get(f"/api/run/{key}/image/loss curve/{step}").content
        assert below.pop(f"/image/loss%20curve/{step}") == content
        assert below.pop(f"/image/phase/{step}") == PNG_SIGNATURE + bytes([step]) * 1000
    spectrum = dashboard.json(f"/api/run/{key}/spectra", name=KIND)
    assert json.loads(below.pop("/spectra?name=attention_entropy%2Flayer+1")) == spectrum
    log = json.loads(below.pop("/log?file=0"))
    assert log == {
        "file": 0, "names": ["train.log"], "text": LOG, "held": len(LOG), "size": len(LOG),
    }  # fmt: skip
    assert below == {}


def test_limits_of_size_are_reported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_run, "MAX_PLOTS_BYTES", 5000)
    monkeypatch.setattr(export_run, "MAX_SPECTRA_BYTES", 10)
    monkeypatch.setattr(export_run, "MAX_LOG_BYTES", 105)
    dashboard = Dashboard(run.parent)
    key = dashboard.key(run)
    details, below = of_run(exported(dashboard, f"#/run/{key}"), key)
    assert {one["name"]: one["steps"] for one in details["plots"]} == {
        "loss curve": [10, 50],
        "phase": [10, 50],
    }
    assert details["left_out"] == [
        "This file holds 4 of the 11 pictures of the run.",
        "This file holds 0 of the 1 kind of histograms.",
    ]
    log = json.loads(below["/log?file=0"])
    assert log["text"] == "".join(f"line {number}\n" for number in range(989, 1000))
    assert (log["held"], log["size"]) == (99, len(LOG))


def test_a_file_of_many_runs_holds_neither(run: Path) -> None:
    dashboard = Dashboard(run.parent)
    details, below = of_run(exported(dashboard), key := dashboard.key(run))
    assert (details["plots"], details["spectra"], below) == ([], [], {})
    assert "Save the page of the run" in details["left_out"][0]
    other = next(row["key"] for row in dashboard.rows().values() if row["key"] != key)
    assert of_run(exported(dashboard), other)[0]["left_out"] == []


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), unique=True, max_size=40),
    st.lists(st.integers(1, 50), min_size=40, max_size=40),
    st.integers(0, 1000),
)
def test_chosen_plots_fit_and_hold_the_last_step(
    names: list[tuple[str, int]], sizes: list[int], max_bytes: int
) -> None:
    plots = [
        PlotFile(name, step, "", f"{name}_{step}", size)
        for (name, step), size in zip(sorted(names), sizes, strict=False)
    ]
    kept = choose_plots(plots, max_bytes)
    assert sum(plot.size for plot in kept) <= max_bytes
    assert kept == [plot for plot in plots if plot in kept]
    last = max((plot.step for plot in plots), default=0)
    smallest = min((plot.size for plot in plots if plot.step == last), default=0)
    assert (smallest > max_bytes or not plots) == (kept == [])
    if kept:
        assert last in {plot.step for plot in kept}
    if sum(plot.size for plot in plots) <= max_bytes:
        assert kept == plots
