"""Serve runs as a local web page: `spectral-exp dashboard outputs/`."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from urllib.parse import quote, urlsplit

from spectral_exp.commands.options import add_folders, add_force, add_where
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import Interrupted, UserError, require
from spectral_exp.dashboard.packages import require_packages
from spectral_exp.results.conditions import split_condition
from spectral_exp.runs.index import index_file
from spectral_exp.runs.output_file import refuse_loss, write_output

DEFAULT_PORT = 6070

_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_LOCAL_HOST = "127.0.0.1"
_ALL_INTERFACES = ("0.0.0.0", "::", "")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp dashboard",
        description="Show runs as a local web page: curves, groups of seeds, one run in depth.",
        epilog="The page needs the token in the printed address. Ctrl-C ends the server.",
    )
    add_folders(parser)
    add_where(
        parser,
        "begin with the runs that meet optimizer=rgd, learning_rate<=1e-3 ...; repeatable",
        "CONDITION",
    )
    parser.add_argument(
        "--port",
        type=int,
        help=f"port, 0 for any free one (default: {DEFAULT_PORT} or the next free one)",
    )
    parser.add_argument(
        "--host",
        default=_LOCAL_HOST,
        help="interface to listen on (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="listen on a Unix socket instead of a port"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer requests to this host name too, for a proxy; repeatable",
    )
    parser.add_argument(
        "--edit", action="store_true", help="let the page write tags and notes into the runs"
    )
    parser.add_argument(
        "--embed",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="let pages of this address show the dashboard in a frame, such as "
        "http://localhost:8888 of a notebook; repeatable",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE.html",
        help="write the page with its data into one file instead of serving it",
    )
    add_force(parser)
    parser.add_argument("--no-open", action="store_true", help="do not open a browser")
    return parser


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; return 0 after Ctrl-C."""
    for folder in options.folders:
        require(folder.is_dir(), "FOLDER", folder, "a folder that exists")
    for condition in options.where:
        split_condition(condition)
    options.embed = [_origin(address) for address in options.embed]
    if options.port is not None:
        require(0 <= options.port < 65536, "--port", options.port, "from 0 to 65535")
    if options.export is not None:
        _refuse_serving(options)
    require_packages()
    if options.export is not None:
        return _export(options)
    return _serve(options)


def _refuse_serving(options: argparse.Namespace) -> None:
    """Raise a UserError for an option of the server beside `--export`."""
    given = {
        "--port": options.port is not None,
        "--host": options.host != _LOCAL_HOST,
        "--socket": options.socket is not None,
        "--allow-host": options.allow_host,
        "--edit": options.edit,
        "--embed": options.embed,
    }
    for name, is_given in given.items():
        if is_given:
            raise UserError(f"{name} serves the page, and --export writes it to a file; give one")


def _export(options: argparse.Namespace) -> int:
    """Write the table of runs and their curves, or one run in depth, into a file."""
    from spectral_exp.dashboard.notebook import show

    file = options.export
    require(file.parent.is_dir(), "--export", file, "a file in an existing folder")
    require(
        file.suffix.lower() in (".html", ".htm"), "--export", file, "a file that ends with .html"
    )
    refuse_loss(file, "--export", force=options.force)
    page = show(*options.folders, where=options.where, figures=True).page
    write_output(file, page.encode(), "--export", force=options.force)
    print(file)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from spectral_exp.dashboard.app import Site, build_app
    from spectral_exp.dashboard.guard import Guard
    from spectral_exp.dashboard.library import Library
    from spectral_exp.dashboard.series_store import SeriesStore
    from spectral_exp.dashboard.serving import BackgroundServer

    with _listener(options) as listener:
        port = 0 if options.socket else listener.getsockname()[1]
        library = Library(options.folders, SeriesStore(), index_file())
        guard = Guard(
            build_app(Site(library, options.where, options.edit)),
            cookie=f"spectral_exp_{port}",
            allowed_hosts=[*options.allow_host, *_own_names(options.host)],
            any_address=options.host in _ALL_INTERFACES,
            editable=options.edit,
            embedding_origins=options.embed,
        )
        server = BackgroundServer(guard, listener)
        try:
            server.start()
            library.start()
            _print_address(options, port, guard.token)
            if not options.no_open and not options.socket:
                _open_browser(f"{_address(options.host, port)}/?token={guard.one_time_code()}")
            server.wait()
        except Interrupted as stop:
            if stop.signal_number != signal.SIGINT:
                raise
            return 0
        finally:
            library.stop()
            server.stop()
            if options.socket:
                options.socket.unlink(missing_ok=True)
    raise RuntimeError("the server has ended by itself")


def _listener(options: argparse.Namespace) -> socket.socket:
    from spectral_exp.dashboard.serving import listen_on_path, listen_on_port

    if options.socket is not None:
        return listen_on_path(options.socket)
    port = DEFAULT_PORT if options.port is None else options.port
    listener = listen_on_port(options.host, port, may_move=options.port is None)
    found = listener.getsockname()[1]
    if port and found != port:
        print(f"port {port} is in use; the dashboard has port {found}")
    return listener


def _origin(address: str) -> str:
    """Return scheme, host and port of an address, as policies of browsers name them."""
    try:
        parts = urlsplit(address)
        scheme, name, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, name, port = "", "", None
    is_origin = scheme in ("http", "https") and _HOST_NAME.fullmatch(name) is not None
    require(is_origin, "--embed", address, "an address such as http://localhost:8888")
    return f"{scheme}://{name}" + (f":{port}" if port is not None else "")


def _own_names(host: str) -> list[str]:
    """Return the names under which a server that listens on `host` may be asked."""
    return [socket.gethostname(), socket.getfqdn()] if host in _ALL_INTERFACES else [host]


def _address(host: str, port: int) -> str:
    name = "127.0.0.1" if host in _ALL_INTERFACES else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _print_address(options: argparse.Namespace, port: int, token: str) -> None:
    page = f"/?token={token}" + (_view(options) if options.where else "")
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    if options.socket is not None:
        path = options.socket.absolute()
        print(f"serving on {path}; on your own machine run")
        print(f"  ssh -N -L {DEFAULT_PORT}:{path} {here}")
        print(f"and open http://127.0.0.1:{DEFAULT_PORT}{page}")
    else:
        print(f"dashboard: {_address(options.host, port)}{page}")
        if "SSH_CONNECTION" in os.environ:
            print("this is a remote machine; on your own run")
            print(f"  ssh -N -L {port}:127.0.0.1:{port} {here}")
            print("and open the address there")
    for origin in options.embed if options.socket is None else ():
        print(f"in a notebook at {origin} show it with")
        address = _frame_address(options, port, origin) + page
        print(f'  IPython.display.IFrame("{address}", "100%", 640)')
    print("Ctrl-C ends it", flush=True)


def _frame_address(options: argparse.Namespace, port: int, origin: str) -> str:
    """Return the address for a frame in a page of `origin`, with its host name if possible.

    A browser withholds the cookie from a frame in a page of another host name.
    """
    from spectral_exp.dashboard.guard import LOOPBACK_NAMES

    name = urlsplit(origin).hostname or ""
    is_here = {name, options.host} <= LOOPBACK_NAMES
    return _address(name if is_here else options.host, port)


def _view(options: argparse.Namespace) -> str:
    """Return the fragment of the address at which the page begins."""
    conditions = "&".join(f"where={quote(condition, safe='')}" for condition in options.where)
    return f"#/runs?{conditions}" if conditions else "#/runs"


def _open_browser(address: str) -> None:
    """Open a browser if this is a desktop; a browser in a terminal would hide the output."""
    is_remote = "SSH_CONNECTION" in os.environ
    has_display = (
        sys.platform in ("darwin", "win32")
        or "DISPLAY" in os.environ
        or "WAYLAND_DISPLAY" in os.environ
    )
    if has_display and not is_remote:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


main = command(build_parser, run)
