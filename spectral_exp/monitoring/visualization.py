"""When to plot during training, and what happens when a plot fails: a warning, never an end of training."""

from __future__ import annotations

import errno
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.errors import UserError, require
from spectral_exp.monitoring.plots.histories import loss_series, metric_series
from spectral_exp.monitoring.plots.internals import Drawing, TextSample, model_drawings, unwrapped
from spectral_exp.monitoring.plots.runs import experiment, labelled
from spectral_exp.run_dir import atomic_writer

if TYPE_CHECKING:
    from torch import nn

    from spectral_exp.monitoring.plots.comparison import Experiment

__all__ = ["TextSample", "VisualizationManager"]

_log = logging.getLogger(__name__)

_REMEDIES = {
    errno.ENOSPC: "free some disk space, raise viz_interval, or switch the plots off",
    errno.EDQUOT: "free some of your disk quota, raise viz_interval, or switch the plots off",
    errno.EACCES: "make the folder writable or choose another viz_dir",
    errno.EPERM: "make the folder writable or choose another viz_dir",
    errno.EROFS: "choose a viz_dir on a writable file system",
    errno.ENOTDIR: "a file stands where the folder should be: move it or choose another viz_dir",
    errno.EEXIST: "a file stands where the folder should be: move it or choose another viz_dir",
}


class VisualizationManager:
    """Writes plots of a run, dark-themed PNG files that sort by step: `<plot>_step_<step>_<timestamp>.png`.

    A plot that cannot be made or written is skipped: the first time for each cause with a warning, then quietly;
    `failures` counts them all. Files appear whole or not at all, and none is ever replaced.

    Args:
        viz_dir: folder for the files, made when the first is written.
        viz_interval: steps between plots, at least 1.
        enabled: False turns every method into one that does nothing.
        dpi: dots per inch, 40 to 600; figures are 12 inches wide.
        layer: the layer whose mixing weights are drawn, counted from 0, or from the end where negative.

    Raises:
        SettingError: a setting out of range.
        UserError: matplotlib is not installed.
    """

    def __init__(
        self,
        viz_dir: str | Path,
        viz_interval: int = 1000,
        *,
        enabled: bool = True,
        dpi: int = 150,
        layer: int = -1,
    ) -> None:
        require(_is_int(viz_interval) and viz_interval >= 1, "viz_interval", viz_interval, "a whole number >= 1")
        require(_is_int(dpi) and 40 <= dpi <= 600, "dpi", dpi, "a whole number from 40 to 600")
        require(_is_int(layer), "layer", layer, "a whole number", "-1 is the last layer")
        if enabled and importlib.util.find_spec("matplotlib") is None:
            raise UserError("plots need matplotlib, which is not installed: pip install matplotlib, or switch them off")
        self.viz_dir = Path(viz_dir)
        self.viz_interval = viz_interval
        self.enabled = enabled
        self.dpi = dpi
        self.layer = layer
        self.failures = 0
        self._causes: set[tuple[object, ...]] = set()

    def should_visualize(self, step: int) -> bool:
        """True when plots are due after `step` (counted from 1)."""
        return self.enabled and step > 0 and step % self.viz_interval == 0

    def generate_training_plots(self, step: int, loss_history: Any, metrics: Mapping[str, Any]) -> list[Path]:
        """Plot loss, learning rate and every other tracked metric; returns the files written.

        Args:
            step: the last step.
            loss_history: training loss of each step up to `step`: a list, array or tensor.
            metrics: by name either plain values, taken as evenly spread over the steps, or a pair (steps, values).
        """

        def prepare() -> Drawing | None:
            from spectral_exp.monitoring.plots.training import training_figure

            series = metric_series(metrics or {}, step)
            loss = loss_series(loss_history, step) or series.pop("loss", None)
            if loss is not None:
                series.pop("loss", None)
            return partial(training_figure, step, loss, series) if loss is not None or series else None

        return self._plot("training_dynamics", _tag(step), prepare)

    def generate_model_plots(
        self,
        step: int,
        model: nn.Module,
        *,
        sample: TextSample | None = None,
        token_labels: Callable[[int], str] | None = None,
    ) -> list[Path]:
        """Plot the inside of a model, as far as it has one to show; returns the files written.

        A module of the model with `base_freqs` (V, W), `phases` (V, W) or `harmonic_amps` (V, W, M), and perhaps
        `position_rates` (W), gives frequency, phase, amplitude and wave packet plots. A method
        `attention_weights(ids (1, T), layer) -> (H, T, T)` and a `sample` give interference patterns. The model is left
        as it was: mode, gradients, weights and random number generators.

        Args:
            step: the last step.
            model: may be wrapped by DataParallel or `torch.compile`.
            sample: text for the interference patterns, and whose tokens the wave packets show.
            token_labels: text of a token id.
        """
        if not self.enabled:
            return []
        try:
            plots = model_drawings(step, unwrapped(model), self.layer, sample, token_labels)
        except Exception as error:
            self._note_failure("of the model", error)
            return []
        tag = _tag(step)
        return [path for name, prepare in plots.items() for path in self._plot(name, tag, prepare)]

    def generate_comparison_plots(
        self, experiments: Mapping[str, Mapping[str, Any] | str | Path] | Sequence[str | Path]
    ) -> list[Path]:
        """Plot several experiments side by side; returns the files written.

        Args:
            experiments: run directories, or by label run directories or mappings with any of the keys `loss_history`,
                `metrics` (as for `generate_training_plots`) and `final_metrics` (numbers by name). A run that cannot be
                read is left out with a warning.
        """

        def prepare() -> Drawing | None:
            from spectral_exp.monitoring.plots.comparison import comparison_figure

            shown = [found for label, source in labelled(experiments) if (found := self._experiment(label, source))]
            return partial(comparison_figure, shown) if shown else None

        return self._plot("comparison", _timestamp(), prepare)

    def _experiment(self, label: str, source: Mapping[str, Any] | str | Path) -> Experiment | None:
        try:
            return experiment(label, source)
        except Exception as error:
            self._note_failure(f"of {label} in the comparison", error)
            return None

    def _plot(self, name: str, tag: str, prepare: Callable[[], Drawing | None]) -> list[Path]:
        """Prepare, draw and write one figure; any failure is noted and gives no file."""
        if not self.enabled:
            return []
        try:
            draw = prepare()
            if draw is None:
                _log.debug("nothing to draw yet for the plot %s", name)
                return []
            from spectral_exp.monitoring.plots.theme import render

            return [self._write(f"{name}_{tag}", render(draw, self.dpi))]
        except Exception as error:
            self._note_failure(name, error)
            return []

    def _write(self, stem: str, png: bytes) -> Path:
        """Write a new file, whole or not at all, beside any of the same second."""
        self.viz_dir.mkdir(parents=True, exist_ok=True)
        path = self.viz_dir / f"{stem}.png"
        number = 1
        while path.exists():
            number += 1
            path = self.viz_dir / f"{stem}_{number}.png"
        with atomic_writer(path) as file:
            file.write(png)
        return path

    def _note_failure(self, name: str, error: Exception) -> None:
        """Count a failure; warn of it unless its cause is known. A full disk is one cause for all plots."""
        self.failures += 1
        code = error.errno if isinstance(error, OSError) else None
        cause = (code,) if code in _REMEDIES else (name, type(error))
        level = logging.DEBUG if cause in self._causes else logging.WARNING
        self._causes.add(cause)
        remedy = _REMEDIES.get(code or 0, "it is left out and everything else goes on")
        expected = isinstance(error, OSError | UserError)
        message = "plot %s skipped: %s: %s; %s"
        _log.log(level, message, name, type(error).__name__, error, remedy, exc_info=None if expected else error)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _timestamp() -> str:
    return datetime.now().strftime("%Y%m%d_%H%M%S")


def _tag(step: int) -> str:
    return f"step_{step:07d}_{_timestamp()}"
