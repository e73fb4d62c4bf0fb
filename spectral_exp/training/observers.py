"""Calls of the observers of a run; a failing observer does not stop training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from spectral_exp.core.clock import Clock
from spectral_exp.monitoring.component import Observer, named_metrics

log = logging.getLogger(__name__)


class Observers:
    """Calls observers and measures their time.

    Args:
        observers: name in the configuration -> component.
        clock: records the time of each observer under its name.
        check_owner: raises LostRunError if the run directory no longer belongs to this process.

    Attributes:
        machine_prefixes: prefixes of metrics that measure the machine, not training.
    """

    def __init__(
        self, observers: Mapping[str, Observer], clock: Clock, check_owner: Callable[[], None]
    ) -> None:
        self._observers = observers
        self._clock = clock
        self._check_owner = check_owner
        self._failed: set[str] = set()
        self.machine_prefixes = tuple(
            prefix
            for observer in observers.values()
            if observer.measures_machine
            for prefix in observer.metric_prefixes
        )

    def is_due(self, step: int) -> bool:
        """Return whether an observer is due after `step`."""
        return any(observer.should_observe(step) for observer in self._observers.values())

    def observe(self, step: int, model: nn.Module) -> dict[str, float]:
        """Return the metrics of the observers that are due after `step`.

        An observer that fails adds no metrics; its first failure is logged as a warning.
        """
        metrics: dict[str, float] = {}
        for name, observer in self._observers.items():
            if observer.should_observe(step):
                self._check_owner()
                with self._clock.measure(name), self._surviving(name, f"at step {step}"):
                    metrics |= named_metrics(observer, observer.observe(step, model))
        return metrics

    def cut_back(self, step: int) -> None:
        """Remove from the files of all observers what belongs to steps after `step`."""
        for name, observer in self._observers.items():
            with self._surviving(name, f"to go back to step {step}"):
                observer.cut_back(step)

    def sync(self) -> None:
        """Make what all observers have written survive a power cut."""
        for name, observer in self._observers.items():
            with self._surviving(name, "to make its files survive a power cut"):
                observer.sync()

    @contextmanager
    def _surviving(self, name: str, where: str) -> Iterator[None]:
        """Log the first failure of an observer inside the `with` block, and suppress all."""
        try:
            yield
        except Exception:
            if name not in self._failed:
                self._failed.add(name)
                text = "monitoring.%s failed %s, training goes on; it is called again"
                log.warning(text, name, where, exc_info=True)
