"""A web server in a thread that receives alerts, answers with errors, or never answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class HookServer:
    """A server on loopback.

    Attributes:
        url: its address. A path with `silent` gets no answer until the server stops.
        received: the messages that were answered with 200, in order.
        answers: the codes of the next answers; 200 when they are used up.
        connections: number of requests so far.
        logins: the `Authorization` headers of the requests that had one.
    """

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.connections = 0
        self.logins: list[str] = []
        self.stopping = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.connections += 1
                owner.logins += self.headers.get_all("Authorization", [])
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if "silent" in self.path:
                    owner.stopping.wait()
                    return
                code = owner.answers.pop(0) if owner.answers else 200
                if code == 200:
                    owner.received.append(content)
                self.send_response(code)
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hook_server() -> Iterator[HookServer]:
    server = HookServer()
    yield server
    server.stop()
