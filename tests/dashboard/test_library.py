"""The library follows runs that appear, grow, are cut back, die, are renamed and go."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_exp.dashboard import app as app_module
from spectral_exp.dashboard import library as library_module
from spectral_exp.runs import index as run_index
from spectral_exp.runs.layout import RunPaths
from tests.dashboard.served import Dashboard, append, log_values, owned
from tests.results.made_runs import make_run, rest

HOLDER = """
import sys
from spectral_exp.runs.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_empty_folder_has_no_runs(tmp_path: Path) -> None:
    dashboard = Dashboard(tmp_path)
    answer = dashboard.json("/api/runs")
    assert (answer["found"], answer["read"], answer["complete"], answer["runs"]) == (0, 0, True, [])
    groups = dashboard.json("/api/groups")
    assert (groups["rows"], bool(groups["problem"])) == ([], True)


def test_rows_come_newest_first_and_say_what_the_record_says(tmp_path: Path) -> None:
    old, new = make_run(tmp_path, "classic", 1), make_run(tmp_path, "wave", 2, status="failed")
    rest(old, age_s=500)
    rest(new, age_s=60)
    dashboard = Dashboard(tmp_path)
    rows = dashboard.json("/api/runs")["runs"]
    assert [row["id"] for row in rows] == [new.name, old.name]
    assert (rows[0]["status"], rows[0]["name"], rows[0]["seed"]) == ("failed", "wave", 2)
    assert (rows[1]["status"], rows[1]["step"], rows[1]["max_steps"]) == ("completed", 100, 100)
    assert rows[0]["experiment_hash"] != rows[1]["experiment_hash"]


def test_only_changes_are_sent_again(tmp_path: Path) -> None:
    first = make_run(tmp_path, "classic", 1)
    dashboard = Dashboard(tmp_path)
    seq = dashboard.json("/api/runs")["seq"]
    dashboard.refresh()
    assert dashboard.json("/api/changes", since=seq)["runs"] == []
    second = make_run(tmp_path, "classic", 2)
    dashboard.refresh()
    changes = dashboard.json("/api/changes", since=seq)
    assert [row["id"] for row in changes["runs"]] == [second.name]
    assert not changes["reset"]
    key = dashboard.key(first)
    shutil.rmtree(first)
    dashboard.refresh()
    changes = dashboard.json("/api/changes", since=changes["seq"])
    assert (changes["runs"], changes["removed"]) == ([], [key])
    assert dashboard.client.get(f"/api/run/{key}").status_code == 404


@pytest.mark.parametrize("since", [0, 5, 2**53])
def test_a_number_of_another_server_gets_everything(tmp_path: Path, since: int) -> None:
    make_run(tmp_path)
    answer = Dashboard(tmp_path).json("/api/changes", since=since)
    assert (answer["reset"], len(answer["runs"])) == (True, 1)


def test_a_renamed_run_has_its_new_name(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    dashboard = Dashboard(tmp_path)
    run.rename(tmp_path / "another")
    dashboard.refresh()
    assert list(dashboard.rows()) == ["another"]


def test_a_live_run_grows_and_is_cut_back(tmp_path: Path) -> None:
    run = make_run(tmp_path, status=None, steps=40)
    with owned(run):
        dashboard = Dashboard(tmp_path)
        row = dashboard.rows()[run.name]
        assert (row["status"], row["step"]) == ("running", 40)
        key = row["key"]
        append(run, {"step": 50, "loss": 7.0, "tokens_per_s": 1000.0})
        watched = dashboard.json("/api/changes", watch=key)["watched"][key]
        assert (watched["step"], watched["generation"], watched["status"]) == (50, 0, "running")
        _, (curve,) = dashboard.frame("/api/curves", runs=key, metric="loss")
        assert curve["y"][-1] == 7.0
        dashboard.refresh()
        assert dashboard.rows()[run.name]["step"] == 50
        log_values(run, [3.0, 2.0])
        watched = dashboard.json("/api/changes", watch=key)["watched"][key]
        assert (watched["step"], watched["generation"], watched["entries"]) == (2, 1, 2)
        header, (curve,) = dashboard.frame("/api/curves", runs=key, metric="loss")
        assert (header["generation"][key], list(curve["y"])) == (1, [3.0, 2.0])
        dashboard.refresh()
        assert dashboard.rows()[run.name]["step"] == 2
    dashboard.refresh()
    assert dashboard.rows()[run.name]["status"] == "unfinished"


def test_the_rest_of_a_live_run_is_estimated(tmp_path: Path) -> None:
    settings = {"training.max_steps": 140}
    run = make_run(tmp_path, status=None, steps=40, settings=settings)
    with owned(run):
        row = Dashboard(tmp_path).rows()[run.name]
    assert row["eta_s"] == pytest.approx(100 * 768 / 10_000.0)


def test_a_killed_run_is_not_running(tmp_path: Path) -> None:
    run = make_run(tmp_path, status=None)
    command = [sys.executable, "-c", HOLDER, str(run)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        dashboard = Dashboard(tmp_path)
        assert dashboard.rows()[run.name]["status"] == "running"
        process.kill()
        process.wait()
    assert RunPaths(run).lock_file.exists()
    dashboard.library.refresh()
    assert dashboard.rows()[run.name]["status"] == "unfinished"


def test_folders_that_go_and_come_back(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    kept = make_run(other)
    make_run(home, "wave", 3)
    dashboard = Dashboard(home, other)
    assert len(dashboard.rows()) == 2
    away = home.rename(tmp_path / "away")
    dashboard.refresh()
    assert list(dashboard.rows()) == [kept.name]
    left_out = dashboard.json("/api/runs")["left_out"]
    assert left_out == [{"path": str(home), "reason": "the folder is gone"}]
    away.rename(home)
    dashboard.refresh()
    assert len(dashboard.rows()) == 2
    assert dashboard.json("/api/runs")["left_out"] == []


def test_a_damaged_run_is_left_out_and_comes_back_when_repaired(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    whole = RunPaths(run).config_file.read_bytes()
    dashboard = Dashboard(tmp_path)
    key = dashboard.key(run)
    seq = dashboard.json("/api/runs")["seq"]
    RunPaths(run).config_file.write_text("{")
    dashboard.refresh()
    changes = dashboard.json("/api/changes", since=seq)
    assert (changes["runs"], changes["removed"]) == ([], [key])
    assert [one["path"] for one in dashboard.json("/api/runs")["left_out"]] == [str(run)]
    RunPaths(run).config_file.write_bytes(whole)
    dashboard.refresh()
    assert list(dashboard.rows()) == [run.name]


def test_runs_of_one_name_get_the_ids_of_a_comparison(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / folder, "classic", 1) for folder in ("a", "b"))
    dashboard = Dashboard(tmp_path)
    assert set(dashboard.rows()) == {f"a/{first.name}", f"b/{second.name}"}
    shutil.rmtree(second)
    dashboard.refresh()
    assert set(dashboard.rows()) == {first.name}


def test_the_index_spares_the_reading_of_old_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_index, "_MIN_AGE_NS", -(10**9))
    for seed in range(3):
        make_run(tmp_path / "runs", "classic", seed)
    index = tmp_path / "index.sqlite"
    before = Dashboard(tmp_path / "runs", index=index).rows()

    def read_again(*_: object) -> None:
        raise AssertionError("a run was read again")

    monkeypatch.setattr(library_module, "facts_of", read_again)
    assert Dashboard(tmp_path / "runs", index=index).rows() == before


class ReadByThread(Dashboard):
    """A dashboard whose library reads in the background, as the server's does."""

    def refresh(self) -> None:
        self.library.start()


def test_the_first_answers_hold_the_runs_of_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_index, "_MIN_AGE_NS", -(10**9))
    monkeypatch.setattr(app_module, "_INDEX_S", 60)
    for seed in (1, 2):
        make_run(tmp_path / "runs", "classic", seed)
    index = tmp_path / "index.sqlite"
    Dashboard(tmp_path / "runs", index=index)

    def read_late(*arguments: Any) -> Any:
        time.sleep(0.1)  # the requests below come meanwhile
        return run_index.indexed_facts(*arguments)

    monkeypatch.setattr(library_module, "indexed_facts", read_late)
    dashboard = ReadByThread(tmp_path / "runs", index=index)
    answer = dashboard.json("/api/runs")
    assert (answer["found"], answer["read"]) == (2, 2)
    assert [row["n"] for row in dashboard.json("/api/groups")["rows"]] == [2]
    dashboard.library.stop()


def test_a_large_run_appears_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, status=None)
    values = np.sin(np.arange(200_000))
    log_values(run, list(values))
    monkeypatch.setattr(run_index, "_MIN_AGE_NS", -(10**9))
    monkeypatch.setattr(library_module, "_BATCH_BYTES", 1 << 20)
    monkeypatch.setattr(library_module, "_READ_S", 0.0)
    index = tmp_path / "index.sqlite"
    dashboard = Dashboard(tmp_path, index=index)
    row = dashboard.json("/api/runs")["runs"][0]
    assert (row["read"], 0 < row["loading"] < 1) == (False, True)
    details = dashboard.json(f"/api/run/{row['key']}")
    assert details["row"]["key"] == row["key"]
    while not dashboard.json("/api/runs")["complete"]:
        dashboard.refresh()
    assert dashboard.rows()[run.name]["step"] == 200_000
    header, (curve,) = dashboard.frame("/api/curves", runs=row["key"], metric="loss", bins=50)
    assert header["loading"] == {}
    assert (curve["max"].max(), curve["min"].min()) == (values.max(), values.min())
    again = Dashboard(tmp_path, index=index)  # by the index, without reading the metrics
    assert again.library.store.n_bytes == 0
    assert again.rows()[run.name] == dashboard.rows()[run.name]


def test_memory_of_series_is_limited(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "classic", seed, steps=1000) for seed in range(4)]
    dashboard = Dashboard(tmp_path)
    store = dashboard.library.store
    for run in runs:
        store.series(run, "loss")
    used = store.n_bytes
    store._max_bytes = used // 2
    for run in runs:
        assert len(store.series(run, "loss")) == 100
        assert store.n_bytes <= max(used // 2, 1)


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("kind", ["folder", "fifo", "giant", "garbage"])
def test_unreadable_metrics_of_one_run_hide_no_other(
    tmp_path: Path, kind: str, is_live: bool
) -> None:
    fine, broken = make_run(tmp_path, "classic", 1), make_run(tmp_path, "classic", 2, status=None)
    metrics = RunPaths(broken).metrics_file
    metrics.unlink()
    if kind == "folder":
        metrics.mkdir()
    elif kind == "fifo":
        os.mkfifo(metrics)
    elif kind == "giant":
        with metrics.open("wb") as file:
            file.truncate(5 << 30)
    else:
        metrics.write_bytes(b"\xff\x00{]\n" * 100)
    with owned(broken) if is_live else contextlib.nullcontext():
        dashboard = Dashboard(tmp_path)
        rows = dashboard.rows()
        assert rows.keys() == {fine.name, broken.name}
        assert rows[broken.name]["status"] == ("running" if is_live else "unfinished")
        details = dashboard.json(f"/api/run/{rows[broken.name]['key']}")
        assert any("metrics.jsonl" in problem for problem in details["problems"])
        keys = ",".join(row["key"] for row in rows.values())
        answer = dashboard.client.get(f"/api/curves?runs={keys}&metric=loss")
        assert answer.status_code == (200 if kind == "garbage" else 400)
        assert dashboard.json("/api/groups")["rows"][0]["n_used"] == 1


def test_a_certificate_is_put_in_words(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "classic", seed) for seed in (1, 2, 3)]
    record = {"verdict": "identical", "compared": ["weights"], "not_compared": [], "divergences": 5}
    RunPaths(runs[0]).certificate_file.write_text(json.dumps(record))
    RunPaths(runs[1]).certificate_file.write_text('{"verdict": "<b>"}')
    dashboard = Dashboard(tmp_path)
    details = dashboard.json(f"/api/run/{dashboard.key(runs[0])}")
    assert details["certificate"] == "A resume continues bit for bit.\ncompared: weights"
    assert dashboard.json(f"/api/run/{dashboard.key(runs[1])}")["certificate"] is None
    (row,) = dashboard.json("/api/groups")["rows"]
    assert row["certificate"] == "a resume continues bit for bit (1 of 3 runs)"


def test_a_run_of_another_host_that_is_silent_is_not_running(tmp_path: Path) -> None:
    run = make_run(tmp_path, status=None)
    owner = {"host": "another", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
    RunPaths(run).lock_file.write_text(json.dumps(owner))
    rest(run, age_s=7200.0)
    row = Dashboard(tmp_path).rows()[run.name]
    assert row["status"] == "unfinished"
