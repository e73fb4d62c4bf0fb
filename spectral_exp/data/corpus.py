"""Text corpora and their split into training and validation text."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

from spectral_exp.core.errors import SettingError, UserError, require
from spectral_exp.core.regular_file import read_regular
from spectral_exp.data.download import download

Stamp = list[str | int]

_PASSAGE_LINES = 4
_PASSAGE_BYTES = 60


class NotUtf8Error(SettingError):
    """A text is not UTF-8; the message quotes the invalid byte."""


class Corpus:
    """Base class of all corpora, which `data=...` selects."""

    @property
    def entropy_bits_per_byte(self) -> float | None:
        """Exact entropy rate of the source, a lower bound for every model, or None if unknown."""
        return None


class TextCorpus(Corpus, ABC):
    """A text that fits into memory; its last `val_fraction` is the validation text.

    The test text stands between the training and the validation text, which is therefore the same
    with and without one.

    Args:
        val_fraction: fraction of the bytes, > 0 and < 1.
        test_fraction: fraction of the bytes for the test text, >= 0; 0 for none.
    """

    def __init__(self, val_fraction: float = 0.1, test_fraction: float = 0.0) -> None:
        require(
            0 < val_fraction < 1, "val_fraction", val_fraction, "between 0 and 1 (both excluded)"
        )
        most = 1 - val_fraction
        require(
            0 <= test_fraction < most,
            "test_fraction",
            test_fraction,
            f">= 0 and < {most:g}, since val_fraction={val_fraction:g}",
        )
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    @abstractmethod
    def read(self, cache: Path) -> bytes:
        """Return the whole text as UTF-8 bytes, the same at each call."""

    @abstractmethod
    def stamp(self, cache: Path) -> Stamp:
        """Return values that change with the text, such as file sizes and times."""

    def may_hold(self, n_bytes: int) -> bool:
        """Whether the text can be `n_bytes` long, judged without opening a file."""
        return True

    def split(self, text: bytes) -> dict[str, bytes]:
        """Return the parts "train", "val" and, if there is one, "test", of whole characters."""
        val = _start_of_character(text, int(len(text) * (1 - self.val_fraction)))
        if not self.test_fraction:
            return {"train": text[:val], "val": text[val:]}
        before = int(len(text) * (1 - self.val_fraction - self.test_fraction))
        test = _start_of_character(text, max(before, 0))
        return {"train": text[:test], "val": text[val:], "test": text[test:val]}


class TextFile(TextCorpus):
    """Any UTF-8 text file, or a folder of them.

    A folder is read recursively in order of the files' paths, without hidden files and folders. A
    newline is added to files that do not end with one.

    Args:
        path: file or folder.
        pattern: shell pattern for the file names in a folder, e.g. `*.txt`.
        val_fraction, test_fraction: see TextCorpus.
    """

    def __init__(
        self,
        path: str,
        pattern: str = "*",
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
    ) -> None:
        super().__init__(val_fraction, test_fraction)
        require(bool(str(path).strip()), "path", repr(path), "the name of a text file or folder")
        self.path, self.pattern = str(path), pattern

    def read(self, cache: Path) -> bytes:
        """Return the bytes of the file, or of the folder's files in order."""
        root = Path(self.path).expanduser()
        texts = [_read_utf8(file) for file in self._files()]
        text = texts[0] if root.is_file() else join_files(texts)
        if not text:
            raise SettingError("path", self.path, "a text that is not empty", "it holds 0 bytes")
        return text

    def stamp(self, cache: Path) -> Stamp:
        """Return path, size, times and inode of each file."""
        return ["text_file", *file_stamps(self._files())]

    def may_hold(self, n_bytes: int) -> bool:
        """Whether the files can total `n_bytes`, including newlines added between them."""
        root = self._root()
        if root.is_file():
            return root.stat().st_size == n_bytes
        size = n_files = 0
        for file in self._walk(root):
            size, n_files = size + file.stat().st_size, n_files + 1
            if size > n_bytes:
                return False
        return n_bytes <= size + n_files

    def _files(self) -> list[Path]:
        root = self._root()
        if root.is_file():
            return [root]
        files = sorted(self._walk(root), key=lambda file: file.relative_to(root).as_posix())
        allowed = f"a folder with files named {self.pattern!r}"
        require(bool(files), "path", self.path, allowed, "hidden files do not count")
        return files

    def _root(self) -> Path:
        root = Path(self.path).expanduser().absolute()
        inside_kernel = {"/proc", "/sys", "/dev"} & set(map(str, root.resolve().parents))
        require(
            not inside_kernel, "path", self.path, "a text, not a part of the system's own files"
        )
        kind = "a regular file or a folder" if root.exists() else "an existing file or folder"
        require(root.is_file() or root.is_dir(), "path", self.path, kind, f"looked for {root}")
        return root

    def _walk(self, root: Path) -> Iterator[Path]:
        """Yield the files of the folder, in no particular order."""
        try:
            yield from (file for file in walk_files(root) if fnmatch(file.name, self.pattern))
        except OSError as error:
            raise SettingError(
                "path", error.filename, "a readable folder", str(error.strerror)
            ) from error


class PythonStdlib(TextCorpus):
    """Source text of the running interpreter's standard library, available without a download.

    Tests, installed packages, generated files and duplicates are excluded. Files are ordered by the
    SHA-256 of their path inside the library, so the validation text is a fair sample.

    Args:
        val_fraction, test_fraction: see TextCorpus.
        drop_repeats: whether to leave out passages that stand in an earlier file too, such as
            licences and copied functions, which validation would otherwise share with training.
    """

    _skipped_folders: ClassVar[frozenset[str]] = frozenset(
        {
            "test",
            "tests",
            "idle_test",
            "site-packages",
            "dist-packages",
            "__pycache__",
            "__phello__",
            "lib-dynload",
        }
    )
    # Phrases near the top of a generated file. Modules that merely mention generation do not match.
    _generated: ClassVar[re.Pattern[bytes]] = re.compile(
        rb"auto-?generated|automatically generated|file is generated"
        rb"|codec [^\n]*generated (?:from|on)|do not edit",
        re.IGNORECASE,
    )
    _generated_within: ClassVar[int] = 300

    def __init__(
        self,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        drop_repeats: bool = False,
    ) -> None:
        super().__init__(val_fraction, test_fraction)
        self.drop_repeats = drop_repeats

    def read(self, cache: Path) -> bytes:
        """Return the text, or raise a UserError if the interpreter has no library sources."""
        root, seen, texts = self._root(), set(), []
        for name in self._names(root):
            text = (root / name).read_bytes()
            sha = hashlib.sha256(text).digest()
            is_generated = self._generated.search(text[: self._generated_within])
            if sha not in seen and not is_generated and _is_utf8(text):
                seen.add(sha)
                texts.append(text)
        if not texts:
            raise UserError(_missing_sources_message(root))
        return join_files(drop_repeated_passages(texts) if self.drop_repeats else texts)

    def stamp(self, cache: Path) -> Stamp:
        """Return the version of the interpreter, and path, size, times and inode of each file."""
        root = self._root()
        version = [platform.python_implementation(), sys.version]
        return [
            "python_stdlib without repeats" if self.drop_repeats else "python_stdlib",
            *version,
            *file_stamps([root / name for name in self._names(root)]),
        ]

    def _root(self) -> Path:
        return Path(sysconfig.get_path("stdlib"))

    def _names(self, root: Path) -> list[str]:
        if not root.is_dir():
            return []
        names = [
            name
            for name in list_files(root, self._skipped_folders)
            if name.endswith(".py")
            and not name.startswith(("_sysconfigdata", "__phello__", "config-"))
        ]
        return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


class Shakespeare(TextCorpus):
    """TinyShakespeare (Karpathy 2015), 1115394 bytes, downloaded once into the cache.

    Args:
        url: address of the text; a mirror must serve the same bytes.
        timeout_s: time limit for the server, in seconds.
        val_fraction, test_fraction: see TextCorpus; 0.1 and 0 are the split of nanoGPT.
    """

    sha256: ClassVar[str] = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(
        self,
        url: str = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
        "tinyshakespeare/input.txt",
        timeout_s: float = 30.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
    ) -> None:
        super().__init__(val_fraction, test_fraction)
        require(timeout_s > 0, "timeout_s", timeout_s, "> 0")
        self.url, self.timeout_s = url, timeout_s

    def read(self, cache: Path) -> bytes:
        """Return the text, downloaded if it is not in the cache."""
        return download(
            self.url, cache / "downloads" / "tinyshakespeare.txt", self.sha256, self.timeout_s
        )

    def stamp(self, cache: Path) -> Stamp:
        """Return the known checksum of the text."""
        return ["shakespeare", self.sha256]


def list_files(root: Path, skipped_folders: frozenset[str] = frozenset()) -> list[str]:
    """Return the sorted POSIX paths, relative to `root`, of all files that are not hidden."""
    return sorted(path.relative_to(root).as_posix() for path in walk_files(root, skipped_folders))


def walk_files(root: Path, skipped_folders: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield all regular files under `root` that are not hidden, in no particular order."""

    def fail(error: OSError) -> None:
        raise error

    for folder, subfolders, files in os.walk(root, onerror=fail):
        subfolders[:] = [
            name for name in subfolders if not name.startswith(".") and name not in skipped_folders
        ]
        for path in (Path(folder) / name for name in files if not name.startswith(".")):
            if path.is_file():
                yield path


def file_stamps(files: list[Path]) -> Stamp:
    """Return path, size, modification time, change time and inode of each file in one list."""
    stamps: Stamp = []
    for file in files:
        stat = file.stat()
        stamps += [str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return stamps


def join_files(texts: list[bytes]) -> bytes:
    """Concatenate the texts that are not empty, each with a newline at its end."""
    return b"".join(text if text.endswith(b"\n") else text + b"\n" for text in texts if text)


def drop_repeated_passages(texts: list[bytes]) -> list[bytes]:
    """Return the texts without passages of lines that stand in an earlier place too.

    A passage is a run of `_PASSAGE_LINES` lines or more, equal but for white space at the ends of
    lines, with at least `_PASSAGE_BYTES` bytes. Its first occurrence stays.
    """
    seen: set[bytes] = set()
    kept = []
    for text in texts:
        lines = text.splitlines(keepends=True)
        bare = [line.strip() for line in lines]
        repeated = [False] * len(lines)
        for first in range(len(lines) - _PASSAGE_LINES + 1):
            passage = b"\n".join(bare[first : first + _PASSAGE_LINES])
            if len(passage) < _PASSAGE_BYTES:
                continue
            key = hashlib.blake2b(passage, digest_size=16).digest()
            if key in seen:
                repeated[first : first + _PASSAGE_LINES] = [True] * _PASSAGE_LINES
            seen.add(key)
        kept.append(b"".join(line for line, old in zip(lines, repeated, strict=True) if not old))
    return kept


def _start_of_character(text: bytes, place: int) -> int:
    """Return the last place up to `place` at which a character of UTF-8 begins."""
    while 0 < place < len(text) and text[place] & 0xC0 == 0x80:  # a continuation byte
        place -= 1
    return place


def _read_utf8(file: Path) -> bytes:
    try:
        text = read_regular(file, sys.maxsize)
    except OSError as error:
        raise SettingError("path", file, "readable", error.strerror or str(error)) from error
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotUtf8Error(
            "path",
            file,
            f"UTF-8 text, but the byte 0x{text[error.start]:02x} at offset {error.start} is not "
            f"({error.reason})",
            "convert it, e.g. with `iconv -f LATIN1 -t UTF-8`, or leave the file out",
        ) from error
    return text


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _missing_sources_message(root: Path) -> str:
    return (
        "this Python interpreter came without the sources of its standard library "
        f"({root} holds no usable .py file); train on your own text with "
        "data=text_file data.path=FILE, or use another interpreter"
    )
