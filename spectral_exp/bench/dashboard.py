"""The dashboard beside TensorBoard, MLflow, Aim and Trackio, in Chromium, on the same runs.

Each tool gets the same numbers by its own interface and shows them by its own server:

- start: seconds from the command to the first answer of the server;
- first runs: seconds from opening the page to the name of a run being visible;
- memory: resident memory of the server's processes once the page is open;
- spike: whether the value of a spike of one step reaches the page of a long run, in any encoding.
  What does not reach the page cannot be drawn.

`dashboard_page` measures our page alone.

The other tools may be installed for another interpreter, given as `--peers`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spectral_exp.bench import dashboard_peers, measure
from spectral_exp.bench.dashboard_page import measure_page
from spectral_exp.bench.dashboard_servers import (
    MAX_S,
    OURS,
    PEERS,
    new_page,
    open_browser,
    playwright_error,
    require_browser,
    serve,
    server_of,
    write_runs,
)
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target, log_progress, spread
from spectral_exp.core.errors import RunError

START_S = Target(1.0, strict=True)
FIRST_RUNS_S = Target(1.0, strict=True)
MEMORY_MB = Target(120.0, strict=True)

_N_LINES = 500
_LONG_LINES = 100_000
_QUICK_LONG_LINES = 20_000
_MAX_WRITE_S = 900.0  # for 1,000 runs by a slow tool
_SETTLE_S = 3.0
_LOOK_S = 0.02  # between two looks at a page that opens


def run(options: Options) -> Iterator[Section]:
    """Measure all tools on many runs, then on a long run, then the updates of a live run."""
    require_browser()
    installed, missing = _installed_peers(options.peers)
    with open_browser() as browser:
        yield _many_runs(options, browser, installed, missing)
        yield _long_run(options, browser, installed, missing)
        yield from measure_page(options, browser)


# --- many runs ------------------------------------------------------------------------------------


def _many_runs(
    options: Options, browser: Any, installed: Mapping[str, str], missing: list[str]
) -> Section:
    n_lines = 50 if options.quick else _N_LINES
    folders, _, notes = _write_all(options, "many", options.n_runs, n_lines, installed)
    measurements: dict[str, Callable[[], Figures]] = {
        name: functools.partial(_open_all, name, folder, browser, installed)
        for name, folder in folders.items()
    }
    log_progress(f"opening {options.n_runs} runs by {', '.join(folders)}")
    notes += _open_first(measurements)
    rounds = measure.interleave(
        measurements, options.rounds or (1 if options.quick else 5), budget_s=300, min_rounds=1
    )
    figures = (
        ("start", "start_s", "s", START_S),
        ("first runs", "paint_s", "s", FIRST_RUNS_S),
        ("memory of the server", "memory_mb", "MB", MEMORY_MB),
    )
    lines = [
        Line(name, title, unit, spread(rounds, name, key), target if name == OURS else None)
        for title, key, unit, target in figures
        for name in measurements
    ]
    return Section(f"{options.n_runs} runs of {n_lines} lines", lines, [*missing, *notes])


def _open_first(measurements: dict[str, Callable[[], Figures]]) -> list[str]:
    """Open the page of each tool once, which fills its caches; remove and name what fails."""
    notes: list[str] = []
    for name, open_page in list(measurements.items()):
        with _noting_failures(name, notes):
            open_page()
            continue
        del measurements[name]
    return notes


@contextlib.contextmanager
def _noting_failures(name: str, notes: list[str]) -> Iterator[None]:
    """Add a failure of another tool to `notes`, so that the others are still measured."""
    try:
        yield
    except (RunError, subprocess.TimeoutExpired, playwright_error()) as error:
        if name == OURS:
            raise
        notes.append(f"{name}: not measured: {str(error).partition(chr(10))[0]}")


def _open_all(name: str, folder: Path, browser: Any, installed: Mapping[str, str]) -> Figures:
    with serve(name, folder, installed) as server, new_page(browser) as page:
        started = time.perf_counter()
        page.goto(server.address + server_of(name).page, wait_until="commit")
        shown = page.get_by_text(dashboard_peers.WORD).filter(visible=True).first
        # The browser's driver would look for it more and more seldom, in the end twice a second.
        while not shown.is_visible():
            if time.perf_counter() - started > MAX_S:
                raise RunError(f"{name} showed no run within {MAX_S:.0f} s")
            time.sleep(_LOOK_S)
        paint_s = time.perf_counter() - started
        time.sleep(_SETTLE_S)  # some servers load more once the page is shown
        return {"start_s": server.start_s, "paint_s": paint_s, "memory_mb": server.memory_mb()}


# --- one long run ---------------------------------------------------------------------------------


def _long_run(
    options: Options, browser: Any, installed: Mapping[str, str], missing: list[str]
) -> Section:
    n_lines = _QUICK_LONG_LINES if options.quick else _LONG_LINES
    folders, ids, notes = _write_all(options, "long", 1, n_lines, installed)
    log_progress(f"looking for the spike of one step in {n_lines} lines")
    lines = []
    for name, folder in folders.items():
        with _noting_failures(name, notes):
            found = _sees_spike(name, folder, ids[name][0], browser, installed)
            share = measure.Spread.of([float(found)])
            lines.append(
                Line(name, "the spike reaches the page", "", share, note="yes" if found else "no")
            )
    title = f"one run of {n_lines} lines with a spike of one step"
    return Section(title, lines, [*missing, *notes])


def _sees_spike(
    name: str, folder: Path, run_id: str, browser: Any, installed: Mapping[str, str]
) -> bool:
    """Return whether an answer of the server to its page of the run holds the spike's value."""
    forms = [
        str(dashboard_peers.SPIKE).encode(),
        *(struct.pack(form, dashboard_peers.SPIKE) for form in ("<d", ">d", "<f", ">f")),
    ]
    found = []

    def inspect(response: Any) -> None:
        # The body of a redirect or of an answer that was cancelled cannot be read.
        with contextlib.suppress(playwright_error()):
            body = response.body()
            if any(form in body for form in forms):
                found.append(response.url)

    with serve(name, folder, installed) as server, new_page(browser, height=2400) as page:
        page.on("response", inspect)  # the page is tall, since some load only visible charts
        page.goto(server.address + server_of(name).long_page.format(run=run_id))
        end = time.monotonic() + 20
        while not found and time.monotonic() < end:
            page.wait_for_timeout(200)
        return bool(found)


# --- runs -----------------------------------------------------------------------------------------


def _installed_peers(interpreter: Path) -> tuple[dict[str, str], list[str]]:
    """Return the interpreter of each installed tool, and a reason for each missing one."""
    code = (
        "import importlib.util, json, sys; "
        "print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))"
    )
    printed = measure.run_process([str(interpreter), "-c", code, *PEERS], measure.environment())
    found = json.loads(printed)
    remedy = "install it, or name with --peers an interpreter that has it"
    missing = [f"{name}: not installed: {remedy}" for name in PEERS if name not in found]
    return dict.fromkeys(found, str(interpreter)), missing


def _write_all(
    options: Options, title: str, n_runs: int, n_lines: int, installed: Mapping[str, str]
) -> tuple[dict[str, Path], dict[str, list[str]], list[str]]:
    """Write the same runs for every tool; return its folder, the ids of its runs, and failures."""
    folders: dict[str, Path] = {}
    ids: dict[str, list[str]] = {}
    notes: list[str] = []
    for name in (OURS, *installed):
        log_progress(f"writing {n_runs} runs of {n_lines} lines for {name}")
        folder = options.new_folder(f"{title}/{name}")
        if name == OURS:
            folders[name], ids[name] = folder, write_runs(folder, n_runs, n_lines)
            continue
        script = str(Path(dashboard_peers.__file__).resolve())
        command = [installed[name], script, name, str(folder), str(n_runs), str(n_lines)]
        with _noting_failures(name, notes):
            printed = measure.run_process(command, dict(os.environ), timeout_s=_MAX_WRITE_S)
            folders[name], ids[name] = folder, json.loads(measure.last_line(printed))
    return folders, ids, notes
