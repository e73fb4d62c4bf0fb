"""Apply the recorded patch of a run to a checkout of its commit; only plain files may change."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from spectral_exp.core import git

# Modes of symbolic links and submodules, which lead out of the folder. Lines of a hunk begin with
# "+", "-" or a space, so they do not match.
_LEADS_OUT = re.compile(
    rb"^(?:(?:old|new|new file|deleted file) mode |index [0-9a-f]+\.\.[0-9a-f]+ )1[26]0000\s*$",
    re.MULTILINE,
)


def apply_patch(patch: bytes, folder: Path, draft: Path) -> str | None:
    """Apply `patch` to the files in `folder`, or change none of them.

    Args:
        patch: as `git diff` writes it.
        folder: the root of a checkout.
        draft: path of a temporary file for git to read the patch from.

    Returns:
        None if the patch was applied, else the reason, which completes "the patch ...".
    """
    if _LEADS_OUT.search(patch):
        return "is refused: it makes or changes a symbolic link or a submodule"
    draft.write_bytes(patch)
    summary = git.run_git("apply", "--numstat", "-z", str(draft.absolute()), directory=folder)
    if summary is None:
        return "is not a patch that git can read"
    for name in _names(summary):
        if not is_inside(name):
            return f"is refused: it changes {name!r}, which is not a file of the code"
    problem = git.apply_patch(draft, folder)
    return None if problem is None else f"does not apply ({problem})"


def is_inside(name: str) -> bool:
    """Return whether a path names a file below the root of a checkout and outside of `.git`."""
    parts = PurePosixPath(name).parts
    has_unsafe_part = any(
        part in ("..", "") or part.casefold().rstrip(". ") in (".git", "git~1") for part in parts
    )
    has_unsafe_character = re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name) is not None
    is_relative = bool(parts) and not name.startswith("/")
    return is_relative and not has_unsafe_part and not has_unsafe_character


def _names(output: bytes) -> list[str]:
    """Return the paths in the output of `git apply --numstat -z`."""
    entries = [entry.decode(errors="replace") for entry in output.split(b"\0") if entry]
    return [entry.split("\t", 2)[-1] for entry in entries]
