"""Each tracker with its real library, and with its real server where there is one."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.monitoring import MetricsLogger
from spectral_exp.monitoring.companion.mirror import Mirror
from spectral_exp.monitoring.companion.targets import Target, parse_target
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.marks import update_marks
from tests.conftest import ROOT, python
from tests.monitoring.companion.test_mirror import png, push_all

# Libraries warn of what they use themselves.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def log_steps(root: Path, first: int, last: int, attempt: int) -> None:
    with MetricsLogger(root / "logs", 1) as logger:
        for step in range(first, last + 1):
            logger.log_metrics(step, {"loss": step + attempt / 10, "val_bpb": 1 / step})
            if step % 4 == 0:
                logger.log_message(f"sample at step {step}: 'text of step {step}'")
                name = f"phases_step_{step}_2026010{attempt}_000000.png"
                (RunPaths(root).visualizations / name).write_bytes(png(step))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of eight steps, with everything that can be mirrored but results."""
    root = tmp_path / "some_run"
    RunPaths(root).visualizations.mkdir(parents=True)
    record = {"config": {"name": "wave", "optimizer": {"lr": 0.5}}}
    RunPaths(root).config_file.write_text(json.dumps(record))
    update_marks(root, {"tags": ["first", "good"]})
    log_steps(root, 1, 8, attempt=1)
    return root


def continue_run(root: Path) -> None:
    """Go back to step 5, train to step 12, and write results."""
    MetricsLogger(root / "logs", 1).cut_back(5)
    log_steps(root, 6, 12, attempt=2)
    results = {"status": "completed", "final_metrics": {"loss": 12.2}, "totals": {"steps": 12}}
    RunPaths(root).results_file.write_text(json.dumps(results))


def mirror_in_two_attempts(root: Path, target: Target) -> None:
    first = Mirror(root, target)
    push_all(first)
    first.abandon()
    continue_run(root)
    push_all(Mirror(root, target), is_over=True)
    push_all(Mirror(root, target), is_over=True)


KEPT = [(step, step + 0.1) for step in range(1, 9)] + [(s, s + 0.2) for s in range(9, 13)]
"""What trackers show that cannot take a step back."""
NEWEST = [(step, step + 0.1) for step in range(1, 6)] + [(s, s + 0.2) for s in range(6, 13)]


def test_tensorboard(run: Path) -> None:
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    mirror_in_two_attempts(run, parse_target("tensorboard"))
    sizes = dict.fromkeys(("scalars", "images", "tensors"), 0)
    shown = events.EventAccumulator(str(RunPaths(run).tensorboard), size_guidance=sizes)
    shown.Reload()
    losses = [(e.step, round(e.value, 4)) for e in shown.Scalars("loss")]
    assert losses == NEWEST
    assert [(e.step, e.width) for e in shown.Images("plots/phases")] == [(4, 4), (8, 8), (12, 12)]
    samples = shown.Tensors("samples/text_summary")
    assert [(e.step, e.tensor_proto.string_val[0].decode()) for e in samples] == [
        (step, f"text of step {step}") for step in (4, 8, 12)
    ]
    (config,) = shown.Tensors("config/text_summary")
    assert b"| optimizer.lr | 0.5 |" in config.tensor_proto.string_val[0]
    (results,) = shown.Tensors("results/text_summary")
    assert b"| status | completed |" in results.tensor_proto.string_val[0]
    hparams = shown.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in hparams


def test_a_folder_of_tensorboard_gets_one_folder_for_each_run(run: Path, tmp_path: Path) -> None:
    """A run that goes back replaces its own files; a run of the same name has its own folder."""
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    target = Target("tensorboard", str(tmp_path / "all"))
    mirror_in_two_attempts(run, target)
    assert [folder.name for folder in (tmp_path / "all").iterdir()] == ["some_run"]
    other = tmp_path / "other" / "some_run"
    RunPaths(other).visualizations.mkdir(parents=True)
    log_steps(other, 1, 2, attempt=1)
    push_all(Mirror(other, target), is_over=True)
    assert len(list((tmp_path / "all").iterdir())) == 2


@pytest.mark.exhaustive
def test_wandb_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    mirror_in_two_attempts(run, parse_target("wandb:team/project"))
    (file,) = run.glob("wandb/offline-run-*/run-*.wandb")
    (cursor,) = RunPaths(run).companion.glob("wandb-*.json")
    records = read_wandb(file)
    begun = next(record.run for record in records if record.HasField("run"))
    assert (begun.entity, begun.project) == ("team", "project")
    assert begun.run_id == json.loads(cursor.read_text())["key"]
    assert (begun.display_name, begun.run_group) == ("some_run", "wave")
    history = [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in r.history.item
        }
        for r in records
        if r.HasField("history")
    ]
    losses = [(row["_step"], row["loss"]) for row in history if "loss" in row]
    assert losses == NEWEST
    assert [row["plots/phases_step"] for row in history if "plots/phases_step" in row] == [4, 8, 12]
    assert [row["samples_step"] for row in history if "samples_step" in row] == [4, 8, 12]
    media = list(file.parent.glob("files/media/**/*.*"))
    assert sorted(path.suffix for path in media) == [".html"] * 3 + [".png"] * 3
    tags = [tuple(r.run.tags) for r in records if r.HasField("run")]
    assert set(tags[-1]) == {"good", "first"}
    content = b"".join(path.read_bytes() for path in file.parent.rglob("*") if path.is_file())
    assert b"optimizer.lr" in content
    assert os.fsencode(ROOT) not in file.read_bytes(), "nothing is known of the code"


def read_wandb(file: Path) -> list[Any]:
    """Return the records of a file: a log as LevelDB writes it, after a header of 7 bytes."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    content, at, records, data = file.read_bytes(), 7, [], b""
    assert content.startswith(b":W&B")
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:  # the rest of a block
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            records.append(messages.Record.FromString(data))
            data = b""
    return records


@pytest.mark.exhaustive
def test_trackio(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    code = """
import json, sys
from pathlib import Path
from spectral_exp.monitoring.companion.targets import parse_target
from tests.monitoring.companion.test_trackers import mirror_in_two_attempts
mirror_in_two_attempts(Path(sys.argv[1]), parse_target("trackio:project"))
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("project")
print(json.dumps([name, SQLiteStorage.get_logs("project", name),
    SQLiteStorage.get_run_config("project", name)]))
"""
    script = tmp_path / "mirror.py"
    script.write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
        patch.setenv("PYTHONPATH", str(ROOT))
        done = python(str(script), str(run), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name, logs, config = json.loads(done.stdout.splitlines()[-1])
    assert name == "some_run"
    assert [(row["step"], row["loss"]) for row in logs if "loss" in row] == KEPT
    assert [row["step"] for row in logs if "plots/phases" in row] == [4, 8, 12]
    assert [row["samples"] for row in logs if "samples" in row] == [
        f"text of step {step}" for step in (4, 8, 12)
    ]
    assert config["optimizer.lr"] == 0.5
    assert (config["group"], config["results.status"]) == ("wave", "completed")
    assert config["tags"] == ["first", "good"]
    assert len(list((tmp_path / "trackio").rglob("*.png"))) == 3


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A server on loopback that keeps runs in sqlite, and files in a folder."""
    pytest.importorskip("mlflow.server", reason="mlflow is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "mlflow"
    folder.mkdir()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/ml.db", "--workers", "1"),
        *("--artifacts-destination", str(folder / "files")),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        end_s = time.monotonic() + 120
        while time.monotonic() < end_s and server.poll() is None:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        os.killpg(server.pid, 9)
        server.wait()


@pytest.mark.exhaustive
def test_mlflow(run: Path, mlflow_server: str) -> None:
    from mlflow.tracking import MlflowClient

    mirror_in_two_attempts(run, parse_target(f"mlflow:{mlflow_server}"))
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("spectral_exp")
    assert experiment is not None
    (remote,) = client.search_runs([experiment.experiment_id])
    assert (remote.info.run_name, remote.info.status) == ("some_run", "FINISHED")
    assert remote.data.params["optimizer.lr"] == "0.5"
    history = client.get_metric_history(remote.info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == KEPT
    assert remote.data.tags["tags"] == "first, good"
    assert remote.data.tags["status"] == "completed"
    files = [
        file.path
        for folder in ("plots", "samples", "")
        for file in client.list_artifacts(remote.info.run_id, folder or None)
    ]
    assert {*files} >= {"results.json", "samples/step_12.txt", "plots/phases_step_8.png"}
    # A prolonged run: parameters of a remote run never change.
    record = {"config": {"name": "wave", "optimizer": {"lr": 0.5}, "training": {"max_steps": 99}}}
    RunPaths(run).config_file.write_text(json.dumps(record))
    push_all(Mirror(run, parse_target(f"mlflow:{mlflow_server}")), is_over=True)
    record["config"]["training"] = {"max_steps": 100}
    RunPaths(run).config_file.write_text(json.dumps(record))
    push_all(Mirror(run, parse_target(f"mlflow:{mlflow_server}")), is_over=True)
    remote = client.get_run(remote.info.run_id)
    assert remote.data.params["training.max_steps"] == "99"
    assert remote.data.tags["changed.training.max_steps"] == "100"
