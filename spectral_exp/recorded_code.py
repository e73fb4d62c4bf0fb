"""The code that made a run, found or checked out anew from what the run recorded."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectral_exp.errors import UserError
from spectral_exp.git import (
    EXACT_LINES,
    apply_patch,
    ask_git,
    code_directory,
    package_checkout,
    repository_of,
    run_git,
)
from spectral_exp.monitoring.environment import git_facts, package_facts
from spectral_exp.run_dir import RunPaths
from spectral_exp.run_record import code_differences, recorded_patch, shortened

REMEDY = "with --current-code it is trained by the code as it is now"

_PACKAGE_ROOT = Path(__file__).resolve().parents[1]
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_CHECKOUT_S = 120.0


@contextlib.contextmanager
def recorded_code(paths: RunPaths, record: Mapping[str, Any]) -> Iterator[list[Path]]:
    """Folders with the code that made the run in `paths`, in the order in which modules are looked for.

    They are those in use where these hold that code, else temporary worktrees. The last of them is the user's code.

    Raises:
        UserError: the code cannot be had.
    """
    git, package = record["git"], record.get("package") or {}
    is_one = package.get("repository") in (None, git.get("repository")) and package.get("hash") in (
        None,
        git.get("hash"),
    )
    with contextlib.ExitStack() as stack:
        here = code_directory()
        patch = recorded_patch(paths, git)
        if code_differences(git, patch, *git_facts(here)):
            user = _user_code(stack, paths, git, patch)
            # Worktrees begin at the root of the repository, modules perhaps in a folder below.
            user = user / _below_root(here)
        else:
            _note_shortcomings(git)
            user = _PACKAGE_ROOT if here == package_checkout() else here
        if package and not is_one:
            yield [_package_code(stack, package), user]
        else:
            yield [user] if (user / "spectral_exp").is_dir() else [_PACKAGE_ROOT, user]


def _user_code(stack: contextlib.ExitStack, paths: RunPaths, git: Mapping[str, Any], patch: bytes) -> Path:
    """A worktree at the recorded commit, with the recorded changes."""
    commit = git["hash"]
    if commit is None:
        reason = f" ({git['problem']})" if git.get("problem") else ""
        raise UserError(f"the run does not know the commit of its code{reason}; {REMEDY}")
    if git.get("diff_truncated"):
        missing = ", ".join(shortened([str(entry) for entry in git.get("diff_missing") or []]))
        what = f"does not hold all changes to {commit}" + (f": it lacks {missing}" if missing else "")
        raise UserError(f"the patch that the run recorded {what}; {REMEDY}")
    _note_shortcomings(git)
    tree = _worktree(stack, str(commit), [code_directory(), package_checkout()])
    if patch and (problem := apply_patch(paths.git_diff_file, tree)) is not None:
        redacted = ", as secrets were removed from it" if git.get("diff_redacted") else ""
        raise UserError(f"{paths.git_diff_file} does not apply to {commit}{redacted} ({problem}); {REMEDY}")
    return tree


def _package_code(stack: contextlib.ExitStack, package: Mapping[str, Any]) -> Path:
    """The folder of the recorded version of this package, if the run's own code lies in another repository."""
    now = package_facts()
    commit = package.get("hash")
    if commit == now["hash"] and package.get("version") == now["version"] and package.get("dirty") == now["dirty"]:
        return _PACKAGE_ROOT
    if commit is None:
        raise UserError(
            f"the run was made by spectral_exp {package.get('version')}, and this is {now['version']} "
            f"({now['hash'] or 'installed'}); install that version, or {REMEDY}"
        )
    if package.get("dirty"):
        raise UserError(
            f"the run was made by a checkout of spectral_exp at {commit} with changes of which no patch was kept, as "
            f"its own code lies in another repository; {REMEDY}"
        )
    return _worktree(stack, str(commit), [package_checkout()])


def _worktree(stack: contextlib.ExitStack, commit: str, places: list[Path | None]) -> Path:
    """A temporary worktree at `commit`, of the first repository around `places` that has it."""
    known = [place for place in places if place is not None]
    if not _COMMIT.fullmatch(commit):
        raise UserError(f"the run names {commit!r} as the commit of its code, which is none; {REMEDY}")
    there = next((p for p in known if run_git("cat-file", "-e", f"{commit}^{{commit}}", directory=p) is not None), None)
    if there is None:
        shown = " or ".join(dict.fromkeys(map(str, known)))
        raise UserError(f"the commit {commit} that made the run is not in {shown}; fetch it, or {REMEDY}")
    tree = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reproduce_"))) / "code"
    add = (*EXACT_LINES, "worktree", "add", "--detach", str(tree), commit)
    problem = ask_git(*add, directory=there, timeout_s=_CHECKOUT_S).problem
    if problem is not None:
        raise UserError(f"git cannot check out {commit} ({problem}); {REMEDY}")
    remove = ("worktree", "remove", "--force", str(tree))
    stack.callback(lambda: run_git(*remove, directory=there, timeout_s=_CHECKOUT_S))
    return tree


def _below_root(folder: Path) -> Path:
    """Where `folder` lies below the root of its repository."""
    root = Path(repository_of(folder).output.decode(errors="surrogateescape") or folder)
    resolved = folder.resolve()
    return resolved.relative_to(root) if resolved.is_relative_to(root) else Path()


def _note_shortcomings(git: Mapping[str, Any]) -> None:
    """Print in what respect the recorded code is not all that made the run."""
    notes = {
        "secrets were removed from the recorded changes of": git.get("diff_redacted"),
        "the recorded patch lacks": git.get("diff_missing"),
        "not part of the reproduction, as git did not know them:": git.get("untracked"),
    }
    for note, names in notes.items():
        if names:
            print(f"note: {note} {', '.join(map(str, shortened(names)))}", file=sys.stderr)
