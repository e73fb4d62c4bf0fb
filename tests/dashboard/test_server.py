"""The server as a process: start, stop, many and slow clients, ports and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from spectral_exp.core.errors import UserError
from spectral_exp.dashboard import idle_timeout
from spectral_exp.dashboard.serving import BackgroundServer, listen_on_path, listen_on_port
from tests.dashboard.served import append, owned, run_coroutine
from tests.results.made_runs import make_run

COMMAND = [sys.executable, "-m", "spectral_exp", "dashboard", "--no-open"]


class Server:
    """A dashboard in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.printed = ""
        while "Ctrl-C ends it" not in self.printed:
            line = process.stdout.readline()
            assert line, self.printed
            self.printed += line
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]+)", self.printed)
        assert found is not None, self.printed
        self.port, token = int(found[1]), found[2]
        self.headers = {"authorization": f"Bearer {token}"}
        self.url = f"http://127.0.0.1:{self.port}"

    def wait(self) -> int:
        """Return the exit code of the process, which ends."""
        return self.process.wait(60)


@contextlib.contextmanager
def serving(*arguments: str | Path) -> Iterator[Server]:
    """Run `spectral-exp dashboard` with these arguments."""
    environment = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def wait_for_run(server: Server) -> str:
    """Return the key of the first run when it is read."""
    while True:
        rows = httpx.get(f"{server.url}/api/runs", headers=server.headers, timeout=60).json()[
            "runs"
        ]
        if rows and rows[0]["read"]:
            return str(rows[0]["key"])


def test_a_session(tmp_path: Path) -> None:
    """A run grows, 200 requests come at once beside clients that send half a request, and Ctrl-C
    ends the server."""
    run = make_run(tmp_path, status=None)
    embed = ("--embed", "http://LocalHost:8888/lab?token=x")
    with owned(run), serving(tmp_path, "--port", "0", *embed) as server:
        assert "in a notebook at http://localhost:8888 show it with\n" in server.printed
        assert f'IFrame("http://localhost:{server.port}/?token=' in server.printed
        key = wait_for_run(server)
        append(run, {"step": 200, "loss": 1.0})
        address = f"{server.url}/api/changes?watch={key}"
        answer = httpx.get(address, headers=server.headers, timeout=60).json()
        assert answer["watched"][key]["step"] == 200
        assert answer["watched"][key]["status"] == "running"
        beginnings = (b"", b"GET / HTTP/1.1\r\nHo", b"\x00\xff", b"GET /api/runs HTTP/1.1\r\n")
        slow = [open_request(server, text) for text in beginnings]
        assert run_coroutine(ask_at_once(server, key, 200)) == [200] * 200
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
        assert server.process.stdout is not None
        assert "Traceback" not in server.process.stdout.read()
        for connection in slow:
            connection.close()


@pytest.mark.slow
def test_a_server_outlives_its_folder_and_leaves_no_helper(tmp_path: Path) -> None:
    """Start without runs, see one appear, draw a figure, lose the folder, and end."""
    folder = tmp_path / "runs"
    folder.mkdir()
    with serving(folder, "--port", "0") as server:
        make_run(folder)
        key = wait_for_run(server)
        address = f"{server.url}/api/figure/curves_loss_by_step.svg"
        assert httpx.get(address, headers=server.headers, timeout=60).status_code == 200
        (helper,) = psutil.Process(server.process.pid).children()
        folder.rename(tmp_path / "away")
        assert httpx.get(f"{server.url}/", headers=server.headers).status_code == 200
        log = httpx.get(f"{server.url}/api/run/{key}/log", headers=server.headers)
        assert log.status_code in (200, 404)
        while httpx.get(f"{server.url}/api/runs", headers=server.headers).json()["found"]:
            pass
        server.process.kill()
        server.wait()
        psutil.wait_procs([helper], timeout=60)
        assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE


def open_request(server: Server, text: bytes) -> socket.socket:
    """Open a connection that sends the beginning of a request and nothing more."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(text)
    return connection


async def ask_at_once(server: Server, key: str, n: int) -> list[int]:
    """Return the codes of as many requests as are sent at the same time."""
    paths = [
        "/api/runs",
        "/api/groups",
        f"/api/curves?runs={key}&metric=loss",
        "/style.css",
        "/",
    ]
    limits = httpx.Limits(max_connections=n)
    async with httpx.AsyncClient(
        base_url=server.url, headers=server.headers, timeout=60, limits=limits
    ) as client:
        answers = await asyncio.gather(*(client.get(paths[i % len(paths)]) for i in range(n)))
    return [answer.status_code for answer in answers]


def test_a_slow_reader_holds_nobody_up_and_sigterm_ends_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, status=None)
    lines = (json.dumps({"step": step, "loss": 1 / step}) + "\n" for step in range(1, 60_001))
    (run / "logs" / "metrics.jsonl").write_text("".join(lines))
    with serving(tmp_path, "--port", "0") as server:
        key = wait_for_run(server)
        host = f"Host: 127.0.0.1\r\nAuthorization: {server.headers['authorization']}\r\n\r\n"
        request = f"GET /api/curves.csv?runs={key}&metric=loss HTTP/1.1\r\n{host}".encode()
        readers = [open_request(server, request) for _ in range(20)]  # that never read
        assert httpx.get(f"{server.url}/api/runs", headers=server.headers, timeout=60).is_success
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        for reader in readers:
            reader.close()


def test_idle_and_deaf_clients_are_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_timeout, "CHECK_S", 0.05)
    sent = 64 << 20

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(b"x" * (sent if scope["path"] == "/much" else 1))(
            scope, receive, send
        )

    with listen_on_port("127.0.0.1", 0, may_move=False) as listener:
        port = listener.getsockname()[1]
        server = BackgroundServer(app, listener)
        server.start()
        for text in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(text)
                assert received(connection) == (b"" if b"Host" not in text else b"x")
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert deaf.recv(1) == b"H"
            while server._server.server_state.connections:
                pass  # it hangs up although next to nothing was read
            size = 0
            while content := deaf.recv(1 << 20):
                size += len(content)
            assert size < sent
        server.stop()


def received(connection: socket.socket) -> bytes:
    """Return the last byte that comes before the other side hangs up, or nothing."""
    last = b""
    with contextlib.suppress(ConnectionResetError):
        while content := connection.recv(1 << 16):
            last = content[-1:]
    return last


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use on 127.0.0.1"):
            listen_on_port("127.0.0.1", port, may_move=False)
        with listen_on_port("127.0.0.1", port, may_move=True) as moved:
            assert port < moved.getsockname()[1] <= port + 20
    with pytest.raises(UserError, match=r"--host=no\.such\.host\.invalid is not a name or address"):
        listen_on_port("no.such.host.invalid", 0, may_move=False)
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1"):
        listen_on_port("192.0.2.1", 0, may_move=False)


def test_a_unix_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listen_on_path(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(UserError, match="another process listens on it"):
            listen_on_path(path)
    with listen_on_path(path):  # the file of a server that was killed is replaced
        pass
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot listen on --socket"):
        listen_on_path(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "FOLDER=missing must be a folder that exists"),
        ([".", "--port", "70000"], "--port=70000 must be from 0 to 65535"),
        ([".", "--where", "nonsense"], "where=nonsense must be name=value"),
        ([".", "--embed", "localhost:8888"], "--embed=localhost:8888 must be an address such as"),
        ([".", "--embed", "http://a b"], "must be an address such as http://localhost:8888"),
        ([".", "--embed", "http://x;frame-ancestors *"], "must be an address such as"),
        ([".", "--embed", "http://*.example.org"], "must be an address such as"),
        ([".", "--embed", "http://x:port"], "must be an address such as"),
        ([".", "--embed", "http://[bad"], "must be an address such as"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    from spectral_exp.commands import dashboard

    monkeypatch.chdir(tmp_path)
    assert dashboard.main(["--no-open", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra_the_command_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from spectral_exp.commands import dashboard

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert dashboard.main(["--no-open", str(tmp_path)]) == 2
    assert "pip install 'spectral-exp[dashboard]'" in capsys.readouterr().err
