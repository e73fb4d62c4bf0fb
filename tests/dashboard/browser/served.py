"""A dashboard in a process of its own, and pages that show it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT
from tests.results.made_runs import make_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.exe"

ERROR = "RuntimeError: " + 400 * "long"

_SCORE = {"step": 100, "stride": 64, "block_size": 256, "loss": 1.5, "bpb": 2.1643}
EVALUATIONS = [
    {**_SCORE, "text": f"{HOSTILE}{'long' * 500}", "bpb": "NaN", "loss": 1e300, "windows": 2**53},
    {**_SCORE, "text": "test", "time": "2026-01-02 03:04:05", "standard_error_bpb": 0.0123},
    {**_SCORE, "text": ["no text"]},
]
"""Lines of `evaluations.jsonl`; the last one is damaged."""


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """Serve a folder; yield the address with its token."""
    command = [sys.executable, "-m", "spectral_exp", "dashboard", str(folder)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--no-open", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("dashboard: "), line
        yield line.split()[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def visit(
    open_page: Callable[..., Page], address: str, view: str = "#/runs", **options: object
) -> Page:
    """Open a view of a dashboard in a new page."""
    origin = address.partition("?")[0]
    page = open_page(origin, **options)
    # The token becomes a cookie of the context.
    page.context.request.get(address)
    page.goto(origin + view)
    return page


def make_runs(folder: Path) -> Path:
    """Write three groups, one of which is better than the baseline, one broken off and hostile."""
    for seed in range(1, 5):
        make_run(folder, "classic", seed, val_bpb=2.5 + 0.01 * seed)
        make_run(folder, "wave", seed, val_bpb=2.1 + 0.012 * seed, parameters=820_000)
    changed = {"changed_settings": {"name": {"default": "custom"}, "model.mlp.activation": {}}}
    run = make_run(folder, "phasor", 1, settings={"name": HOSTILE}, status="failed", record=changed)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "error": ERROR}))
    lines = [f"line {number} <b>bold</b>" for number in range(5000)]
    lines[1234] = "[WARNING] the needle is here"
    (run / "train.log").write_text("\n".join(lines) + "\n")
    (run / "evaluations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in EVALUATIONS))
    return folder


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of made runs, which no test changes."""
    return make_runs(tmp_path_factory.mktemp("dashboard_runs"))


@pytest.fixture(scope="session")
def dashboard(runs_folder: Path) -> Iterator[str]:
    """Yield the address of a dashboard of made runs."""
    with served(runs_folder) as address:
        yield address
