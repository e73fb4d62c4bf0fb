"""The demo, and the stand-alone loop that a user writes around the four components."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spectral_exp import demo_monitoring
from spectral_exp.monitoring import (
    CheckpointManager,
    ConfigTracker,
    MetricsLogger,
    VisualizationManager,
    create_experiment_directory,
    generate_experiment_id,
)


@pytest.mark.slow
def test_demo_runs_as_a_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "spectral_exp.demo_monitoring",
        "--dir",
        str(tmp_path),
        "--steps",
        "40",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [root] = tmp_path.iterdir()
    results = json.loads((root / "results.json").read_text())
    assert results["status"] == "completed"
    assert "from step 24;" in done.stdout  # interrupted after 28, saved every 8
    with MetricsLogger(root / "logs") as metrics:
        losses = [entry["loss"] for entry in metrics.load_metrics()]
    assert len(losses) == 40
    assert losses[-1] < losses[0]
    assert (root / "config.json").exists()
    assert len(list((root / "visualizations").glob("*.png"))) > 1


@pytest.mark.slow
def test_demo_resumes_exactly(tmp_path: Path) -> None:
    """The interrupted and resumed demo ends like an uninterrupted run of the same model."""
    root = demo_monitoring.run_demo(tmp_path, 20)
    demo = demo_monitoring.Demo(tmp_path, 20)
    model, optimizer = demo.new_model()
    losses: list[float] = []
    demo.train(model, optimizer, losses, 1, 20)
    state = CheckpointManager(root).load_checkpoint(20)
    assert state is not None
    assert state["loss_history"] == losses
    for name, value in model.state_dict().items():
        assert torch.equal(value, state["model_state_dict"][name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "--steps=1 must be >= 20"),
        (["--dir", "/dev/null"], "cannot create the run directory"),
    ],
)
def test_demo_reports_mistakes_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo_monitoring.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


# --- the stand-alone loop -------------------------------------------------------------------------


class StopError(Exception):
    """The training step's way of dying in the middle of a run."""


def new_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def loop(
    root: str,
    max_steps: int,
    step_function: Callable[[nn.Module, torch.optim.Optimizer, int], float],
) -> tuple[nn.Module, list[float]]:
    """The specified loop, resuming first if there is something to resume from."""
    dirs = create_experiment_directory(Path(root).parent, Path(root).name)
    checkpoint_manager = CheckpointManager(
        experiment_dir=str(dirs["root"]), save_interval=10, keep_last_n=3
    )
    metrics_logger = MetricsLogger(log_dir=dirs["logs"], log_interval=5)
    viz_manager = VisualizationManager(viz_dir=dirs["visualizations"], viz_interval=40)
    config_tracker = ConfigTracker(experiment_dir=dirs["root"])

    model, optimizer = new_model()
    config = {"lr": 0.05, "batch_size": 8}
    config_tracker.save_config(config, model=model)

    loss_history: list[float] = []
    metrics_history: dict[str, Any] = {"learning_rate": [], "perplexity": []}
    start_step = 1
    checkpoint = checkpoint_manager.load_latest_checkpoint()
    if checkpoint:
        model.load_state_dict(checkpoint["model_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        loss_history = checkpoint["loss_history"]
        start_step = checkpoint["step"] + 1

    for step in range(start_step, max_steps + 1):
        loss = step_function(model, optimizer, step)
        loss_history.append(loss)

        if metrics_logger.should_log(step):
            metrics = {
                "loss": loss,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "perplexity": math.exp(loss),
            }
            metrics_logger.log_metrics(step, metrics)
            for key, value in metrics.items():
                if key in metrics_history:
                    metrics_history[key].append(value)

        if checkpoint_manager.should_checkpoint(step):
            checkpoint_manager.save_checkpoint(step, model, optimizer, loss_history, config)

        if viz_manager.should_visualize(step):
            viz_manager.generate_training_plots(step, loss_history, metrics_history)
            viz_manager.generate_model_plots(step, model)

    config_tracker.save_results({"val_loss": loss_history[-1], "best_val_loss": min(loss_history)})
    return model, loss_history


def dying_at(last: int) -> Callable[[nn.Module, torch.optim.Optimizer, int], float]:
    def step_function(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> float:
        if step == last:
            raise StopError
        return train_step(model, optimizer, step)

    return step_function


def test_interrupted_loop_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    experiment = generate_experiment_id("my_experiment")
    root = tmp_path / "experiments" / experiment
    for last in (25, 33):
        with pytest.raises(StopError):
            loop(str(root), 40, dying_at(last))
    model, losses = loop(str(root), 40, train_step)
    expected, expected_losses = loop(str(tmp_path / "undisturbed"), 40, train_step)
    assert losses == expected_losses
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True)
    )

    assert sorted(path.name for path in (root / "checkpoints").glob("*.pt")) == [
        "checkpoint_latest.pt",
        "checkpoint_step_20.pt",
        "checkpoint_step_30.pt",
        "checkpoint_step_40.pt",
    ]
    assert json.loads((root / "config.json").read_text())["experiment_id"] == experiment
    results = json.loads((root / "results.json").read_text())
    assert results["final_metrics"] == {"val_loss": losses[-1], "best_val_loss": min(losses)}
    assert list((root / "visualizations").glob("*.png"))
    assert MetricsLogger(root / "logs").get_latest_step() == 40


def test_listing_prints_as_documented(tmp_path: Path) -> None:
    loop(str(tmp_path / "exp"), 30, train_step)
    manager = CheckpointManager(str(tmp_path / "exp"))
    lines = [f"Step {cp['step']}: {cp['size_mb']:.2f} MB" for cp in manager.list_checkpoints()]
    assert lines == ["Step 10: 0.00 MB", "Step 20: 0.00 MB", "Step 30: 0.00 MB"]
    checkpoint = manager.load_checkpoint(step=20)
    assert checkpoint
    assert isinstance(checkpoint["loss_history"][-1], float)
