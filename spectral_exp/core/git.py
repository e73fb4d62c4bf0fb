"""Calls of git that run no program that a repository's configuration names."""

from __future__ import annotations

import functools
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

NO_GIT_HASH = "nogit000"
"""Replaces the commit hash if the code is in no git repository, or in one without commits."""

TIMEOUT_S = 10.0
"""Seconds that a question may take."""

EXACT_LINES = ("-c", "core.autocrlf=false")
"""Options of git with which a checkout has the ends of lines that were committed."""

CODE_VARIABLE = "SPECTRAL_EXP_CODE"
"""Environment variable that names the folder of the user's code."""

_PACKAGE = Path(__file__).resolve().parents[1]
# A monitor of files, hooks and a pager are programs; no network is needed to look at what is here.
_SAFE = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", "core.pager=cat", "gc.auto=0")
# Of the variables for git those that choose a configuration; the others name a repository, as
# inside a hook, or programs to run.
_KEPT_VARIABLE = re.compile(
    r"GIT_(CONFIG_(GLOBAL|SYSTEM|NOSYSTEM|COUNT|(KEY|VALUE)_\d+)"
    r"|CEILING_DIRECTORIES|DISCOVERY_ACROSS_FILESYSTEM|EXEC_PATH)"
)


@dataclass(frozen=True)
class GitAnswer:
    """The output of a git command, or the reason for its absence.

    Attributes:
        output: standard output; empty after a problem.
        problem: one line for people; None if the command succeeded.
    """

    output: bytes
    problem: str | None = None


def ask_git(
    *arguments: str,
    directory: Path,
    timeout_s: float | None = None,
    scratch: Path | None = None,
    standard_input: bytes = b"",
) -> GitAnswer:
    """Run a git command that reads.

    Args:
        arguments: the command and its options.
        directory: folder inside the repository.
        timeout_s: seconds after which git is stopped; None for `TIMEOUT_S`.
        scratch: folder with an `index` to use instead of the repository's, and `objects` beside
            those there.
        standard_input: input of the command.
    """
    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    settings = [word for setting in _SAFE for word in ("-c", setting)]
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *settings, *arguments],
            env=_environment(scratch, _own_filters(str(directory))),
            input=standard_input,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        return GitAnswer(b"", "git is not installed")
    except subprocess.TimeoutExpired:
        return GitAnswer(b"", f"git did not answer within {timeout_s:g} s")
    except OSError as error:
        return GitAnswer(b"", f"git cannot be started: {error.strerror}")
    if done.returncode == 0:
        return GitAnswer(done.stdout)
    problem = _problem(done.stderr.decode(errors="replace"), directory)
    log.debug("git %s: %s", " ".join(arguments), problem)
    return GitAnswer(b"", problem)


def run_git(*arguments: str, directory: Path, timeout_s: float | None = None) -> bytes | None:
    """Return the output of a git command, or None if it fails."""
    answer = ask_git(*arguments, directory=directory, timeout_s=timeout_s)
    return answer.output if answer.problem is None else None


def apply_patch(patch: Path, directory: Path) -> str | None:
    """Apply `patch` in `directory`, the root of a checkout made with `EXACT_LINES`.

    Returns the problem, or None.
    """
    options = ("--whitespace=nowarn", "--no-ignore-whitespace", "-p1")
    settings = ("-c", "apply.whitespace=nowarn", "-c", "apply.ignoreWhitespace=no", *EXACT_LINES)
    return ask_git(*settings, "apply", *options, str(patch.absolute()), directory=directory).problem


def commit_of(directory: Path) -> GitAnswer:
    """Return the full hash of the commit that is checked out around `directory`."""
    answer = ask_git("rev-parse", "--verify", "--quiet", "HEAD^{commit}", directory=directory)
    if answer.problem is None:
        return GitAnswer(answer.output.strip())
    root = repository_of(directory)
    return GitAnswer(b"", root.problem or "the repository has no commit yet")


def repository_of(directory: Path) -> GitAnswer:
    """Return the root of the repository around `directory`."""
    if not directory.is_dir():
        return GitAnswer(b"", f"{directory} does not exist any more")
    answer = ask_git("rev-parse", "--show-toplevel", directory=directory)
    return GitAnswer(answer.output.removesuffix(b"\n"), answer.problem)


def git_hash() -> str:
    """Return the first 8 characters of the commit of the user's code, or `NO_GIT_HASH`.

    git runs once per process and folder, because loaded code does not change.
    """
    return _git_hash(code_directory())


def code_directory() -> Path:
    """Return the folder of the user's code, whose repository a run records.

    That is the folder of the main script. If there is none, or it belongs to this package or to the
    Python environment, it is the working directory; and for a run of this package's own commands
    outside of any repository, the package's checkout.
    """
    if named := os.environ.get(CODE_VARIABLE):
        return Path(named)
    main = _main_folder()
    if main is not None and not _is_environment(main):
        return main
    here = working_directory()
    runs_package = main is not None and main.is_relative_to(_PACKAGE)
    if (runs_package or "spectral_exp.train" in sys.modules) and not _is_inside_repository(here):
        return package_checkout() or here
    return here


def working_directory() -> Path:
    """Return the current folder, or "." if it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.curdir)


@functools.cache
def package_checkout() -> Path | None:
    """Return the checkout that this package is loaded from, or None if it is installed."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / ".git").exists() else None


@functools.cache
def _git_hash(directory: Path) -> str:
    return commit_of(directory).output.decode()[:8] or NO_GIT_HASH


@functools.cache
def _is_inside_repository(directory: Path) -> bool:
    """Return whether `directory` is in a repository, even one that git refuses to read."""
    problem = repository_of(directory).problem
    return problem is None or problem.startswith("git refuses")


@functools.cache
def _main_folder() -> Path | None:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve().parent if file else None


def _is_environment(folder: Path) -> bool:
    """Return whether a main script in `folder` is a tool that runs the user's code: a launcher."""
    prefixes = {Path(prefix).resolve() for prefix in (sys.prefix, sys.exec_prefix)}
    standard = Path(os.__file__).resolve().parent
    installed = {"site-packages", "dist-packages"} & set(folder.parts)
    inside = any(folder.is_relative_to(place) for place in (_PACKAGE, standard))
    # The prefix of a system's Python is /usr: not all below is Python's.
    scripts = any(folder == prefix / name for prefix in prefixes for name in ("bin", "Scripts"))
    return bool(installed) or inside or scripts


@functools.cache
def _own_filters(directory: str) -> tuple[str, ...]:
    """Return the content filters, which are programs, that the repository itself configures.

    Those of the user and of the system, such as Git LFS, are trusted.
    """
    command = [
        "git",
        "-C",
        directory,
        "config",
        "-z",
        "--show-scope",
        "--name-only",
        "--get-regexp",
        r"^filter\.",
    ]
    try:
        done = subprocess.run(
            command, env=_environment(None), capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    fields = os.fsdecode(done.stdout).split("\0")
    keys = [
        key
        for scope, key in zip(fields[::2], fields[1::2], strict=False)
        if scope in ("local", "worktree")
    ]
    return tuple(sorted({key.removeprefix("filter.").rpartition(".")[0] for key in keys}))


def _environment(scratch: Path | None, disabled_filters: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables of a git process, in which `disabled_filters` do nothing."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or _KEPT_VARIABLE.fullmatch(name)
    }
    ours = {
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "LC_ALL": "C",
    }
    if scratch is not None:
        ours |= {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        }
    n_settings = int(kept.get("GIT_CONFIG_COUNT") or 0)
    # An empty `process` also keeps git from running `clean` and `smudge`.
    for name in disabled_filters:
        for key, value in ((f"filter.{name}.process", ""), (f"filter.{name}.required", "false")):
            ours |= {f"GIT_CONFIG_KEY_{n_settings}": key, f"GIT_CONFIG_VALUE_{n_settings}": value}
            n_settings += 1
    if disabled_filters:
        ours["GIT_CONFIG_COUNT"] = str(n_settings)
    return {**kept, **ours}


def _problem(stderr: str, directory: Path) -> str:
    if "dubious ownership" in stderr or "unsafe repository" in stderr:
        return (
            f"git refuses to read {directory}, which belongs to another user; allow it with "
            f"git config --global --add safe.directory {directory}"
        )
    if "not a git repository" in stderr:
        return f"{directory} is in no git repository"
    lines = [line for line in stderr.splitlines() if line.startswith(("fatal", "error"))]
    return "git failed: " + (
        lines[0] if lines else stderr.strip().partition("\n")[0] or "no reason given"
    )
