"""A view as one HTML file: the page, and the answers that the view asks the server for."""

from __future__ import annotations

import base64
import gzip
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.datastructures import QueryParams

from spectral_exp import __version__
from spectral_exp.core.errors import UserError
from spectral_exp.dashboard.addresses import address
from spectral_exp.dashboard.answers import json_bytes
from spectral_exp.dashboard.bands import bands_answer
from spectral_exp.dashboard.bundle import bundle
from spectral_exp.dashboard.curves import Window, curves_answer, load_curves
from spectral_exp.dashboard.details import run_details
from spectral_exp.dashboard.drawing import Drawer
from spectral_exp.dashboard.export_comparison import MAX_GROUPS, ExportedComparison
from spectral_exp.dashboard.export_run import answers_with_files, details_without_files
from spectral_exp.dashboard.group_curves import load_group_curves
from spectral_exp.dashboard.group_tables import groups_answer
from spectral_exp.dashboard.groups import Answer, Comparisons
from spectral_exp.dashboard.identity import run_key
from spectral_exp.dashboard.library import Library
from spectral_exp.dashboard.query import Query, View
from spectral_exp.dashboard.system_curves import exported_system
from spectral_exp.results.group import Group
from spectral_exp.runs.plot_files import PNG_SIGNATURE

MAX_RUNS = 100
"""Runs whose curves and details go into a file; the table has all."""

_WINDOW = Window(None, None, 300)

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Route:
    """A view as the fragment of an address names it.

    Attributes:
        page: runs, run or compare.
        key: of a run, or "".
        query: parameters, some of them repeated.
    """

    page: str
    key: str
    query: QueryParams

    @classmethod
    def of(cls, fragment: str) -> Route:
        """Return the view of a fragment such as `#/run/KEY?tab=log`."""
        path, _, query = fragment.lstrip("#/").partition("?")
        page, _, key = path.partition("/")
        return cls(page or "runs", unquote(key), QueryParams(parse_qsl(query)))


def export_view(
    library: Library,
    comparisons: Comparisons,
    folders: Sequence[str],
    fragment: str,
    theme: str = "auto",
    drawer: Drawer | None = None,
) -> str:
    """Return the HTML file of a view.

    Args:
        library: the runs.
        comparisons: of these runs.
        folders: of the runs, for commands.
        fragment: names the view.
        theme: light, dark, or auto for that of the system.
        drawer: draws the figures of a comparison; without it the file holds none.

    Raises:
        UserError: the fragment cannot be understood.
    """
    export = _Export(library, comparisons, folders, Route.of(fragment))
    answers = {name: _pack(body) for name, body in export.answers(drawer)}
    comparison = export.comparison_fragment
    return bundle(answers, fragment if fragment.startswith("#") else "", theme, comparison)


def _pack(body: bytes) -> dict[str, str]:
    """Return an answer as text. A picture is compressed already, and the page needs its address."""
    if body.startswith(PNG_SIGNATURE):
        return {"png": base64.b64encode(body).decode("ascii")}
    return {"gzip": base64.b64encode(gzip.compress(body, 9, mtime=0)).decode("ascii")}


class _Export:
    """Collects the answers of one view."""

    def __init__(
        self, library: Library, comparisons: Comparisons, folders: Sequence[str], route: Route
    ) -> None:
        self._library = library
        self._comparisons = comparisons
        self._folders = folders
        self._route = route
        # Without a metric the page asks for the default one.
        self._asked = {
            "where": tuple(route.query.getlist("where")),
            **{name: route.query.get(name) for name in ("group_by", "at", "baseline", "archived")},
        }
        self._answer = comparisons.answer(View.of(Query(route.query)))
        self._view = self._answer.view
        self._axes = list(dict.fromkeys(("step", route.query.get("x") or "step")))
        self._compared = self._comparison()

    @property
    def comparison_fragment(self) -> str | None:
        """The fragment of the address of the comparison; None without one."""
        compared = self._compared
        return compared.fragment(self._route.query.get("metric")) if compared else None

    def answers(self, drawer: Drawer | None) -> Iterable[tuple[str, bytes]]:
        """Yield address and body of every answer."""
        keys = self._keys()
        yield "api/runs", json_bytes(self._runs(keys))
        yield from self._tables()
        shown = keys[:MAX_RUNS]
        for key in shown:
            run = self._library.run(key)
            details = run_details(run, self._library.row(key))
            if self._route.page == "run":
                yield from answers_with_files(details, key, run.path)
                if details["has_system"]:
                    yield from exported_system(self._library, key, _WINDOW)
            else:
                yield f"api/run/{key}", json_bytes(details_without_files(details))
        for metric in self._metrics():
            yield from self._curves(metric, shown)
            if self._route.page != "run":
                yield from self._bands(metric, set(shown))
        if self._compared is not None:
            yield from self._compared.answers(drawer)

    def _keys(self) -> list[str]:
        if self._route.page == "run":
            self._library.run(self._route.key)
            return [self._route.key]
        return [run_key(run.path) for group in self._groups_in_order() for run in group.runs]

    def _groups_in_order(self) -> list[Group]:
        """Return the groups as the table shows them."""
        comparison = self._answer.comparison
        if comparison is None:
            return list(self._answer.groups)
        by_label = {group.label: group for group in self._answer.groups}
        return [by_label[label] for label in comparison.best_first()]

    def _runs(self, keys: Sequence[str]) -> dict[str, Any]:
        wanted = set(keys)
        changes = self._library.changes(0)
        return {
            "seq": changes.seq,
            "reset": True,
            "found": len(keys),
            "read": len(keys),
            "complete": True,
            "editable": False,
            "version": __version__,
            "folders": self._folders,
            "where": [],
            "now_s": time.time(),
            "runs": [row for row in changes.rows if row["key"] in wanted],
            "removed": [],
            "left_out": [],
        }

    def _metrics(self) -> list[str]:
        """Return the metrics that have a curve in a run of the view."""
        if self._route.page == "run":
            return [name for name in self._library.run(self._route.key).metrics if name != "step"]
        return [metric["name"] for metric in self._metric_choices() if metric["curve"]]

    def _metric_choices(self) -> list[dict[str, Any]]:
        """Return the metrics among which the page of groups offers a choice."""
        metrics: list[dict[str, Any]] = groups_answer(self._answer, self._folders)["metrics"]
        return metrics

    def _tables(self) -> Iterable[tuple[str, bytes]]:
        """Yield the table of groups for the metric of the view and for every other."""
        given = self._route.query.get("metric")
        yield self._table({"metric": given}, self._answer)
        if given is None:
            yield self._table({"metric": self._view.metric}, self._answer)
        listed = self._metric_choices() if self._route.page != "run" else []
        for metric in [one["name"] for one in listed]:
            if metric == self._view.metric:
                continue
            try:
                answer = self._comparisons.answer(replace(self._view, metric=metric))
            except UserError:
                continue
            yield self._table({"metric": metric}, answer)
        if given is not None:
            default = self._comparisons.answer(replace(self._view, metric=View().metric))
            yield self._table({}, default)

    def _table(self, more: Parameters, answer: Answer) -> tuple[str, bytes]:
        name = address("api/groups", {**self._asked, **more})
        return name, json_bytes(groups_answer(answer, self._folders))

    def _curves(self, metric: str, keys: Sequence[str]) -> Iterable[tuple[str, bytes]]:
        for axis in self._axes:
            for key in keys:
                loaded = load_curves(self._library, [key], metric, axis, budget_s=None)
                if not len(loaded[0].points):
                    continue
                name = address("api/curves", {"metric": metric, "runs": key, "x": axis})
                yield name, curves_answer(loaded, metric, axis, _WINDOW, rounded=True)

    def _bands(self, metric: str, keys: set[str]) -> Iterable[tuple[str, bytes]]:
        selection = {name: self._asked[name] for name in ("where", "group_by", "archived")}
        for axis in self._axes:
            for group in self._groups_in_order():
                if len(group.runs) < 2 or not keys & {run_key(run.path) for run in group.runs}:
                    continue
                loaded = load_group_curves(
                    self._library, group, self._view, metric, axis, budget_s=None
                )
                for kind in ("interval", "range"):
                    parameters = {
                        **selection, "metric": metric, "x": axis, "band": kind, "groups": loaded.id,
                    }  # fmt: skip
                    content = bands_answer([loaded], metric, axis, _WINDOW, kind, rounded=True)
                    yield address("api/band", parameters), content

    def _comparison(self) -> ExportedComparison | None:
        """Return the comparison of the groups that the view shows; None if there is none."""
        if self._route.page == "run":
            return None
        return ExportedComparison.of(
            self._comparisons, self._answer, self._compared_groups(), self._asked, self._folders
        )

    def _compared_groups(self) -> list[Group]:
        """Return the groups that the view names, otherwise the baseline and the best."""
        known = self._answer.ids
        chosen = self._route.query.get("groups" if self._route.page == "compare" else "show") or ""
        named = [known[one] for one in dict.fromkeys(chosen.split(",")) if one in known]
        if len(named) < 2:
            comparison = self._answer.comparison
            baseline = comparison.baseline if comparison else None
            named = sorted(self._groups_in_order(), key=lambda group: group.label != baseline)
        return named[:MAX_GROUPS]
