"""The groups of a view and their comparison, computed once for a state of the runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spectral_exp.core.errors import UserError, require
from spectral_exp.dashboard.identity import experiment_of, short_hash
from spectral_exp.dashboard.library import Library
from spectral_exp.dashboard.query import View
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.compared import Comparison
from spectral_exp.results.comparison import compare
from spectral_exp.results.group import Group
from spectral_exp.results.names import value_text
from spectral_exp.runs.run import usual_metric

_KEPT_ANSWERS = 16
_MAX_COMPARED_AT_ONCE = 50  # groups; the comparison of more takes longer than opening the page


@dataclass(frozen=True)
class Answer:
    """The groups of a view at one moment.

    Attributes:
        seq: number of the library's last change.
        view: with the metric that was chosen if none was named.
        chosen: the runs that meet the conditions.
        groups: of these runs.
        comparison: of the groups; None if no run has the metric, as `problem` explains, and in an
            outline.
        problem: why there is no comparison, or "".
        is_outline: whether the groups have not been compared yet.
    """

    seq: int
    view: View
    chosen: ResultsAggregator
    groups: Sequence[Group]
    comparison: Comparison | None
    problem: str
    is_outline: bool = False

    @property
    def ids(self) -> dict[str, Group]:
        """The groups by their ids."""
        return {group_id(group, self.view): group for group in self.groups}


class Comparisons:
    """Computes comparisons, each once for a state of the runs; thread-safe."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._answers: OrderedDict[View, tuple[threading.Lock, Answer | None]] = OrderedDict()

    def answer(self, view: View) -> Answer:
        """Return the groups of a view. Raises UserError if a condition cannot be understood."""
        with self._lock:
            lock, _ = self._answers.setdefault(view, (threading.Lock(), None))
        with lock:  # of equal requests, one computes
            seq, aggregator = self._library.aggregator()
            with self._lock:
                _, known = self._answers.get(view, (lock, None))
            if known is not None and known.seq == seq:
                return known
            answer = compute(seq, aggregator, view)
            with self._lock:
                self._answers[view] = (lock, answer)
                self._answers.move_to_end(view)
                while len(self._answers) > _KEPT_ANSWERS:
                    self._answers.popitem(last=False)
            return answer

    def quick_answer(self, view: View) -> Answer:
        """Return the groups of a view, without their comparison if they are many.

        Raises UserError if a condition cannot be understood.
        """
        outline = outline_groups(*self._library.aggregator(), view)
        return outline if len(outline.groups) > _MAX_COMPARED_AT_ONCE else self.answer(view)


def outline_groups(seq: int, aggregator: ResultsAggregator, view: View) -> Answer:
    """Return the groups of a view without their comparison. Raises UserError as `compute`."""
    # Without runs no setting has a name.
    conditions = view.where if aggregator.runs else ()
    chosen = aggregator.select(conditions, archived=view.archived)
    groups = chosen.groups(view.group_by) if chosen.runs else []
    view = view if view.metric else replace(view, metric=usual_metric(chosen.runs))
    return Answer(seq, view, chosen, groups, None, "", is_outline=True)


def compute(seq: int, aggregator: ResultsAggregator, view: View) -> Answer:
    """Return the groups of a view. Raises UserError if a condition cannot be understood."""
    found = outline_groups(seq, aggregator, view)
    view = found.view
    try:
        comparison = compare(found.groups, view.metric, at=view.at, baseline=view.baseline)
    except UserError as error:
        return replace(found, problem=str(error), is_outline=False)
    return replace(found, comparison=comparison, is_outline=False)


def choose_groups(answer: Answer, ids: Sequence[str]) -> list[Group]:
    """Return the groups with these ids in their order, all if there are none.

    Raises:
        SettingError: a group is not there.
    """
    known = answer.ids
    for one in ids:
        require(one in known, "groups", one, "the id of a group")
    return [known[one] for one in ids] if ids else list(answer.groups)


def compare_groups(answer: Answer, ids: Sequence[str]) -> Comparison:
    """Return the comparison of some groups, corrected for the number of their differences.

    Raises:
        UserError: a group is not there, or none has the metric.
    """
    groups, view = choose_groups(answer, ids), answer.view
    labels = [group.label for group in groups]
    baseline = view.baseline if view.baseline in labels else None
    return compare(groups, view.metric, at=view.at, baseline=baseline)


def group_id(group: Group, view: View) -> str:
    """Return an id of a group that depends on its settings only."""
    if view.group_by is None:
        return short_hash(repr(experiment_of(group.runs[0])).encode())
    values = {name: value_text(value) for name, value in group.key.items()}
    return short_hash(repr(values).encode())
