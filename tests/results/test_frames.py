"""Runs and metrics as frames of pandas and polars."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.results import load_runs
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.marks import update_marks
from tests.results.made_runs import make_run


def rows(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of either kind of frame, with None for missing values and NaN."""
    columns = {name: frame[name].to_list() for name in frame.columns}
    if hasattr(frame, "isna"):
        for name, values in columns.items():
            missing = frame[name].isna()
            columns[name] = [
                None if gone else value for value, gone in zip(values, missing, strict=True)
            ]
    plain = [[None if value != value else value for value in values] for values in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*plain, strict=True)]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make_run(
        tmp_path,
        "classic",
        1,
        val_bpb=2.5,
        settings={"data.own": "a.txt", "training.patience": None},
    )
    make_run(
        tmp_path,
        "wave",
        2,
        val_bpb=2.25,
        steps=50,
        settings={"data.own": [1, 2], "training.patience": 4},
    )
    killed = make_run(
        tmp_path,
        "classic",
        3,
        status=None,
        steps=30,
        log_interval=15,
        settings={"model.bias": True},
    )
    with RunPaths(killed).metrics_file.open("ab") as file:
        file.write(b'{"step": 45, "own": 1.5, "loss": "NaN"}\n{"step": 60, "text": "x"}\n')
    line = {"step": 30, "text": "test", "block_size": 256, "stride": 64, "loss": 1.5, "bpb": 2.0}
    later = {**line, "bpb": 2.1, "perplexity": 4.5}
    text = "".join(f"{json.dumps(one)}\n" for one in (line, later))
    RunPaths(killed).evaluations_file.write_text(text)
    return tmp_path


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_one_row_for_each_run(made: Path, kind: str) -> None:
    pytest.importorskip(kind)
    loaded = load_runs(made, index=False)
    frame = getattr(loaded, f"runs_{kind}")()
    first, killed, wave = rows(frame)
    runs = loaded.runs
    assert [row["run_id"] for row in (first, killed, wave)] == [run.run_id for run in runs]
    assert (first["name"], first["seed"], first["status"]) == ("classic", 1, "completed")
    assert (killed["seed"], killed["status"], killed["steps"]) == (3, "unfinished", 60)
    assert (killed["train_s"], wave["train_s"]) == (None, runs[2].train_s)
    for row, run in zip((first, killed, wave), runs, strict=True):
        assert row["path"] == str(run.path)
        assert row["config_hash"] == run.config_hash
        assert row["final.val_bpb"] == run.value("val_bpb")
        assert row["best.val_bpb"] == run.value("val_bpb", "best")
        assert row["settings.model.n_embd"] == 128
    assert (killed["final.own"], first["final.own"]) == (1.5, None)
    assert "best.own" not in first
    assert "final.step" not in first
    assert (wave["settings.training.patience"], first["settings.training.patience"]) == (4, None)
    assert [row["settings.data.own"] for row in (first, killed, wave)] == ["a.txt", None, "[1, 2]"]
    assert [row["settings.model.bias"] for row in (first, killed, wave)] == [None, True, None]
    scores = {name: killed[name] for name in killed if "@" in name}
    assert scores == {
        "bpb@test:256/64": 2.1,
        "loss@test:256/64": 1.5,
        "perplexity@test:256/64": 4.5,
    }
    assert (first["bpb@test:256/64"], wave["bpb@test:256/64"]) == (None, None)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_one_row_for_each_logged_step(made: Path, kind: str) -> None:
    pytest.importorskip(kind)
    loaded = load_runs([made], index=False)
    found = rows(getattr(loaded, f"metrics_{kind}")())
    expected = []
    for run in loaded.runs:
        series = {name: run.series(name) for name in run.metrics}
        steps = sorted({step for one in series.values() for step in one.steps})
        for step in steps:
            values = {
                name: float(one.values[list(one.steps).index(step)]) if step in one.steps else None
                for name, one in series.items()
            }
            plain = {
                name: None if value is None or math.isnan(value) else value
                for name, value in values.items()
            }
            expected.append({"run_id": run.run_id, "step": int(step), **plain})
    names = dict.fromkeys(name for row in expected for name in row)
    assert found == [{name: row.get(name) for name in names} for row in expected]
    assert all(type(row["step"]) is int for row in found)


def test_marks_are_columns_and_archived_runs_are_left_out(made: Path) -> None:
    pytest.importorskip("pandas")
    first, killed, wave = load_runs(made, index=False).runs
    update_marks(wave.path, {"tags": ["good", "new"], "note": "text", "pinned": True})
    update_marks(killed.path, {"archived": True})
    loaded = load_runs(made, index=False)
    assert ([run.run_id for run in loaded.runs], loaded.n_archived) == (
        [first.run_id, wave.run_id],
        1,
    )
    marks = ["tags", "note", "pinned", "archived"]
    everything = load_runs(made, index=False, archived=True)
    assert [tuple(row[name] for name in marks) for row in rows(everything.runs_pandas())] == [
        ("", "", False, False), ("", "", False, True), ("good,new", "text", True, False),
    ]  # fmt: skip
    assert everything.n_archived == 0


def test_polars_distinguishes_nan_from_missing(made: Path) -> None:
    pytest.importorskip("polars")
    frame = load_runs(made, index=False).metrics_polars()
    assert frame["loss"].is_nan().sum() == 1
    assert frame["loss"].null_count() == 0
    assert frame["own"].null_count() == len(frame) - 1


def test_no_runs_make_empty_frames(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    pytest.importorskip("pandas")
    loaded = load_runs(tmp_path)
    assert loaded.runs_polars().shape == loaded.runs_pandas().shape == (0, 13)
    assert loaded.metrics_polars().shape == loaded.metrics_pandas().shape == (0, 2)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            UserError, match=rf"^frames need {name}, .*: pip install 'spectral-exp\[frames\]'$"
        ):
            getattr(load_runs(tmp_path), f"runs_{name}")()


def test_neither_torch_nor_frames_are_loaded_without_need(tmp_path: Path) -> None:
    code = (
        "import sys; from spectral_exp.results import load_runs; load_runs(sys.argv[1]); "
        "print({'torch', 'pandas', 'polars', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
