"""Find the code of a run, or check it out as the record of the run describes."""

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
from spectral_exp.runs.differences import code_differences, shorten
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.overrides import setting_of
from spectral_exp.runs.training_record import recorded_patch
from spectral_exp.verification.patch import apply_patch

REMEDY = "use --current-code to train with the current code"
"""The end of messages about code that is not available."""

_PACKAGE_ROOT = Path(spectral_exp.__file__).resolve().parent.parent
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_CHECKOUT_S = 120.0


@contextlib.contextmanager
def recorded_code(
    paths: RunPaths, record: Mapping[str, Any], overrides: Sequence[str], *, is_trusted: bool
) -> Iterator[list[Path]]:
    """Yield the folders with the code of a run, in the order of Python's module search path.

    If the installed code is the same, these are its folders, otherwise temporary clones. The last
    folder holds the user's own code.

    Args:
        paths: the paths of the run.
        record: the record of the run.
        overrides: the overrides of the training that will use the code.
        is_trusted: whether to allow code that is not in the history of the user's repositories.

    Raises:
        UserError: the code cannot be found, or needs the consent of the user.
    """
    git, package = record["git"], record.get("package") or {}
    # Whether this package and the user's code were in the same repository.
    is_one_repository = all(
        package.get(name) in (None, git.get(name)) for name in ("repository", "hash")
    )
    with contextlib.ExitStack() as stack:
        source = CodeSource(stack, overrides, is_trusted)
        here = code_directory()
        patch = recorded_patch(paths, git)
        if code_differences(git, patch, *git_facts(here)):
            user = _user_code(source, paths, git, patch)
            # The clone has the root of the repository; the modules may be in a folder below.
            user = user / _path_in_repository(here)
        else:
            _warn_of_missing_code(git)
            user = _PACKAGE_ROOT if here == package_checkout() else here
        if package and not is_one_repository:
            yield [_package_code(source, package), user]
        else:
            yield [user] if (user / "spectral_exp").is_dir() else [_PACKAGE_ROOT, user]


def _user_code(source: CodeSource, paths: RunPaths, git: Mapping[str, Any], patch: bytes) -> Path:
    """Return a checkout of the recorded commit with the recorded patch applied."""
    commit = git["hash"]
    if commit is None:
        reason = f" ({git['problem']})" if git.get("problem") else ""
        raise UserError(f"the commit of the run's code is not recorded{reason}; {REMEDY}")
    if git.get("diff_truncated"):
        missing = ", ".join(shorten([str(entry) for entry in git.get("diff_missing") or []]))
        lacks = f": it lacks {missing}" if missing else ""
        raise UserError(
            f"the recorded patch of the run does not hold all changes to {commit}{lacks}; {REMEDY}"
        )
    lines = patch.count(b"\n")
    changes = (
        f"the run was made with uncommitted changes to {commit[:8]}: {lines} "
        f"lines in {paths.git_diff_file}"
    )
    tree = source.check_out(
        str(commit), [code_directory(), package_checkout()], changes if patch else ""
    )
    _warn_of_missing_code(git)
    if patch and (problem := apply_patch(patch, tree, tree.with_name("changes.patch"))) is not None:
        redacted = ", because secrets were removed from it" if git.get("diff_redacted") else ""
        raise UserError(f"{paths.git_diff_file} {problem}{redacted} (commit {commit}); {REMEDY}")
    return tree


def _package_code(source: CodeSource, package: Mapping[str, Any]) -> Path:
    """Return a folder with the recorded version of this package, from its own repository."""
    now = package_facts()
    if all(package.get(name) == now[name] for name in ("hash", "version", "dirty")):
        return _PACKAGE_ROOT
    commit = package.get("hash")
    if commit is None:
        raise UserError(
            f"the run was made by spectral_exp {package.get('version')}, and this is "
            f"{now['version']} ({now['hash'] or 'installed'}); install that version, or {REMEDY}"
        )
    if package.get("dirty"):
        raise UserError(
            f"the run was made by a checkout of spectral_exp at {commit} with uncommitted changes, "
            f"and only the patch of the user's own repository was recorded; {REMEDY}"
        )
    return source.check_out(str(commit), [package_checkout()])


class CodeSource:
    """Checks out code into temporary folders if it is the user's own or trusted.

    Args:
        stack: removes the folders when it closes.
        overrides: the overrides of the training that will use the code.
        is_trusted: whether the user allows foreign code to run.
    """

    def __init__(
        self, stack: contextlib.ExitStack, overrides: Sequence[str], is_trusted: bool
    ) -> None:
        self._stack = stack
        self._overrides = overrides
        self._is_trusted = is_trusted

    def check_out(self, commit: str, folders: Sequence[Path | None], reason: str = "") -> Path:
        """Return a temporary clone at `commit` of the first repository that has it.

        The clone shares the objects of the repository. A worktree would be registered in the
        repository, and remain there if this process is killed.

        Args:
            commit: full hash.
            folders: folders inside repositories.
            reason: why the code needs trust even if the commit is the user's own, or "".
        """
        candidates = [folder for folder in folders if folder is not None]
        if not _COMMIT.fullmatch(commit):
            raise UserError(
                f"the record of the run holds {commit[:80]!r}, which is not a commit; {REMEDY}"
            )
        exists = ("cat-file", "-e", f"{commit}^{{commit}}")
        with_commit = (f for f in candidates if run_git(*exists, directory=f) is not None)
        folder = next(with_commit, None)
        if folder is None:
            shown = " or ".join(dict.fromkeys(map(str, candidates)))
            raise UserError(
                f"the commit {commit} of the run's code is not in {shown}; fetch it, or {REMEDY}"
            )
        if reason:
            self.require_trust(reason)
        if not _is_in_history(commit, folder):
            self.require_trust(f"the commit {commit[:8]} of the run is in no branch of {folder}")
        # Earlier versions of this package built any object that a configuration named.
        if named := [
            setting_of(override) for override in self._overrides if "_target_" in override
        ]:
            self.require_trust(f"the run chooses parts by their names ({', '.join(named)})")
        tree = self._stack.enter_context(scratch_folder("reproduce")) / "code"
        repository = os.fsdecode(repository_of(folder).output)
        options = ("--quiet", "--shared", "--no-checkout")
        clone = (*EXACT_LINES, "clone", *options, repository, str(tree))
        check_out = (*EXACT_LINES, "checkout", "--quiet", "--detach", commit)
        problem = ask_git(*clone, directory=folder, timeout_s=_CHECKOUT_S).problem
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
    branches = run_git("for-each-ref", f"--contains={commit}", "refs/heads", directory=repository)
    head = run_git("merge-base", "--is-ancestor", commit, "HEAD", directory=repository)
    return bool(branches) or head is not None


def _path_in_repository(folder: Path) -> Path:
    """Return the path of `folder` relative to the root of its repository."""
    root = Path(repository_of(folder).output.decode(errors="surrogateescape") or folder)
    resolved = folder.resolve()
    return resolved.relative_to(root) if resolved.is_relative_to(root) else Path()


def _warn_of_missing_code(git: Mapping[str, Any]) -> None:
    """Print the parts of the code that the record lacks."""
    notes = {
        "secrets were removed from the recorded changes of": git.get("diff_redacted"),
        "the recorded patch lacks": git.get("diff_missing"),
        "not part of the reproduction, because git does not track them:": git.get("untracked"),
    }
    for note, names in notes.items():
        if names:
            shown = printable(", ".join(map(str, shorten(names))))
            print(f"note: {note} {shown}", file=sys.stderr)
