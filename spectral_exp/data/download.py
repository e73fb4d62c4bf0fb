"""Getting one file whose checksum is known, once."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.data.cache import cache_errors, write_file


def download(url: str, place: Path, sha256: str, timeout_s: float) -> bytes:
    """The bytes of the file at `place`, fetched from `url` when it is not there or not the right one.

    Raises:
        UserError: when the file cannot be had; says where to put it by hand.
    """
    if place.is_file():
        with cache_errors(place.parent):
            data = place.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    by_hand = f"get the file elsewhere and put it at {place} (sha256 {sha256})"
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            data = bytes(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise UserError(f"{url} could not be downloaded ({error}); {by_hand}") from error
    received = hashlib.sha256(data).hexdigest()
    if received != sha256:
        raise UserError(
            f"{url} sent {len(data)} bytes with sha256 {received}, not the expected file; {by_hand}"
        )
    with cache_errors(place.parent):
        write_file(place, data)
    return data
