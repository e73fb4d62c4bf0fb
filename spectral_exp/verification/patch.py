"""Applying the patch that a run recorded to the code of its commit: it changes plain files of that, no others."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from spectral_exp.core import git

# Symbolic links and submodules lead out of the folder. No line of a hunk begins so: each has a sign of its own.
_LEADS_OUT = re.compile(
    rb"^(?:(?:old|new|new file|deleted file) mode |index [0-9a-f]+\.\.[0-9a-f]+ )1[26]0000\s*$", re.MULTILINE
)


def apply_patch(patch: bytes, folder: Path, draft: Path) -> str | None:
    """Change the files in `folder`, a checkout, as `patch` says, or none of them.

    Args:
        patch: as `git diff` writes it.
        folder: the root of a checkout.
        draft: a file to be written, for git to read.

    Returns:
        Why it was not applied, as the end of a sentence; None if it was.
    """
    if _LEADS_OUT.search(patch):
        return "is refused: it makes or changes a symbolic link or a submodule"
    draft.write_bytes(patch)
    listed = git.run_git("apply", "--numstat", "-z", str(draft.absolute()), directory=folder)
    if listed is None:
        return "is no patch that git understands"
    for name in _names(listed):
        if not is_inside(name):
            return f"is refused: it changes {name!r}, which is no file of the code"
    problem = git.apply_patch(draft, folder)
    return None if problem is None else f"does not apply ({problem})"


def is_inside(name: str) -> bool:
    """Whether a path in a patch names a file below the root of a checkout, and none of git's own."""
    parts = PurePosixPath(name).parts
    own = any(part in ("..", "") or part.casefold().rstrip(". ") in (".git", "git~1") for part in parts)
    return bool(parts) and not name.startswith("/") and not own and not re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name)


def _names(listed: bytes) -> list[str]:
    """The paths in the output of `git apply --numstat -z`."""
    entries = [entry.decode(errors="replace") for entry in listed.split(b"\0") if entry]
    return [entry.split("\t", 2)[-1] for entry in entries]
