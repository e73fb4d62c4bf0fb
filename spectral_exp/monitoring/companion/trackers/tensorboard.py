"""Event files for TensorBoard, written by tensorboardX.

torch.utils.tensorboard would import torch, which takes seconds and hundreds of megabytes. The
record writer of tensorboardX has neither a thread nor a queue, so that a full disk is an error of
the call.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.monitoring.companion.trackers.base import MirroredRun, Point, Tracker
from spectral_exp.runs.layout import RunPaths

_FILES = "events.out.tfevents.*"
_NAME = re.compile(r"events\.out\.tfevents\.(\d{1,12})\..*")
_PNG_SIZE = slice(16, 24)  # width and height in the header
_COLORS = {0: 1, 2: 3, 4: 2, 6: 4}  # colour type of a PNG -> channels
_COLOR_TYPE = 25


class TensorBoard(Tracker):
    """Writes a new event file with every start.

    Each file begins with the first step that it holds, by which TensorBoard drops all later steps
    of earlier files. So nothing is shown twice after a crash. After steps were trained again, one
    new file replaces the others.

    Args:
        where: the folder that gets a folder for each run; "" for `tensorboard` in the run.
    """

    can_rewind = True

    def __init__(self, where: str) -> None:
        self._where = where
        self._writer: Any = None

    def open(self, run: MirroredRun, remote: Mapping[str, Any]) -> dict[str, Any]:
        from tensorboardX.record_writer import RecordWriter

        name = remote.get("folder") or self._new_name(run)
        folder = Path(self._where) / name if self._where else RunPaths(run.root).tensorboard
        if run.last_step >= 0 and not any(folder.glob(_FILES)):
            raise FileNotFoundError(f"the event files in {folder} are gone")
        folder.mkdir(parents=True, exist_ok=True)
        if run.last_step < 0:
            for file in folder.glob(_FILES):
                file.unlink()
        self._writer = RecordWriter(str(folder / _new_file_name(folder)))
        self._write(0, time.time(), file_version="brain.Event:2")
        self._write(run.last_step + 1, time.time(), session_log=_session_start())
        return {"folder": name}

    def _new_name(self, run: MirroredRun) -> str:
        """Return the name of a folder for a run; another run may have taken its name."""
        is_taken = bool(self._where) and (Path(self._where) / run.name).exists()
        return f"{run.name}-{run.key[:8]}" if is_taken else run.name

    def log_points(self, points: Sequence[Point]) -> None:
        from tensorboardX.summary import scalar

        for point in points:
            values = [
                value
                for name, number in point.values.items()
                for value in scalar(name, number).value
            ]
            self._write(point.step, point.time_s, summary=_summary(values))

    def log_config(self, config: Mapping[str, Any]) -> None:
        from tensorboardX.summary import hparams

        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in config.items()
        }
        for summary in hparams(settings, {"val_loss": 0.0, "val_bpb": 0.0})[:2]:
            self._write(0, time.time(), summary=summary)
        self.log_text("config", 0, _table(config))

    def log_results(self, results: Mapping[str, Any]) -> None:
        step = results.get("totals.steps")
        self.log_text("results", step if isinstance(step, int) else 0, _table(results))

    def log_text(self, name: str, step: int, text: str) -> None:
        from tensorboardX.summary import text as text_summary

        self._write(step, time.time(), summary=text_summary(name, text))

    def log_image(self, name: str, step: int, png: bytes) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[_PNG_SIZE])
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=_COLORS.get(png[_COLOR_TYPE], 4),
            encoded_image_string=png,
        )
        value = Summary.Value(tag=name, image=image)
        self._write(step, time.time(), summary=_summary([value]))

    def set_tags(self, tags: Sequence[str]) -> None:
        self.log_text("tags", 0, ", ".join(tags))

    def flush(self) -> None:
        self._writer.flush()

    def close(self, status: str) -> None:
        if self._writer is not None:
            self._writer.flush()
            self._writer.close()
            self._writer = None

    def _write(self, step: int, time_s: float, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(step=step, wall_time=time_s, **content)
        self._writer.write(event.SerializeToString())


def _new_file_name(folder: Path) -> str:
    """Return a name that comes after those of all event files in a folder.

    TensorBoard reads them in the order of their names, and clocks may disagree.
    """
    names = [name[1] for file in folder.iterdir() if (name := _NAME.fullmatch(file.name))]
    second = max([int(time.time()), *map(int, names)])
    return f"events.out.tfevents.{second}.{len(names):06d}.{socket.gethostname()}"


def _session_start() -> Any:
    from tensorboardX.proto.event_pb2 import SessionLog

    return SessionLog(status=SessionLog.SessionStatus.Value("START"))


def _summary(values: Sequence[Any]) -> Any:
    from tensorboardX.proto.summary_pb2 import Summary

    return Summary(value=values)


def _table(values: Mapping[str, Any]) -> str:
    """Return a table in Markdown."""
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])
