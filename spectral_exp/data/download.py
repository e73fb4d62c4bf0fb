"""Download of a file with a known checksum."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.data.cache import cache_errors, write_file


def download(url: str, place: Path, sha256: str, timeout_s: float) -> bytes:
    """Return the bytes of `place`, downloaded from `url` if it is missing or has another checksum.

    Raises:
        UserError: the download failed; the message names the path for a manual copy.
    """
    if place.is_file():
        with cache_errors(place.parent):
            data = place.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    remedy = f"download it on another machine and copy it to {place} (sha256 {sha256})"
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            data = bytes(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise UserError(f"{url} could not be downloaded ({error}); {remedy}") from error
    received = hashlib.sha256(data).hexdigest()
    if received != sha256:
        raise UserError(
            f"{url} sent {len(data)} bytes with sha256 {received}, not the expected file; {remedy}"
        )
    with cache_errors(place.parent):
        write_file(place, data)
    return data
