from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.record import read_config
from spectral_exp.sweeps.names import identity, job_key
from spectral_exp.sweeps.states import read_state
from spectral_exp.sweeps.status import find_sweep, read_status, render_status
from tests.conftest import compose
from tests.results.made_runs import make_run


def make_job(sweep: Path, seed: int, status: str | None) -> Path:
    """Make a run under the name that a job of its settings has, with no defaults."""
    run = make_run(sweep, "wave", seed, status=status)
    config = read_config(RunPaths(run).config_file)[0]["config"]
    return run.rename(sweep / f"wave_seed{seed}_{job_key(identity(config), {})}")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("completed", "done"),
        ("stopped_early", "done"),
        ("pruned", "done"),
        ("interrupted", "interrupted"),
        (None, "interrupted"),
        ("failed", "failed"),
        ("diverged", "failed"),
        ("not_saved", "failed"),
    ],
)
def test_the_state_comes_from_the_run(status: str | None, state: str, tmp_path: Path) -> None:
    run = make_job(tmp_path, 1, status)
    assert read_state(run, {}).state == state
    with RunLock(run):
        assert read_state(run, {}).state == "running"
    assert bool(read_state(run).attempt) == (state == "failed")


def test_a_job_with_settings_that_have_their_defaults_is_done(tmp_path: Path) -> None:
    """Reading a record leaves them out, and the plan of a sweep has them."""
    config = compose("+experiment=classic_rotary", "match=phasor")
    made = make_run(tmp_path, "wave", 1, status="completed")
    file = RunPaths(made).config_file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config": config}))
    run = made.rename(tmp_path / f"rotary_seed1_{job_key(identity(config), {})}")
    assert read_state(run, {}).state == "done"


def test_damage_costs_no_job(tmp_path: Path) -> None:
    assert read_state(tmp_path / "new_seed1_01234567").state == "waiting"
    run = make_job(tmp_path, 1, "completed")
    paths = RunPaths(run)
    results = paths.results_file.read_text()
    paths.results_file.write_text(results[:-30])
    assert read_state(run, {}).state == "interrupted"
    paths.results_file.write_text(results)
    assert read_state(run, {}).state == "done"
    # Another configuration under this name is not the job, and is refused when it is continued.
    assert read_state(run, {"seed": 1}).state == "interrupted"
    paths.config_file.write_text(paths.config_file.read_text()[:-30])
    assert read_state(run, {}).state == "interrupted"


def test_the_status_lists_every_job_with_its_reason(tmp_path: Path) -> None:
    sweep = tmp_path / "outputs/lr"
    states = ["completed", "failed", None, "interrupted"]
    runs = [make_job(sweep, seed, status) for seed, status in enumerate(states, 1)]
    results = RunPaths(runs[1]).results_file
    content = {**json.loads(results.read_text()), "error": "RunError: the loss is nan"}
    results.write_text(json.dumps(content))
    with RunLock(runs[2]):
        status = read_status(find_sweep(str(sweep)))
        states_of = {job.job: job.state for job in status.jobs}
        assert states_of == dict(
            zip((r.name for r in runs), ["done", "failed", "running", "interrupted"], strict=True)
        )
        (running,) = (job for job in status.jobs if job.state == "running")
        # 100 steps are done of 100, and others are not running: there is no time for the whole.
        assert (running.step, running.max_steps, running.remaining_s) == (100, 100, 0)
        assert status.remaining_s is None
        table = render_status(status, "table")
        listed = json.loads(render_status(status, "json"))
        rows = render_status(status, "csv").splitlines()
    assert "4 jobs, 1 done, 1 running, 1 interrupted, 1 failed" in table
    assert f"{runs[1].name}: RunError: the loss is nan" in table
    assert listed["counts"] == {"done": 1, "failed": 1, "running": 1, "interrupted": 1}
    assert [job["state"] for job in listed["jobs"]] == list(states_of.values())
    assert len(rows) == 5
