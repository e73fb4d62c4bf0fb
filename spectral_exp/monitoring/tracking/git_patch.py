"""The differences between a working tree and its commit, as a patch for `git apply` on any machine.

The patch holds changed files of every kind and new source files, under any user settings for
`git diff`. It holds the changes of a file completely or not at all, and lists missing files.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from spectral_exp.core.git import ask_git
from spectral_exp.core.redact import known_secrets, redact_code, redact_text
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.core.secret_names import is_secret_name
from spectral_exp.runs.layout import CHECKPOINTS_FOLDER, SWEEP_FILES

MAX_PATCH_BYTES = 8_000_000
MAX_FILE_BYTES = 50_000_000
MAX_BINARY_BYTES = 4_000_000
MAX_SOURCE_BYTES = 1_000_000

_TIMEOUT_S = 60.0
_FILES_AT_ONCE = 500
_EMPTY_BLOBS = {
    40: "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    64: "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
}

_DIFF = (
    "-c", "core.quotePath=true", "-c", "diff.suppressBlankEmpty=false",
    "-c", "diff.relative=false", "--literal-pathspecs", "diff", "--no-ext-diff",
    "--no-textconv", "--no-color", "--no-renames", "--ignore-submodules=all", "-O/dev/null", "HEAD",
)  # fmt: skip
_PATCH = (
    "--patch", "--binary", "--full-index", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3",
    "--inter-hunk-context=0", "--ws-error-highlight=none", "--color-moved=no", "--word-diff=none",
)  # fmt: skip

_CODE = (
    "c", "cc", "cpp", "cu", "cuh", "cxx", "go", "h", "hip", "hpp", "ipynb", "java", "jl", "js",
    "kt", "lua", "m", "pxd", "py", "pyi", "pyx", "r", "rs", "scala", "swift", "ts",
)  # fmt: skip
_TEXT = (
    "bash", "bat", "cfg", "cmake", "conf", "gin", "ini", "j2", "jinja", "json", "jsonc", "jsonnet",
    "libsonnet", "mk", "proto", "ps1", "sh", "sql", "toml", "yaml", "yml", "zsh",
)  # fmt: skip
_SOURCE_NAMES = (
    "Makefile", "Dockerfile", "Snakefile", "Pipfile", "requirements*.txt", "constraints*.txt",
)  # fmt: skip
_SECRET_FILES = (
    ".env", ".env.*", "*.env", ".netrc", "_netrc", ".npmrc", ".pypirc", ".pgpass", ".my.cnf",
    ".htpasswd", ".git-credentials", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore",
    "*.kdbx", "*.ppk", "*.asc", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
    "service_account*.json", "kubeconfig*", "terraform.tfstate*",
)  # fmt: skip
# Folders of installed packages and caches, which no one has written.
_FOREIGN_FOLDERS = frozenset({"node_modules", "site-packages", "__pycache__", "venv", "env"})


@dataclass
class Patch:
    """The difference of a working tree to its commit.

    Attributes:
        content: the patch itself.
        new: untracked source files that it holds.
        missing: files whose changes it lacks, each with the reason.
        redacted: files from whose changes secrets were removed, so that they are not the real ones.
    """

    content: bytes = b""
    new: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    redacted: list[str] = field(default_factory=list)


def working_tree_patch(root: Path, commit: str) -> Patch:
    """The patch from `commit`, which is checked out at `root`, to the files as they are."""
    patch = Patch()
    try:
        with scratch_folder("patch") as scratch:
            _prepare(root, commit, scratch)
            patch.new = _add_new_sources(root, scratch, commit, patch)
            sections = _sections(root, scratch, patch)
    except OSError as error:
        patch.missing.append(f"all changes ({error.strerror or error})")
        return patch
    _assemble(root, sections, patch)
    return patch


def is_secret_file(name: str) -> bool:
    """Whether a file is named like one that holds passwords or keys."""
    path = PurePosixPath(name)
    if any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in _SECRET_FILES):
        return True
    return path.suffix[1:] not in _CODE and is_secret_name(path.name.removesuffix(path.suffix))


# --- new files ------------------------------------------------------------------------------------


def _prepare(root: Path, commit: str, scratch: Path) -> None:
    """Copy the index, so that new files can be noted without changing the repository."""
    source = _git_path(root, "index")
    if source.is_file():
        shutil.copy2(source, scratch / "index")  # git compares its time with those of the files
    empty = scratch / "objects" / _EMPTY_BLOBS[len(commit)][:2] / _EMPTY_BLOBS[len(commit)][2:]
    empty.parent.mkdir(parents=True)
    empty.write_bytes(zlib.compress(b"blob 0\0"))
    (scratch / "objects/info").mkdir()
    (scratch / "objects/info/alternates").write_bytes(
        bytes(_git_path(root, "objects").absolute()) + b"\n"
    )


def _git_path(root: Path, name: str) -> Path:
    answer = ask_git("rev-parse", "--git-path", name, directory=root)
    return root / answer.output.removesuffix(b"\n").decode(errors="surrogateescape")


def _add_new_sources(root: Path, scratch: Path, commit: str, patch: Patch) -> list[str]:
    """Note untracked source files in the copied index, so that `git diff` shows them.

    Returns their names.
    """
    patterns = [*(f"*.{suffix}" for suffix in (*_CODE, *_TEXT)), *_SOURCE_NAMES]
    patterns += [f"**/{name}" for name in _SOURCE_NAMES]
    arguments = ("ls-files", "--others", "--exclude-standard", "-z", "--", *patterns)
    answer = ask_git(*arguments, directory=root, timeout_s=_TIMEOUT_S, scratch=scratch)
    if answer.problem is not None:
        patch.missing.append(f"new files ({answer.problem})")
        return []
    names = []
    for name in _names(answer.output):
        if not _is_own_source(root, name):
            continue
        facts = (root / name).lstat()
        if facts.st_size > MAX_SOURCE_BYTES:
            patch.missing.append(f"{name} (too large)")
        elif stat.S_ISLNK(facts.st_mode) or _is_text(root / name):
            names.append(name)
    lines = [
        f"100644 {_EMPTY_BLOBS[len(commit)]}\t{name}\0".encode(errors="surrogateescape")
        for name in names
    ]
    if not lines:
        return []
    update = ("update-index", "-z", "--index-info")
    problem = ask_git(
        *update, directory=root, scratch=scratch, standard_input=b"".join(lines)
    ).problem
    if problem is not None:
        patch.missing += [f"{name} ({problem})" for name in names]
        return []
    return names


def _is_own_source(root: Path, name: str) -> bool:
    """Whether an untracked file is the user's code, neither installed nor written by a run."""
    folders = PurePosixPath(name).parts[:-1]
    if any(part.startswith(".") or part in _FOREIGN_FOLDERS for part in folders) or is_secret_file(
        name
    ):
        return False
    if name.endswith(SWEEP_FILES):
        return False
    above = [root.joinpath(*folders[: i + 1]) for i in range(len(folders))]
    return not any((f / "pyvenv.cfg").exists() or (f / CHECKPOINTS_FOLDER).is_dir() for f in above)


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(8000)
    except OSError:
        return False


# --- changes --------------------------------------------------------------------------------------


def _sections(root: Path, scratch: Path, patch: Patch) -> dict[str, bytes]:
    """The changes of every file that is small enough, by name."""
    answer = ask_git(
        *_DIFF, "--numstat", "-z", directory=root, timeout_s=_TIMEOUT_S, scratch=scratch
    )
    if answer.problem is not None:
        patch.missing.append(f"all changes ({answer.problem})")
        return {}
    chosen: list[tuple[str, int]] = []
    for entry in _names(answer.output):
        added, _, name = entry.split("\t", 2)
        size = _size(root, name)
        if is_secret_file(name):
            patch.missing.append(f"{name} (may hold secrets)")
        elif size > (MAX_BINARY_BYTES if added == "-" else MAX_FILE_BYTES):
            patch.missing.append(f"{name} (too large)")
        else:
            chosen.append((name, size))
    sections: dict[str, bytes] = {}
    for names in _batches(chosen):
        answer = ask_git(
            *_DIFF, *_PATCH, "--", *names, directory=root, timeout_s=_TIMEOUT_S, scratch=scratch
        )
        if answer.problem is not None:
            patch.missing += [f"{name} ({answer.problem})" for name in names]
        else:
            sections |= _split(answer.output)
    return sections


def _assemble(root: Path, sections: dict[str, bytes], patch: Patch) -> None:
    """Join as many whole sections as fit."""
    secrets = known_secrets()
    kept: list[bytes] = []
    room = MAX_PATCH_BYTES
    for name, section in sections.items():
        shown = _without_secrets(root, name, section, secrets)
        if shown is None:
            patch.missing.append(f"{name} (holds secrets)")
        elif len(shown) > room:
            patch.missing.append(f"{name} (too large)")
        else:
            kept.append(shown)
            room -= len(shown)
            if shown != section:
                patch.redacted.append(name)
    patch.content = b"".join(kept)
    lacking = {entry.rpartition(" (")[0] for entry in patch.missing}
    patch.new = [name for name in patch.new if name not in lacking]


def _without_secrets(root: Path, name: str, section: bytes, secrets: Sequence[str]) -> bytes | None:
    """The changes of one file without secrets, or None if they cannot be removed line by line."""
    if b"\nGIT binary patch\n" in section:
        try:
            content = (root / name).read_bytes()
        except OSError:
            return section
        return (
            None
            if any(s.encode(errors="surrogateescape") in content for s in secrets if len(s) > 7)
            else section
        )
    lines = section.decode(errors="surrogateescape").split("\n")
    first = next((i for i, line in enumerate(lines) if line.startswith("@@ ")), len(lines))
    changed = [i for i in range(first, len(lines)) if lines[i][:1] in {"+", "-", " "}]
    text = "\n".join(lines[i][1:] for i in changed)
    is_code = PurePosixPath(name).suffix[1:].lower() in _CODE
    shown = redact_code(text, secrets) if is_code else redact_text(text, secrets)
    if shown == text:
        return section
    shown_lines = shown.split("\n")
    if len(shown_lines) != len(changed):
        return None
    for i, line in zip(changed, shown_lines, strict=True):
        lines[i] = lines[i][0] + line
    return "\n".join(lines).encode(errors="surrogateescape")


def _size(root: Path, name: str) -> int:
    """Bytes of a file, of the commit's if it was deleted."""
    try:
        return (root / name).lstat().st_size
    except OSError:
        answer = ask_git("cat-file", "-s", f"HEAD:{name}", directory=root)
        return int(answer.output or 0)


def _batches(files: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Names of files whose changes fit into memory together."""
    names: list[str] = []
    total = 0
    for name, size in files:
        if names and (total + size > MAX_FILE_BYTES or len(names) == _FILES_AT_ONCE):
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    if names:
        yield names


def _split(diff: bytes) -> dict[str, bytes]:
    """The sections of a patch by the name of their file.

    A file that became a link has two in one.
    """
    sections: dict[str, bytes] = {}
    for section in re.split(rb"^(?=diff --git )", diff, flags=re.MULTILINE):
        if section.startswith(b"diff --git "):
            name = _section_name(section)
            section = re.sub(rb"^\* Unmerged path .*\n", b"", section, flags=re.MULTILINE)
            sections[name] = sections.get(name, b"") + section
    return sections


def _section_name(section: bytes) -> str:
    """The file in `diff --git a/NAME b/NAME`, where both names are equal."""
    names = section.partition(b"\n")[0].removeprefix(b"diff --git ")
    name = names[: len(names) // 2]
    if name.startswith(b'"'):
        name = name[1:-1].decode("unicode_escape").encode("latin-1")  # as C, byte by byte
    return name.removeprefix(b"a/").decode(errors="surrogateescape")


def _names(output: bytes) -> Iterable[str]:
    return (name.decode(errors="surrogateescape") for name in output.split(b"\0") if name)
