"""Time to look over a finished sweep, and the cost of starting one more job.

The finished sweep is made from one real run, whose record and metrics are copied under the name of
each further seed, without its checkpoints. The command then finds nothing to do: it reads the
states of all jobs, compares them, and ends. The first time it has no index of the results.

A further job of a sweep is one of a single step of a small model in the same process: composing
and checking its settings, the run directory, the first step, and the files of its end.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spectral_exp.bench import measure
from spectral_exp.bench.measure import (
    Figures,
    Line,
    Options,
    Section,
    Spread,
    Target,
    log_progress,
    spread,
)
from spectral_exp.config.command_line import open_composer
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import RunError
from spectral_exp.core.json_files import content_crc32, read_json
from spectral_exp.core.redact import redact
from spectral_exp.runs.layout import RunPaths
from spectral_exp.sweeps.ledger import PlannedJob, fingerprint, record_plan
from spectral_exp.sweeps.names import identity, job_key

LOOK_OVER_S = Target(10.0, strict=True)

_N_JOBS, _QUICK_N_JOBS = 1000, 30
_N_FURTHER = 4
_TINY = (
    "+experiment=wave",
    "training=smoke",
    "training.max_steps=1",
    "data=markov",
    "data.n_tokens=20000",
    "model.n_embd=16",
    "model.n_layer=2",
    "model.n_head=2",
    "model.block_size=16",
    "monitoring/visualization=off",
    "threads=1",
)
_MAX_S = 600.0


def run(options: Options) -> Iterator[Section]:
    """Measure looking over a finished sweep, then further jobs."""
    n_jobs = _QUICK_N_JOBS if options.quick else _N_JOBS
    cache = options.new_folder("cache")
    log_progress("training one job")
    folder = options.new_folder("finished")
    _sweep(folder, cache, ["seed=0"])
    log_progress(f"copying it under {n_jobs - 1} further seeds")
    _copy_job(folder / "outputs/bench", n_jobs)
    yield _look_over(options, folder, cache, n_jobs)
    yield _further_jobs(options, cache)


def _look_over(options: Options, folder: Path, cache: Path, n_jobs: int) -> Section:
    seeds = f"seed={','.join(map(str, range(n_jobs)))}"

    def look_over() -> Figures:
        printed: list[str] = []
        taken_s = measure.time_call(lambda: printed.append(_sweep(folder, cache, [seeds])))
        if f"{n_jobs:,} jobs, {n_jobs:,} done" not in printed[0]:
            raise RunError("the copied jobs do not count as done")
        return {"s": taken_s}

    log_progress("looking it over")
    first = look_over()["s"]
    rounds = measure.measure_rounds(options, {"again": look_over}, 3, quick=1, budget_s=60)
    name = f"finished sweep of {n_jobs:,} jobs"
    lines = [
        Line("ours", "whole command, without an index", "s", Spread.of([first]), LOOK_OVER_S),
        Line("ours", "whole command, again", "s", spread(rounds, "again", "s"), LOOK_OVER_S),
    ]
    return Section(name, lines)


def _further_jobs(options: Options, cache: Path) -> Section:
    numbers = itertools.count(1)

    def sweep(n_jobs: int) -> Figures:
        folder = options.new_folder(f"new_{next(numbers)}")
        seeds = f"seed={','.join(map(str, range(1, n_jobs + 1)))}"
        return {"s": measure.time_call(lambda: _sweep(folder, cache, [seeds]))}

    few, many = "one job", f"{1 + _N_FURTHER} jobs"
    work: dict[str, Callable[[], Figures]] = {
        few: functools.partial(sweep, 1),
        many: functools.partial(sweep, 1 + _N_FURTHER),
    }
    log_progress("training sweeps of single steps")
    rounds = measure.measure_rounds(options, work, 3, quick=1, budget_s=90)
    further = Spread.of((one[many]["s"] - one[few]["s"]) / _N_FURTHER for one in rounds)
    lines = [
        Line("ours", "sweep of one job", "s", spread(rounds, few, "s")),
        Line("ours", "each further job", "s", further),
    ]
    return Section("jobs of one step", lines)


def _sweep(folder: Path, cache: Path, seeds: Sequence[str]) -> str:
    """Run the sweep of `_TINY` in `folder` and return what it prints."""
    command = [sys.executable, "-m", "spectral_exp.train", "-m", *_TINY, *seeds, "sweep=bench"]
    env = measure.environment(SPECTRAL_EXP_CACHE=str(cache.resolve()))
    return measure.run_process(command, env, folder=folder, timeout_s=_MAX_S)


def _copy_job(sweep: Path, n_jobs: int) -> None:
    """Copy the job in a sweep for seeds up to `n_jobs`, and record them as planned."""
    (source,) = (file.parent for file in sweep.glob("*/config.json"))
    paths = RunPaths(source)
    record = read_json(paths.config_file)
    with open_composer("config", None) as composer:
        defaults = identity(redact(composer.compose([]).config))
    jobs = []
    for seed in range(n_jobs):
        content: dict[str, Any] = {**record, "config": {**record["config"], "seed": seed}}
        content["crc32"] = content_crc32(content)
        key = job_key(identity(content["config"]), defaults)
        job = PlannedJob(key, f"wave_seed{seed}_{key}", (*_TINY, f"seed={seed}"))
        jobs.append(job)
        copy = RunPaths(sweep / job.folder)
        if copy.root.exists():
            continue
        copy.logs.mkdir(parents=True)
        copy.config_file.write_text(json.dumps(content))
        for file in (paths.results_file, paths.metrics_file):
            shutil.copyfile(file, copy.root / file.relative_to(source))
    record_plan(sweep, [], jobs, fingerprint([CONF_DIR], "config"))
