"""Generate text with a trained run: `spectral-exp generate outputs/<run> --prompt "def "`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from spectral_exp.commands.options import add_checkpoint, add_device, add_packages, add_run
from spectral_exp.config.trained import load_trained
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable, printable_lines

_MAX_TOKENS = 10_000_000


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp generate", description="Generate text with a trained run.")
    add_run(parser)
    parser.add_argument("--prompt", default="\n", help="text to continue (default: a line break)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to add (default: 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 selects the likeliest (default: 0.8)"
    )
    parser.add_argument("--top-k", type=int, help="draw only from the k likeliest tokens")
    parser.add_argument(
        "--top-p",
        type=float,
        help="draw only from the likeliest tokens of this total probability",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    add_checkpoint(parser)
    add_device(parser)
    add_packages(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the prompt and its continuation."""
    text = generate_text(
        options.run,
        options.prompt,
        options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        checkpoint=options.checkpoint,
        device=options.device,
        packages=options.packages,
    )
    print(options.prompt + printable_lines(text))
    return 0


def generate_text(
    run: Path,
    prompt: str,
    n_tokens: int,
    *,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    checkpoint: str = "best",
    device: str = "auto",
    packages: Sequence[str] = (),
) -> str:
    """Return the continuation of `prompt` by the model of a run.

    Args:
        run: the run directory.
        prompt: text of at least one token.
        n_tokens: tokens to add.
        temperature: divides the logits; 0 selects the likeliest token.
        top_k: draw only from the k likeliest tokens.
        top_p: draw only from the likeliest tokens of this total probability.
        seed: seed of the draws.
        checkpoint: "best" (the latest if there is no best), "latest" or a step.
        device: as the run's `device` setting.

    Raises:
        UserError: the run or checkpoint does not exist, or a setting is out of range.
    """
    require(1 <= n_tokens <= _MAX_TOKENS, "--tokens", n_tokens, f"from 1 to {_MAX_TOKENS}")
    for option, share in {"--top-p": top_p, "--temperature": temperature}.items():
        require(share is None or math.isfinite(share), option, share, "a finite number")
    require(0 <= seed < 2**63, "--seed", seed, ">= 0 and < 2^63")
    trained = load_trained(run, checkpoint, device, packages=packages)

    import torch  # after the checks of settings, since this import takes seconds

    from spectral_exp.models.generation import generate

    model, tokenizer = trained.model, trained.tokenizer
    ids = torch.as_tensor(tokenizer.encode(prompt).astype("int64"))[None].to(trained.device)
    require(ids.numel() > 0, "--prompt", repr(prompt), "at least one token long")
    generator = torch.Generator(trained.device).manual_seed(seed)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise UserError(
            f"the weights of step {trained.step} in {run} are not finite; "
            "choose another --checkpoint"
        )
    try:
        tokens = generate(model, ids, n_tokens, temperature, top_k, top_p, generator)
    except RuntimeError as error:  # out of memory, or an output that is not finite
        raise UserError(
            f"the model of {run} cannot generate text: {printable(error, 200)}"
        ) from error
    return tokenizer.decode(tokens[0, ids.shape[1] :].cpu().numpy())


main = command(build_parser, run)
