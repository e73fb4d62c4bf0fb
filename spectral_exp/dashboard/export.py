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
from spectral_exp.dashboard.details import diff_answer, run_details
from spectral_exp.dashboard.differences import difference_over_steps
from spectral_exp.dashboard.export_run import with_files, without_files
from spectral_exp.dashboard.group_curves import load_group_curves
from spectral_exp.dashboard.groups import (
    Answer,
    Comparisons,
    choose_groups,
    comparison_answer,
    group_id,
    groups_answer,
)
from spectral_exp.dashboard.identity import run_key
from spectral_exp.dashboard.library import Library
from spectral_exp.dashboard.query import Query, View
from spectral_exp.dashboard.run_files import PNG_SIGNATURE
from spectral_exp.results.group import Group

MAX_RUNS = 100
"""Runs whose curves and details go into a file; the table has all."""

_WINDOW = Window(None, None, 300)
_DIFFERENCE_STEPS = 100
_MAX_DIFFED = 12  # runs

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
) -> str:
    """Return the HTML file of a view. Raises UserError if the fragment cannot be understood."""
    route = Route.of(fragment)
    export = _Export(library, comparisons, folders, route)
    answers = {name: _pack(body) for name, body in export.answers()}
    return bundle(answers, fragment if fragment.startswith("#") else "", theme)


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
        self._view = View.of(Query(route.query))
        self._answer = comparisons.answer(self._view)
        self._axes = list(dict.fromkeys(("step", route.query.get("x") or "step")))

    def answers(self) -> Iterable[tuple[str, bytes]]:
        """Yield address and body of every answer."""
        keys = self._keys()
        yield "api/runs", json_bytes(self._runs(keys))
        yield from self._tables()
        shown = keys[:MAX_RUNS]
        for key in shown:
            run = self._library.run(key)
            details = run_details(run, self._library.row(key))
            if self._route.page == "run":
                yield from with_files(details, key, run.path)
            else:
                yield f"api/run/{key}", json_bytes(without_files(details))
        for metric in self._metrics():
            yield from self._curves(metric, shown)
            if self._route.page != "run":
                yield from self._bands(metric, set(shown))
        if self._route.page == "compare":
            yield from self._comparison()

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
        table = groups_answer(self._answer, self._folders)
        return [metric["name"] for metric in table["metrics"] if metric["curve"]]

    def _tables(self) -> Iterable[tuple[str, bytes]]:
        """Yield the table of groups for the metric of the view and for every other."""
        given = self._route.query.get("metric")
        yield self._table({"metric": given}, self._answer)
        if given is None:
            yield self._table({"metric": self._view.metric}, self._answer)
        for metric in self._metrics() if self._route.page != "run" else ():
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

    def _comparison(self) -> Iterable[tuple[str, bytes]]:
        """Yield the comparison of the chosen groups and the differences to their baseline."""
        ids = [one for one in (self._route.query.get("groups") or "").split(",") if one]
        groups = choose_groups(self._answer, ids)
        labels = {group.label: group for group in groups}
        view = self._view
        if view.baseline not in labels:
            comparison = self._answer.comparison
            default = comparison.baseline if comparison else None
            view = replace(view, baseline=default if default in labels else groups[0].label)
        asked = {
            **self._asked, "metric": view.metric, "baseline": view.baseline,
            "groups": ",".join(ids),
        }  # fmt: skip
        answer = self._comparisons.answer(view)
        yield (
            address("api/compare", asked),
            json_bytes(comparison_answer(answer, ids, self._folders)),
        )
        yield from self._diffs(groups)
        base = labels[view.baseline or groups[0].label]
        selection = {name: self._asked[name] for name in ("where", "group_by", "archived")}
        for group in groups:
            if group is base:
                continue
            parameters = {
                **selection, "metric": view.metric, "a": group_id(base, view),
                "b": group_id(group, view),
            }  # fmt: skip
            try:
                found = difference_over_steps(base, group, view.metric, _DIFFERENCE_STEPS)
            except UserError:
                continue
            yield address("api/difference", parameters), json_bytes({**found, "command": ""})

    def _diffs(self, groups: Sequence[Group]) -> Iterable[tuple[str, bytes]]:
        """Yield the differences of every two runs; of many, of the first run of each group."""
        runs = [run for group in groups for run in group.runs]
        if len(runs) > _MAX_DIFFED:
            runs = [group.runs[0] for group in groups]
        for one in runs:
            for other in runs:
                if one is not other:
                    pair = {"a": run_key(one.path), "b": run_key(other.path)}
                    yield address("api/diff", pair), json_bytes(diff_answer(one, other))
