"""Let a trained run write text: `python -m spectral_exp generate outputs/<run> --prompt "def " --tokens 200`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from spectral_exp.config.trained import load_trained
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable, printable_lines

_MAX_TOKENS = 10_000_000


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp generate", description="Let a trained run write text.")
    parser.add_argument("run", type=Path, help="run directory, for example outputs/<run>")
    parser.add_argument("--prompt", default="\n", help="text to continue (default: a line break)")
    parser.add_argument("--tokens", type=int, default=200, help="tokens to write (default: 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 always takes the likeliest (default: 0.8)"
    )
    parser.add_argument("--top-k", type=int, help="choose among the k likeliest tokens only")
    parser.add_argument(
        "--top-p",
        type=float,
        help="choose among the likeliest tokens of this total probability only",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text (default: 0)")
    parser.add_argument(
        "--checkpoint", default="best", help="best, latest or a step (default: best)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the prompt and what the model writes after it."""
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
) -> str:
    """The text that the model of a run writes after `prompt`.

    Args:
        run: the run directory.
        prompt: at least one token long.
        n_tokens: tokens to write.
        temperature: divides the logits; 0 takes the likeliest token always.
        top_k: choose among the k likeliest tokens only.
        top_p: choose among the likeliest tokens of this total probability only.
        seed: of the draws.
        checkpoint: "best" (the latest where no best is kept), "latest" or a step.
        device: as the run's own `device` setting.

    Raises:
        UserError: no such run or checkpoint, or a setting that is not allowed.
    """
    require(1 <= n_tokens <= _MAX_TOKENS, "--tokens", n_tokens, f"from 1 to {_MAX_TOKENS}")
    for option, share in {"--top-p": top_p, "--temperature": temperature}.items():
        require(share is None or math.isfinite(share), option, share, "a finite number")
    require(0 <= seed < 2**63, "--seed", seed, ">= 0 and < 2^63")
    trained = load_trained(run, checkpoint, device)

    import torch  # after what can be wrong: importing it takes seconds

    from spectral_exp.models.generation import generate

    model, tokenizer, where = trained.model, trained.tokenizer, trained.device
    ids = torch.as_tensor(tokenizer.encode(prompt).astype("int64"))[None].to(where)
    require(ids.numel() > 0, "--prompt", repr(prompt), "at least one token long")
    generator = torch.Generator(where).manual_seed(seed)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise UserError(
            f"the weights of step {trained.step} in {run} are not finite; choose another --checkpoint"
        )
    try:
        written = generate(model, ids, n_tokens, temperature, top_k, top_p, generator)
    except RuntimeError as error:  # no memory, or weights whose output is not finite
        raise UserError(f"the model of {run} cannot write: {printable(error, 200)}") from error
    return tokenizer.decode(written[0, ids.shape[1] :].cpu().numpy())


main = command(build_parser, run)
