"""Who may ask for what: host names, tokens, methods and requests from other pages.

On a shared machine 127.0.0.1 belongs to every user, and a browser sends requests to it for any page
that it shows. So every request needs the token of this server, from a cookie, and none is answered
if another page has caused it.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
from collections.abc import Collection, Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spectral_exp.dashboard.answers import json_bytes

TOKEN_PARAMETER = "token"
EDIT_HEADER = "x-spectral-edit"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
)
CONTENT_SECURITY_POLICY = f"{_POLICY}'none'"

_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
_ICON = "/favicon.svg"  # also of the page that asks for the token
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

# A browser withholds a strict cookie from a request that a link of another site has started, also
# from the redirected one. This page asks again by itself.
_WELCOME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=./">
<link rel="icon" href="favicon.svg"><title>spectral-exp</title></head>
<body><a href="./">Open the dashboard</a></body></html>
"""
_NO_TOKEN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><link rel="icon" href="favicon.svg">
<title>spectral-exp</title></head>
<body><h1>This page needs its token</h1>
<p>Open the address that <code>spectral-exp dashboard</code> has printed when it started.</p>
{hint}</body></html>
"""
_IN_FRAME = """<p>In a frame, the page around it must have the same host name as this one:
<code>localhost</code> and <code>127.0.0.1</code> are different ones.</p>
"""


class Guard:
    """Refuses requests, and adds the headers of security to every answer.

    Args:
        app: the application behind it.
        cookie: name of the cookie; servers on other ports of the host need other names.
        allowed_hosts: names beside those of the loopback interface.
        any_address: whether every IP address is an allowed host, for a server that listens on all
            of the machine's.
        editable: whether runs may be marked, by POST requests.
        embedding_origins: origins whose pages may show this one in a frame, such as that of a
            notebook; by default none. Their frame gets the strict cookie only if they are of the
            same site, which the port does not change.

    Attributes:
        token: which gives access.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        cookie: str,
        allowed_hosts: Collection[str] = (),
        any_address: bool = False,
        editable: bool = False,
        embedding_origins: Sequence[str] = (),
    ) -> None:
        self.token = secrets.token_urlsafe(24)
        self._app = app
        self._cookie = cookie
        self._allowed_hosts = LOOPBACK_NAMES | {name.lower() for name in allowed_hosts}
        self._any_address = any_address
        self._editable = editable
        self._headers = dict(_HEADERS)
        if embedding_origins:
            self._headers["content-security-policy"] = _POLICY + " ".join(embedding_origins)
            del self._headers["x-frame-options"]  # it cannot name an origin
        self._codes: set[str] = set()
        self._lock = threading.Lock()

    def one_time_code(self) -> str:
        """Return a token that works once, for a command line that other users may see."""
        code = secrets.token_urlsafe(24)
        with self._lock:
            self._codes.add(code)
        return code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that is not passed on."""
        headers, path = Headers(scope=scope), scope["path"]
        if not self._is_our_host(headers):
            return _error(421, "this server does not have that name; see --allow-host")
        if (refusal := self._refused_method(scope["method"], path, headers)) is not None:
            return refusal
        site = headers.get("sec-fetch-site", "none")
        is_visit = path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not is_visit:
            return _error(403, "requests of other pages are refused")
        if path == "/" and (given := _token_in(scope)):
            return self._welcome(given, headers)
        if path != _ICON and not self._has_token(headers):
            if path == "/":
                return _ask_for_token(headers)
            return _error(403, "the token is missing; open the address that the command printed")
        return None

    def _is_our_host(self, headers: Headers) -> bool:
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return False
        name = host_name(hosts[0])
        return name in self._allowed_hosts or (self._any_address and _is_address(name))

    def _refused_method(self, method: str, path: str, headers: Headers) -> Response | None:
        if method in ("GET", "HEAD"):
            return None
        is_note = method == "POST" and path.startswith("/api/notes/")
        if not is_note:
            return _error(405, f"{method} is not allowed", {"allow": "GET, HEAD"})
        if not self._editable:
            return _error(403, "runs can be marked only if the server was started with --edit")
        origin, host = headers.get("origin", ""), headers.get("host", "")
        is_ours = origin.split("://")[-1].lower() == host.lower()
        is_json = headers.get("content-type", "").split(";")[0].strip() == "application/json"
        if not (is_ours and is_json and headers.get(EDIT_HEADER) == "1"):
            return _error(403, "only the dashboard's own page may mark runs")
        return None

    def _welcome(self, given: str, headers: Headers) -> Response:
        with self._lock:
            is_code = given in self._codes
            self._codes.discard(given)
        if not is_code and not _equal(given, self.token):
            return _ask_for_token(headers)
        # A redirection keeps the fragment of the address, which holds the view.
        is_foreign = headers.get("sec-fetch-site") == "cross-site"
        response = HTMLResponse(_WELCOME) if is_foreign else RedirectResponse("./", 303)
        response.set_cookie(self._cookie, self.token, httponly=True, samesite="strict")
        return response

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given, self.token):
            return True
        for header in headers.getlist("cookie"):
            try:
                found = SimpleCookie(header).get(self._cookie)
            except CookieError:
                continue
            if found is not None and _equal(found.value, self.token):
                return True
        return False


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port and the brackets of an address."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _ask_for_token(headers: Headers) -> Response:
    is_framed = headers.get("sec-fetch-dest") == "iframe"
    return HTMLResponse(_NO_TOKEN.format(hint=_IN_FRAME if is_framed else ""), 403)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _token_in(scope: Scope) -> str:
    query: str = scope["query_string"].decode("latin-1")
    return parse_qs(query, max_num_fields=100).get(TOKEN_PARAMETER, [""])[0]


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return Response(json_bytes({"error": sentence}), status, headers, "application/json")
