"""Build the monitoring components of a run, those of the user among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, get_type_hints

from spectral_exp.config.construct import Constructor
from spectral_exp.config.packages import names_own_part
from spectral_exp.config.roles import NotAPartError, Role
from spectral_exp.core.errors import nearest
from spectral_exp.monitoring import (
    Backup,
    CheckpointManager,
    Companion,
    ConfigTracker,
    MetricsLogger,
    SpectraLogger,
    SystemMetrics,
    VisualizationManager,
)
from spectral_exp.monitoring.component import Component, Observer
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.metric_names import LANGUAGE_MODEL_UNITS

COMPONENTS: dict[str, type[Component]] = {
    "backup": Backup,
    "checkpoint": CheckpointManager,
    "metrics": MetricsLogger,
    "visualization": VisualizationManager,
    "spectra": SpectraLogger,
    "tracking": ConfigTracker,
    "system": SystemMetrics,
    "companion": Companion,
}
"""Name below `monitoring` -> class. Add your own component, a subclass of `Observer`, here."""

_HOME = "spectral_exp.monitoring"
_ROLE = Role(Observer, _HOME)


def make_components(
    config: Mapping[str, Any], paths: RunPaths, make: Constructor, **offered: Any
) -> dict[str, Any]:
    """Build the components in the order of `COMPONENTS`; `offered` are further arguments."""
    nodes = _nodes(config)
    kinds: dict[str, type[Component]] = {
        **COMPONENTS,
        **{name: Observer for name, node in nodes.items() if names_own_part(node, make.packages)},
    }
    make.problems += [
        f"monitoring.{key} is not a component{nearest(key, COMPONENTS)}; choose from "
        f"{', '.join(COMPONENTS)}"
        for key in nodes
        if key not in kinds
    ]
    offered |= {
        "experiment_dir": paths.root,
        "log_dir": paths.logs,
        "viz_dir": paths.visualizations,
        "outputs": config.get("outputs"),
        "component_files": component_files(config, backed_up_only=True),
        "units": LANGUAGE_MODEL_UNITS,
    }
    components = {}
    for name, kind in kinds.items():
        if name not in nodes and not kind.is_required:
            continue
        role = Role(kind, _HOME)
        components[name] = make.make(nodes.get(name), f"monitoring.{name}", role, **offered)
        if name == "backup" and components[name] is not None:
            offered["on_durable"] = components[name].submit
        offered["system"] = components.get("system")
    return components


def without_components(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose monitoring components are all disabled or absent."""
    nodes = config["monitoring"]
    disabled = {
        name: {**node, **({"url": None} if name == "backup" else {"enabled": False})}
        for name, node in nodes.items()
        if name in COMPONENTS and not issubclass(COMPONENTS[name], Observer)
    }
    return {**config, "monitoring": disabled}


def component_files(config: Mapping[str, Any], *, backed_up_only: bool = False) -> list[str]:
    """Return the glob patterns, relative to a run directory, of the components' files.

    Those of the user's own components in `config` are among them.
    """
    kinds = [*COMPONENTS.values(), *_own_kinds(config)]
    return [
        pattern
        for kind in kinds
        if kind.is_backed_up or not backed_up_only
        for pattern in kind.files
    ]


def component_prefixes() -> tuple[str, ...]:
    """Return the prefixes of the components' metrics that measure the machine, not training."""
    return _machine_prefixes(COMPONENTS.values())


def own_machine_prefixes(components: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the same prefixes of the user's own components; a record keeps them."""
    return _machine_prefixes(
        type(part) for name, part in components.items() if name not in COMPONENTS
    )


def _machine_prefixes(kinds: Iterable[type[Component]]) -> tuple[str, ...]:
    return tuple(
        prefix for kind in kinds if kind.measures_machine for prefix in kind.metric_prefixes
    )


def _own_kinds(config: Mapping[str, Any]) -> list[type[Component]]:
    """Return the classes of the user's own components; those with mistakes are left out."""
    make = Constructor(config)
    kinds = []
    for name, node in _nodes(config).items():
        if name not in COMPONENTS and names_own_part(node, make.packages):
            with suppress(NotAPartError):  # reported when the component is built
                found = _ROLE.find(str(node["_target_"]), make.packages)
                kind = found if isinstance(found, type) else get_type_hints(found)["return"]
                kinds.append(kind)
    return kinds


def _nodes(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nodes = config.get("monitoring")
    return nodes if isinstance(nodes, Mapping) else {}
