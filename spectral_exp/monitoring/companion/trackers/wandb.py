"""Runs in Weights & Biases.

With `WANDB_MODE=offline` the library cannot continue a run: every start would make a folder of its
own, of which `wandb sync` uploads one. So an offline run is exported as a whole when training has
ended, and again when it was continued.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.monitoring.companion.targets import is_wandb_offline, split_wandb
from spectral_exp.monitoring.companion.trackers.base import MirroredRun, Point, Tracker
from spectral_exp.runs.layout import RunPaths

_EXIT_CODES = {"failed": 1, "diverged": 1, "not_saved": 1, "interrupted": 255}
_INIT_TIMEOUT_S = 60.0


class Wandb(Tracker):
    """Sends to the server of the library, or writes a folder for `wandb sync`.

    The server ignores steps that it already has.

    Args:
        where: `entity/project` or the project.
    """

    def __init__(self, where: str) -> None:
        self.takes_whole_runs = is_wandb_offline()
        self._entity, self._project = split_wandb(where)
        self._run: Any = None
        self._last_step = 0

    def open(self, run: MirroredRun, remote: Mapping[str, Any]) -> dict[str, Any]:
        import wandb

        folder = RunPaths(run.root).wandb
        if self.takes_whole_runs:
            for earlier in folder.glob(f"offline-run-*-{run.key}"):
                shutil.rmtree(earlier)
        folder.mkdir(exist_ok=True)
        self._last_step = max(run.last_step, 0)
        self._run = wandb.init(
            entity=self._entity,
            project=self._project,
            id=run.key,
            name=run.name,
            group=run.group,
            dir=str(run.root),
            resume=None if self.takes_whole_runs else "allow",
            settings=wandb.Settings(
                # Nothing beyond what the mirror sends: no source, command, output or packages.
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                disable_job_creation=True,
                silent=True,
                init_timeout=_INIT_TIMEOUT_S,
            ),
        )
        if not self.takes_whole_runs:
            # What the process of the library held when it was killed has to be sent again.
            self.stored_step = self._run.starting_step - 1
        return {"id": run.key}

    def log_points(self, points: Sequence[Point]) -> None:
        for point in points:
            self._log(point.step, {**point.values, "_timestamp": point.time_s})

    def log_config(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def log_results(self, results: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(results))

    def log_text(self, name: str, step: int, text: str) -> None:
        import html

        import wandb

        shown = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
        self._log(step, {name: shown, f"{name}_step": step})

    def log_image(self, name: str, step: int, png: bytes) -> None:
        import wandb

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "plot.png"
            file.write_bytes(png)
            self._log(step, {name: wandb.Image(str(file)), f"{name}_step": step})

    def set_tags(self, tags: Sequence[str]) -> None:
        self._run.tags = tuple(tags)

    def flush(self) -> None:
        pass  # its own process sends, and outlives a crash of this one

    def close(self, status: str) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish(exit_code=_EXIT_CODES.get(status, 0))

    def _log(self, step: int, values: dict[str, Any]) -> None:
        # What belongs to an earlier step would be dropped, as a plot that was drawn meanwhile.
        self._last_step = max(self._last_step, step)
        self._run.log(values, step=self._last_step)
