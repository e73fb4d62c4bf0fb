"""Servers of dashboards, a browser to open their pages, and runs for ours."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectral_exp.bench import dashboard_peers, measure
from spectral_exp.core.errors import RunError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.core.wording import install
from spectral_exp.dashboard.identity import run_key
from spectral_exp.runs.layout import RunPaths

OURS = "ours"
CHROMIUM = "/usr/bin/chromium"
MAX_S = 120.0
"""After which an answer of a server or a page counts as missing."""

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


# --- servers --------------------------------------------------------------------------------------


@dataclass
class Served:
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
def serve(name: str, folder: Path, installed: Mapping[str, str]) -> Iterator[Served]:
    """Start the server of a tool and stop it with all its processes."""
    server, port = server_of(name), _free_port()
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
            yield Served(process, shown, start_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_answer(name: str, process: subprocess.Popen[str], address: str, log: Path) -> None:
    """Wait until the server answers a request, with whatever status."""
    end = time.monotonic() + MAX_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=MAX_S):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.01)
    reason = measure.last_line(log.read_text(encoding="utf-8", errors="replace"))
    raise RunError(f"the server of {name} did not answer within {MAX_S:.0f} s: {reason}")


def _printed_address(address: str, log: Path) -> str:
    """Return the address of our own server with its token, which it prints once it listens."""
    end = time.monotonic() + MAX_S
    while time.monotonic() < end:
        for word in log.read_text(encoding="utf-8", errors="replace").split():
            if word.startswith(f"{address}?token="):
                return word
        time.sleep(0.01)
    raise RunError("the dashboard has not printed its address")


def server_of(name: str) -> Server:
    """Return how to serve a folder with a tool, or with ours."""
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


def require_browser() -> None:
    """Raise RunError if there is no Chromium, or no playwright to drive it."""
    if importlib.util.find_spec("playwright") is None:
        raise RunError(f"playwright is not installed: {install('bench')}")
    if not Path(CHROMIUM).exists():
        raise RunError(f"there is no {CHROMIUM}; install your system's package of Chromium")


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Open a browser and close it at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(_CHROMIUM_OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def new_page(browser: Any, height: int = 900) -> Iterator[Any]:
    """Open a page without any cache."""
    context = browser.new_context(viewport={"width": 1440, "height": height})
    context.set_default_timeout(1e3 * MAX_S)
    try:
        yield context.new_page()
    finally:
        context.close()


def playwright_error() -> type[Exception]:
    """Return the error of a page that does not do what was asked."""
    from playwright.sync_api import Error

    return Error


# --- runs of ours ---------------------------------------------------------------------------------


def write_runs(folder: Path, n_runs: int, n_lines: int, more_metrics: int = 0) -> list[str]:
    """Write runs for our dashboard, five of each experiment, and return their keys."""
    keys = []
    for number in range(n_runs):
        paths = RunPaths(folder / dashboard_peers.run_name(number))
        paths.logs.mkdir(parents=True)
        last: dict[str, float] = {}
        with paths.metrics_file.open("w", encoding="utf-8") as file:
            for step, metrics in dashboard_peers.values(number, n_lines):
                metrics |= {f"metric_{i}": metrics["loss"] + i for i in range(more_metrics)}
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
