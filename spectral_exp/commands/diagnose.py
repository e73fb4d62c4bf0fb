"""Diagnose the parts of trained models: `spectral-exp diagnose outputs/<run> outputs/<other run>`.

The diagnosis holds statistics of the attention weights of each layer, the share of each component
in the gradient, and the model's own metrics, such as the share of waves in its embedding. It uses
windows of the run's validation text.

Letters: B batch, H heads, T tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_exp.commands.options import add_checkpoint, add_device, add_models, add_packages
from spectral_exp.config.trained import Trained, load_trained
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.core.wording import format_count

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS_AT_ONCE = 2**23
_LEGEND = """
Each range is over the heads of a layer; each number is a mean over the second half of all windows:
  entropy   entropy of the weights relative to equal weights: 1 for equal weights, 0 for one token
  own       weight of the token itself
  previous  weight of the previous token
  distance  mean distance of the weights in tokens
gradient: share of each component in the squared norm of the validation loss's gradient"""


@dataclass(frozen=True)
class LayerAttention:
    """Statistics of a layer's attention weights, as lists over heads; `--help` explains them."""

    entropy: list[float]
    own: list[float]
    previous: list[float]
    distance: list[float]


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosis of one run.

    Attributes:
        run: id of the run.
        step: step of the checkpoint.
        windows: number of windows of validation text.
        block_size: tokens of a window.
        val_loss: mean cross-entropy over the windows, in nats per token.
        layers: attention statistics from the first layer to the last.
        gradient_shares: share of each component in the squared norm of the gradient of `val_loss`.
        metrics: the model's own metrics.
    """

    run: str
    step: int
    windows: int
    block_size: int
    val_loss: float
    layers: list[LayerAttention]
    gradient_shares: dict[str, float]
    metrics: dict[str, float]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp diagnose",
        description="Print attention statistics, gradient shares and the contribution of waves.",
        epilog=_LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_models(parser)
    parser.add_argument(
        "--windows",
        type=int,
        default=64,
        help="number of windows of validation text (default: 64)",
    )
    add_checkpoint(parser)
    add_device(parser)
    add_packages(parser)
    parser.add_argument(
        "--json", action="store_true", help="print all values as JSON, separately for each head"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the diagnosis of each run."""
    diagnoses = [
        diagnose(
            run,
            windows=options.windows,
            checkpoint=options.checkpoint,
            device=options.device,
            packages=options.packages,
        )
        for run in options.runs
    ]
    if options.json:
        from spectral_exp.core.json_value import jsonable

        print(json.dumps(jsonable([asdict(diagnosis) for diagnosis in diagnoses]), indent=1))
    else:
        print(printable_lines("\n\n".join(map(_format_diagnosis, diagnoses))))
        print(_LEGEND)
    return 0


def diagnose(
    run: Path,
    *,
    windows: int = 64,
    checkpoint: str = "best",
    device: str = "auto",
    packages: Sequence[str] = (),
) -> Diagnosis:
    """Return the diagnosis of the model of a run.

    Args:
        run: the run directory.
        windows: number of evenly spaced windows of block_size tokens of its validation text.
        checkpoint, device, packages: as for `load_trained`.

    Raises:
        UserError: the run, checkpoint or device does not exist, the text is unavailable or has
            changed, or the context is a single token.
    """
    require(windows >= 1, "--windows", windows, ">= 1")
    trained = load_trained(run, checkpoint, device, packages=packages)
    block_size = trained.model.block_size
    if block_size < 2:
        raise UserError(
            f"{run} has model.block_size={block_size}; "
            "diagnose needs a context of at least 2 tokens"
        )

    from spectral_exp.config.parts import build_dataset
    from spectral_exp.config.trust import require_fingerprints
    from spectral_exp.data.batches import EvalWindows
    from spectral_exp.runs.layout import RunPaths
    from spectral_exp.training.resume import find_known_text, refuse_changed_data

    known = find_known_text(RunPaths(run))
    require_fingerprints(run, trained.config, known.fingerprints if known else {})
    data = build_dataset(trained.config, known)
    refuse_changed_data(RunPaths(run), data.fingerprints)
    batch_size = max(1, _WEIGHTS_AT_ONCE // (trained.model.n_head * block_size**2))
    chosen = EvalWindows(data.val, data.tokenizer.token_bytes, block_size, batch_size, windows)
    val_loss, layers = _measure(trained, ((x, y) for x, y, _ in chosen), chosen.n_targets)
    return Diagnosis(
        run=run.resolve().name,
        step=trained.step,
        windows=chosen.n_windows,
        block_size=block_size,
        val_loss=val_loss,
        layers=layers,
        gradient_shares=_gradient_shares(trained),
        metrics={name: float(value) for name, value in trained.model.metrics().items()},
    )


def _measure(
    trained: Trained, batches: Iterable[tuple[Tensor, Tensor]], n_targets: int
) -> tuple[float, list[LayerAttention]]:
    """Return the mean loss and the attention statistics; leave the gradient in the parameters."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from spectral_exp.models.attention import Attention

    model = trained.model
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    sums = [torch.zeros(4, model.n_head, dtype=torch.float64) for _ in attentions]
    total, queries = 0.0, 0

    def add_hook(layer: int) -> torch.utils.hooks.RemovableHandle:
        def add_sums(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, Attention)
            with torch.no_grad():
                sums[layer] += attention_sums(module.weights(inputs[0])).cpu()

        return attentions[layer].register_forward_pre_hook(add_sums)

    handles = [add_hook(layer) for layer in range(len(attentions))]
    try:
        for x, y in batches:
            logits, targets = model(x.to(trained.device)), y.to(trained.device)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            loss = loss / n_targets
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
            queries += len(x) * (x.shape[1] - x.shape[1] // 2)
    finally:
        for handle in handles:
            handle.remove()
    return total, [LayerAttention(*(of_layer / queries).tolist()) for of_layer in sums]


def attention_sums(weights: Tensor) -> Tensor:
    """Return the sums of entropy, own, previous and distance over queries, (4, H) in float64.

    `weights` are mixing weights (B, H, T, T), T >= 2. Only the second half of a window's queries
    counts, since these can attend to many tokens.
    """
    import torch

    T = weights.shape[-1]
    first = T // 2
    positions = torch.arange(T, dtype=torch.float64)
    w = weights[..., first:, :].cpu().double()  # not every accelerator has float64
    entropy = torch.special.entr(w).sum(-1) / torch.log(positions[first:] + 1)
    own = w.diagonal(first, -2, -1)
    previous = w.diagonal(first - 1, -2, -1)
    distance = (w * (positions[first:, None] - positions)).sum(-1)
    return torch.stack([measure.sum((0, 2)) for measure in (entropy, own, previous, distance)])


def _gradient_shares(trained: Trained) -> dict[str, float]:
    """Return the share of each component in the squared norm of the gradient."""
    squares = {
        name: sum(p.grad.cpu().double().square().sum().item() for p in own if p.grad is not None)
        for name, own in trained.model.component_parameters().items()
    }
    whole = sum(squares.values())
    return {name: square / whole for name, square in squares.items()}


def _format_diagnosis(diagnosis: Diagnosis) -> str:
    windows = f"{format_count(diagnosis.windows, 'window')} of {diagnosis.block_size} tokens"
    head = f"{diagnosis.run}: step {diagnosis.step}, val_loss {diagnosis.val_loss:.4f}"
    rows = [("layer", "entropy", "own", "previous", "distance")]
    for number, layer in enumerate(diagnosis.layers, start=1):
        shares = [_range(values, 2) for values in (layer.entropy, layer.own, layer.previous)]
        rows.append((str(number), *shares, _range(layer.distance, 1)))  # type: ignore[arg-type]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    gradient = ", ".join(f"{name} {share:.1%}" for name, share in diagnosis.gradient_shares.items())
    metrics = [f"{name}: {value:.3f}" for name, value in diagnosis.metrics.items()]
    return "\n".join([f"{head} over {windows}", *table, f"gradient: {gradient}", *metrics])


def _range(values: list[float], decimals: int) -> str:
    low, high = (f"{value:.{decimals}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


main = command(build_parser, run)
