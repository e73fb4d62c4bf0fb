"""Runs below folders, and the facts that an intact or damaged run directory gives."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.runs.find import find_runs
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import load_run, read_facts, read_many
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.parts import part_names
from tests.conftest import ROOT
from tests.results.made_runs import make_run


def edit(run: Path, **entries: object) -> None:
    """Change entries of results.json."""
    file = RunPaths(run).results_file
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_a_whole_run(tmp_path: Path) -> None:
    path = make_run(tmp_path, "wave_rgd_qfe", seed=3, val_bpb=2.25, steps=100)
    run = load_run(path)
    assert (run.name, run.seed, run.status, run.finished, run.problems) == (
        "wave_rgd_qfe",
        3,
        "completed",
        True,
        (),
    )
    assert run.parts == {
        "embedding": "wave",
        "attention": "interference",
        "mlp": "resonance",
        "optimizer": "rgd",
        "loss": "qfe",
    }
    assert (run.n_parameters, run.tokens_per_step, run.last_step) == (800_000, 768, 100)
    assert run.record["dataset"]["corpus"] == "PythonStdlib"
    assert "config" not in run.record
    assert run.settings["training.batch_size"] == 12
    assert run.value("val_bpb") == 2.25
    assert run.value("val_bpb", "step:99") == run.value("val_bpb", "step:50") == 3.25
    assert run.value("val_bpb", "step:49") is None
    assert run.value("val_bpb", "best") == 2.25
    assert run.value("learning_rate", "best") is None  # it has no direction
    assert run.value("no_such") is None
    assert run.value("tokens") == 76_800
    assert run.value("tokens", "step:50") == 38_400
    assert run.value("tokens_per_s") == 10_000
    assert run.value("train_s") == pytest.approx(7.68)
    assert run.value("train_s", "step:50") == pytest.approx(3.84)
    assert run.series("val_bpb").steps.tolist() == [50, 100]
    assert len(run.series("no_such").steps) == 0
    np.testing.assert_allclose(
        run.train_time_s(np.array([0.0, 5.0, 100.0, 101.0])), [0, 0.384, 7.68, math.nan]
    )
    for wrong in ("last", "step:0", "step:", "step:-1", "Final"):
        with pytest.raises(SettingError, match="must be final, best, step:N, tokens=N"):
            run.value("loss", wrong)


def test_the_size_is_known_by_its_shape(tmp_path: Path) -> None:
    assert load_run(make_run(tmp_path, settings={"model.n_head": 4})).parts["size"] == "tiny"
    other = {"model.n_head": 4, "model.n_layer": 5}
    assert "size" not in load_run(make_run(tmp_path, settings=other)).parts


@pytest.mark.parametrize("part", ["embedding", "attention", "mlp", "size", "optimizer", "loss"])
def test_parts_are_called_as_in_the_configuration_files(part: str) -> None:
    section = part if part in ("optimizer", "loss") else f"model.{part}"
    files = sorted((ROOT / "conf" / section.replace(".", "/")).glob("*.yaml"))
    assert len(files) >= 2
    for file in files:
        inside = "model" if part == "size" else section
        content = OmegaConf.to_container(OmegaConf.load(file))
        assert isinstance(content, dict)
        settings = {f"{inside}.{name!s}": value for name, value in content.items()}
        assert part_names(settings) == {part: file.stem}


def test_a_part_of_another_package_has_the_name_of_its_class(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path, settings={"optimizer._target_": "torch.optim.SGD"}))
    assert run.parts["optimizer"] == "SGD"


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    path = make_run(tmp_path, status="diverged")
    edit(
        path,
        final_metrics={"step": 100, "val_bpb": "NaN"},
        generation_samples=[{"text": "NaN"}],
        error="Infinity",
    )
    run = load_run(path)
    assert math.isnan(run.results["final_metrics"]["val_bpb"])
    assert run.results["generation_samples"] == [{"text": "NaN"}]
    assert run.results["error"] == "Infinity"
    assert not run.finished


def test_after_an_early_stop_the_final_value_is_of_the_weights_that_were_kept(
    tmp_path: Path,
) -> None:
    path = make_run(tmp_path, status="stopped_early", val_bpb=2.5)
    edit(path, final_metrics={"step": 100, "val_bpb": 2.0})
    assert load_run(path).value("val_bpb") == 2.0
    # Of a run that goes on, results are those of an earlier attempt.
    edit(path, status="interrupted")
    assert load_run(path).value("val_bpb") == 2.5


# --- damage ---------------------------------------------------------------------------------------


def test_damage_costs_only_the_damaged_part(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    paths = RunPaths(path)
    whole = load_run(path)
    steps = whole.series("loss").steps.tolist()

    content = paths.results_file.read_bytes()
    paths.results_file.write_bytes(content[: len(content) // 2])
    run = load_run(path)
    assert run.status == "unfinished"
    assert [p for p in run.problems if p.startswith("results.json is not valid JSON")]
    assert run.value("val_bpb") == whole.value("val_bpb")
    assert run.value("train_s") is None
    paths.results_file.write_bytes(content)

    lines = paths.metrics_file.read_bytes()
    first = lines.index(b"\n")
    paths.metrics_file.write_bytes(lines[: first // 2] + lines[first:] + b'{"step": 110, "ti')
    run = load_run(path)
    assert run.problems == (
        "1 line(s) of metrics.jsonl cannot be read",
        "the last line of metrics.jsonl is unfinished",
    )
    assert run.series("loss").steps.tolist() == steps[1:]

    paths.metrics_file.unlink()
    run = load_run(path)
    assert run.value("val_bpb") == whole.value("val_bpb")
    assert len(run.series("loss").steps) == 0
    assert run.last_step == 100

    record = paths.config_file.read_text()
    paths.config_file.write_text(record.replace('"batch_size": 12', '"batch_size": 13'))
    assert load_run(path).problems == ("config.json was changed or damaged since it was written",)
    paths.config_file.write_text(record[:200])
    with pytest.raises(
        UserError, match=r"config\.json is not valid JSON.*its settings are unknown"
    ):
        load_run(path)


def test_a_run_without_a_record(tmp_path: Path) -> None:
    path = make_run(tmp_path, "wave", seed=2)
    RunPaths(path).config_file.unlink()
    run = load_run(path)
    assert (run.name, run.seed, run.settings, run.parts, run.config_hash) == (
        "wave",
        None,
        {},
        {},
        "",
    )
    assert run.problems == ("there is no config.json: its settings are unknown",)
    assert run.value("val_bpb") == 2.5


def test_every_run_is_found_once_and_omissions_are_reported(tmp_path: Path) -> None:
    one = make_run(tmp_path / "outputs", "classic")
    job = make_run(tmp_path / "outputs" / "sweep_20260101", "wave", seed=1)
    sweep_job = job.rename(job.with_name("0_wave_seed1"))
    deep = make_run(tmp_path / "outputs" / "a" / "b", "wave", seed=2)
    inside = make_run(one, "wave", seed=3)
    (tmp_path / "outputs" / "link").symlink_to(deep.parent)
    (tmp_path / "outputs" / "loop").symlink_to(tmp_path / "outputs")
    (tmp_path / "outputs" / "dangling").symlink_to(tmp_path / "gone")
    torn = make_run(tmp_path / "outputs", "wave_qfe")
    (torn / "config.json").write_text("{")
    empty = tmp_path / "outputs" / "empty_run"
    (empty / "checkpoints").mkdir(parents=True)
    other = tmp_path / "outputs" / "other_program"
    other.mkdir()
    (other / "config.json").write_text('{"hidden_size": 3}')
    make_run(tmp_path / "outputs" / ".hidden", "classic")
    (tmp_path / "outputs" / "notes.txt").write_text("x")

    found = ResultsAggregator([tmp_path / "outputs", one, tmp_path / "outputs" / "a"], index=False)
    assert {run.path for run in found.runs} == {one, sweep_job, deep, inside}
    assert {run.run_id for run in found.runs} == {
        one.name,
        "sweep_20260101/0_wave_seed1",
        deep.name,
        inside.name,
    }
    reasons = dict(found.left_out)
    assert set(reasons) == {torn, empty, other}
    assert "settings are unknown" in reasons[torn]
    assert reasons[empty] == "it has neither config.json nor logs/metrics.jsonl"
    assert reasons[other] == "its config.json is not the record of a run"


def test_ids_are_unique(tmp_path: Path) -> None:
    for place in ("a", "b"):
        make_run(tmp_path / place, "classic", seed=1)
    first, second = (run.run_id for run in ResultsAggregator([tmp_path], index=False).runs)
    assert (first, second) == (
        "a/classic_20260101_000001_abcd1234",
        "b/classic_20260101_000001_abcd1234",
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="to root every folder is open"
)
def test_a_closed_folder_is_left_out(tmp_path: Path) -> None:
    closed = make_run(tmp_path, "classic").parent / "closed"
    closed.mkdir(mode=0)
    found = find_runs([tmp_path])
    assert len(found.runs) == 1
    assert found.left_out == [(closed, "cannot be read: Permission denied")]


def test_an_unreadable_file_costs_itself(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    metrics = RunPaths(path).metrics_file
    metrics.unlink()
    metrics.mkdir()
    (problem,) = load_run(path).problems
    assert problem == "metrics.jsonl cannot be read: Is a directory"


@pytest.mark.parametrize(("name", "what"), [("gone", "there is no folder"), ("file", "is a file")])
def test_wrong_folders(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=what):
        find_runs([tmp_path / name])


# --- running --------------------------------------------------------------------------------------


def test_a_locked_run_is_running(tmp_path: Path) -> None:
    path = make_run(tmp_path, status=None)
    assert load_run(path).status == "unfinished"
    with RunLock(path):
        before = RunPaths(path).lock_file.read_bytes()
        with RunPaths(path).metrics_file.open("ab") as file:
            file.write(b'{"step": 11')
        run = load_run(path)
        assert (run.status, run.problems) == ("running", ())
        assert RunPaths(path).lock_file.read_bytes() == before
    assert load_run(path).status == "unfinished"


def lock(path: Path, host: str, pid: int, since: datetime) -> None:
    owner = {"host": host, "pid": pid, "since": since.isoformat(timespec="seconds")}
    RunPaths(path).lock_file.write_text(json.dumps(owner))


def test_a_lock_of_a_dead_process_is_none(tmp_path: Path) -> None:
    path = make_run(tmp_path, status="completed")
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    lock(path, socket.gethostname(), gone.pid, datetime.now())
    assert load_run(path).status == "completed"
    # Another process has got its number since.
    lock(path, socket.gethostname(), os.getpid(), datetime.now() - timedelta(days=365))
    assert load_run(path).status == "completed"
    RunPaths(path).lock_file.write_text("{")
    assert load_run(path).status == "completed"


def test_a_lock_of_another_host_is_believed_while_entries_come(tmp_path: Path) -> None:
    path = make_run(tmp_path, status=None)
    lock(path, "elsewhere", 1, datetime.now())
    assert load_run(path).status == "running"
    for file in (RunPaths(path).lock_file, RunPaths(path).metrics_file):
        os.utime(file, (0, 0))
    run = load_run(path)
    assert run.status == "unfinished"
    assert run.problems == (
        "process 1 on elsewhere holds its lock, but has not logged anything for an hour",
    )


def test_several_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_exp.runs import load

    paths = [make_run(tmp_path, seed=seed, steps=seed * 50) for seed in range(1, 6)]
    alone = [read_facts(path) for path in paths]
    monkeypatch.setattr(load, "_BYTES_PER_PROCESS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert read_many(paths) == alone
    # One that cannot be started in earnest delivers nothing.
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert read_many(paths) == alone


def test_a_folder_in_place_of_the_patch_is_reported_and_ignored(tmp_path: Path) -> None:
    path = make_run(tmp_path, record={"git": {"hash": "a" * 40, "diff_file": "git_diff.patch"}})
    RunPaths(path).git_diff_file.unlink(missing_ok=True)
    RunPaths(path).git_diff_file.mkdir()
    run = load_run(path)
    assert run.problems == ("git_diff.patch is not a file",)
    assert run.record["git"]["diff_file"] is None
