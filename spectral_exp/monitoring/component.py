"""The declarations of a monitoring component, and the contract of further components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import nn


class Component:
    """A part that watches a run, and declares what it adds to the run.

    Attributes:
        metric_prefixes: how the names of its metrics begin.
        measures_machine: whether its metrics depend on the machine and not on training alone. They
            are then neither drawn as training curves nor compared by `reproduce`.
        files: its files, as patterns relative to the run directory (`logs/mine.jsonl`).
        is_backed_up: whether each backup holds all of these files.
        is_required: whether the configuration must have it. Runs that were recorded before the
            component existed lack it.
    """

    metric_prefixes: ClassVar[tuple[str, ...]] = ()
    measures_machine: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = ()
    is_backed_up: ClassVar[bool] = True
    is_required: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        for name in ("metric_prefixes", "files"):
            if not isinstance(getattr(cls, name), tuple):
                raise TypeError(f"{cls.__name__}.{name} must be a tuple of texts")
        for pattern in cls.files:
            path = PurePath(pattern)
            if not path.parts or path.is_absolute() or ".." in path.parts:
                raise TypeError(
                    f"{cls.__name__}.files: {pattern!r} must be relative to the run directory"
                )

    def close(self) -> Any:
        """Finish what is under way. The runner calls it at the end of every attempt."""


class Observer(Component, ABC):
    """A component that the training loop calls after every step for which `should_observe` is true.

    A failure costs one warning, and training goes on. A run that continues from a checkpoint
    repeats the steps after it, and observes them again; see `cut_back`.
    """

    is_required: ClassVar[bool] = False

    @abstractmethod
    def should_observe(self, step: int) -> bool:
        """Return whether to observe after `step`. Called after every step, so keep it cheap."""

    @abstractmethod
    def observe(self, step: int, model: nn.Module) -> Mapping[str, float]:
        """Observe the model after `step`.

        Leave the model and torch's default random generators as they are; then training computes
        the same with and without the component. The parameters still hold the gradients of the
        step, after clipping.

        Returns:
            Metrics for the line of this step, with names that begin with one of `metric_prefixes`.
        """

    def cut_back(self, step: int) -> Any:
        """Remove from the files what belongs to later steps, which are done again.

        Called before the first step of each attempt at a run, with the last step before it.
        """

    def sync(self) -> Any:
        """Make what was written survive a power cut, before a checkpoint does.

        The thread that writes checkpoints calls this.
        """


def named_metrics(component: Component, values: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics as numbers.

    Raises:
        ValueError: a name does not begin with a prefix of the component.
    """
    for name in values:
        if not name.startswith(component.metric_prefixes):
            prefixes = ", ".join(component.metric_prefixes)
            raise ValueError(f"the metric {name} begins with none of metric_prefixes=({prefixes})")
    return {name: float(value) for name, value in values.items()}


def matching_files(root: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Yield the files of a run that match the patterns of its components; they need not exist."""
    for pattern in patterns:
        if any(character in pattern for character in "*?["):
            yield from sorted(root.glob(pattern))
        else:
            yield root / pattern
