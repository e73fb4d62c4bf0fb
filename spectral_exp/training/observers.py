"""Calls of the observers of a run; a failing observer does not stop training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

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

    def observe(self, step: int, model: nn.Module) -> dict[str, float]:
        """Return the metrics of the observers that are due after `step`.

        An observer that fails adds no metrics; its first failure is logged as a warning.
        """
        metrics: dict[str, float] = {}
        for name, observer in self._observers.items():
            if observer.should_observe(step):
                metrics |= self._call(name, observer, step, model)
        return metrics

    def _call(self, name: str, observer: Observer, step: int, model: nn.Module) -> dict[str, float]:
        self._check_owner()
        with self._clock.measure(name):
            try:
                return named_metrics(observer, observer.observe(step, model))
            except Exception:
                if name not in self._failed:
                    self._failed.add(name)
                    text = "monitoring.%s failed at step %d, training goes on; it is called again"
                    log.warning(text, name, step, exc_info=True)
                return {}
