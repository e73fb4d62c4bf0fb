"""Source files of the user's packages that are not committed to git, as an archive of a run."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.git import ask_git, commit_of, repository_of
from spectral_exp.core.redact import known_secrets, redact_code
from spectral_exp.monitoring.tracking.git_patch import is_secret_file

MAX_FILE_BYTES = 1 << 20
MAX_TOTAL_BYTES = 20 << 20

_SUFFIXES = frozenset(
    (".py", ".pyi", ".pyx", ".yaml", ".yml", ".json", ".toml", ".cfg", ".ini", ".txt", ".md",
     ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp")
)  # fmt: skip


def own_code(packages: Mapping[str, Path]) -> tuple[dict[str, dict[str, Any]], bytes]:
    """Return the state of packages in git, and a zip archive of what git does not hold.

    Args:
        packages: name -> folder, or file of a module.

    Returns:
        By package its `place`, the `repository` around it with its commit, `hash`, `saved`, the
        files in the archive, and `missing`, those that are not in it, with the reasons. Secrets in
        files are replaced. The archive is empty if git holds everything.
    """
    facts: dict[str, dict[str, Any]] = {}
    archive = io.BytesIO()
    room = MAX_TOTAL_BYTES
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for package, place in sorted(packages.items()):
            folder = place if place.is_dir() else place.parent
            committed = _committed_files(folder)
            saved, missing = [], []
            for path in _source_files(place):
                name = path.relative_to(folder).as_posix()
                if name in committed:
                    continue
                content, problem = _read(path, name, room)
                if content is None:
                    shown = name.encode(errors="backslashreplace").decode()
                    missing.append(f"{shown} ({problem})")
                    continue
                room -= len(content)
                inside = f"{package}/{name}" if place.is_dir() else name
                target.writestr(zipfile.ZipInfo(inside), content, zipfile.ZIP_DEFLATED)
                saved.append(inside)
            facts[package] = {
                "place": str(place),
                "repository": os.fsdecode(repository_of(folder).output) or None,
                "hash": commit_of(folder).output.decode() or None,
                "saved": saved,
                "missing": missing,
            }
    is_empty = not any(entry["saved"] for entry in facts.values())
    return facts, b"" if is_empty else archive.getvalue()


def _source_files(place: Path) -> Iterator[Path]:
    """Yield the source files of a package in a fixed order, without hidden and linked ones."""
    if not place.is_dir():
        yield place
        return
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__pycache__")))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix in _SUFFIXES and not name.startswith(".") and not path.is_symlink():
                yield path


def _committed_files(folder: Path) -> set[str]:
    """Return the files below `folder` that are as in the commit, by their relative names."""
    tracked = ask_git("ls-files", "-z", directory=folder)
    changed = ask_git("diff", "--name-only", "--relative", "-z", "HEAD", directory=folder)
    if tracked.problem is not None or changed.problem is not None:
        return set()
    names = [set(os.fsdecode(each.output).split("\0")) for each in (tracked, changed)]
    return names[0] - names[1]


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
