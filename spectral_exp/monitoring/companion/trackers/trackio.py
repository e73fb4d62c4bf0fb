"""Runs in the local database of Trackio.

Its storage is called directly. The public `log` hands lines to a thread, and a process that is
killed loses hundreds of them. Every row has an id that follows from the run and the step, so the
database itself refuses what it already has.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from spectral_exp.monitoring.companion.trackers.base import MirroredRun, Point, Tracker


class Trackio(Tracker):
    """Writes rows at once.

    Args:
        where: the project.
    """

    def __init__(self, where: str) -> None:
        self._project = where
        self._run: MirroredRun
        self._config: dict[str, Any] = {}

    def open(self, run: MirroredRun, remote: Mapping[str, Any]) -> dict[str, Any]:
        from trackio.sqlite_storage import SQLiteStorage

        self._run = run
        SQLiteStorage.init_db(self._project)
        stored = SQLiteStorage.get_run_config(self._project, run_id=run.key)
        self._config = {**(stored or {}), "group": run.group}
        return {"project": self._project}

    def log_points(self, points: Sequence[Point]) -> None:
        self._store([(point.step, point.time_s, {**point.values}) for point in points])

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._config |= config  # it goes with the next row

    def log_results(self, results: Mapping[str, Any]) -> None:
        self._config |= {f"results.{name}": value for name, value in results.items()}
        self._store([(self._run.last_step + 1, 0.0, {"status": str(results.get("status", ""))})])

    def log_text(self, name: str, step: int, text: str) -> None:
        self._store([(step, 0.0, {name: text})])

    def log_image(self, name: str, step: int, png: bytes) -> None:
        from trackio import Image

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plot.png"
            file.write_bytes(png)
            image = Image(file)
            image._save(self._project, self._run.name, step)
        self._store([(step, 0.0, {name: image._to_dict()})])

    def set_tags(self, tags: Sequence[str]) -> None:
        self._config["tags"] = list(tags)

    def flush(self) -> None:
        pass  # every row is committed

    def close(self, status: str) -> None:
        pass  # there is no connection

    def _store(self, rows: Sequence[tuple[int, float, dict[str, Any]]]) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        key = self._run.key
        SQLiteStorage.bulk_log(
            self._project,
            self._run.name,
            [values for _, _, values in rows],
            [step for step, _, _ in rows],
            [_time(time_s) for _, time_s, _ in rows],
            config=self._config,
            log_ids=[f"{key}-{step}-{_names(values)}" for step, _, values in rows],
            run_id=key,
        )


def _time(time_s: float) -> str:
    moment = datetime.fromtimestamp(time_s, timezone.utc) if time_s else datetime.now(timezone.utc)
    return moment.isoformat()


def _names(values: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(' '.join(values).encode()):08x}"
