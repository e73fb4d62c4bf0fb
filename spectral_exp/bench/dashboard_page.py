"""Our dashboard alone: a very long run, many curves, and an exported file."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spectral_exp.bench import dashboard_peers, measure
from spectral_exp.bench.dashboard_servers import MAX_S, OURS, new_page, serve, server_of, write_runs
from spectral_exp.bench.measure import Line, Options, Section, Target, log_progress
from spectral_exp.core.errors import RunError
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock

UPDATE_S = Target(0.4, strict=True)
LONGEST_UPDATE_S = Target(1.0, strict=True)
LONG_RUN_S = Target(5.0, strict=True)
LONG_RUN_MB = Target(300.0, strict=True)
ZOOM_MS = Target(100.0, strict=True)
REDRAW_MS = Target(150.0, strict=True)
EXPORT_MB = Target(3.0, strict=True)

_N_LINES = 1_000_000
_QUICK_N_LINES = 20_000
_N_GROUPS, _RUNS_PER_GROUP = 30, 5
_N_CHARTS = 12
_N_EXPORTED_RUNS, _N_EXPORTED_METRICS = 20, 9
_SETTLE_MS = 1000
_NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

# Two promises, from the moment at which the mouse button is released: until the next frame is
# drawn, which shows the part that the page has, and until the part is there in full.
_WATCH_ZOOM = """() => {
  const drawn = (done, start) =>
    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
  const released = new Promise((done) => addEventListener(
    "pointerup", () => done(performance.now()), { once: true, capture: true }));
  window.zoomAtOnce = released.then((start) => new Promise((done) => drawn(done, start)));
  const arrived = new Promise((done) => {
    const observer = new PerformanceObserver((list) => {
      if (!list.getEntries().some(({ name }) => /api\\/curves.*[?&]lo=/.test(name))) return;
      observer.disconnect();
      done();
    });
    observer.observe({ type: "resource" });
  });
  window.zoomInFull = Promise.all([released, arrived]).then(
    ([start]) => new Promise((done) => drawn(done, start)));
}"""


def measure_page(options: Options, browser: Any) -> Iterator[Section]:
    """Measure the page of a very long run that grows, many curves, and an export."""
    yield _long_run(options, browser)
    yield _many_curves(options, browser)


# --- a very long run ------------------------------------------------------------------------------


def _long_run(options: Options, browser: Any) -> Section:
    n_lines = _QUICK_N_LINES if options.quick else _N_LINES
    folder = options.new_folder("own")
    log_progress(f"writing a run of {n_lines} lines")
    key = write_runs(folder, 1, n_lines)[0]
    run = folder / dashboard_peers.run_name(0)
    n_updates, n_zooms = (5, 3) if options.quick else (20, 10)
    with serve(OURS, folder, {}) as server, new_page(browser) as page:
        address = server.address + server_of(OURS).long_page.format(run=key)
        started = time.perf_counter()
        with page.expect_response(lambda answer: "api/curves" in answer.url, timeout=1e3 * MAX_S):
            page.goto(address)
        page.evaluate(_NEXT_FRAME)
        opened_s = time.perf_counter() - started
        memory_mb = server.memory_mb()
        log_progress("zooming")
        page.wait_for_timeout(_SETTLE_MS)
        zooms = [_zoom_ms(page, 0.3 + 0.02 * i) for i in range(n_zooms)]
        zoomed_mb = server.memory_mb()
        log_progress("adding lines to it")
        with RunLock(run):
            # Up to the first line the run is a finished one, for which a page asks less often.
            _update_s(page, run, n_lines + 1)
            updates = [_update_s(page, run, n_lines + 1 + i) for i in range(1, n_updates + 1)]
    spread = measure.Spread.of
    return Section(
        f"our page of a run of {n_lines} lines",
        [
            Line(OURS, "first opening", "s", spread([opened_s]), LONG_RUN_S),
            Line(OURS, "memory of the server", "MB", spread([memory_mb]), LONG_RUN_MB),
            Line(OURS, "zoom until the next frame", "ms", spread([z[0] for z in zooms]), ZOOM_MS),
            Line(OURS, "zoom until drawn in full", "ms", spread([z[1] for z in zooms]), ZOOM_MS),
            Line(OURS, "memory after the zooms", "MB", spread([zoomed_mb]), LONG_RUN_MB),
            Line(OURS, "line written until its step is shown", "s", spread(updates), UPDATE_S),
            Line(OURS, "the longest of them", "s", spread([max(updates)]), LONGEST_UPDATE_S),
        ],
    )


def _zoom_ms(page: Any, begin: float) -> tuple[float, float]:
    """Drag over a part of the first chart, and return the ms until it is drawn, and in full."""
    box = page.locator(".chart-plot").first.bounding_box()
    x, y = box["x"] + box["width"] * begin, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=2)
    page.evaluate(_WATCH_ZOOM)
    page.mouse.up()
    found = (page.evaluate("window.zoomAtOnce"), page.evaluate("window.zoomInFull"))
    page.mouse.dblclick(x, y)  # shows all again
    page.wait_for_timeout(_SETTLE_MS)
    return found


def _update_s(page: Any, run: Path, step: int) -> float:
    """Append a line to a run and return the seconds until the page shows its step."""
    time.sleep(0.1 + 0.07 * (step % 7))  # at other moments between two requests of the page
    with RunPaths(run).metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "loss": 2.0}) + "\n")
    started = time.perf_counter()
    while time.perf_counter() - started < MAX_S:
        shown = page.evaluate("document.body.innerText")
        if f"{step:,}" in shown or str(step) in shown:
            return time.perf_counter() - started
        time.sleep(0.01)
    raise RunError(f"the page did not show step {step} within {MAX_S:.0f} s")


# --- many curves, and an exported file ------------------------------------------------------------


def _many_curves(options: Options, browser: Any) -> Section:
    n_lines, n_redraws = (50, 4) if options.quick else (500, 20)
    folder = options.new_folder("curves")
    log_progress(f"writing runs with {_N_CHARTS} metrics")
    n_more = _N_CHARTS - len(dashboard_peers.METRICS)
    write_runs(folder, _N_GROUPS * _RUNS_PER_GROUP, n_lines, n_more)
    log_progress("drawing them")
    with serve(OURS, folder, {}) as server, new_page(browser, height=2400) as page:
        redraws = _redraws_ms(page, server.address, n_redraws)
    spread = measure.Spread.of
    redraw = f"redrawing {_N_CHARTS} charts of {_N_GROUPS} groups, main thread"
    export = f"export of {_N_EXPORTED_RUNS} runs with {_N_EXPORTED_METRICS} metrics"
    return Section(
        "our page of many curves, and a file of it",
        [
            Line(OURS, redraw, "ms", spread(redraws), REDRAW_MS),
            Line(OURS, export, "MB", spread([_export_mb(options, n_lines)]), EXPORT_MB),
        ],
    )


def _redraws_ms(page: Any, address: str, n: int) -> list[float]:
    """Return the ms for which the page computed whenever all its charts changed their scale."""
    page.goto(address)
    page.locator("tbody tr").first.wait_for()
    groups = page.evaluate("fetch('api/groups').then((answer) => answer.json())")
    shown = ",".join(row["id"] for row in groups["rows"])
    page.evaluate("shown => { location.hash = `#/runs?show=${shown}`; }", shown)
    page.wait_for_timeout(5 * _SETTLE_MS)
    n_charts = page.locator(".chart-plot").count()
    if n_charts != _N_CHARTS:
        raise RunError(f"the page shows {n_charts} charts instead of {_N_CHARTS}")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    used = []
    for i in range(n):
        before = _task_s(session)
        page.get_by_role("button", name=("Log", "Linear")[i % 2], exact=True).click()
        page.wait_for_timeout(_SETTLE_MS)
        used.append(1e3 * (_task_s(session) - before))
    return used


def _task_s(session: Any) -> float:
    """Return the seconds for which the page's main thread has worked."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def _export_mb(options: Options, n_lines: int) -> float:
    folder = options.new_folder("export")
    n_more = _N_EXPORTED_METRICS - len(dashboard_peers.METRICS)
    write_runs(folder, _N_EXPORTED_RUNS, n_lines, n_more)
    file = folder / "export.html"
    command = [
        sys.executable,
        "-m",
        "spectral_exp",
        "dashboard",
        str(folder),
        "--export",
        str(file),
    ]
    measure.run_process(command, dict(os.environ))
    return file.stat().st_size / 1e6
