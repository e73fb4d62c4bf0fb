"""A dashboard in this process, and what its answers hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from spectral_exp.core.timestamps import timestamp
from spectral_exp.dashboard.app import Site, build_app
from spectral_exp.dashboard.guard import Guard
from spectral_exp.dashboard.library import Library
from spectral_exp.dashboard.series_store import SeriesStore
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock


class Client:
    """Sends requests to an application in this process."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.headers = headers

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Return the answer to a GET request."""
        return self.request("GET", path, **options)

    def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """Return the answer to a request."""

        async def send() -> httpx.Response:
            url = "http://localhost:6070"
            async with httpx.AsyncClient(transport=self._transport, base_url=url) as client:
                sent = self.headers if headers is None else headers
                return await client.request(method, path, headers=sent, **options)

        answer: httpx.Response = run_coroutine(send())
        return answer


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine. The driver of the browser may own this thread's loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


class Dashboard:
    """A library that reads when it is told to, and a client with the token."""

    def __init__(self, *folders: Path, editable: bool = False, index: Path | None = None) -> None:
        self.library = Library(folders, SeriesStore(), index)
        self.site = Site(self.library, editable=editable)
        self.guard = Guard(build_app(self.site), cookie="test", editable=editable)
        self.client = Client(self.guard, {"authorization": f"Bearer {self.guard.token}"})
        self.refresh()

    def refresh(self) -> None:
        """Look for changes, in all folders."""
        self.library._next_scan_s = 0.0
        self.library.refresh()

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        """Return the answer to a request, which must succeed."""
        answer = self.client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer

    def json(self, path: str, **parameters: Any) -> Any:
        """Return a JSON answer; it holds no number that JSON does not have."""
        return json.loads(self.get(path, **parameters).text, parse_constant=_refuse)

    def frame(self, path: str, **parameters: Any) -> tuple[Any, list[dict[str, Any]]]:
        """Return the header of a binary answer, and of each series its columns by name."""
        header, numbers = split_frame(self.get(path, **parameters).content)
        return header, [columns_of(series, numbers) for series in header["series"]]

    def rows(self) -> dict[str, Any]:
        """Return the rows of all runs by their ids."""
        return {row["id"]: row for row in self.json("/api/runs")["runs"]}

    def key(self, run: Path) -> str:
        """Return the key of a run."""
        return str(self.rows()[run.name]["key"])


def split_frame(content: bytes) -> tuple[Any, NDArray[np.float64]]:
    """Return header and numbers of a binary answer."""
    (length,) = struct.unpack("<I", content[:4])
    start = -(-(4 + length) // 8) * 8
    header = json.loads(content[4 : 4 + length], parse_constant=_refuse)
    return header, np.frombuffer(content[start:], "<f8")


def columns_of(series: dict[str, Any], numbers: NDArray[np.float64]) -> dict[str, Any]:
    """Return the columns of a series by name."""
    n, offset = series["n"], series["offset"]
    return {
        name: numbers[offset + i * n : offset + (i + 1) * n]
        for i, name in enumerate(series["columns"])
    }


def append(run: Path, *entries: dict[str, Any]) -> None:
    """Log entries as a running process does."""
    with RunPaths(run).metrics_file.open("a") as file:
        file.writelines(json.dumps({"timestamp": timestamp(), **one}) + "\n" for one in entries)


def log_values(run: Path, values: Sequence[float], first: int = 1) -> None:
    """Replace the metrics of a run by one of these names: `loss` of every step."""
    names = {np.inf: '"Infinity"', -np.inf: '"-Infinity"'}
    lines = [
        f'{{"step": {step}, "loss": {names.get(v, repr(float(v)) if v == v else chr(34) + "NaN" + chr(34))}}}\n'
        for step, v in enumerate(values, first)
    ]
    RunPaths(run).metrics_file.write_text("".join(lines))


@contextlib.contextmanager
def owned(run: Path) -> Iterator[None]:
    """Let this process be the one that trains a run."""
    with RunLock(run):
        yield


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
