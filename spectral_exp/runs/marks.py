"""What people note about a run: its tags, a note, whether it is pinned or archived.

The marks lie in `notes.json` in the run directory, so they are copied, moved and backed up with the
run. No result depends on them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.file_locks import fcntl, try_lock
from spectral_exp.core.files import atomic_writer, remove_abandoned_files
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_files import json_bytes
from spectral_exp.core.json_text import parse_object
from spectral_exp.core.regular_file import open_run_file
from spectral_exp.runs.find import is_run_directory
from spectral_exp.runs.layout import NOTES_NAME
from spectral_exp.runs.schema import Findings, conform

MAX_TAGS = 50
MAX_TAG_CHARACTERS = 50
MAX_NOTE_CHARACTERS = 10_000

_MAX_BYTES = 256 << 10
_LOCK_TIMEOUT_S = 10.0
_LOCK_PAUSE_S = 0.005
# Controls other than tab and line breaks, and lone surrogates, which are no text.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _TagRule:
    """Short texts on one line that a condition such as `tag=good,fine` can name."""

    def accepts(self, value: str) -> bool:
        """Return whether `value` can be a tag."""
        if not 0 < len(value) <= MAX_TAG_CHARACTERS or not (value[0].isalnum() or value[0] == "_"):
            return False
        is_plain = printable(value) == value and " ".join(value.split()) == value
        return is_plain and not set(value) & set(",*")

    def __str__(self) -> str:
        return (
            f"1 to {MAX_TAG_CHARACTERS} characters that begin with a letter, digit or underscore "
            "and include no comma, * or invisible character"
        )


class _NoteRule:
    """Texts of several lines."""

    def accepts(self, value: str) -> bool:
        """Return whether `value` can be a note."""
        return len(value) <= MAX_NOTE_CHARACTERS and _NO_TEXT.search(value) is None

    def __str__(self) -> str:
        return f"a text of at most {MAX_NOTE_CHARACTERS:,} characters without control characters"


_TAG, _NOTE = _TagRule(), _NoteRule()


class _Record(TypedDict, total=False):
    """The content of `notes.json`. Other keys are kept."""

    tags: list[Annotated[str, _TAG]]
    note: Annotated[str, _NOTE]
    pinned: bool
    archived: bool


_TAG_LISTS = ("tags", "add_tags", "remove_tags")
_FLAGS = ("pinned", "archived")


@dataclass(frozen=True)
class Marks:
    """The marks of a run.

    Attributes:
        tags: sorted, each once.
        note: a text of several lines, or "".
        is_pinned: whether lists show the run first.
        is_archived: whether lists and comparisons leave the run out.
    """

    tags: tuple[str, ...] = ()
    note: str = ""
    is_pinned: bool = False
    is_archived: bool = False


NO_MARKS = Marks()


def read_marks(root: Path) -> tuple[Marks, tuple[str, ...]]:
    """Return the marks of the run in `root`, and a sentence for each part that is not readable."""
    try:
        content = parse_object(_read(root / NOTES_NAME))
    except FileNotFoundError:
        return NO_MARKS, ()
    except OSError as error:
        return NO_MARKS, (f"{NOTES_NAME} cannot be read: {error.strerror}",)
    except ValueError as error:
        return NO_MARKS, (f"{NOTES_NAME} {error}",)
    return _marks_of(content)


def update_marks(root: Path, changes: Mapping[str, Any]) -> Marks:
    """Change marks of the run in `root` durably and return the new marks.

    Changes that other processes make at the same time are not lost.

    Args:
        root: a run directory; the run may be in progress.
        changes: any of `tags`, which replaces all tags, `add_tags` and `remove_tags`, each a list
            of texts; `note`, where "" removes it; `pinned` and `archived`, true or false. Values
            are checked.

    Raises:
        UserError: a change is not valid, `root` is not a run directory or not writable, or its
            `notes.json` is damaged.
    """
    changes = _check(changes)
    try:
        if not is_run_directory(root):
            raise UserError(f"{root} is not a run directory; name one below outputs/")
        file = root / NOTES_NAME
        with _lock(root):
            remove_abandoned_files(file)
            while (marks := _try_update(file, changes)) is None:
                pass
    except OSError as error:
        raise UserError(
            f"cannot change the marks of {root}: {error.strerror}; check its permissions and its "
            "disk"
        ) from error
    return marks


# --- changes --------------------------------------------------------------------------------------


def _check(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return valid changes with normalized texts."""
    names = (*_TAG_LISTS, "note", *_FLAGS)
    checked: dict[str, Any] = {}
    for name, value in changes.items():
        shown = printable(repr(value), 60)
        require(name in names, "changes", printable(name, 60), f"among {', '.join(names)}")
        if name in _TAG_LISTS:
            require(isinstance(value, list | tuple), name, shown, "a list of tags")
            checked[name] = list(map(_check_tag, value))
        elif name == "note":
            require(isinstance(value, str) and _NOTE.accepts(value), name, shown, str(_NOTE))
            checked[name] = _plain_note(value)
        else:
            require(isinstance(value, bool), name, shown, "true or false")
            checked[name] = value
    return checked


def _check_tag(value: Any) -> str:
    tag = plain_tag(value) if isinstance(value, str) else ""
    require(_TAG.accepts(tag), "tag", printable(repr(value), 60), str(_TAG))
    return tag


def plain_tag(tag: str) -> str:
    """Return the form in which a tag is kept: an accented letter is one character."""
    return unicodedata.normalize("NFC", tag)


def _plain_note(note: str) -> str:
    return note.replace("\r\n", "\n").replace("\r", "\n").strip()


def _apply(changes: Mapping[str, Any], marks: Marks) -> Marks:
    tags = set(changes.get("tags", marks.tags)) | set(changes.get("add_tags", ()))
    tags -= set(changes.get("remove_tags", ()))
    require(len(tags) <= MAX_TAGS, "tags", f"{len(tags)} tags", f"at most {MAX_TAGS} tags")
    return Marks(
        tuple(sorted(tags)),
        changes.get("note", marks.note),
        changes.get("pinned", marks.is_pinned),
        changes.get("archived", marks.is_archived),
    )


# --- the file -------------------------------------------------------------------------------------


def _try_update(file: Path, changes: Mapping[str, Any]) -> Marks | None:
    """Write the changed marks and return them; None if another process changed the file meanwhile.

    Some network file systems lock a folder within one machine only, and editors do not lock.
    """
    try:
        before = _read_if_exists(file)
        content = parse_object(before) if before is not None else {}
    except OSError as error:
        raise _unusable_error(file, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _unusable_error(file, str(error)) from error
    old, problems = _marks_of(content)
    if problems:
        raise _unusable_error(file, f"is damaged: {problems[0]}")
    new = _apply(changes, old)
    if new == old:
        return old
    record = {
        **content,
        "tags": list(new.tags),
        "note": new.note,
        "pinned": new.is_pinned,
        "archived": new.is_archived,
    }
    with contextlib.suppress(_ChangedError), atomic_writer(file) as temporary:
        temporary.write(json_bytes(record))
        if _read_if_exists(file) != before:
            raise _ChangedError
        return new
    return None


class _ChangedError(Exception):
    """Another process has changed the file."""


def _unusable_error(file: Path, problem: str) -> UserError:
    return UserError(f"{file} {problem}; correct or remove it, then try again")


def _marks_of(content: Mapping[str, Any]) -> tuple[Marks, tuple[str, ...]]:
    """Return the valid marks in `content`, and a sentence for each of the others."""
    findings = Findings(NOTES_NAME)
    record = conform(_Record, dict(content), findings)
    tags = tuple(sorted(set(map(plain_tag, record.get("tags", ())))))
    if len(tags) > MAX_TAGS:
        findings.add("tags", list(tags), f"a list of at most {MAX_TAGS} tags")
        tags = ()
    flags = (record.get(name, False) for name in _FLAGS)
    return Marks(tags, _plain_note(record.get("note", "")), *flags), findings.all()


def _read_if_exists(file: Path) -> bytes | None:
    try:
        return _read(file)
    except FileNotFoundError:
        return None


def _read(file: Path) -> bytes:
    """Return the content of a regular file of limited size. Raises OSError for others and links."""
    with os.fdopen(open_run_file(file, os.O_RDONLY), "rb") as opened:
        content = opened.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"it holds more than {_MAX_BYTES:,} bytes", str(file))
    return content


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Hold the lock for changes of marks, which the operating system ties to the open folder.

    If the file system has no locks, the comparison in `_try_update` has to suffice.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(root, os.O_RDONLY)
    try:
        end_s = time.monotonic() + _LOCK_TIMEOUT_S
        while not try_lock(descriptor):
            if time.monotonic() > end_s:
                raise UserError(f"another process is changing the marks of {root}; try again")
            time.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(descriptor)
