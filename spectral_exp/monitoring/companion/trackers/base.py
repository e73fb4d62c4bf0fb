"""The interface of a tracker, as mirrors use it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple


class Point(NamedTuple):
    """The metrics of one line: step, seconds since the epoch, and finite numbers by name."""

    step: int
    time_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class MirroredRun:
    """The run that a tracker receives.

    Attributes:
        root: its directory.
        name: for people.
        group: the name of its configuration, which runs with other seeds share.
        key: identifies the remote run; it is kept in the run, across all attempts.
        last_step: the last step that the remote run holds; -1 if it holds none.
    """

    root: Path
    name: str
    group: str
    key: str
    last_step: int


class Tracker(ABC):
    """A remote run in a tracker. Every method may raise any error of the library.

    Everything that was sent before `flush` returned stays with the tracker.

    Attributes:
        can_rewind: whether a remote run can begin anew; otherwise steps that are trained again keep
            their first values.
        takes_whole_runs: whether the library takes only whole runs.
        stored_step: the last step that the remote run was found to hold; None if it is unknown.
    """

    can_rewind: ClassVar[bool] = False
    takes_whole_runs: bool = False
    stored_step: int | None = None

    @abstractmethod
    def open(self, run: MirroredRun, remote: Mapping[str, Any]) -> dict[str, Any]:
        """Open the remote run, which is made if it does not exist.

        Args:
            run: the run.
            remote: what an earlier `open` has returned; empty for the first one.

        Returns:
            What the run keeps for the next `open`.
        """

    @abstractmethod
    def log_points(self, points: Sequence[Point]) -> None:
        """Send metrics, in the order in which they were logged."""

    @abstractmethod
    def log_config(self, config: Mapping[str, Any]) -> None:
        """Send the settings: dotted name -> number, text, truth value, None or list."""

    @abstractmethod
    def log_results(self, results: Mapping[str, Any]) -> None:
        """Send the outcome: dotted name -> number or text."""

    @abstractmethod
    def log_text(self, name: str, step: int, text: str) -> None:
        """Send a text, such as a sample of the model."""

    @abstractmethod
    def log_image(self, name: str, step: int, png: bytes) -> None:
        """Send a plot."""

    @abstractmethod
    def set_tags(self, tags: Sequence[str]) -> None:
        """Replace the tags."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything that was sent is safe from the death of this process."""

    @abstractmethod
    def close(self, status: str) -> None:
        """Close the remote run.

        Args:
            status: of the results; "" if the run goes on.
        """
