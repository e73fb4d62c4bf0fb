"""From a command line to the jobs of a sweep, each composed, checked and named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.config import trust
from spectral_exp.config.command_line import CommandLine, Composer, Job, parse, quote, text_of
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import SettingError, UserError, require
from spectral_exp.core.redact import redact
from spectral_exp.runs.find import is_run_directory
from spectral_exp.runs.ids import generate_experiment_id
from spectral_exp.runs.overrides import is_among, setting_of
from spectral_exp.sweeps import ledger
from spectral_exp.sweeps.ledger import PlannedJob
from spectral_exp.sweeps.names import (
    find_folders,
    folder_name,
    identity,
    job_key,
    swept_settings,
)
from spectral_exp.sweeps.search.search import Search
from spectral_exp.sweeps.states import read_state
from spectral_exp.sweeps.study import merge_overrides, read_study

# These name the sweep, not its jobs.
_OWN_SETTINGS = ("sweep", "study", "experiment_id")
_SHARED_SETTINGS = ("outputs", "backup_url", "resume")
_OWN_SWEEPER = (
    "sweeps are planned by this command itself; write values as setting=value,value or into a study"
)
_NAME = re.compile(r"\w[\w.+-]*")
_MAX_NAME_BYTES = 160


class Plan:
    """The jobs of a sweep.

    Args:
        command: a command line that is a sweep.
        composer: composes its jobs.

    Raises:
        UserError: the command line has mistakes.

    Attributes:
        name: of the sweep.
        folder: of the sweep; it need not exist.
        hydra_overrides: those of Hydra, which all jobs share.
        requested: the overrides of each job of the command line.
        searches: those of the command line, which propose further jobs.
        examples: the overrides of jobs that use every bound and value of the searches.
        arguments: arguments of the command that continues the sweep.
        defaults: the default settings, as returned by `names.identity`.
        config_name: name of the primary configuration file.
        lock: of the sweep, for which other launchers wait.
        alerts: addresses that get a message when the sweep is done.
        jobs: hash -> planned job.
        done: hashes of the jobs that were found done when they were added.
    """

    def __init__(self, command: CommandLine, composer: Composer) -> None:
        self._composer = composer
        self._config_dir = command.config_dir
        settings = _own_settings(command.overrides)
        study, _, block = settings.get("study", "").partition(":")
        blocks = [list(command.overrides)]
        extra = [Path(command.config_dir)] if command.config_dir else []
        if study:
            found = read_study(study, [*extra, CONF_DIR])
            _refuse_hydra_settings(found.blocks, study)
            blocks = [merge_overrides(o, command.overrides) for o in found.jobs(block)]
            settings.setdefault("sweep", found.name)
        self.hydra_overrides = _hydra_overrides(command.overrides)
        self.requested: list[list[str]] = []
        self.searches: list[Search] = []
        for overrides in blocks:
            of_jobs = [o for o in overrides if not (_is_own(o) or _is_hydra(o))]
            search = Search.parse(of_jobs, composer, self.hydra_overrides)
            if search is not None:
                self.searches.append(search)
            else:
                self.requested += composer.split(of_jobs)
        self.examples = [job for search in self.searches for job in search.examples()]
        _refuse_several_places([*self.requested, *self.examples])
        given = settings.get("sweep") or settings.get("experiment_id")
        self.name = given or self._new_name()
        require_sweep_name(self.name)
        first = self._compose_first()
        if not first.has_plain_sweeper:
            raise UserError(f"hydra.sweeper of the configuration: {_OWN_SWEEPER}")
        self.folder = first.sweep_dir
        companion = first.config["monitoring"].get("companion") or {}
        is_enabled = companion.get("enabled", False)
        self.alerts: list[str] = list(companion.get("alerts", ())) if is_enabled else []
        sampler = (first.config.get("search") or {}).get("sampler")
        if sampler is not None and not self.searches:
            raise UserError(
                f"a configuration file sets search.sampler={sampler}, but a search needs ranges; "
                f"give search={sampler} and the ranges on the command line or in a study file"
            )
        if is_run_directory(self.folder):
            raise UserError(f"{self.folder} is a run, not a sweep; choose another name for sweep=")
        self.arguments = _arguments_to_continue(command, self.name)
        self.defaults = identity(redact(Composer("config").compose([]).config))
        self.config_name = composer.config_name
        self.lock = ledger.SweepLock(self.folder)
        self.jobs: dict[str, PlannedJob] = {}
        self.done: set[str] = set()
        searches_elsewhere = "hydra.searchpath" in map(setting_of, self.hydra_overrides)
        sources = ledger.fingerprint([CONF_DIR, *extra], composer.config_name)
        self._sources = "" if searches_elsewhere else sources

    def check_searches(self) -> None:
        """Build examples of the jobs of the searches on trial.

        Raises:
            UserError: they have mistakes.
        """
        _check(self._compose(self.examples), self._config_dir)

    def job_arguments(self, job: PlannedJob) -> list[str]:
        """Return the overrides with which a launcher runs a job, without those of Hydra."""
        folder = quote(job.folder)
        own = [f"sweep={quote(self.name)}", f"experiment_id={folder}"]
        return [*job.overrides, *own, f"hydra.sweep.subdir={folder}"]

    def add(
        self, requested: Sequence[Sequence[str]], *, are_proposals: bool = False
    ) -> list[PlannedJob]:
        """Compose and check jobs, and record them in the ledger of the sweep.

        Jobs that the ledger knows and that are done or running are not composed. A job that is in
        the plan already is not added.

        Args:
            requested: the overrides of each job.
            are_proposals: whether a search has proposed them. Then they are not checked, since one
                that cannot be trained does not end the search.

        Returns:
            The jobs that were added.

        Raises:
            UserError: jobs have mistakes; nothing was written.
        """
        known = ledger.read_intact_ledger(self.folder)
        folders = {key: job.folder for key, job in known.jobs.items()}
        folders |= find_folders(self.folder)
        keys = known.known if self._sources and known.sources == self._sources else {}
        planned: dict[tuple[str, ...], str] = {}
        missing = []
        for overrides in dict.fromkeys(map(tuple, requested)):
            key = keys.get(ledger.digest(overrides), "")
            if key in folders and self._needs_no_check(key, folders[key]):
                planned[overrides] = key
            else:
                missing.append(overrides)
        composed = dict(zip(missing, self._compose(missing), strict=True))
        settings = {o: identity(redact(job.config)) for o, job in composed.items()}
        planned |= {o: job_key(own, self.defaults, o) for o, own in settings.items()}
        _refuse_equal_hashes(planned, settings)
        unchecked = [
            job
            for overrides, job in composed.items()
            if not self._needs_no_check(planned[overrides], folders.get(planned[overrides], ""))
        ]
        if not are_proposals:
            _check(unchecked, self._config_dir)
        searched = (name for search in self.searches for name in search.searched_settings)
        swept = list(dict.fromkeys([*swept_settings(requested), *searched]))
        added = []
        for overrides in dict.fromkeys(map(tuple, requested)):
            key = planned[overrides]
            if key in self.jobs:
                continue
            name = folders.get(key)
            if name is None:
                name = folder_name(composed[overrides].config, overrides, swept, key)
            self.jobs[key] = PlannedJob(key, name, overrides)
            added.append(self.jobs[key])
        self._record(added)
        return added

    def _needs_no_check(self, key: str, folder: str) -> bool:
        """Return whether the job in `folder` is done, or runs and was checked by its launcher."""
        if not folder:
            return False
        state = read_state(self.folder / folder, self.defaults).state
        if state == "done":
            self.done.add(key)
        return state in ("done", "running")

    def _compose(self, jobs: Iterable[Sequence[str]]) -> list[Job]:
        own = [*self.hydra_overrides, f"sweep={quote(self.name)}"]
        return self._composer.compose_all([*overrides, *own] for overrides in jobs)

    def _compose_first(self) -> Job:
        try:
            return self._compose([*self.requested, *self.examples][:1])[0]
        except UserError:
            self._compose([*self.requested, *self.examples])  # raises the mistakes of all jobs
            raise

    def _new_name(self) -> str:
        self.name = "sweep"
        outputs = Path(str(self._compose_first().config["outputs"]))
        return generate_experiment_id("sweep", parent=outputs)

    def _record(self, jobs: Sequence[PlannedJob]) -> None:
        """Write the plan into the ledger; use the folders that another launcher has recorded."""
        try:
            with self.lock:
                recorded = ledger.read_intact_ledger(self.folder).jobs
                folders = find_folders(self.folder)
                for job in jobs:
                    name = folders.get(job.key) or recorded.get(job.key, job).folder
                    self.jobs[job.key] = PlannedJob(job.key, name, job.overrides)
                all_jobs = list(self.jobs.values())
                ledger.record_plan(self.folder, self.arguments, all_jobs, self._sources)
        except OSError as error:
            raise UserError(
                f"cannot write the sweep {self.folder}: {error.strerror}; choose a folder you may "
                "write to, or free space on its disk"
            ) from error


def require_sweep_name(name: str) -> None:
    """Raise a SettingError if `name` is no name of a sweep."""
    is_name = _NAME.fullmatch(name) is not None and len(name.encode()) <= _MAX_NAME_BYTES
    allowed = f"a folder name of letters, digits and _ . + -, at most {_MAX_NAME_BYTES} bytes long"
    require(is_name, "sweep", repr(name), allowed)


def _own_settings(overrides: Iterable[str]) -> dict[str, str]:
    """Return the settings that name the sweep. Raises a SettingError if one has several values."""
    found = {}
    for override in filter(_is_own, overrides):
        setting, value = setting_of(override), override.partition("=")[2]
        is_single = not parse(override).is_sweep_override()
        require(is_single, setting, value, "one value, which all jobs of a sweep share")
        found[setting] = text_of(override)
    return found


def _is_own(override: str) -> bool:
    return setting_of(override) in _OWN_SETTINGS


def _is_hydra(override: str) -> bool:
    return re.split(r"[./]", setting_of(override))[0] == "hydra"


def _hydra_overrides(overrides: Iterable[str]) -> list[str]:
    """Return the overrides of Hydra itself. Raises a UserError if the driver cannot honour one."""
    found = [o for o in overrides if _is_hydra(o) and setting_of(o) != "hydra.mode"]
    for override in found:
        setting = setting_of(override)
        if setting == "hydra.sweep.subdir":
            raise UserError(
                f"{override}: the runs of a sweep are named after their settings; leave it out"
            )
        if is_among(setting, ("hydra.sweeper",)):
            raise UserError(f"{override}: {_OWN_SWEEPER}")
    return found


def _refuse_hydra_settings(blocks: Mapping[str, Sequence[str]], study: str) -> None:
    for override in (o for overrides in blocks.values() for o in overrides):
        if _is_hydra(override) or _is_own(override):
            raise UserError(
                f"study={study}: {override} says how a sweep runs, not what it is; leave it to the "
                "command line"
            )


def _refuse_several_places(jobs: Sequence[Sequence[str]]) -> None:
    """Raise a SettingError if jobs of one sweep lie in several places."""
    for setting in _SHARED_SETTINGS:
        values = {o.partition("=")[2] for job in jobs for o in job if setting_of(o) == setting}
        if len(values) > 1:
            shown = ",".join(sorted(values))
            raise SettingError(setting, shown, "one value, which all jobs of a sweep share")


def _refuse_equal_hashes(
    keys: Mapping[tuple[str, ...], str], settings: Mapping[tuple[str, ...], Mapping[str, Any]]
) -> None:
    """Raise a UserError if two different jobs have the same hash, which has 32 bits."""
    seen: dict[str, tuple[str, ...]] = {}
    for overrides in settings:
        first = seen.setdefault(keys[overrides], overrides)
        if settings[first] != settings[overrides]:
            raise UserError(
                f"{' '.join(first)} and {' '.join(overrides)} have the same hash "
                f"{keys[overrides]} by chance; run one of them in a sweep of its own"
            )


def _check(jobs: Sequence[Job], config_dir: str | None) -> None:
    """Build every job on trial. Raises one UserError with all mistakes."""
    if not jobs:
        return
    from spectral_exp.config.build import check

    problems: dict[str, None] = {}
    for job in jobs:
        found = "\nerror: ".join(check(job.config, None))
        problems.update(dict.fromkeys(filter(None, found.split("\nerror: "))))
    if problems:
        raise UserError("\nerror: ".join(problems))
    for job in jobs:
        trust.remember_choices(job.config, config_dir)


def _arguments_to_continue(command: CommandLine, name: str) -> list[str]:
    overrides = [o for o in command.overrides if setting_of(o) not in ("sweep", "experiment_id")]
    flags = list(command.flags)
    if "-m" not in flags and "--multirun" not in flags:
        flags.insert(0, "-m")
    return [*flags, *overrides, f"sweep={quote(name)}"]
