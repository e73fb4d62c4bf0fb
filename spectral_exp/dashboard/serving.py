"""A server on a TCP port or a Unix socket, in a thread of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from spectral_exp.core.errors import UserError
from spectral_exp.dashboard.idle_timeout import IdleTimeoutProtocol

MAX_CONNECTIONS = 1000
"""Above this number of open connections, requests are answered with 503."""

_PORTS_TRIED = 20
_START_S = 10.0
_STOP_S = 1.0
_KEEP_ALIVE_S = 10


class BackgroundServer:
    """Serves an application on an open socket until `stop`.

    The main thread is left to wait for signals, so that one ends the process whatever the server
    does.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=IdleTimeoutProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            backlog=MAX_CONNECTIONS,
        )
        self._listener = listener
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def wait(self) -> None:
        """Wait until the server ends, which it does only by `stop` or a failure."""
        while self._thread.is_alive():
            self._thread.join(3600.0)

    def stop(self) -> None:
        """Close all connections, without waiting for their requests."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


class _Server(uvicorn.Server):
    """A server that leaves signals to the command."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listen_on_port(host: str, port: int, *, may_move: bool) -> socket.socket:
    """Return a listening socket.

    Args:
        host: name or address of an interface.
        port: 0 for any free one.
        may_move: whether one of the next ports will do if this one is in use.

    Raises:
        UserError: the port is in use, or the host is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host={host} is not a name or address of this machine: {error}"
        ) from error
    n_ports = min(_PORTS_TRIED, 65536 - port) if may_move and port else 1
    for number in range(port, port + n_ports):
        try:
            return socket.create_server((address[0], number), family=family, backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or str(error)
                raise UserError(f"cannot listen on {host}, port {number}: {reason}") from error
    tried = f"port {port} is" if n_ports == 1 else f"ports {port} to {port + n_ports - 1} are"
    raise UserError(f"{tried} in use on {host}; choose another with --port, or 0 for any free one")


def listen_on_path(path: Path) -> socket.socket:
    """Return a socket that listens on a path, for this user only.

    A socket file that no process listens on is replaced.

    Raises:
        UserError: the path is in use or cannot be created.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise UserError(f"cannot listen on --socket={path}: {reason}") from error
    return listener


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another process listens on it")
