"""Figures of a comparison, drawn in a helper process: matplotlib stays out of the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from spectral_exp.core.errors import UserError
from spectral_exp.core.helper import HelperEndedError, HelperProcess, Send, serve
from spectral_exp.dashboard.groups import Answer, compare_groups, compute
from spectral_exp.dashboard.query import View
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.runs.run import Run

if TYPE_CHECKING:
    from spectral_exp.plots.theme import FileFormat
    from spectral_exp.results.figures.plot import Plot

FORMATS = ("svg", "pdf", "png")

_TIMEOUT_S = 120.0
_IDLE_S = 120.0  # then the helper and its memory go
_NICENESS = 5
_DPI = 200


@dataclass(frozen=True)
class Request:
    """Figures to draw.

    Attributes:
        runs: without what only the server has.
        view: the question.
        ids: of the groups to compare; none for all.
        name: of a figure, or "" for all.
        form: one of `FORMATS`, or "" for the names alone.
        theme: light or dark.
    """

    runs: Sequence[Run]
    view: View
    ids: Sequence[str]
    name: str = ""
    form: str = "svg"
    theme: str = "light"

    @classmethod
    def of(cls, answer: Answer, ids: Sequence[str], **choices: str) -> Request:
        """Return a request for figures of some groups of an answer."""
        runs = plain_runs(answer.chosen.runs)
        view = replace(answer.view, where=(), archived=True)  # the runs are chosen
        return cls(runs, view, tuple(ids), **choices)


class Drawer:
    """Draws figures one after the other; thread-safe. The helper starts with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._helper: HelperProcess | None = None
        self._timer: threading.Timer | None = None

    def names(self, request: Request) -> list[dict[str, Any]]:
        """Return name and caption of every figure, and whether there is nothing to draw."""
        return cast("list[dict[str, Any]]", self._ask(replace(request, name="", form="")))

    def draw_all(self, request: Request) -> list[dict[str, Any]]:
        """Return what `names` returns, each figure that is not empty with its `content`."""
        return cast("list[dict[str, Any]]", self._ask(replace(request, name="")))

    def draw(self, request: Request) -> bytes:
        """Return a figure. Raises UserError if there is none of this name, or nothing to draw."""
        return cast("bytes", self._ask(request))

    def end(self) -> None:
        """End the helper."""
        with self._lock:
            self._end()

    def _ask(self, request: Request) -> Any:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            try:
                if self._helper is None:
                    self._helper = HelperProcess(__name__, {"OMP_NUM_THREADS": "1"})
                self._helper.send(request)
                ok, answer = self._helper.receive(_TIMEOUT_S)
            except (HelperEndedError, TimeoutError, OSError) as error:
                self._end()
                raise UserError(f"the figure could not be drawn: {error or 'no answer'}") from error
            self._timer = threading.Timer(_IDLE_S, self.end)
            self._timer.daemon = True
            self._timer.start()
        if not ok:
            raise UserError(answer)
        return answer

    def _end(self) -> None:
        if self._helper is not None:
            self._helper.end()
            self._helper = None


def main() -> None:
    """Answer requests on standard input."""
    serve(_make_handler, _NICENESS)


def _make_handler(send: Send) -> Callable[[Any], object]:
    def handle(request: Request) -> tuple[bool, Any]:
        try:
            return True, _answer(request)
        except UserError as error:
            return False, str(error)

    return handle


def _answer(request: Request) -> Any:
    from spectral_exp.results.figures import comparison_plots

    answer = compute(0, ResultsAggregator.of(request.runs), request.view)
    comparison = compare_groups(answer, request.ids)
    plots = {plot.name: plot for _, plot in comparison_plots(comparison, theme=request.theme)}
    if not request.name:
        return [
            {"name": plot.name, "caption": plot.caption, "is_empty": plot.draw is None}
            | ({"content": _render(plot, request.form)} if request.form and plot.draw else {})
            for plot in plots.values()
        ]
    plot = plots.get(request.name)
    if plot is None:
        raise UserError(f"there is no figure {request.name}; choose from {', '.join(plots)}")
    return _render(plot, request.form)


def _render(plot: Plot, form: str) -> bytes:
    from spectral_exp.plots.theme import render_all

    if plot.draw is None:
        raise UserError(plot.caption)
    kind = cast("FileFormat", form)
    return render_all(plot.draw, plot.theme, _DPI, [kind], plot.caption)[kind]


def plain_runs(runs: Sequence[Run]) -> list[Run]:
    """Return runs that read their files themselves, so that another process can use them."""
    return [replace(run, read_series=None, known_metrics=dict(run.metrics)) for run in runs]
