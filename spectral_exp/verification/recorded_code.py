"""Find the code that made a run, or check it out again from the record of the run."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import spectral_exp
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.git import (
    EXACT_LINES,
    ask_git,
    code_directory,
    package_checkout,
    repository_of,
    run_git,
)
from spectral_exp.core.scratch import scratch_folder
from spectral_exp.monitoring.tracking.environment import git_facts, package_facts
from spectral_exp.runs.differences import code_differences, shortened
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.overrides import setting_of
from spectral_exp.runs.training_record import recorded_patch
from spectral_exp.verification.patch import apply_patch

REMEDY = "with --current-code it is trained by the code as it is now"
"""The end of messages about code that cannot be had."""

_PACKAGE_ROOT = Path(spectral_exp.__file__).resolve().parent.parent
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_CHECKOUT_S = 120.0


@contextlib.contextmanager
def recorded_code(
    paths: RunPaths, record: Mapping[str, Any], overrides: Sequence[str], *, is_trusted: bool
) -> Iterator[list[Path]]:
    """Yield the folders with the code that made a run, in the order of Python's search for modules.

    They are the folders in use if these hold that code, and temporary clones otherwise. The last
    one has the user's code.

    Args:
        paths: of the run.
        record: of the run.
        overrides: with which it will be trained.
        is_trusted: whether code may run that is not in the history of the repositories in use.

    Raises:
        UserError: the code cannot be found, or needs the consent of the user.
    """
    git, package = record["git"], record.get("package") or {}
    is_one = package.get("repository") in (None, git.get("repository")) and package.get("hash") in (
        None,
        git.get("hash"),
    )
    with contextlib.ExitStack() as stack:
        source = _Source(stack, overrides, is_trusted)
        here = code_directory()
        patch = recorded_patch(paths, git)
        if code_differences(git, patch, *git_facts(here)):
            user = _user_code(source, paths, git, patch)
            # A clone begins at the root of the repository; modules may lie in a folder below.
            user = user / _below_root(here)
        else:
            _note_shortcomings(git)
            user = _PACKAGE_ROOT if here == package_checkout() else here
        if package and not is_one:
            yield [_package_code(source, package), user]
        else:
            yield [user] if (user / "spectral_exp").is_dir() else [_PACKAGE_ROOT, user]


def _user_code(source: _Source, paths: RunPaths, git: Mapping[str, Any], patch: bytes) -> Path:
    """Return a checkout of the recorded commit with the recorded changes."""
    commit = git["hash"]
    if commit is None:
        reason = f" ({git['problem']})" if git.get("problem") else ""
        raise UserError(f"the run does not know the commit of its code{reason}; {REMEDY}")
    if git.get("diff_truncated"):
        missing = ", ".join(shortened([str(entry) for entry in git.get("diff_missing") or []]))
        what = f"does not hold all changes to {commit}" + (
            f": it lacks {missing}" if missing else ""
        )
        raise UserError(f"the patch that the run recorded {what}; {REMEDY}")
    lines = patch.count(b"\n")
    changes = (
        f"the run was made with changes to {commit[:8]} that were not committed: {lines} lines in "
    )
    reason = f"{changes}{paths.git_diff_file}" if patch else ""
    tree = source.check_out(str(commit), [code_directory(), package_checkout()], reason)
    _note_shortcomings(git)
    if patch and (problem := apply_patch(patch, tree, tree.with_name("changes.patch"))) is not None:
        redacted = ", as secrets were removed from it" if git.get("diff_redacted") else ""
        raise UserError(f"{paths.git_diff_file} {problem}{redacted} (commit {commit}); {REMEDY}")
    return tree


def _package_code(source: _Source, package: Mapping[str, Any]) -> Path:
    """Return the folder of this package, as recorded by a run of another repository."""
    now = package_facts()
    commit = package.get("hash")
    if (
        commit == now["hash"]
        and package.get("version") == now["version"]
        and package.get("dirty") == now["dirty"]
    ):
        return _PACKAGE_ROOT
    if commit is None:
        raise UserError(
            f"the run was made by spectral_exp {package.get('version')}, and this is "
            f"{now['version']} "
            f"({now['hash'] or 'installed'}); install that version, or {REMEDY}"
        )
    if package.get("dirty"):
        raise UserError(
            f"the run was made by a checkout of spectral_exp at {commit} with changes of which no "
            f"patch was kept, as its own code lies in another repository; {REMEDY}"
        )
    return source.check_out(str(commit), [package_checkout()])


class _Source:
    """Checks out code into temporary folders, if it is the user's own or trusted.

    Args:
        stack: removes the folders.
        overrides: of the training that will run the code.
        is_trusted: whether the user allows foreign code to run.
    """

    def __init__(
        self, stack: contextlib.ExitStack, overrides: Sequence[str], is_trusted: bool
    ) -> None:
        self._stack = stack
        self._overrides = overrides
        self._is_trusted = is_trusted

    def check_out(self, commit: str, places: Sequence[Path | None], reason: str = "") -> Path:
        """Return a temporary clone at `commit` of the first repository that has it.

        The clone shares the objects of the repository. A worktree would be registered in the
        repository, and remain there if this process is killed.

        Args:
            commit: full hash.
            places: folders inside repositories.
            reason: why the code needs trust even if the commit is the user's own; "" if it does
                not.
        """
        known = [place for place in places if place is not None]
        if not _COMMIT.fullmatch(commit):
            raise UserError(
                f"the run names {commit[:80]!r} as the commit of its code, which is none; {REMEDY}"
            )
        exists = ("cat-file", "-e", f"{commit}^{{commit}}")
        there = next(
            (place for place in known if run_git(*exists, directory=place) is not None), None
        )
        if there is None:
            shown = " or ".join(dict.fromkeys(map(str, known)))
            raise UserError(
                f"the commit {commit} that made the run is not in {shown}; fetch it, or {REMEDY}"
            )
        if reason:
            self.require_trust(reason)
        if not _is_in_history(commit, there):
            self.require_trust(f"the commit {commit[:8]} of the run is in no branch of {there}")
        # Earlier versions built any object that a configuration named.
        if named := [
            setting_of(override) for override in self._overrides if "_target_" in override
        ]:
            self.require_trust(f"the run chooses parts by their names ({', '.join(named)})")
        tree = self._stack.enter_context(scratch_folder("reproduce")) / "code"
        repository = os.fsdecode(repository_of(there).output)
        clone = (
            *EXACT_LINES,
            "clone",
            "--quiet",
            "--shared",
            "--no-checkout",
            repository,
            str(tree),
        )
        check_out = (*EXACT_LINES, "checkout", "--quiet", "--detach", commit)
        problem = ask_git(*clone, directory=there, timeout_s=_CHECKOUT_S).problem
        problem = problem or ask_git(*check_out, directory=tree, timeout_s=_CHECKOUT_S).problem
        if problem is not None:
            raise UserError(f"git cannot check out {commit} ({problem}); {REMEDY}")
        return tree

    def require_trust(self, reason: str) -> None:
        """Raise a UserError with `reason` unless foreign code is trusted."""
        if not self._is_trusted:
            raise UserError(f"{reason}; to run it, add --trust-code, or {REMEDY}")


def _is_in_history(commit: str, repository: Path) -> bool:
    """Return whether a branch of the repository, or its HEAD, contains `commit`."""
    own = run_git("for-each-ref", f"--contains={commit}", "refs/heads", directory=repository)
    is_below_head = (
        run_git("merge-base", "--is-ancestor", commit, "HEAD", directory=repository) is not None
    )
    return bool(own) or is_below_head


def _below_root(folder: Path) -> Path:
    """Return the path of `folder` below the root of its repository."""
    root = Path(repository_of(folder).output.decode(errors="surrogateescape") or folder)
    resolved = folder.resolve()
    return resolved.relative_to(root) if resolved.is_relative_to(root) else Path()


def _note_shortcomings(git: Mapping[str, Any]) -> None:
    """Print which parts of the code the record lacks."""
    notes = {
        "secrets were removed from the recorded changes of": git.get("diff_redacted"),
        "the recorded patch lacks": git.get("diff_missing"),
        "not part of the reproduction, as git did not know them:": git.get("untracked"),
    }
    for note, names in notes.items():
        if names:
            print(
                f"note: {note} {printable(', '.join(map(str, shortened(names))))}", file=sys.stderr
            )
