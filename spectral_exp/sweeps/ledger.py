"""The ledger of a sweep, `sweep.json` in its folder: the jobs that were planned, and the command.

The state of a job is never written here; it comes from the run itself (see `states`). The ledger
lists jobs that have not begun, and saves composing jobs that are known. Without it, or if it is
damaged, a sweep continues all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from spectral_exp.core.errors import UserError
from spectral_exp.core.file_locks import fcntl
from spectral_exp.core.json_files import content_crc32, read_intact_json, write_json_atomic
from spectral_exp.core.redact import redact
from spectral_exp.runs.layout import CORRUPT_SUFFIX, SWEEP_LOCK_NAME, SWEEP_NAME

log = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class PlannedJob:
    """A job of a sweep.

    Attributes:
        key: the hash that identifies it.
        folder: the name of its folder.
        overrides: without those of Hydra and of the place.
    """

    key: str
    folder: str
    overrides: tuple[str, ...]


@dataclass
class Ledger:
    """The content of a ledger.

    Attributes:
        command: arguments of the last command of the sweep.
        commands: hash of a job -> arguments of the last command that has it.
        jobs: hash -> job, in the order in which they were planned. Secrets are replaced.
        sources: fingerprint of the configuration files that `known` holds for.
        known: digest of a job's overrides -> hash of the job.
    """

    command: list[str] = field(default_factory=list)
    commands: dict[str, list[str]] = field(default_factory=dict)
    jobs: dict[str, PlannedJob] = field(default_factory=dict)
    sources: str = ""
    known: dict[str, str] = field(default_factory=dict)

    def commands_of(self, jobs: Iterable[str]) -> list[list[str]]:
        """Return the arguments of the commands that together have `jobs`; the last one for none."""
        found = [self.commands.get(key, self.command) for key in jobs]
        return _distinct(filter(None, found or [self.command]))


def read_ledger(sweep: Path) -> Ledger:
    """Return the ledger of a sweep, empty if it is missing.

    Raises:
        UserError: it is damaged.
    """
    file = sweep / SWEEP_NAME
    if not file.is_file():
        return Ledger()
    content = read_intact_json(file)
    try:
        jobs = {
            key: PlannedJob(key, _folder_name(job["folder"]), tuple(_texts(job["overrides"])))
            for key, job in content["jobs"].items()
        }
        known = dict(zip(_texts(content["known"]), _texts(content["known"].values()), strict=True))
        # A ledger of an earlier version has one command.
        listed = [_texts(command) for command in content.get("commands", ())]
        commands = {
            key: listed[job["command"]] for key, job in content["jobs"].items() if "command" in job
        }
        command, sources = _texts(content["command"]), str(content["sources"])
        return Ledger(command, commands, jobs, sources, known)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: it is not a ledger of jobs") from error


def read_intact_ledger(sweep: Path) -> Ledger:
    """Return the ledger of a sweep; move a damaged one aside, with a warning."""
    try:
        return read_ledger(sweep)
    except UserError as error:
        file = sweep / SWEEP_NAME
        corrupt = file.with_name(file.name + CORRUPT_SUFFIX)
        with contextlib.suppress(FileNotFoundError):  # another launcher has moved it
            file.replace(corrupt)
        log.warning("%s; it is kept as %s and written again", error, corrupt.name)
        return Ledger()


class SweepLock:
    """The lock of a sweep, for which other launchers wait: `with SweepLock(folder): ...`.

    Its blocks nest. Where the system has no such locks, two launchers may plan the same new job at
    the same time; the lock of the run keeps them from running it twice.
    """

    def __init__(self, sweep: Path) -> None:
        self._path = sweep / SWEEP_LOCK_NAME
        self._file: IO[str] | None = None
        self._depth = 0

    def __enter__(self) -> SweepLock:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a")
            if fcntl is not None:
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX)
                except OSError as error:  # a file system without locks
                    log.debug("%s is not locked: %s", self._path, error)
                except BaseException:
                    self._close()
                    raise
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._close()

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None


def record_plan(
    sweep: Path, command: Sequence[str], jobs: Sequence[PlannedJob], sources: str
) -> None:
    """Add jobs to the ledger of a sweep, whose lock is held.

    Args:
        sweep: the folder of the sweep.
        command: arguments that continue it.
        jobs: in their order.
        sources: fingerprint of the configuration files; "" if their effect depends on more.
    """
    before = read_intact_ledger(sweep)
    new = (job for job in jobs if job.key not in before.jobs)
    shown = (PlannedJob(j.key, j.folder, tuple(redact(list(j.overrides)))) for j in new)
    known = before.known if before.sources == sources else {}
    if sources:
        known = known | {found: job.key for job in jobs if (found := digest(job.overrides))}
    all_jobs = before.jobs | {job.key: job for job in shown}
    arguments = list(redact(list(command)))
    commands = before.commands | {job.key: arguments for job in jobs}
    ledger = Ledger(arguments, commands, all_jobs, sources, known)
    if ledger == before:
        return
    listed = _distinct(commands.values())
    content: dict[str, Any] = {
        "format": _FORMAT,
        "command": arguments,
        "commands": listed,
        "jobs": {
            key: {
                "folder": job.folder,
                "overrides": list(job.overrides),
                **({"command": listed.index(commands[key])} if key in commands else {}),
            }
            for key, job in all_jobs.items()
        },
        "sources": sources,
        "known": known,
    }
    content["crc32"] = content_crc32(content)
    write_json_atomic(sweep / SWEEP_NAME, content)


def digest(overrides: Sequence[str]) -> str:
    """Return a short text that stands for overrides, without their secrets.

    Return "" if their meaning depends on more than themselves.
    """
    if any("${" in override for override in overrides):
        return ""
    return hashlib.sha256("\0".join(overrides).encode(errors="backslashreplace")).hexdigest()[:16]


def fingerprint(folders: Sequence[Path], config_name: str) -> str:
    """Return a text that changes with the configuration files in `folders`.

    Return "" if the files depend on the environment or on the time, so that the same overrides
    may mean another job.
    """
    content = hashlib.sha256(f"{_FORMAT} {config_name}".encode())
    for folder in folders:
        for file in sorted(folder.rglob("*.yaml")):
            text = file.read_bytes()
            if b"${oc.env:" in text or b"${now:" in text:
                return ""
            content.update(f"\0{file.relative_to(folder)}\0".encode(errors="backslashreplace"))
            content.update(text)
    return content.hexdigest()[:16]


def _distinct(commands: Iterable[list[str]]) -> list[list[str]]:
    return [list(command) for command in dict.fromkeys(map(tuple, commands))]


def _texts(values: Iterable[Any]) -> list[str]:
    """Return a list of texts. Raises ValueError if it is something else."""
    texts = list(values)
    if isinstance(values, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError("not a list of texts")
    return texts


def _folder_name(name: Any) -> str:
    """Return the name of a job's folder. Raises ValueError if it leads elsewhere."""
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError("not the name of a folder")
    return name
