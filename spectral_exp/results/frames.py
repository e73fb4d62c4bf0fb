"""Runs as data frames: `load_runs("outputs").runs_pandas()`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.errors import explain_missing
from spectral_exp.core.json_value import jsonable
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.runs.evaluations import score_names
from spectral_exp.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Kind = Literal["bool", "int", "float", "text"]

_OWN_COLUMNS: dict[str, tuple[Kind, Callable[[Run], Any]]] = {
    "run_id": ("text", lambda run: run.run_id),
    "path": ("text", lambda run: str(run.path)),
    "name": ("text", lambda run: run.name),
    "seed": ("int", lambda run: run.seed),
    "status": ("text", lambda run: run.status),
    "config_hash": ("text", lambda run: run.config_hash),
    "steps": ("int", lambda run: run.last_step),
    "n_parameters": ("int", lambda run: run.n_parameters),
    "train_s": ("float", lambda run: run.train_s),
    "tags": ("text", lambda run: ",".join(run.marks.tags)),
    "note": ("text", lambda run: run.marks.note),
    "pinned": ("bool", lambda run: run.marks.is_pinned),
    "archived": ("bool", lambda run: run.marks.is_archived),
}
_STEPS = frozenset({"step", "val_step"})  # entries of the final metrics that are no metrics
_MAX_INT = 2**63


@dataclass(frozen=True)
class LoadedRuns:
    """Runs, and frames of them.

    A frame of runs has one row per run: `run_id`, `path`, `name`, `seed`, `status`, `config_hash`,
    `steps`, `n_parameters`, `train_s`, the marks `tags` (separated by commas), `note`, `pinned` and
    `archived`, then `settings.NAME` for every setting by its dotted name,
    `final.METRIC`, and `best.METRIC` for metrics of which it is known which values are better
    (values as in `Run.value`; the best one flatters a run), and `bpb@test:256` and the like for
    each score that was recorded by `spectral-exp evaluate`. A setting whose values have different
    types becomes text.

    A frame of metrics has one row per run and logged step: `run_id`, `step`, and a column per
    metric. A value that was not logged is null in polars and NaN in pandas.

    Attributes:
        runs: sorted by name, seed and path.
        left_out: path and reason of every folder that looks like a run and could not be used.
        n_archived: number of archived runs that were left out.
    """

    runs: Sequence[Run]
    left_out: Sequence[tuple[Path, str]] = ()
    n_archived: int = 0

    def runs_pandas(self) -> pd.DataFrame:
        """Return the frame of runs. Raises UserError if pandas is not installed."""
        pandas = _import("pandas")
        dtypes = {"bool": "boolean", "int": "Int64", "float": "float64", "text": "string"}
        columns = {
            name: pandas.array(values, dtype=dtypes[kind])
            for name, (kind, values) in self._run_columns().items()
        }
        return pandas.DataFrame(columns)

    def runs_polars(self) -> pl.DataFrame:
        """Return the frame of runs. Raises UserError if polars is not installed."""
        polars = _import("polars")
        dtypes = {
            "bool": polars.Boolean,
            "int": polars.Int64,
            "float": polars.Float64,
            "text": polars.String,
        }
        columns = [
            polars.Series(name, values, dtype=dtypes[kind])
            for name, (kind, values) in self._run_columns().items()
        ]
        frame: pl.DataFrame = polars.DataFrame(columns)
        return frame

    def metrics_pandas(self) -> pd.DataFrame:
        """Return the frame of metrics.

        Raises:
            UserError: pandas is not installed, or a file cannot be read any more.
        """
        pandas = _import("pandas")
        ids, steps, columns = self._metric_columns()
        metrics = {name: values for name, (values, _) in columns.items()}
        return pandas.DataFrame(
            {"run_id": pandas.array(ids, dtype="string"), "step": steps, **metrics}
        )

    def metrics_polars(self) -> pl.DataFrame:
        """Return the frame of metrics.

        Raises:
            UserError: polars is not installed, or a file cannot be read any more.
        """
        polars = _import("polars")
        ids, steps, columns = self._metric_columns()
        first = [polars.Series("run_id", ids, dtype=polars.String), polars.Series("step", steps)]
        frame: pl.DataFrame = polars.DataFrame(first).with_columns(
            polars.when(polars.lit(polars.Series(is_logged)))
            .then(polars.lit(polars.Series(values)))
            .alias(name)
            for name, (values, is_logged) in columns.items()
        )
        return frame

    def _run_columns(self) -> dict[str, tuple[Kind, list[Any]]]:
        """Return type and values of every column of the frame of runs."""
        columns = {
            name: _make_uniform([value_of(run) for run in self.runs], kind)
            for name, (kind, value_of) in _OWN_COLUMNS.items()
        }
        for section in (_settings, _final_values, _best_values, _scores):
            found = [section(run) for run in self.runs]
            for name in dict.fromkeys(name for values in found for name in values):
                columns[name] = _make_uniform([values.get(name) for values in found])
        return columns

    def _metric_columns(
        self,
    ) -> tuple[
        list[str],
        NDArray[np.int64],
        dict[str, tuple[NDArray[np.float64], NDArray[np.bool_]]],
    ]:
        """Return run ids, steps, and for each metric its values and where they were logged."""
        series = [{name: run.series(name) for name in run.metrics} for run in self.runs]
        steps = [
            np.unique(np.concatenate([np.empty(0), *(one.steps for one in of_run.values())]))
            for of_run in series
        ]
        starts = np.cumsum([0, *map(len, steps)])
        columns = {}
        for name in dict.fromkeys(name for of_run in series for name in of_run):
            values = np.full(starts[-1], np.nan)
            is_logged = np.zeros(starts[-1], dtype=bool)
            for of_run, its_steps, start in zip(series, steps, starts, strict=False):
                if name in of_run:
                    places = start + np.searchsorted(its_steps, of_run[name].steps)
                    values[places] = of_run[name].values
                    is_logged[places] = True
            columns[name] = (values, is_logged)
        ids = [run.run_id for run, its in zip(self.runs, steps, strict=True) for _ in its]
        return ids, np.concatenate([np.empty(0), *steps]).astype(np.int64), columns


def load_runs(
    folders: str | Path | Iterable[str | Path], *, index: bool = True, archived: bool = False
) -> LoadedRuns:
    """Load the runs in and below some folders.

    Example:
        ```python
        from spectral_exp.results import load_runs

        loaded = load_runs("outputs")
        runs = loaded.runs_pandas()  # or runs_polars()
        print(runs.groupby("name")["final.val_bpb"].mean())
        metrics = loaded.metrics_pandas()  # or metrics_polars()
        ```

    The frames need `pip install 'spectral-exp[frames]'`, the runs themselves do not.

    Args:
        folders: a folder or several: run directories, sweeps, or folders that hold some.
        index: whether to keep an index on disk, which makes the next call fast.
        archived: whether to include archived runs.

    Raises:
        UserError: a folder does not exist.
    """
    places = [folders] if isinstance(folders, str | Path) else list(folders)
    found = ResultsAggregator(places, index=index).select((), archived=archived)
    return LoadedRuns(found.runs, found.left_out, len(found.archived))


def _import(name: Literal["pandas", "polars"]) -> ModuleType | Any:
    with explain_missing(f"frames need {name}, which is not installed", "frames"):
        return importlib.import_module(name)


def _metric_names(run: Run) -> list[str]:
    reported = run.results.get("final_metrics") or {}
    return [name for name in dict.fromkeys((*run.metrics, *reported)) if name not in _STEPS]


def _settings(run: Run) -> dict[str, Any]:
    return {f"settings.{name}": value for name, value in run.all_settings.items()}


def _final_values(run: Run) -> dict[str, float | None]:
    return {f"final.{name}": run.value(name) for name in _metric_names(run)}


def _scores(run: Run) -> dict[str, float | None]:
    return {name: run.value(name) for name in score_names(run.evaluations)}


def _best_values(run: Run) -> dict[str, float]:
    values = {name: run.value(name, "best") for name in _metric_names(run)}
    return {f"best.{name}": value for name, value in values.items() if value is not None}


def _make_uniform(values: Sequence[Any], kind: Kind | None = None) -> tuple[Kind, list[Any]]:
    """Return values of one type, None where there is none, and the type."""
    known = [value for value in values if value is not None]
    if kind is None:
        kind = _kind_of(known)
    if kind == "int" and any(abs(value) >= _MAX_INT for value in known):
        kind = "text"
    return kind, [None if value is None else _CONVERT[kind](value) for value in values]


def _kind_of(values: Sequence[Any]) -> Kind:
    types = set(map(type, values))
    if types <= {bool} and types:
        return "bool"
    if types <= {int} and types:
        return "int"
    return "float" if types <= {int, float} else "text"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


_CONVERT: dict[Kind, Callable[[Any], Any]] = {
    "bool": bool,
    "int": int,
    "float": float,
    "text": _text,
}
