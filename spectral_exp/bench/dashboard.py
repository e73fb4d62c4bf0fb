"""The dashboard beside TensorBoard, MLflow, Aim and Trackio, in Chromium, on the same runs.

Each tool gets the same numbers by its own interface and shows them by its own server:

- start: seconds from the command to the first answer of the server;
- first runs: seconds from opening the page to the name of a run being visible;
- memory: resident memory of the server's processes once the page is open;
- spike: whether the value of a spike of one step reaches the page of a long run, in any encoding.
  What does not reach the page cannot be drawn.

Of our page alone: the first opening of a run of a million lines, the memory of its server, and the
time from a line in the file to its step on the page.

The other tools may be installed for another interpreter, given as `--peers`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectral_exp.bench import dashboard_peers, measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target, log_progress, spread
from spectral_exp.core.errors import RunError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.core.wording import install
from spectral_exp.dashboard.identity import run_key
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock

OURS = "ours"
CHROMIUM = "/usr/bin/chromium"

START_S = Target(1.0, strict=True)
FIRST_RUNS_S = Target(1.0, strict=True)
MEMORY_MB = Target(120.0, strict=True)
UPDATE_S = Target(0.4, strict=True)
LONG_RUN_S = Target(5.0, strict=True)
LONG_RUN_MB = Target(300.0, strict=True)
LONGEST_UPDATE_S = Target(1.0, strict=True)

_N_LINES = 500
_LONG_LINES = 100_000
_OWN_LONG_LINES = 1_000_000
_QUICK_LONG_LINES = 20_000
_MAX_S = 120.0
_MAX_WRITE_S = 900.0  # for 1,000 runs by a slow tool
_SETTLE_S = 3.0
_NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
_CHROMIUM_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Server:
    """How to serve a folder of runs with a tool.

    Attributes:
        command: arguments after the interpreter; `{folder}` and `{port}` are filled in.
        page: of all runs, after the server's address.
        long_page: of the only run of a folder; `{run}` is its id for the tool.
        env: additional environment; `{folder}` is filled in.
    """

    command: tuple[str, ...]
    page: str = ""
    long_page: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


_AIM = "from aim.cli.cli import cli_entry_point; cli_entry_point()"
PEERS = {
    "tensorboard": Server(
        ("-m", "tensorboard.main", "--logdir", "{folder}", "--port", "{port}", "--bind_all"),
        long_page="#timeseries",
    ),
    "mlflow": Server(
        (
            *("-m", "mlflow", "ui", "--backend-store-uri", "sqlite:///{folder}/mlflow.db"),
            *("--port", "{port}"),
        ),
        page="#/experiments/1/runs",
        long_page="#/experiments/1/runs/{run}/model-metrics",
        env={"MLFLOW_DISABLE_TELEMETRY": "true"},
    ),
    "aim": Server(
        ("-c", _AIM, "up", "--repo", "{folder}", "--port", "{port}", "--yes"),
        page="runs",
        long_page="runs/{run}/metrics",
    ),
    "trackio": Server(
        ("-c", "import trackio; trackio.show('bench', server_port={port}, open_browser=False)"),
        env={"TRACKIO_DIR": "{folder}", "GRADIO_ANALYTICS_ENABLED": "False"},
    ),
}


def run(options: Options) -> Iterator[Section]:
    """Measure all tools on many runs, then on a long run, then the updates of a live run."""
    _require_browser()
    installed, missing = _installed_peers(options.peers)
    with _browser() as browser:
        yield _many_runs(options, browser, installed, missing)
        yield _long_run(options, browser, installed, missing)
        yield _own_page(options, browser)


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
    except (RunError, subprocess.TimeoutExpired, _playwright_error()) as error:
        if name == OURS:
            raise
        notes.append(f"{name}: not measured: {str(error).partition(chr(10))[0]}")


def _open_all(name: str, folder: Path, browser: Any, installed: Mapping[str, str]) -> Figures:
    with _serve(name, folder, installed) as server, _new_page(browser) as page:
        started = time.perf_counter()
        page.goto(server.address + _server_of(name).page, wait_until="commit")
        shown = page.get_by_text(dashboard_peers.WORD).filter(visible=True)
        shown.first.wait_for(timeout=1e3 * _MAX_S)
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
        with contextlib.suppress(_playwright_error()):
            body = response.body()
            if any(form in body for form in forms):
                found.append(response.url)

    with _serve(name, folder, installed) as server, _new_page(browser, height=2400) as page:
        page.on("response", inspect)  # the page is tall, since some load only visible charts
        page.goto(server.address + _server_of(name).long_page.format(run=run_id))
        end = time.monotonic() + 20
        while not found and time.monotonic() < end:
            page.wait_for_timeout(200)
        return bool(found)


# --- our page alone -------------------------------------------------------------------------------


def _own_page(options: Options, browser: Any) -> Section:
    """Measure the page of a very long run, and of one that grows."""
    n_lines = _QUICK_LONG_LINES if options.quick else _OWN_LONG_LINES
    folder = options.new_folder("own")
    log_progress(f"writing a run of {n_lines} lines")
    key = _write_own_runs(folder, 1, n_lines)[0]
    run = folder / dashboard_peers.run_name(0)
    n_updates = 5 if options.quick else 20
    with _serve(OURS, folder, {}) as server, _new_page(browser) as page:
        address = server.address + _server_of(OURS).long_page.format(run=key)
        started = time.perf_counter()
        with page.expect_response(lambda answer: "api/curves" in answer.url, timeout=1e3 * _MAX_S):
            page.goto(address)
        page.evaluate(_NEXT_FRAME)
        opened_s = time.perf_counter() - started
        memory_mb = server.memory_mb()
        log_progress("adding lines to it")
        with RunLock(run):
            # Up to the first line the run is a finished one, for which a page asks less often.
            _update_s(page, run, n_lines + 1)
            updates = [_update_s(page, run, n_lines + 1 + i) for i in range(1, n_updates + 1)]
    once = measure.Spread.of
    return Section(
        f"our page of a run of {n_lines} lines",
        [
            Line(OURS, "first opening", "s", once([opened_s]), LONG_RUN_S),
            Line(OURS, "memory of the server", "MB", once([memory_mb]), LONG_RUN_MB),
            Line(OURS, "line written until its step is shown", "s", once(updates), UPDATE_S),
            Line(OURS, "the longest of them", "s", once([max(updates)]), LONGEST_UPDATE_S),
        ],
    )


def _update_s(page: Any, run: Path, step: int) -> float:
    """Append a line to a run and return the seconds until the page shows its step."""
    time.sleep(0.1 + 0.07 * (step % 7))  # at other moments between two requests of the page
    with RunPaths(run).metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "loss": 2.0}) + "\n")
    started = time.perf_counter()
    while time.perf_counter() - started < _MAX_S:
        shown = page.evaluate("document.body.innerText")
        if f"{step:,}" in shown or str(step) in shown:
            return time.perf_counter() - started
        time.sleep(0.01)
    raise RunError(f"the page did not show step {step} within {_MAX_S:.0f} s")


# --- servers --------------------------------------------------------------------------------------


@dataclass
class _Served:
    """A running server."""

    process: subprocess.Popen[str]
    address: str
    start_s: float

    def memory_mb(self) -> float:
        """Return the resident memory of the server's processes in MB."""
        import psutil

        main = psutil.Process(self.process.pid)
        return (
            sum(process.memory_info().rss for process in (main, *main.children(recursive=True)))
            / 1e6
        )


@contextlib.contextmanager
def _serve(name: str, folder: Path, installed: Mapping[str, str]) -> Iterator[_Served]:
    """Start the server of a tool and stop it with all its processes."""
    server, port = _server_of(name), _free_port()
    values = {"folder": str(folder), "port": str(port)}
    interpreter = sys.executable if name == OURS else installed[name]
    command = [interpreter, *(word.format(**values) for word in server.command)]
    env = {key: value.format(**values) for key, value in server.env.items()}
    log = folder.parent / f"{name}.log"
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=measure.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            _wait_for_answer(name, process, address, log)
            start_s = time.perf_counter() - started
            shown = _printed_address(address, log) if name == OURS else address
            yield _Served(process, shown, start_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_answer(name: str, process: subprocess.Popen[str], address: str, log: Path) -> None:
    """Wait until the server answers a request, with whatever status."""
    end = time.monotonic() + _MAX_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=_MAX_S):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.01)
    reason = measure.last_line(log.read_text(encoding="utf-8", errors="replace"))
    raise RunError(f"the server of {name} did not answer within {_MAX_S:.0f} s: {reason}")


def _printed_address(address: str, log: Path) -> str:
    """Return the address of our own server with its token, which it prints once it listens."""
    end = time.monotonic() + _MAX_S
    while time.monotonic() < end:
        for word in log.read_text(encoding="utf-8", errors="replace").split():
            if word.startswith(f"{address}?token="):
                return word
        time.sleep(0.01)
    raise RunError("the dashboard has not printed its address")


def _server_of(name: str) -> Server:
    own = Server(
        ("-m", "spectral_exp", "dashboard", "{folder}", "--port", "{port}", "--no-open"),
        long_page="#/run/{run}",
    )
    return own if name == OURS else PEERS[name]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- browser --------------------------------------------------------------------------------------


def _require_browser() -> None:
    if importlib.util.find_spec("playwright") is None:
        raise RunError(f"playwright is not installed: {install('bench')}")
    if not Path(CHROMIUM).exists():
        raise RunError(f"there is no {CHROMIUM}; install your system's package of Chromium")


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(_CHROMIUM_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def _new_page(browser: Any, height: int = 900) -> Iterator[Any]:
    """Open a page without any cache."""
    context = browser.new_context(viewport={"width": 1440, "height": height})
    context.set_default_timeout(1e3 * _MAX_S)
    try:
        yield context.new_page()
    finally:
        context.close()


def _playwright_error() -> type[Exception]:
    from playwright.sync_api import Error

    return Error


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
            folders[name], ids[name] = folder, _write_own_runs(folder, n_runs, n_lines)
            continue
        script = str(Path(dashboard_peers.__file__).resolve())
        command = [installed[name], script, name, str(folder), str(n_runs), str(n_lines)]
        with _noting_failures(name, notes):
            printed = measure.run_process(command, dict(os.environ), timeout_s=_MAX_WRITE_S)
            folders[name], ids[name] = folder, json.loads(measure.last_line(printed))
    return folders, ids, notes


def _write_own_runs(folder: Path, n_runs: int, n_lines: int) -> list[str]:
    keys = []
    for number in range(n_runs):
        paths = RunPaths(folder / dashboard_peers.run_name(number))
        paths.logs.mkdir(parents=True)
        last: dict[str, float] = {}
        with paths.metrics_file.open("w", encoding="utf-8") as file:
            for step, metrics in dashboard_peers.values(number, n_lines):
                file.write(json.dumps({"step": step, **metrics}) + "\n")
                last = metrics
        config = {
            "name": f"{dashboard_peers.WORD}{number // 5}",
            "seed": number % 5,
            "optimizer": {"learning_rate": 1e-3 * (1 + number // 5)},
        }
        record: dict[str, Any] = {"config": config}
        results = {"status": "completed", "final_metrics": last, "totals": {"steps": n_lines}}
        for path, content in ((paths.config_file, record), (paths.results_file, results)):
            content = {**content, "crc32": content_crc32(content)}
            path.write_text(json.dumps(content), encoding="utf-8")
        keys.append(run_key(paths.root))
    return keys
