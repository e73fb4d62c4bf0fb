"""The user's packages and configuration files: their state in git, and what git does not hold."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.git import ask_git, commit_of, repository_of
from spectral_exp.core.redact import known_secrets, redact_code
from spectral_exp.monitoring.tracking.git_patch import is_secret_file
from spectral_exp.runs.layout import LOCK_NAME, OWN_CONFIG_NAME

MAX_FILE_BYTES = 1 << 20
MAX_TOTAL_BYTES = 20 << 20

_SUFFIXES = frozenset(
    (".py", ".pyi", ".pyx", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".txt", ".md",
     ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp")
)  # fmt: skip
_CONFIG_SUFFIXES = frozenset((".yaml",))  # Hydra reads no others
_FOREIGN_FOLDERS = frozenset(("__pycache__", "node_modules", "site-packages"))


def own_code(places: Mapping[str, Path]) -> tuple[dict[str, dict[str, Any]], bytes]:
    """Return the state of packages in git, and a zip archive of what git does not hold.

    Args:
        places: name -> folder, or file of a module; `OWN_CONFIG_NAME` -> folder of
            configuration files.

    Returns:
        By name its `place`, its `sha256` (see `content_sha256`), the `repository` around it with
        its commit, `hash`; `saved`, the files in the archive; `deleted`, the files that only the
        commit has; `committed`, the number of files that are as in the commit; and `missing`, those
        that are neither there nor in the archive, with the reasons. Secrets in files are replaced.
        The archive is empty if git holds everything.
    """
    facts: dict[str, dict[str, Any]] = {}
    archive = io.BytesIO()
    room = MAX_TOTAL_BYTES
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for entry, place in sorted(places.items()):
            folder = folder_of(place)
            committed, deleted = _committed_files(folder)
            saved, missing, n_committed = [], [], 0
            for path in _source_files(entry, place):
                name = path.relative_to(folder).as_posix()
                if name in committed:
                    n_committed += 1
                    continue
                content, problem = _read(path, name, room)
                if content is None:
                    missing.append(f"{_shown(name)} ({problem})")
                    continue
                room -= len(content)
                inside = f"{entry}/{name}" if place.is_dir() else name
                target.writestr(zipfile.ZipInfo(inside), content, zipfile.ZIP_DEFLATED)
                saved.append(inside)
            facts[entry] = {
                "place": str(place),
                "sha256": content_sha256(entry, place),
                "repository": os.fsdecode(repository_of(folder).output) or None,
                "hash": commit_of(folder).output.decode() or None,
                "committed": n_committed,
                "saved": saved,
                "deleted": deleted if place.is_dir() else [],
                "missing": missing,
            }
    is_empty = not any(entry["saved"] for entry in facts.values())
    return facts, b"" if is_empty else archive.getvalue()


def folder_of(place: Path) -> Path:
    """Return the folder of a package, or that around the file of a module."""
    return place if place.is_dir() else place.parent


def content_hashes(places: Mapping[str, Path]) -> dict[str, str]:
    """Return the `content_sha256` of each place."""
    return {entry: content_sha256(entry, place) for entry, place in sorted(places.items())}


def content_sha256(entry: str, place: Path) -> str:
    """Return a hash of the names and contents of source files, by which two copies are compared.

    Of files that are too large for the archive only name and size count.
    """
    digest = hashlib.sha256()
    for path in _source_files(entry, place):
        name = os.fsencode(path.relative_to(folder_of(place)).as_posix())
        try:
            size = path.stat().st_size
            content = path.read_bytes() if size <= MAX_FILE_BYTES else b""
        except OSError:
            size, content = -1, b""
        digest.update(b"%d %b %d " % (len(name), name, size) + content)
    return digest.hexdigest()


def _source_files(entry: str, place: Path) -> Iterator[Path]:
    """Yield the source files in a fixed order, without hidden, linked and foreign ones."""
    if not place.is_dir():
        if place.exists():
            yield place
        return
    suffixes = _CONFIG_SUFFIXES if entry == OWN_CONFIG_NAME else _SUFFIXES
    for folder, folders, files in os.walk(place):
        if {"pyvenv.cfg", LOCK_NAME} & set(files):  # an environment of Python, or a run
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if f not in _FOREIGN_FOLDERS and f[0] != ".")
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix in suffixes and not name.startswith(".") and not path.is_symlink():
                yield path


def _committed_files(folder: Path) -> tuple[set[str], list[str]]:
    """Return the files below `folder` that are as in the commit, and those that only it has.

    Names are relative to `folder`.
    """
    difference = ("diff", "--name-only", "--relative", "--no-renames", "-z")
    questions = (
        ("ls-files", "-z"),
        (*difference, "HEAD"),
        (*difference, "--diff-filter=D", "HEAD"),
    )
    answers = [ask_git(*words, directory=folder) for words in questions]
    if any(answer.problem is not None for answer in answers):
        return set(), []
    tracked, changed, deleted = (
        {name for name in os.fsdecode(answer.output).split("\0") if name} for answer in answers
    )
    return tracked - changed, sorted(map(_shown, deleted))


def _shown(name: str) -> str:
    """Return a file's name as text that every file of JSON can hold."""
    return name.encode(errors="backslashreplace").decode()


def _read(path: Path, name: str, room: int) -> tuple[bytes | None, str]:
    """Return the content of a file without secrets, or None and the reason."""
    if is_secret_file(path.name):
        return None, "may hold secrets"
    try:
        name.encode()
    except UnicodeEncodeError:  # no name for an archive
        return None, "its name is not UTF-8"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return None, error.strerror or str(error)
    if len(content) > min(MAX_FILE_BYTES, room):
        return None, "too large"
    text = content.decode(errors="surrogateescape")
    return redact_code(text, known_secrets()).encode(errors="surrogateescape"), ""
