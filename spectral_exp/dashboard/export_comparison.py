"""What an exported file holds of a comparison: tables, differences over steps, figures, settings.

The reader of a file cannot ask for another comparison, so its page Compare leads to this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from spectral_exp.core.errors import UserError
from spectral_exp.dashboard.addresses import address
from spectral_exp.dashboard.answers import json_bytes
from spectral_exp.dashboard.details import diff_answer
from spectral_exp.dashboard.differences import difference_over_steps
from spectral_exp.dashboard.drawing import Drawer, Request
from spectral_exp.dashboard.group_tables import comparison_answer
from spectral_exp.dashboard.groups import Answer, Comparisons, group_id
from spectral_exp.dashboard.identity import run_key
from spectral_exp.results.group import Group

MAX_GROUPS = 8
_DIFFERENCE_STEPS = 100
_MAX_DIFFED = 12  # runs
_THEMES = ("light", "dark")

Parameters = Mapping[str, Any]
Answers = Iterator[tuple[str, bytes]]


@dataclass(frozen=True)
class ExportedComparison:
    """A comparison for a file.

    Attributes:
        answer: the groups of the view, for the baseline of the comparison.
        groups: those that are compared, one of them the baseline.
        asked: the parameters of the view, without its metric.
        folders: of the runs.
    """

    answer: Answer
    groups: Sequence[Group]
    asked: Parameters
    folders: Sequence[str]

    @classmethod
    def of(
        cls,
        comparisons: Comparisons,
        answer: Answer,
        groups: Sequence[Group],
        asked: Parameters,
        folders: Sequence[str],
    ) -> ExportedComparison | None:
        """Return the comparison of some groups of an answer; None if they cannot be compared."""
        if len(groups) < 2 or answer.comparison is None:
            return None
        labels = [group.label for group in groups]
        choices = (answer.view.baseline, answer.comparison.baseline, labels[0])
        baseline = next(label for label in choices if label in labels)
        view = replace(answer.view, baseline=baseline)
        return cls(comparisons.answer(view), groups, asked, folders)

    @property
    def ids(self) -> list[str]:
        """The ids of the groups."""
        return [group_id(group, self.answer.view) for group in self.groups]

    def fragment(self, metric: str | None) -> str:
        """Return the fragment of the address of its page; None stands for the default metric."""
        chosen = {**self.asked, "metric": metric, "groups": ",".join(self.ids)}
        given = {name: value for name, value in chosen.items() if value}
        return f"#/compare?{urlencode(given, doseq=True)}"

    def answers(self, drawer: Drawer | None) -> Answers:
        """Yield address and body of every answer; figures only with a drawer."""
        view, ids = self.answer.view, self.ids
        chosen = {
            **self.asked, "metric": view.metric, "baseline": view.baseline, "groups": ",".join(ids),
        }  # fmt: skip
        found = comparison_answer(self.answer, ids, self.folders)
        yield address("api/compare", chosen), json_bytes(found)
        yield from self._differences()
        yield from self._settings()
        if drawer is not None:
            yield from self._figures(drawer, chosen, found)

    def _differences(self) -> Answers:
        """Yield the difference of each group to the baseline over the steps."""
        view = self.answer.view
        base = next(group for group in self.groups if group.label == view.baseline)
        selection = {name: self.asked[name] for name in ("where", "group_by", "archived")}
        for group in self.groups:
            if group is base:
                continue
            parameters = {
                **selection, "metric": view.metric, "a": group_id(base, view),
                "b": group_id(group, view),
            }  # fmt: skip
            try:
                found = difference_over_steps(base, group, view.metric, _DIFFERENCE_STEPS)
            except UserError:
                found = {"steps": []}
            yield address("api/difference", parameters), json_bytes({**found, "command": ""})

    def _settings(self) -> Answers:
        """Yield the differences of every two runs; of many, of the first run of each group."""
        runs = [run for group in self.groups for run in group.runs]
        if len(runs) > _MAX_DIFFED:
            runs = [group.runs[0] for group in self.groups]
        for one in runs:
            for other in runs:
                if one is not other:
                    pair = {"a": run_key(one.path), "b": run_key(other.path)}
                    yield address("api/diff", pair), json_bytes(diff_answer(one, other))

    def _figures(self, drawer: Drawer, chosen: Parameters, found: Parameters) -> Answers:
        """Yield the figures in both themes; none if they cannot be drawn."""
        request = Request.of(self.answer, self.ids)
        try:
            drawn = {theme: drawer.draw_all(replace(request, theme=theme)) for theme in _THEMES}
        except UserError:
            return
        keys = ("name", "caption", "is_empty")
        names = [{key: figure[key] for key in keys} for figure in drawn["light"]]
        listed = address("api/compare", {**chosen, "figures": 1})
        yield listed, json_bytes({**found, "figures": names})
        for theme, figures in drawn.items():
            for figure in figures:
                if "content" in figure:
                    path = f"api/figure/{figure['name']}.svg"
                    yield address(path, {**chosen, "theme": theme}), figure["content"]
