"""The package's parts know each other in one direction only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spectral_exp

PACKAGE = Path(spectral_exp.__file__).parent
MODULES = {
    ".".join(("spectral_exp", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

ORDER: list[set[str]] = [
    {"core"},
    {"runs", "models", "optim", "losses", "data", "distributed"},
    {"plots"},
    {"monitoring", "results"},
    {"training", "dashboard"},
    {"config"},
    {"verification", "sweeps"},
    {"submit"},
    {"commands", "bench", "train", "demo_monitoring"},
    {"__main__", "api"},
]
"""Every part of the package, from the lowest: each may import those of earlier sets and none
besides."""

ONLY_IN = {
    "hydra": {"train", "config", "sweeps"},
    "omegaconf": {"train", "config", "sweeps"},
    "torch.distributed": {"distributed", "bench"},  # a peer to compare with
}


def imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Yield the absolute names of all imports of a module, also inside functions, except those for
    type checkers."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            base = parents[: len(parents) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return set(
        imported(ast.parse(path.read_text(encoding="utf-8")), module, path.name == "__init__.py")
    )


def part_of(name: str) -> str | None:
    """The part of our package that an absolute name lies in, or None for other packages."""
    words = name.split(".")
    return words[1] if words[0] == "spectral_exp" and len(words) > 1 else None


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_order_names_every_part() -> None:
    parts = [part for parts in ORDER for part in parts]
    assert sorted(parts) == sorted({part for module in MODULES if (part := part_of(module))})


@pytest.mark.parametrize("module", MODULES)
def test_parts_import_only_lower_ones(module: str) -> None:
    part = part_of(module)
    others = {other for name in imports_of(module) if (other := part_of(name)) not in (None, part)}
    position = next((i for i, parts in enumerate(ORDER) if part in parts), 0)
    # The package itself gives its version; the program at the top is found by its name.
    assert others <= set().union(*ORDER[:position]) | {"__version__"}


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: known_modules(module) for module in MODULES}
    order: list[str] = []
    while ready := [module for module, needed in graph.items() if needed <= set(order)]:
        order += ready
        graph = {module: needed for module, needed in graph.items() if module not in ready}
    assert not graph


def known_modules(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    known = set()
    for name in imports_of(module):
        parent = name.rpartition(".")[0]
        known |= {found for found in (name if name in MODULES else parent,) if found in MODULES}
    return known - {module}


def test_runner_receives_built_objects() -> None:
    parts = {part_of(name) for name in imports_of("spectral_exp.training.runner")}
    assert not parts & {"models", "optim", "losses", "data"}


@pytest.mark.slow
@pytest.mark.parametrize("package", ONLY_IN)
def test_packages_have_one_door(package: str) -> None:
    users = {
        part_of(module)
        for module in MODULES
        if any(within(name, package) for name in imports_of(module))
    }
    assert users <= ONLY_IN[package]


def test_walker_sees_every_form_of_import() -> None:
    code = """
import a.b, c as d
from e import f
from . import g
from ..h import i
if TYPE_CHECKING:
    import hidden
def function():
    import inside
"""
    found = set(imported(ast.parse(code), "spectral_exp.x.y", is_package=False))
    assert found == {"a.b", "c", "e.f", "spectral_exp.x.g", "spectral_exp.h.i", "inside"}


def loaded_with(modules: str) -> set[str]:
    """The top-level packages that importing `modules` loads, in a process of its own."""
    code = f"import sys, {modules}; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    loaded = {name.partition(".")[0] for name in printed.split()}
    assert "spectral_exp" in loaded
    return loaded


def test_monitoring_is_light() -> None:
    assert not loaded_with("spectral_exp.monitoring") & {
        "hydra",
        "omegaconf",
        "matplotlib",
        "torch",
    }


def test_results_are_light() -> None:
    modules = [module for module in MODULES if within(module, "spectral_exp.results")]
    assert not loaded_with(", ".join([*modules, "spectral_exp.commands.compare"])) & {
        "hydra",
        "omegaconf",
        "torch",
    }


def test_monitoring_exports_every_name_it_lists() -> None:
    from spectral_exp import monitoring

    names = [
        "Backup",
        "CheckpointManager",
        "Companion",
        "ConfigTracker",
        "MetricsLogger",
        "SpectraLogger",
        "SystemMetrics",
        "VisualizationManager",
    ]
    assert sorted(monitoring.__all__) == [
        *names,
        "create_experiment_directory",
        "generate_experiment_id",
        "open_experiment",
    ]
    assert all(callable(getattr(monitoring, name)) for name in monitoring.__all__)
