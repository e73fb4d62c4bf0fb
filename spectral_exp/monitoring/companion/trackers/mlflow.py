"""Runs on an MLflow server.

Points carry the time at which they were logged, so that the server stores a repeated point once.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.monitoring.companion.targets import DEFAULT_PROJECT
from spectral_exp.monitoring.companion.trackers.base import MirroredRun, Point, Tracker

_KEY_TAG = "spectral_exp.key"
_GROUP_TAG = "spectral_exp.group"
_TAGS_TAG = "tags"
_PER_CALL = 900  # metrics; the server takes 1000
_PARAMS_PER_CALL = 100
_MAX_VALUE = 5000  # characters of a parameter or tag
_STATUS = {"failed": "FAILED", "diverged": "FAILED", "not_saved": "FAILED", "interrupted": "KILLED"}
_ENVIRONMENT = {
    # The library would try for minutes; the mirror tries again by itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Mlflow(Tracker):
    """Sends to a server, or to a database.

    Args:
        where: its address.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._client: Any = None
        self._run_id = ""
        self._params: dict[str, str] = {}

    def open(self, run: MirroredRun, remote: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=self._where)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(name, artifact_location=self._artifacts())
        )
        # This process may have died after it made the run, and before it kept the id.
        found = self._client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{run.key}'")
        remote_run = found[0] if found else self._client.create_run(
            experiment_id, run_name=run.name, tags={_KEY_TAG: run.key, _GROUP_TAG: run.group}
        )  # fmt: skip
        self._run_id = remote_run.info.run_id
        self._params = dict(remote_run.data.params)
        if remote_run.info.status != "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        return {"run_id": self._run_id}

    def _artifacts(self) -> str | None:
        """Return the folder for files beside a database; a server has its own."""
        scheme, _, path = self._where.partition(":///")
        if scheme != "sqlite":
            return None
        return (Path(path).absolute().parent / "mlartifacts").as_uri()

    def log_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_name(name), value, int(1000 * point.time_s), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for first in range(0, len(metrics), _PER_CALL):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + _PER_CALL])

    def log_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        values = {_name(name): str(value)[:_MAX_VALUE] for name, value in config.items()}
        params = [Param(name, value) for name, value in values.items() if name not in self._params]
        for first in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, params=params[first : first + _PARAMS_PER_CALL])
        # A parameter can never be changed, for example when a run is prolonged.
        for name, value in values.items():
            if self._params.get(name, value) != value:
                self._client.set_tag(self._run_id, f"changed.{name}", value)

    def log_results(self, results: Mapping[str, Any]) -> None:
        self._client.log_dict(self._run_id, dict(results), "results.json")
        self._client.set_tag(self._run_id, "status", str(results.get("status", "")))

    def log_text(self, name: str, step: int, text: str) -> None:
        self._client.log_text(self._run_id, text, f"{name}/step_{step}.txt")

    def log_image(self, name: str, step: int, png: bytes) -> None:
        folder, _, kind = name.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / f"{kind}_step_{step}.png"
            file.write_bytes(png)
            self._client.log_artifact(self._run_id, str(file), folder or None)

    def set_tags(self, tags: Sequence[str]) -> None:
        self._client.set_tag(self._run_id, _TAGS_TAG, ", ".join(tags)[:_MAX_VALUE])

    def flush(self) -> None:
        pass  # every call has returned when the server has stored it

    def close(self, status: str) -> None:
        if status and self._client is not None:
            self._client.set_terminated(self._run_id, _STATUS.get(status, "FINISHED"))


def _name(name: str) -> str:
    """Return a name with the characters that the server takes."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)[:250]
