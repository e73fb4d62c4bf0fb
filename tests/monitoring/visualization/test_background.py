"""Drawing by a child process: the same pictures, in order, also if the child, the parent or the
queue fails."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from spectral_exp.core.errors import SettingError
from spectral_exp.monitoring.visualization.background import BackgroundDrawing
from spectral_exp.monitoring.visualization.child import NICE
from spectral_exp.monitoring.visualization.jobs import Failures, Plot, PlotSet
from spectral_exp.monitoring.visualization.manager import VisualizationManager
from spectral_exp.plots.run import Style
from tests.conftest import python
from tests.crash.interrupts import interrupt_after
from tests.monitoring.visualization.test_manager import SAMPLE, TinyModel, manager, names

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests send signals")

SCRIPT = """
from spectral_exp.monitoring import VisualizationManager
viz = VisualizationManager("viz", background=True, dpi=40)
viz.generate_training_plots(1, [3.0, 2.0], {})
viz.generate_comparison_plots({"a": {"loss_history": [3.0, 2.0]}})
"""


@contextmanager
def background(
    folder: Path, **settings: Any
) -> Iterator[tuple[VisualizationManager, BackgroundDrawing]]:
    """A manager that draws in the background, and its background part; both are always closed."""
    viz = manager(folder, background=True, **settings)
    drawing = viz._background
    assert drawing is not None
    try:
        yield viz, drawing
    finally:
        drawing._abandon("are dropped")
        viz.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def stopped_child(
    viz: VisualizationManager, drawing: BackgroundDrawing, step: int = 1
) -> psutil.Process:
    """The child, stopped before it has drawn the training plots of `step`, which it has been
    given."""
    viz.generate_training_plots(step, [3.0, 2.0], {})
    until(lambda: drawing.process_id is not None)
    assert drawing.process_id is not None
    os.kill(drawing.process_id, signal.SIGSTOP)
    assert drawing.busy
    return psutil.Process(drawing.process_id)


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name.split("_")[3]) for path in folder.glob("training_dynamics_*.png"))


def gone(pid: int) -> bool:
    """Return whether the process has ended; a zombie counts as ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_pictures_are_equal_byte_for_byte_and_come_in_order(tmp_path: Path) -> None:
    model = TinyModel()
    metrics = {"learning_rate": [0.1, 0.2], "grad_norm": ([1, 2], [1.0, float("nan")])}

    def everything(viz: VisualizationManager) -> list[Path]:
        torch.manual_seed(0)
        paths = viz.generate_training_plots(7, [3.0, 2.0, 2.5], metrics)
        paths += viz.generate_model_plots(7, model, sample=SAMPLE, token_labels=str)
        return paths + viz.generate_comparison_plots(
            {"a": {"loss_history": [3.0, 2.0]}, "b": {"final_metrics": {}}}
        )

    here = everything(manager(tmp_path / "here"))
    with background(tmp_path / "child") as (viz, drawing):
        paths = everything(viz)
        assert not any(path.exists() for path in paths)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()  # training goes on; what is drawn is of before
        viz.wait()
        child = psutil.Process(drawing.process_id)
        assert child.nice() == min(19, psutil.Process().nice() + NICE)
        assert child.num_threads() == 1
        assert not any("torch" in Path(mapped.path).name for mapped in child.memory_maps())
    assert len(paths) == 7
    assert names(paths[:-1]) == names(here[:-1])
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in here]
    assert paths == sorted(paths, key=lambda path: path.stat().st_mtime_ns)
    assert [(report.kind, report.step, report.files) for report in viz.reports] == [
        ("training", 7, 1),
        ("model", 7, 5),
        ("comparison", None, 1),
    ]
    assert all(0 < report.blocked_s < report.drawn_s and report.cpu_s > 0 for report in viz.reports)
    assert gone(child.pid)


def test_the_newest_set_replaces_the_waiting_one_with_a_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with background(tmp_path) as (viz, drawing), caplog.at_level(logging.INFO):
        child = stopped_child(viz, drawing)
        for step in (2, 3, 4):
            viz.generate_training_plots(step, [3.0, 2.0], {})
            viz.generate_model_plots(step, TinyModel())
            assert len(drawing._waiting) <= 2
        child.resume()
        viz.wait()
        assert steps_of(tmp_path) == [1, 4]
        assert viz.skipped == 2 * (1 + 4)
        assert viz.failures == 0
    assert (
        "the training plots of step 2 are replaced by the training plots of step 3"
        in caplog.messages[0]
    )
    assert len(caplog.messages) == 4


def test_a_child_killed_while_it_draws_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with background(tmp_path) as (viz, drawing):
        child = stopped_child(viz, drawing)
        child.kill()
        viz.wait()
        (message,) = caplog.messages
        assert (
            "training_dynamics and what follows it of the training plots of step 1 skipped"
            in message
        )
        assert "ended by SIGKILL" in message
        assert viz.failures == 1
        viz.generate_training_plots(2, [3.0, 2.0], {})
        viz.wait()
        assert drawing.process_id != child.pid
    assert steps_of(tmp_path) == [2]
    assert len(caplog.messages) == 1


def test_a_child_that_hangs_is_ended_when_the_next_set_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with background(tmp_path) as (viz, drawing):
        child = stopped_child(viz, drawing)
        drawing.hang_s = 0.0
        viz.generate_training_plots(2, [3.0, 2.0], {})
        drawing.hang_s = 120.0
        viz.wait()
        assert gone(child.pid)
    assert steps_of(tmp_path) == [2]
    (message,) = caplog.messages
    assert "step 1 skipped" in message


def test_the_end_waits_for_a_limited_time_and_lists_missing_plots(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with background(tmp_path, exit_deadline_s=0.05) as (viz, drawing):
        child = stopped_child(viz, drawing)
        viz.generate_model_plots(1, TinyModel())
        viz.close()
        assert gone(child.pid)
        (message,) = caplog.messages
        assert (
            "the training plots of step 1 and the model plots of step 1 were not drawn" in message
        )
        assert "exit_deadline_s=0.05" in message
        assert (viz.skipped, viz.failures) == (5, 0)
        assert steps_of(tmp_path) == []
        drawing.exit_deadline_s = 60.0
        viz.generate_training_plots(2, [3.0, 2.0], {})
        viz.close()
    assert steps_of(tmp_path) == [2]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("command", ["false", "no such program"])
def test_no_child_is_started_over_and_over(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which(command) or str(tmp_path / command))
    with background(tmp_path / "viz") as (viz, _):
        for step in range(1, 4):
            viz.generate_training_plots(step, [3.0, 2.0], {})
            viz.wait()
        assert "no more plots are drawn: 3 processes in a row" in caplog.messages[-1]
        assert len(caplog.messages) == 4
        monkeypatch.undo()
        viz.generate_training_plots(4, [3.0, 2.0], {})
        viz.wait()
        assert (viz.failures, viz.skipped) == (3, 1)
    assert len(caplog.messages) == 4


def test_a_figure_that_cannot_be_drawn_costs_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures = Failures()
    drawing = BackgroundDrawing(Style(40), failures, 60.0)
    with background(tmp_path) as (viz, other):
        # A drawing of the other manager, which is stopped, so that it stays there to be taken.
        stopped_child(viz, other)
        viz.generate_training_plots(2, [3.0, 2.0], {})
        (good,) = other._waiting["training"].plots
    broken = Plot("broken", tmp_path / "broken.png", partial(divmod, 1, 0))
    unsendable = Plot("unsendable", tmp_path / "unsendable.png", lambda: None)  # type: ignore[arg-type, return-value]
    caplog.clear()
    drawing.submit(
        PlotSet("model", 1, [broken, unsendable, good, broken], time.perf_counter(), 0.0)
    )
    drawing.close()
    assert [path.name for path in tmp_path.iterdir()] == [good.path.name]
    assert failures.count == 3
    warning, other_warning = caplog.messages
    assert warning.startswith("plot broken skipped: ZeroDivisionError: ")
    assert "Traceback" in warning
    assert "unsendable" in other_warning


@pytest.mark.parametrize("stopped", [False, True], ids=["at work", "stopped"])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a stopped child stays")
def test_the_child_dies_with_its_parent(stopped: bool, tmp_path: Path) -> None:
    code = SCRIPT + "viz.wait(); print(viz._background.process_id, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    if stopped:
        os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.communicate()
    until(lambda: gone(child))


@pytest.mark.parametrize(
    "way",
    [*(pytest.param(w, marks=pytest.mark.slow) for w in ("file", "standard input")), "error"],
)
def test_the_end_of_a_script_waits_for_its_plots(way: str, tmp_path: Path) -> None:
    """Also of one that has no file, or whose main part is not guarded: the child must not run
    it."""
    code = SCRIPT + ("raise ValueError('the end')" if way == "error" else "")
    script = tmp_path / "script.py"
    script.write_text(code)
    arguments = ["-"] if way == "standard input" else [str(script)]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=code,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert [path.name.split("_")[0] for path in sorted((tmp_path / "viz").iterdir())] == [
        "comparison",
        "training",
    ]
    assert done.returncode == (1 if way == "error" else 0)
    assert ("the end" in done.stderr) if way == "error" else (done.stdout + done.stderr == "")


def test_a_fork_leaves_the_plots_to_the_original(tmp_path: Path) -> None:
    with background(tmp_path) as (viz, drawing):
        stopped_child(viz, drawing)
        pid = os.fork()
        if pid == 0:
            viz.wait()
            viz.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert drawing.busy


def test_a_child_that_draws_is_no_worker_of_a_sweep(tmp_path: Path) -> None:
    """In a process of its own: this one has other children, of other tests."""
    stop = """
from spectral_exp.sweeps.workers import stop_workers
viz.wait()
assert viz._background.process_id is not None
print(stop_workers())
"""
    done = python("-c", SCRIPT + stop, cwd=tmp_path)
    assert done.stdout == "False\n", done.stderr


def test_a_signal_to_the_whole_group_leaves_the_child_at_work(tmp_path: Path) -> None:
    with background(tmp_path) as (viz, drawing):
        child = stopped_child(viz, drawing)
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
        ):
            child.send_signal(number)
        child.resume()
        viz.wait()
        assert drawing.process_id == child.pid
    assert steps_of(tmp_path) == [1]


def test_the_deadline_is_checked(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="exit_deadline_s=0 must be"):
        manager(tmp_path, exit_deadline_s=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_of_a_signal_handler_at_any_moment_neither_hangs_nor_ends_the_drawing(
    tmp_path: Path,
) -> None:
    draw = random.Random(0)
    with background(tmp_path) as (viz, _):
        for step in range(1, 150):
            call = (
                viz.wait
                if draw.random() < 0.1
                else partial(viz.generate_training_plots, step, [3.0, 2.0], {})
            )
            interrupt_after(draw.uniform(1e-6, 2e-3), call)
        viz.generate_training_plots(150, [3.0, 2.0], {})
        for _ in range(20):
            interrupt_after(draw.uniform(1e-6, 1e-3), viz.wait)
        viz.wait()
        assert not viz.busy
        assert steps_of(tmp_path)[-1] == 150
        interrupt_after(1e-3, viz.close)
        viz.generate_training_plots(151, [3.0, 2.0], {})
        viz.close()
        assert steps_of(tmp_path)[-1] == 151
    assert viz.failures == 0
