"""The trained model of a run, for commands that look at it afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.errors import UserError, require

if TYPE_CHECKING:
    import torch

    from spectral_exp.data.tokenizer_base import Tokenizer
    from spectral_exp.models.gpt import GPT


@dataclass(frozen=True)
class Trained:
    """A model with the weights of one checkpoint, in evaluation mode.

    Attributes:
        model: on `device`.
        device: where it is.
        tokenizer: the run's own.
        config: the resolved configuration.
        step: of the checkpoint.
    """

    model: GPT
    device: torch.device
    tokenizer: Tokenizer
    config: dict[str, Any]
    step: int


def load_trained(run: Path, checkpoint: str = "best", device: str = "auto") -> Trained:
    """The model of the run directory `run`.

    Args:
        run: the run directory.
        checkpoint: "best" (the latest where no best is kept), "latest" or a step.
        device: as the run's own `device` setting.

    Raises:
        UserError: no such run, checkpoint or device.
    """
    # Importing torch takes seconds: a wrong path is answered before.
    from spectral_exp.run_dir import RunPaths, read_json

    paths = RunPaths(run)
    if not paths.config_file.is_file():
        raise UserError(f"{run} is not a run directory: it holds no {paths.config_file.name}; name one below outputs/")
    if not paths.tokenizer.is_dir():
        raise UserError(f"{run} holds no tokenizer ({paths.tokenizer.name}/); the run ended before training began")
    known = checkpoint in ("best", "latest") or checkpoint.isdecimal()
    require(known, "--checkpoint", checkpoint, "best, latest or a step")

    from spectral_exp.build import build_model, resolve_device
    from spectral_exp.data.tokenizer import load_tokenizer
    from spectral_exp.monitoring import CheckpointManager

    where = resolve_device(device)
    tokenizer = load_tokenizer(paths.tokenizer)
    manager = CheckpointManager(run, enabled=False)
    if checkpoint.isdecimal():
        found = manager.load_checkpoint(int(checkpoint))
    else:
        found = manager.load_best_checkpoint() if checkpoint == "best" else None
        found = found or manager.load_latest_checkpoint()
    if found is None:
        steps = ", ".join(str(step) for step in paths.checkpoint_steps()) or "none"
        raise UserError(f"{run} has no checkpoint {checkpoint}; saved steps: {steps}")
    config = read_json(paths.config_file)["config"]
    model = build_model(config, tokenizer.vocab_size)
    model.load_state_dict(found["model_state_dict"])
    model.to(where).eval()
    return Trained(model, where, tokenizer, config, int(found["step"]))
