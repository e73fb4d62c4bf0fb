"""Write the runs of the dashboard bench by the interface of another tool.

`python dashboard_peers.py TOOL FOLDER N_RUNS N_LINES` runs in the interpreter that has the tools
installed, which need not have this package. It therefore imports nothing of it. It prints the ids
of the runs as a JSON list.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

METRICS = ("loss", "norm", "rate")
"""The one with the spike comes first in the alphabet: some pages open only the first charts."""

SPIKE = 9.53125
"""Value of `loss` at the spike: exact in 32 bits, and far from every other value."""

PROJECT = "bench"
WORD = "wavelet"
"""In the names of runs and nowhere else on a page."""

_BATCH = 1000


def run_name(number: int) -> str:
    """Return the name of a run."""
    return f"{WORD}{number // 5}-seed{number % 5}"


def spike_step(n_lines: int) -> int:
    """Return the step of the spike, which no regular sampling meets by chance."""
    return max(1, int(0.6171 * n_lines))


def values(number: int, n_lines: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield step and metrics of each line of a run; the first run has a spike of one step."""
    draw = random.Random(number)
    for step in range(1, n_lines + 1):
        loss = 2 + 2 * math.exp(-5 * step / n_lines) + draw.gauss(0, 0.02)
        if number == 0 and step == spike_step(n_lines):
            loss = SPIKE
        yield step, dict(zip(METRICS, (loss, 1 + draw.random(), 1e-3 / step), strict=True))


def write_tensorboard(folder: Path, n_runs: int, n_lines: int) -> list[str]:
    """Write event files as `SummaryWriter` does, without its need for torch."""
    event_pb2 = importlib.import_module("tensorboard.compat.proto.event_pb2")
    summary_pb2 = importlib.import_module("tensorboard.compat.proto.summary_pb2")
    writer_of = importlib.import_module("tensorboard.summary.writer.event_file_writer")
    for number in range(n_runs):
        writer = writer_of.EventFileWriter(str(folder / run_name(number)))
        for step, metrics in values(number, n_lines):
            scalars = [
                summary_pb2.Summary.Value(tag=name, simple_value=value)
                for name, value in metrics.items()
            ]
            summary = summary_pb2.Summary(value=scalars)
            writer.add_event(event_pb2.Event(step=step, wall_time=float(step), summary=summary))
        writer.close()
    return [run_name(number) for number in range(n_runs)]


def write_mlflow(folder: Path, n_runs: int, n_lines: int) -> list[str]:
    """Write runs to an SQLite file, MLflow's default."""
    mlflow = importlib.import_module("mlflow")
    metric_of = importlib.import_module("mlflow.entities").Metric
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    ids = []
    experiment = client.create_experiment(PROJECT, artifact_location=str(folder / "artifacts"))
    for number in range(n_runs):
        run = client.create_run(experiment, run_name=run_name(number))
        entries = [
            metric_of(name, value, step, step)
            for step, metrics in values(number, n_lines)
            for name, value in metrics.items()
        ]
        for start in range(0, len(entries), _BATCH):
            client.log_batch(run.info.run_id, entries[start : start + _BATCH])
        client.set_terminated(run.info.run_id)
        ids.append(str(run.info.run_id))
    return ids


def write_aim(folder: Path, n_runs: int, n_lines: int) -> list[str]:
    """Write runs to an Aim repository."""
    aim = importlib.import_module("aim")
    repository = aim.Repo.from_path(str(folder), init=True)
    ids = []
    for number in range(n_runs):
        run = aim.Run(
            repo=repository,
            experiment=PROJECT,
            system_tracking_interval=None,
            capture_terminal_logs=False,
        )
        run.name = run_name(number)
        for step, metrics in values(number, n_lines):
            for name, value in metrics.items():
                run.track(value, name=name, step=step)
        run.close()
        ids.append(str(run.hash))
    return ids


def write_trackio(folder: Path, n_runs: int, n_lines: int) -> list[str]:
    """Write runs to Trackio's folder."""
    os.environ["TRACKIO_DIR"] = str(folder)
    trackio = importlib.import_module("trackio")
    for number in range(n_runs):
        trackio.init(project=PROJECT, name=run_name(number), embed=False)
        for step, metrics in values(number, n_lines):
            trackio.log(metrics, step=step)
        trackio.finish()
    return [run_name(number) for number in range(n_runs)]


WRITERS: dict[str, Callable[[Path, int, int], list[str]]] = {
    "tensorboard": write_tensorboard,
    "mlflow": write_mlflow,
    "aim": write_aim,
    "trackio": write_trackio,
}

if __name__ == "__main__":
    tool, folder, n_runs, n_lines = sys.argv[1:]
    print(json.dumps(WRITERS[tool](Path(folder), int(n_runs), int(n_lines))))
