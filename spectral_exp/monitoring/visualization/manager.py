"""Plots during training; one that fails costs a warning and never ends training."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.steps import whole_step
from spectral_exp.monitoring.component import Component
from spectral_exp.monitoring.visualization.background import BackgroundDrawing
from spectral_exp.monitoring.visualization.jobs import (
    Failures,
    Plot,
    PlotReport,
    PlotSet,
    draw_here,
)
from spectral_exp.monitoring.wrappers import unwrap
from spectral_exp.plots.run import DrawFigure, Style
from spectral_exp.plots.run.experiment import Experiment
from spectral_exp.plots.run.histories import training_drawing
from spectral_exp.plots.run.internals import TextSample as TextSample
from spectral_exp.plots.run.internals import model_drawings, one_thread
from spectral_exp.plots.run.runs import comparison_drawing, experiment, label_sources
from spectral_exp.runs.layout import VISUALIZATIONS_FOLDER
from spectral_exp.runs.record import check_units

if TYPE_CHECKING:
    from torch import nn


_log = logging.getLogger(__name__)


class VisualizationManager(Component):
    """Writes plots of a run as files `<plot>_step_<step>_<timestamp>.png`.

    A plot that cannot be made or written is skipped: the first time for each cause with a warning,
    then quietly; `failures` counts them all. Files appear whole or not at all, and none is ever
    replaced.

    By default a method returns when its files are there. With `background` it returns, with the
    names of files to come, as soon as it has copied what they show. A child process draws them in
    order; `close` waits for it, and so does the end of this process. If drawing takes longer than
    the steps between, waiting plots are replaced by newer ones.

    Args:
        viz_dir: folder for the files, made when the first is written.
        viz_interval: steps between plots, at least 1.
        enabled: False turns every method into one that does nothing.
        dpi: dots per inch, 40 to 600; figures are 12 inches wide.
        theme: "dark" or "light".
        layer: the layer whose mixing weights are drawn, counted from 0, or from the end where
            negative.
        background: draw in a child process while training goes on.
        exit_deadline_s: seconds that `close` waits for the remaining plots, > 0.
        units: unit of metrics by name, for the axes: `{"loss": "MSE"}`.

    Raises:
        SettingError: a setting out of range.
        UserError: matplotlib is not installed.
    """

    files = (f"{VISUALIZATIONS_FOLDER}/*.png",)
    is_backed_up = False  # drawn again from the metrics and checkpoints

    def __init__(
        self,
        viz_dir: str | Path,
        viz_interval: int = 1000,
        *,
        enabled: bool = True,
        dpi: int = 150,
        theme: str = "dark",
        layer: int = -1,
        background: bool = False,
        exit_deadline_s: float = 60.0,
        units: Mapping[str, str] | None = None,
    ) -> None:
        require(
            _is_int(viz_interval) and viz_interval >= 1,
            "viz_interval",
            viz_interval,
            "a whole number >= 1",
        )
        require(_is_int(dpi) and 40 <= dpi <= 600, "dpi", dpi, "a whole number from 40 to 600")
        require(theme in ("dark", "light"), "theme", theme, "dark or light")
        require(_is_int(layer), "layer", layer, "a whole number", "-1 is the last layer")
        require(exit_deadline_s > 0, "exit_deadline_s", exit_deadline_s, "a number of seconds > 0")
        if enabled and importlib.util.find_spec("matplotlib") is None:
            raise UserError(
                "plots need matplotlib, which is not installed: pip install matplotlib, or switch"
                " them off"
            )
        self.viz_dir = Path(viz_dir)
        self.viz_interval = viz_interval
        self.enabled = enabled
        is_in_run = self.viz_dir.name == VISUALIZATIONS_FOLDER
        run = self.viz_dir.absolute().parent.name if is_in_run else ""
        self.style = Style(dpi, theme, run)
        self.layer = layer
        self.units = check_units(units or {})
        self._failures = Failures()
        self._taken: set[Path] = set()
        self._reports: list[PlotReport] = []
        self._background = (
            BackgroundDrawing(self.style, self._failures, exit_deadline_s)
            if background and enabled
            else None
        )

    @property
    def failures(self) -> int:
        """Plots that could not be made or written."""
        return self._failures.count

    @property
    def skipped(self) -> int:
        """Plots that were not drawn because newer ones, or the end, came before their turn."""
        return 0 if self._background is None else self._background.skipped

    @property
    def reports(self) -> Sequence[PlotReport]:
        """The cost of every set of plots, in the order of drawing."""
        return self._reports if self._background is None else self._background.reports

    def should_visualize(self, step: int) -> bool:
        """True when plots are due after `step` (counted from 1)."""
        return self.enabled and step > 0 and step % self.viz_interval == 0

    def generate_training_plots(
        self, step: int, loss_history: Any, metrics: Mapping[str, Any]
    ) -> list[Path]:
        """Plot loss, learning rate and other metrics; return the files, which may be written later.

        Args:
            step: the last step.
            loss_history: training loss of each step up to `step`: a list, array or tensor.
            metrics: by name either plain values, taken as evenly spread over the steps, or a pair
                (steps, values). One that cannot be read as numbers is left out with a warning.
        """

        def find(step: int) -> Mapping[str, Callable[[], DrawFigure | None]]:
            given = {} if metrics is None else metrics
            leave_out = self._failures.note_left_out
            draw = partial(training_drawing, step, loss_history, given, leave_out, self.units)
            return {"training_dynamics": draw}

        return self._plot("training", step, find)

    def generate_model_plots(
        self,
        step: int,
        model: nn.Module,
        *,
        sample: TextSample | None = None,
        token_labels: Callable[[int], str] | None = None,
    ) -> list[Path]:
        """Plot the internals of a model; return the files, which may be written later.

        A module of the model with `base_freqs` (V, W), `phases` (V, W) or `harmonic_amps` (V, W,
        M), and perhaps `position_rates` (W), gives frequency, phase, amplitude and wave packet
        plots. A method `attention_weights(ids (1, T), layer) -> (H, T, T)` and a `sample` give
        interference patterns. The model is left as it was: mode, gradients, weights and random
        number generators.

        Args:
            step: the last step.
            model: may be wrapped by DataParallel or `torch.compile`.
            sample: text for the interference patterns, and whose tokens the wave packets show.
            token_labels: text of a token id.
        """
        return self._plot(
            "model",
            step,
            lambda step: model_drawings(step, unwrap(model), self.layer, sample, token_labels),
        )

    def generate_comparison_plots(
        self, experiments: Mapping[str, Mapping[str, Any] | str | Path] | Sequence[str | Path]
    ) -> list[Path]:
        """Plot several experiments side by side; return the files, which may be written later.

        Args:
            experiments: run directories, or by label run directories or mappings with any of the
                keys `loss_history`, `metrics` (as for `generate_training_plots`) and
                `final_metrics` (numbers by name). A run that cannot be read is left out with a
                warning.
        """

        def prepare() -> DrawFigure | None:
            found = [
                self._experiment(label, source) for label, source in label_sources(experiments)
            ]
            return comparison_drawing([each for each in found if each is not None])

        return self._plot("comparison", None, lambda step: {"comparison": prepare})

    @property
    def busy(self) -> bool:
        """Whether plots are still to be drawn."""
        return self._background is not None and self._background.busy

    def wait(self) -> None:
        """Return when everything is drawn."""
        if self._background is not None:
            self._background.wait()

    def close(self) -> None:
        """Wait for the plots, at most `exit_deadline_s`; the rest is dropped with a warning.

        A later set starts another helper.
        """
        if self._background is not None:
            self._background.close()

    def _experiment(self, label: str, source: Mapping[str, Any] | str | Path) -> Experiment | None:
        try:
            return experiment(label, source, self._failures.note_left_out)
        except Exception as error:
            self._failures.note(f"of {label} in the comparison", error)
            return None

    def _plot(
        self,
        kind: str,
        step: Any,
        find: Callable[[int], Mapping[str, Callable[[], DrawFigure | None]]],
    ) -> list[Path]:
        """Copy what the plots that `find` finds show, and have them drawn.

        A failure is noted and gives no file.
        """
        if not self.enabled:
            return []
        started_s = time.perf_counter()
        try:
            whole = None if step is None else whole_step(step)
            with one_thread() if kind == "model" else nullcontext():
                plots = self._prepare(find(whole or 0), whole)
            if not plots:
                _log.debug("nothing to draw yet for the %s plots", kind)
                return []
            # Not when they are written, which may be after the run has been moved; what fails is
            # reported then.
            with suppress(OSError):
                plots[0].path.parent.mkdir(parents=True, exist_ok=True)
            plot_set = PlotSet(kind, whole, plots, started_s, time.perf_counter() - started_s)
            if self._background is not None:
                self._background.submit(plot_set)
                return [plot.path for plot in plots]
            written = draw_here(plot_set, self.style, self._failures)
        except Exception as error:
            self._failures.note(f"of the {kind}", error)
            return []
        self._reports.append(PlotReport.of(plot_set, len(written), None))
        return written

    def _prepare(
        self, found: Mapping[str, Callable[[], DrawFigure | None]], step: int | None
    ) -> list[Plot]:
        """Return the plots that can be drawn, with their files."""
        timestamp = datetime.now().strftime("%Y%m%d_%H%M%S")
        tag = timestamp if step is None else f"step_{step:07d}_{timestamp}"
        plots: list[Plot] = []
        for name, prepare in found.items():
            try:
                drawing = prepare()
            except Exception as error:
                self._failures.note(name, error)
            else:
                if drawing is not None:
                    plots.append(Plot(name, self._free_path(f"{name}_{tag}"), drawing))
        return plots

    def _free_path(self, stem: str) -> Path:
        """A new file, beside any of the same second and those still to be drawn."""
        path = self.viz_dir / f"{stem}.png"
        number = 1
        while path.exists() or path in self._taken:
            number += 1
            path = self.viz_dir / f"{stem}_{number}.png"
        self._taken.add(path)
        return path


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
