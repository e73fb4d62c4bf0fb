"""Demonstration of the monitoring components with a tiny model, `spectral-exp demo`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, require
from spectral_exp.monitoring import (
    CheckpointManager,
    ConfigTracker,
    MetricsLogger,
    VisualizationManager,
    create_experiment_directory,
    generate_experiment_id,
)

TEXT = (
    b"a wave meets a wave, and where both rise they rise higher; where one falls, there is calm. "
)
MIN_STEPS = 20


class TinyWaveModel(nn.Module):
    """Model of the next byte given one byte, which is embedded as a superposition of waves.

    Bytes (B,) give logits (B, V), with V the vocabulary.
    """

    def __init__(
        self, vocab_size: int = 128, n_wave: int = 8, n_harmonic: int = 4, n_embd: int = 32
    ) -> None:
        super().__init__()
        self.n_embd, self.n_layer = n_embd, 1
        frequencies = torch.linspace(0.5, 5.0, n_wave)
        self.base_freqs = nn.Parameter(frequencies + 0.1 * torch.randn(vocab_size, n_wave))
        self.phases = nn.Parameter(2 * math.pi * torch.rand(vocab_size, n_wave))
        self.harmonic_amps = nn.Parameter(0.3 * torch.randn(vocab_size, n_wave, n_harmonic))
        self.mix = nn.Linear(2 * n_wave * n_harmonic, n_embd)
        self.head = nn.Linear(n_embd, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, V) of the byte after each of `ids` (B,)."""
        harmonics = torch.arange(1, self.harmonic_amps.shape[-1] + 1)
        frequencies, phases = self.base_freqs[ids].unsqueeze(-1), self.phases[ids].unsqueeze(-1)
        angles = 2 * math.pi * frequencies * harmonics + phases
        amplitudes = self.harmonic_amps[ids]
        packet = torch.cat([amplitudes * angles.sin(), amplitudes * angles.cos()], dim=-1)
        logits: torch.Tensor = self.head(F.gelu(self.mix(packet.flatten(1))))
        return logits


class Demo:
    """A run with its four monitoring components and its training loop.

    Args:
        base_dir: folder in which the run directory is created.
        steps: number of steps.
    """

    def __init__(self, base_dir: Path, steps: int) -> None:
        require(steps >= MIN_STEPS, "--steps", steps, f">= {MIN_STEPS}")
        self.steps = steps
        self.config = {"steps": steps, "learning_rate": 0.01, "batch_size": 64, "seed": 0}
        self.dirs = create_experiment_directory(base_dir, generate_experiment_id("demo", base_dir))
        self.checkpoints = CheckpointManager(
            self.dirs["root"], save_interval=max(1, steps // 5), keep_last_n=2
        )
        self.metrics = MetricsLogger(self.dirs["logs"], log_interval=max(1, steps // 40))
        self.visualization = VisualizationManager(self.dirs["visualizations"], viz_interval=steps)
        self.tracker = ConfigTracker(self.dirs["root"])

    def new_model(self) -> tuple[TinyWaveModel, torch.optim.Optimizer]:
        """Return a newly initialized model and its optimizer."""
        torch.manual_seed(int(self.config["seed"]))
        model = TinyWaveModel()
        return model, torch.optim.AdamW(model.parameters(), lr=float(self.config["learning_rate"]))

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return bytes and their successors, which depend only on the step."""
        text = torch.tensor(list(TEXT))
        generator = torch.Generator().manual_seed(step)
        starts = torch.randint(
            len(TEXT) - 1, (int(self.config["batch_size"]),), generator=generator
        )
        return text[starts], text[starts + 1]

    def train(
        self,
        model: TinyWaveModel,
        optimizer: torch.optim.Optimizer,
        losses: list[float],
        start: int,
        stop: int,
    ) -> None:
        """Train from step `start` to `stop` and run each component at its interval."""
        for step in range(start, stop + 1):
            x, y = self.batch(step)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            if self.metrics.should_log(step):
                learning_rate = optimizer.param_groups[0]["lr"]
                metrics = {
                    "loss": losses[-1],
                    "learning_rate": learning_rate,
                    "perplexity": math.exp(losses[-1]),
                }
                self.metrics.log_metrics(step, metrics)
            if self.checkpoints.should_checkpoint(step):
                self.checkpoints.save_checkpoint(step, model, optimizer, losses, self.config)
            if self.visualization.should_visualize(step):
                self.visualization.generate_training_plots(step, losses, self.history())
                self.visualization.generate_model_plots(step, model)

    def history(self) -> dict[str, tuple[list[int], list[float]]]:
        """Return steps and values of the metrics except the loss, from the whole run."""
        entries = self.metrics.load_metrics()
        steps = [entry["step"] for entry in entries]
        names = ("learning_rate", "perplexity")
        return {name: (steps, [entry[name] for entry in entries]) for name in names}


def run_demo(base_dir: Path, steps: int) -> Path:
    """Train a tiny model with an interruption and print the work of each monitoring component."""
    print("1. Experiment id and run directory")
    demo = Demo(base_dir, steps)
    root = demo.dirs["root"]
    print(f"   {root}")

    model, optimizer = demo.new_model()
    print("2. ConfigTracker: write settings, model, code and machine to config.json")
    demo.tracker.save_config(
        demo.config, model=model, dataset_info={"name": "one sentence", "bytes": len(TEXT)}
    )
    recorded = demo.tracker.load_config()
    n_parameters, n_cpus = recorded["model"]["num_parameters"], recorded["hardware"]["cpu_count"]
    print(f"   {n_parameters:,} parameters on {n_cpus} CPUs")

    interrupted_at = round(0.7 * steps)
    print(f"3. Training, interrupted after step {interrupted_at}")
    demo.train(model, optimizer, [], 1, interrupted_at)
    del model, optimizer
    for entry in demo.checkpoints.list_checkpoints():
        print(f"   {Path(entry['path']).name}: {entry['size_mb']:.2f} MB")

    print("4. Resuming from the newest checkpoint")
    model, optimizer = demo.new_model()
    checkpoint = demo.checkpoints.load_latest_checkpoint()
    if checkpoint is None:
        raise UserError(f"no checkpoint was saved in {root}; see the messages above")
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    losses, step = checkpoint["loss_history"], checkpoint["step"]
    n_removed = demo.metrics.cut_back(step)
    print(f"   from step {step}; moved {n_removed} later metrics entries to metrics.cut.jsonl")
    demo.train(model, optimizer, losses, step + 1, steps)

    print("5. MetricsLogger: all entries are on disk, in order")
    summary = demo.metrics.get_metrics_summary()["loss"]
    first, last = summary["max"], summary["final"]
    print(f"   {summary['count']:.0f} entries, loss {first:.3f} -> {last:.3f} nats per byte")
    best_step = losses.index(min(losses)) + 1
    demo.tracker.save_results(
        {"loss": losses[-1], "best_loss": min(losses), "best_step": best_step}, status="completed"
    )
    demo.metrics.close()

    print("6. Files of the run")
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        print(f"   {file.relative_to(root)}")
    return root


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="spectral-exp demo", description=run_demo.__doc__)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("outputs"),
        help="folder of the run (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=200, help="steps to train (default: %(default)s)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    run_demo(options.dir, options.steps)
    return 0


main = command(build_parser, run)

if __name__ == "__main__":
    sys.exit(main())
