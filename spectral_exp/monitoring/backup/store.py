"""Storage for backups, which reads back every file that it stores, and their manifests.

At `<url>/<name of the run>/` lie `objects/<crc32>-<size>-<name of the file>`, never changed once
written, and `manifest_<number>_step_<N>.json`, written last, which name the object, size and
checksum of every file of one backup.
"""

from __future__ import annotations

import importlib
import os
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from spectral_exp.core import files, json_files
from spectral_exp.core.checksum import crc32
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_text import parse_object
from spectral_exp.core.redact import redact_text
from spectral_exp.core.wording import install
from spectral_exp.runs.record import Manifest, manifest_of

SETTING = "backup_url"
OBJECTS = "objects"
PIECE_BYTES = 4 << 20
_FORMS = "s3://bucket/folder, gs://bucket/folder, file:///folder or ssh://user@host/folder"
# Kind of URL -> the library it needs, and the extra that brings that.
_LIBRARIES = {
    "file": ("fsspec", "backup"),
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "ssh": ("paramiko", "ssh"),
}
_MAX_PARTS = 5000  # object stores allow 10 000 to a file
_REREAD_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 64 << 20
_MAX_NAME = 255
# Windows gives these names to devices.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
_MANIFEST = re.compile(r"manifest_(\d+)_step_(\d+)\.json")


def normalize_url(url: str, setting: str = SETTING) -> str:
    """Return `url` without a slash at its end.

    Raises:
        SettingError: its kind is unknown, or it holds credentials.
    """
    shown = re.sub(r"//[^/]*@", "//<redacted>@", url)
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    require(scheme in _LIBRARIES, setting, shown, _FORMS)
    login = host.rpartition("@")[0]
    require(
        not login or (scheme == "ssh" and ":" not in login),
        setting,
        shown,
        "a URL without a password or key",
        "credentials belong into the environment, the files of the store's own tools, or an ssh "
        "agent",
    )
    whole = bool(path.strip("/")) and not host if scheme == "file" else bool(host)
    require(whole and not re.search(r"[?#*\x00-\x1f]|::|/\.\.?(/|$)", rest), setting, shown, _FORMS)
    return url.rstrip("/")


def _options(scheme: str) -> dict[str, Any]:
    """Return options for the library of a kind of URL: no stale listings, finite waits."""
    if scheme == "s3":
        timeouts = {"connect_timeout": 15, "read_timeout": 60, "retries": {"max_attempts": 3}}
        return {"use_listings_cache": False, "config_kwargs": timeouts}
    if scheme == "gs":
        return {"use_listings_cache": False}
    if scheme == "ssh":
        return {
            "timeout": 15,
            "banner_timeout": 15,
            "auth_timeout": 15,
            "host_key_policy": _known_hosts_only(),
        }
    return {}


def _known_hosts_only() -> Any:
    """Trusts only host keys in the user's known_hosts, as the ssh command does."""
    import paramiko

    class KnownHostsOnly(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
        """Refuses unknown host keys: an impostor could take the backups, or return others."""

        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            known = Path("~/.ssh/known_hosts").expanduser()
            if not (known.is_file() and paramiko.HostKeys(str(known)).check(hostname, key)):
                raise paramiko.SSHException(
                    f"the key of {hostname} is not in {known}; connect once by ssh to add it"
                )

    return KnownHostsOnly()


def checksum_of(pieces: Iterable[bytes]) -> int:
    """The CRC-32 of bytes that come in pieces."""
    value = 0
    for piece in pieces:
        value = crc32(piece, value)
    return value


class DamagedError(Exception):
    """An object in the storage is missing or differs from what was written."""


def ignore_progress(n_bytes: int) -> None:
    """Do nothing: the default for callers that need no progress."""


class Store:
    """The backup of one run, or the place of all of them, on storage that fsspec reaches.

    Args:
        url: as `normalize_url` gives it.
        setting: the setting that it comes from, for messages.
        progress: called with the number of bytes after each piece read or written.

    Raises:
        UserError: the library for this kind of URL is not installed.
    """

    def __init__(
        self, url: str, setting: str = SETTING, progress: Callable[[int], None] = ignore_progress
    ) -> None:
        self.scheme = url.partition("://")[0]
        library, extra = _LIBRARIES[self.scheme]
        try:
            core = importlib.import_module("fsspec.core")
            importlib.import_module(library)
        except ImportError as error:
            raise UserError(
                f"{setting}={url} needs a library that is not installed ({error}); {install(extra)}"
            ) from error
        self._fs, root = core.url_to_fs(url, skip_instance_cache=True, **_options(self.scheme))
        self._root = str(root).rstrip("/")
        self._progress = progress
        # These show a file while it is being written; object stores show it when it is whole.
        self._shows_parts = self.scheme in ("file", "ssh")
        self._trusted: set[str] = set()

    def names(self) -> list[str]:
        """Return the names of all objects, relative to the root."""
        try:
            return [str(path)[len(self._root) + 1 :] for path in self._fs.find(self._root)]
        except FileNotFoundError:
            return []

    def put(
        self, key: str, pieces: Callable[[], Iterator[bytes]], size: int, checksum: str
    ) -> bool:
        """Store these bytes under `key` and verify them; return whether they had to be written.

        Raises:
            DamagedError: the object reads back different.
            Exception: an error of the storage's library.
        """
        if key in self._trusted and self._size(key) == size:
            return False
        missing = not self._holds(key, size, checksum)
        if missing:
            self._write(key, pieces(), size)
            if not self._holds(key, size, checksum):
                raise DamagedError(f"{key} reads back different from what was written")
        self._trusted.add(key)
        return missing

    def trust(self, manifest: Mapping[str, Any]) -> None:
        """Count the large objects that a manifest names as verified."""
        self._trusted |= {
            entry["key"] for entry in manifest["files"].values() if entry["size"] > _REREAD_BYTES
        }

    def pieces(self, key: str) -> Iterator[bytes]:
        """The content of `key`. Raises FileNotFoundError if there is none."""
        with self._fs.open(self._path(key), "rb", **self._block(0)) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
                self._progress(len(piece))

    def remove(self, key: str) -> None:
        """Delete `key`; one that is gone already is fine."""
        self._trusted.discard(key)
        try:
            self._fs.rm_file(self._path(key))
        except FileNotFoundError:
            return
        self._progress(0)

    def _size(self, key: str) -> int | None:
        try:
            size: int = self._fs.info(self._path(key))["size"]
        except FileNotFoundError:
            return None
        return size

    def _holds(self, key: str, size: int, checksum: str) -> bool:
        return self._size(key) == size and f"{checksum_of(self.pieces(key)):08x}" == checksum

    def _write(self, key: str, pieces: Iterator[bytes], size: int) -> None:
        target = self._path(key)
        path = (
            f"{target}.{secrets.token_hex(4)}{files.TEMPORARY_SUFFIX}"
            if self._shows_parts
            else target
        )
        if self._shows_parts:
            # Only here: on object stores it would create the bucket.
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        # Where a piece fails, closing may commit the beginning of an object; no manifest names it,
        # and the next try compares it and writes it anew.
        with self._fs.open(path, "wb", **self._block(size)) as file:
            for piece in pieces:
                file.write(piece)
                self._progress(len(piece))
            if self.scheme == "file":
                file.flush()
                os.fsync(file.fileno())
        if self._shows_parts:
            self._fs.mv(path, target)
        if self.scheme == "file":
            files.fsync_directory(Path(target).parent)

    def _block(self, size: int) -> dict[str, Any]:
        """Return the number of bytes of a file of `size` bytes that are sent at once."""
        least = 2 * PIECE_BYTES
        needed = -(-size // (_MAX_PARTS * least)) * least
        return {} if self._shows_parts else {"block_size": max(least, needed)}

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"


def reason(error: Exception, scheme: str) -> str:
    """Return the problem of the storage and its remedy, in one line without secrets."""
    kind = type(error).__name__
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, FileNotFoundError):
        remedy = "create the bucket or folder, or correct the URL"
    elif isinstance(error, PermissionError) or "Credentials" in kind or "Authentication" in kind:
        where = {
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
            "gs": "set GOOGLE_APPLICATION_CREDENTIALS or log in with gcloud",
            "ssh": "add your key to the ssh agent",
        }.get(scheme, "choose a folder you may write to")
        remedy = f"{where}, with permission to list, read, write and delete there"
    elif isinstance(error, DamagedError):
        remedy = "check the storage"
    else:
        remedy = "check the network and the storage"
    return redact_text(f"{kind}: {text}; {remedy}")


# --- manifests ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestName:
    """The facts in a manifest's name.

    Attributes:
        key: its name.
        number: counts the backups of a run; the highest is the newest.
        step: of its checkpoint.
    """

    key: str
    number: int
    step: int


def manifest_names(names: list[str]) -> list[ManifestName]:
    """The manifests among the objects of a run, the newest first."""
    matches = [match for name in names if (match := _MANIFEST.fullmatch(name))]
    return sorted(
        (ManifestName(m[0], int(m[1]), int(m[2])) for m in matches), key=lambda m: -m.number
    )


def read_manifest(store: Store, key: str) -> dict[str, Any]:
    """The manifest `key`.

    Raises:
        DamagedError: it is missing, changed, or names a file outside of a run.
    """
    content = bytearray()
    try:
        for piece in store.pieces(key):
            content += piece
            if len(content) > _MAX_MANIFEST_BYTES:
                raise DamagedError(f"{key} holds more than {_MAX_MANIFEST_BYTES >> 20} MB")
        parsed = parse_object(bytes(content))
    except FileNotFoundError as error:
        raise DamagedError(f"{key} is missing") from error
    except ValueError as error:
        raise DamagedError(f"{key} {error}") from error
    if parsed.get("crc32") != json_files.content_crc32(parsed):
        raise DamagedError(f"{key} disagrees with its own checksum")
    try:
        manifest = manifest_of(parsed)
    except ValueError as error:
        raise DamagedError(f"{key}: {error}") from error
    if problem := _name_problem(manifest):
        raise DamagedError(f"{key} {problem}")
    return dict(manifest)


def _name_problem(manifest: Manifest) -> str | None:
    """Return why the names in a manifest are not those of a run and its files, or None."""
    names = list(manifest["files"])
    if re.search(r"[\x00-\x1f\x7f]", manifest["run"]) or leads_out(manifest["run"]):
        return f"names the run {printable(manifest['run'], 80)}, which is no folder below another"
    for name in names:
        if not _is_plain(name) or leads_out(name) or any(map(_DEVICE.match, name.split("/"))):
            return (
                f"names {printable(name, 80)}, which lies outside of a run or is no plain file name"
            )
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    if taken := folders.intersection(names):
        return f"names {printable(min(taken), 80)} as a file and as a folder"
    if len({unicodedata.normalize("NFC", name).casefold() for name in names}) < len(names):
        return "names files that differ in the case of letters alone"
    if manifest["latest"] not in names or manifest["best"] not in (None, *names):
        return "names a checkpoint that is not among its files"
    return None


def _is_plain(name: str) -> bool:
    """Whether a path is written in its only form, and every system can hold its parts."""
    return (
        not re.search(r"[\\\x00-\x1f\x7f]|[. ](/|$)", name)
        and len(max(name.split("/"), key=len)) <= _MAX_NAME
    )


def leads_out(name: str) -> bool:
    """Whether a path may lead out of the storage or the run, or is not in its normal form."""
    return (
        any(part in ("", ".", "..") for part in name.split("/"))
        or re.match("[A-Za-z]:", name) is not None
    )
