"""The jobs of a search, as the driver of a sweep asks for them.

Which trials there are follows from the folder of the sweep at every moment, so that a search
continues after any interruption, from any number of launchers at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from spectral_exp.config.search import SearchSettings
from spectral_exp.core.errors import UserError
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import load_run
from spectral_exp.sweeps.ledger import PlannedJob, read_intact_ledger
from spectral_exp.sweeps.names import find_folders
from spectral_exp.sweeps.search.search import Search
from spectral_exp.sweeps.search.trials import Trial, read_trial

_ENDED = ("done", "pruned")


class SearchJobs:
    """Proposes the jobs of the searches of a sweep.

    Args:
        sweep: the folder of the sweep.
        searches: each proposes jobs until its budget is spent.
    """

    def __init__(self, sweep: Path, searches: Sequence[Search]) -> None:
        self._sweep = sweep
        self._searches = searches
        self._ended: dict[tuple[str, tuple[str, ...]], Trial] = {}

    def earlier_jobs(self, planned: Mapping[str, PlannedJob]) -> list[list[str]]:
        """Return the overrides of the jobs that the searches have proposed before.

        Args:
            planned: hash -> job that is planned here, and left out.
        """
        jobs = []
        for search in self._searches:
            trials = self._trials(search.settings, planned)
            jobs += search.rebuild([t for key, t in trials.items() if key not in planned])
        return jobs

    def propose(self, count: int, planned: Mapping[str, PlannedJob]) -> list[list[str]]:
        """Return the overrides of jobs to run; none if all budgets are spent.

        When no search proposes another job, those of other launchers follow that are not planned
        here, since one of them may have died.

        Args:
            count: most new jobs.
            planned: hash -> job that is planned here.
        """
        jobs: list[list[str]] = []
        for search in self._searches:
            trials = list(self._trials(search.settings, planned).values())
            jobs += search.propose(trials, count - len(jobs))
        return jobs or self.earlier_jobs(planned)

    def _trials(
        self, settings: SearchSettings, planned: Mapping[str, PlannedJob]
    ) -> dict[str, Trial]:
        """Return hash -> trial for all jobs of the sweep, in the order in which they began."""
        recorded = read_intact_ledger(self._sweep).jobs
        folders = {key: job.folder for key, job in recorded.items()} | find_folders(self._sweep)
        trials = {}
        for key, folder in folders.items():
            overrides = recorded[key].overrides if key in recorded else ()
            trial = self._read(folder, overrides, settings)
            if key in planned:  # its run may be older, and have other words for the same settings
                trial = replace(trial, overrides=planned[key].overrides)
            trials[key] = trial
        return trials

    def _read(self, folder: str, planned: Sequence[str], settings: SearchSettings) -> Trial:
        """Return the trial of a job, which may not have begun.

        Args:
            folder: of the job.
            planned: its overrides in the ledger.
            settings: of the search.
        """
        objectives = tuple(settings.objectives)
        if (trial := self._ended.get((folder, objectives))) is not None:
            return trial
        run = self._sweep / folder
        if not RunPaths(run).config_file.is_file():
            return Trial(planned, "running", name=folder)
        try:
            trial = read_trial(load_run(run), settings)
        except UserError:
            return Trial(planned, "failed", name=folder)
        if trial.state in _ENDED:
            self._ended[folder, objectives] = trial
        return trial
