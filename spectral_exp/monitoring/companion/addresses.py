"""Send a message to an address: a webhook, or any of the services that apprise knows."""

from __future__ import annotations

import base64
import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from spectral_exp import __version__
from spectral_exp.core.errors import RunError, SettingError, UserError, explain_missing

SETTING = "alerts"
_WEBHOOK = "webhook:"
_TIMEOUT_S = 15.0
_ALLOWED = "webhook:https://HOST/PATH, or an address of apprise, such as mailto://..."


def check_addresses(addresses: Sequence[str]) -> list[str]:
    """Return the addresses, each once. Messages do not repeat them, since they may be secrets.

    Raises:
        SettingError: one is no address.
        UserError: apprise is missing.
    """
    texts = list(map(str, addresses))
    for index, address in enumerate(texts):
        setting = f"{SETTING}[{index}]"
        if address.startswith(_WEBHOOK):
            _check_webhook(setting, address)
            continue
        if "://" not in address:
            raise SettingError(setting, "...", _ALLOWED)
        with explain_missing(f"{SETTING}: {_kind(address)}://... needs apprise", SETTING):
            import apprise
        if not apprise.Apprise().add(address):
            raise UserError(
                f"{setting}: apprise does not know the address {_kind(address)}://...; "
                "https://appriseit.com/services lists all"
            )
    return list(dict.fromkeys(texts))


def describe_address(address: str) -> str:
    """Return an address without what may be secret."""
    if not address.startswith(_WEBHOOK):
        return _kind(address)
    return f"webhook at {urllib.parse.urlsplit(address.removeprefix(_WEBHOOK)).hostname}"


def send_message(address: str, title: str, text: str, fields: Mapping[str, Any]) -> None:
    """Send a message.

    Args:
        address: where to.
        title: one line.
        text: the message.
        fields: further values, for webhooks.

    Raises:
        OSError: it does not arrive.
        RunError: apprise could not send it.
    """
    if address.startswith(_WEBHOOK):
        _post(address.removeprefix(_WEBHOOK), title, text, fields)
        return
    import apprise

    service = apprise.Apprise()
    service.add(address)
    if not service.notify(title=title, body=text):
        raise RunError("apprise could not send the message")


def _kind(address: str) -> str:
    return address.partition("://")[0]


def _check_webhook(setting: str, address: str) -> None:
    try:
        place = urllib.parse.urlsplit(address.removeprefix(_WEBHOOK))
        is_web = place.scheme in ("http", "https") and bool(place.hostname)
        place.port  # noqa: B018 raises for a port that is no number
    except ValueError:
        is_web = False
    if not is_web:
        raise SettingError(setting, "webhook:...", _ALLOWED)


def _post(url: str, title: str, text: str, fields: Mapping[str, Any]) -> None:
    # Slack and its relatives show `text`, Discord `content`.
    shown = f"{title}\n{text}"
    content = {"text": shown, "content": shown[:1900], "host": socket.gethostname(), **fields}
    headers = {"Content-Type": "application/json", "User-Agent": f"spectral-exp/{__version__}"}
    place = urllib.parse.urlsplit(url)
    login, has_login, host = place.netloc.rpartition("@")
    if has_login:  # urllib would take it for a part of the host
        encoded = base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()
        headers["Authorization"] = f"Basic {encoded}"
    request = urllib.request.Request(
        place._replace(netloc=host).geturl(), json.dumps(content).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"the server answers {error.code} {error.reason}") from None
