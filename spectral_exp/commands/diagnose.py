"""What the parts of trained models do: `python -m spectral_exp diagnose outputs/<run> outputs/<other run>`.

For each layer where its heads look, for each component how much of the gradient it gets, and what the model reports
of itself, such as the share of the waves in its embedding. All over windows of the run's own validation text.

Letters: B batch, H heads, T tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_exp.config.trained import Trained, load_trained
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.core.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS_AT_ONCE = 2**23
_LEGEND = """
Each range is over the heads of a layer, each number a mean over the second half of all windows:
  entropy   of a head's weights, as a share of that of equal weights: 1 looks at everything alike, 0 at one token
  own       weight on the token itself
  previous  weight on the token before
  distance  how many tokens back the weights lie
gradient: of the validation loss, the share of its squared norm that belongs to each component"""


@dataclass(frozen=True)
class LayerAttention:
    """Where the heads of a layer look, each a list over heads: see the legend of the command."""

    entropy: list[float]
    own: list[float]
    previous: list[float]
    distance: list[float]


@dataclass(frozen=True)
class Diagnosis:
    """What was found in one run.

    Attributes:
        run: its id.
        step: of the checkpoint.
        windows, block_size: how much validation text was looked at, in windows of so many tokens.
        val_loss: mean cross-entropy over them, nats per token.
        layers: from the first to the last.
        gradient_shares: of the squared norm of the gradient of `val_loss`, by component.
        metrics: what the model reports of itself.
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
        description="Where attention looks, who gets the gradient, what the waves contribute.",
        epilog=_LEGEND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run directories, for example outputs/<run>",
    )
    parser.add_argument(
        "--windows",
        type=int,
        default=64,
        help="windows of validation text to look at (default: 64)",
    )
    parser.add_argument(
        "--checkpoint", default="best", help="best, latest or a step (default: best)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument(
        "--json", action="store_true", help="print everything, head by head, as JSON"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Print what was found in each run."""
    found = [
        diagnose(run, windows=options.windows, checkpoint=options.checkpoint, device=options.device)
        for run in options.runs
    ]
    if options.json:
        from spectral_exp.core.json_value import jsonable

        print(json.dumps(jsonable([asdict(diagnosis) for diagnosis in found]), indent=1))
    else:
        print(printable_lines("\n\n".join(_text(diagnosis) for diagnosis in found)))
        print(_LEGEND)
    return 0


def diagnose(
    run: Path, *, windows: int = 64, checkpoint: str = "best", device: str = "auto"
) -> Diagnosis:
    """Look into the model of the run directory `run`.

    Args:
        run: the run directory.
        windows: how many windows of block_size tokens of its validation text, evenly spread.
        checkpoint, device: as for `load_trained`.

    Raises:
        UserError: no such run, checkpoint or device, its text cannot be had or is another, or its context is one token.
    """
    require(windows >= 1, "--windows", windows, ">= 1")
    trained = load_trained(run, checkpoint, device)
    block_size = trained.model.block_size
    if block_size < 2:
        raise UserError(
            f"{run} has model.block_size={block_size}: attention to a single token has nothing to tell"
        )

    from spectral_exp.config.parts import build_dataset
    from spectral_exp.config.trust import require_fingerprints
    from spectral_exp.data.batches import EvalWindows
    from spectral_exp.runs.layout import RunPaths
    from spectral_exp.training.resume import known_text, refuse_changed_data

    known = known_text(RunPaths(run))
    require_fingerprints(run, trained.config, known.fingerprints if known else {})
    data = build_dataset(trained.config, known)
    refuse_changed_data(RunPaths(run), data.fingerprints)
    batch_size = max(1, _WEIGHTS_AT_ONCE // (trained.model.n_head * block_size**2))
    chosen = EvalWindows(data.val, data.tokenizer.token_bytes, block_size, batch_size, windows)
    val_loss, layers = _look(trained, ((x, y) for x, y, _ in chosen), chosen.n_targets)
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


def _look(
    trained: Trained, batches: Iterable[tuple[Tensor, Tensor]], n_targets: int
) -> tuple[float, list[LayerAttention]]:
    """The mean loss over the batches and where all layers looked; leaves the loss's gradient in the parameters."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from spectral_exp.models.attention import Attention

    model = trained.model
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    sums = [torch.zeros(4, model.n_head, dtype=torch.float64) for _ in attentions]
    total, queries = 0.0, 0

    def watch(layer: int) -> torch.utils.hooks.RemovableHandle:
        def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            assert isinstance(module, Attention)
            with torch.no_grad():
                sums[layer] += attention_sums(module.weights(given[0])).cpu()

        return attentions[layer].register_forward_pre_hook(before)

    handles = [watch(layer) for layer in range(len(attentions))]
    try:
        for x, y in batches:
            logits = model(x.to(trained.device))
            loss = (
                F.cross_entropy(
                    logits.flatten(0, 1), y.to(trained.device).flatten(), reduction="sum"
                )
                / n_targets
            )
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
            queries += len(x) * (x.shape[1] - x.shape[1] // 2)
    finally:
        for handle in handles:
            handle.remove()
    return total, [LayerAttention(*(of_layer / queries).tolist()) for of_layer in sums]


def attention_sums(weights: Tensor) -> Tensor:
    """Entropy, own, previous and distance of mixing weights (B, H, T, T), T >= 2, summed over queries: (4, H) float64.

    The queries are those of the second half of the window, which have many tokens in view.
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
    """The share of each component in the squared norm of the gradient."""
    squares = {
        name: sum(p.grad.cpu().double().square().sum().item() for p in own if p.grad is not None)
        for name, own in trained.model.component_parameters().items()
    }
    whole = sum(squares.values())
    return {name: square / whole for name, square in squares.items()}


def _text(found: Diagnosis) -> str:
    about = f"{found.run}: step {found.step}, val_loss {found.val_loss:.4f} over {counted(found.windows, 'window')}"
    rows = [("layer", "entropy", "own", "previous", "distance")]
    for number, layer in enumerate(found.layers, start=1):
        shares = [_range(values, 2) for values in (layer.entropy, layer.own, layer.previous)]
        rows.append((str(number), *shares, _range(layer.distance, 1)))  # type: ignore[arg-type]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    gradient = ", ".join(f"{name} {share:.1%}" for name, share in found.gradient_shares.items())
    own = [f"{name}: {value:.3f}" for name, value in found.metrics.items()]
    return "\n".join(
        [f"{about} of {found.block_size} tokens", *table, f"gradient: {gradient}", *own]
    )


def _range(values: list[float], decimals: int) -> str:
    low, high = (f"{value:.{decimals}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


main = command(build_parser, run)
