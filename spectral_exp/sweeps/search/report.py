"""The best runs of a search, read from the runs of its sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectral_exp.config.search import SearchSettings, read_search_settings
from spectral_exp.core.errors import UserError
from spectral_exp.core.wording import format_count
from spectral_exp.results.table_formats import Cell, TableReport, TextTable
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import load_run
from spectral_exp.runs.record import ConfigRecord, read_config
from spectral_exp.sweeps.names import find_folders
from spectral_exp.sweeps.search.trials import Trial, last_overrides, read_trial

_MAX_LEADERS = 10
_SELECTION_NOTE = (
    "the best of many values is better than it would be again; train the best settings with other "
    "seeds before you compare them with others"
)


@dataclass(frozen=True)
class SearchReport:
    """The state of a search.

    Attributes:
        settings: of the search.
        counts: state -> number of trials.
        leaders: the best trials, or with several objectives the Pareto set.
    """

    settings: SearchSettings
    counts: dict[str, int]
    leaders: Sequence[Trial]

    def rows(self) -> list[dict[str, Any]]:
        """Return run, objectives and searched settings of each leader."""
        rows = []
        for trial in self.leaders:
            given = last_overrides(trial.overrides)
            values = dict(zip(self.settings.objectives, trial.values or (), strict=True))
            searched = {
                name: given[name].partition("=")[2]
                for name in self.settings.settings
                if name in given
            }
            rows.append({"run": trial.name, **values, **searched})
        return rows

    def content(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "objectives": list(self.settings.objectives),
            "counts": dict(self.counts),
            "leaders": self.rows(),
        }

    def table(self) -> TextTable:
        """Return the leaders as a table."""
        names = self.settings.objectives
        states = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        runs = f"{format_count(sum(self.counts.values()), 'run')} ({states})"
        title = f"search: the best of {runs} by {names[0]}"
        if len(names) > 1:
            title = f"search: the Pareto set of {', '.join(names)} in {runs}"
        columns = ["run", *self.settings.settings, *names]
        rows = [
            [
                Cell(f"{value:.6g}" if isinstance(value, float) else str(value))
                for value in (row.get(column, "") for column in columns)
            ]
            for row in self.rows()
        ]
        return TextTable(title, columns, rows, n_texts=1)


def find_leaders(trials: Sequence[Trial], settings: SearchSettings) -> list[Trial]:
    """Return the best completed trials, the best in the first objective first.

    With several objectives they are the Pareto set: the trials that no other beats in one objective
    without being worse in another. With one objective they are ten at most.
    """
    signs = [1 if lower else -1 for lower in settings.lower_is_better]

    def costs(trial: Trial) -> list[float]:
        return [sign * value for sign, value in zip(signs, trial.values or (), strict=True)]

    done = [trial for trial in trials if trial.state == "done" and trial.values]
    done.sort(key=costs)
    if len(signs) == 1:
        return done[:_MAX_LEADERS]
    front: list[Trial] = []
    for trial in done:  # only an earlier one can beat a trial
        cost = costs(trial)
        others = [costs(other) for other in front]
        if not any(o != cost and all(map(float.__le__, o, cost)) for o in others):
            front.append(trial)
    return front


def search_text(sweep: Path) -> str:
    """Return the leaders of the searches of a sweep as text, "" without searches."""
    searches = read_searches(sweep)
    notes = [_SELECTION_NOTE] if any(search.leaders for search in searches) else []
    tables = [search.table() for search in searches]
    return TableReport(tables, [("notes", notes)]).render("table") if tables else ""


def read_searches(sweep: Path) -> list[SearchReport]:
    """Return the searches whose runs lie in the folder of a sweep; runs that are damaged are left
    out."""
    found: dict[tuple[Any, ...], tuple[SearchSettings, list[Trial]]] = {}
    for name in find_folders(sweep).values():
        try:
            record, _ = read_config(RunPaths(sweep / name).config_file)
            if not _belongs_to_search(record):
                continue
            settings = read_search_settings(record.get("config", {}))
            trial = read_trial(load_run(sweep / name), settings)
        except UserError:
            continue
        key = (tuple(settings.objectives), tuple(settings.settings))
        found.setdefault(key, (settings, []))[1].append(trial)
    return [
        SearchReport(
            settings,
            dict(Counter(trial.state for trial in trials)),
            find_leaders(trials, settings),
        )
        for settings, trials in found.values()
    ]


def _belongs_to_search(record: ConfigRecord) -> bool:
    search = record.get("config", {}).get("search")
    return isinstance(search, Mapping) and search.get("sampler") is not None
