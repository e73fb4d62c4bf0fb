"""The settings of a search for good settings: group `search` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spectral_exp.config.construct import Constructor
from spectral_exp.config.roles import Role
from spectral_exp.core.errors import SettingError, nearest, require
from spectral_exp.runs.metric_names import METRICS, metric_info

PRUNABLE = ("val_loss", "perplexity", "val_bpb")
"""Metrics of every validation, by which a run can be compared with others while it trains."""


@dataclass(frozen=True)
class SearchSettings:
    """How a search proposes runs, and when it ends; each key is explained in conf/search.

    Attributes:
        sampler: None if the command is no search.
        settings: names of the searched settings, filled in for each run.
    """

    sampler: Literal["tpe", "random", "grid", "cmaes"] | None = None
    objectives: list[str] = field(default_factory=lambda: ["val_bpb"])
    trials: int | None = 20
    total_steps: int | None = None
    total_time_s: float | None = None
    seed: int = 0
    startup_trials: int = 10
    pruner: Literal["none", "asha", "median"] = "none"
    min_steps: int | None = None
    reduction_factor: int = 4
    settings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._check_objectives()
        for name in ("trials", "total_steps", "total_time_s", "min_steps"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "> 0, or null for no limit")
        require(0 <= self.seed < 2**32, "seed", self.seed, ">= 0 and < 2^32")
        require(self.startup_trials >= 1, "startup_trials", self.startup_trials, ">= 1")
        require(self.reduction_factor >= 2, "reduction_factor", self.reduction_factor, ">= 2")

    def _check_objectives(self) -> None:
        names = self.objectives
        shown = "[" + ",".join(names) + "]"
        require(bool(names), "objectives", shown, "a list of at least one metric")
        require(len({*names}) == len(names), "objectives", shown, "different metrics")
        for name in names:
            if metric_info(name).direction is None:
                known = [known for known, metric in METRICS.items() if metric.direction]
                raise SettingError(
                    "objectives",
                    shown,
                    f"metrics for which lower or higher values are better, such as "
                    f"{', '.join(known)}; {name} has no such direction{nearest(name, known)}",
                )
        if self.sampler == "cmaes":
            allowed = "a single metric with search=cmaes; search=tpe takes several"
            require(len(names) == 1, "objectives", shown, allowed)
        if self.pruner != "none":
            allowed = f"one of [{'], ['.join(PRUNABLE)}] with search.pruner={self.pruner}"
            require(len(names) == 1 and names[0] in PRUNABLE, "objectives", shown, allowed)

    @property
    def lower_is_better(self) -> list[bool]:
        """For each objective, whether low values are better."""
        return [metric_info(name).direction == "lower" for name in self.objectives]


def make_search_settings(config: Mapping[str, Any], make: Constructor) -> SearchSettings | None:
    """Return the settings of the search, or None after adding their mistakes to the problems.

    Args:
        config: plain resolved configuration of a run.
        make: collects the problems.
    """
    node = config.get("search") or {}
    if not isinstance(node, Mapping):
        make.problems.append(f"search={node} must be the name of an option, such as tpe or none")
        return None
    kind = SearchSettings
    node = {**node, "_target_": f"{kind.__module__}.{kind.__name__}"}
    settings: SearchSettings | None = make.make(node, "search", Role(kind, kind.__module__))
    return settings


def read_search_settings(config: Mapping[str, Any]) -> SearchSettings:
    """Return the settings of the search in a plain resolved configuration.

    Raises:
        UserError: they have mistakes.
    """
    make = Constructor(config)
    settings = make_search_settings(config, make)
    make.finish()
    assert settings is not None
    return settings


def refuse_unreadable_runs(config: Mapping[str, Any], settings: SearchSettings) -> None:
    """Raise a UserError if the runs of a search do not write the files that it reads.

    Args:
        config: plain resolved configuration of its runs.
        settings: of the search.
    """
    monitoring, training = config["monitoring"], config["training"]
    for name in ("metrics", "tracking"):
        require(
            monitoring[name]["enabled"],
            f"monitoring/{name}",
            "off",
            f"on with search={settings.sampler}, which reads the files of the runs",
        )
    interval, last = training["eval_interval"], training["max_steps"]
    # Values of other types are reported with the settings of training.
    if settings.pruner != "none" and isinstance(interval, int) and isinstance(last, int):
        require(
            interval < last,
            "training.eval_interval",
            interval,
            f"< training.max_steps={last} with search.pruner={settings.pruner}, which compares "
            "runs at their validations",
        )
