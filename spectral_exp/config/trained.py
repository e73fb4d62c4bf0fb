"""The trained model of a run, for commands that use it afterwards."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable

if TYPE_CHECKING:
    import torch

    from spectral_exp.data.tokenizer_base import Tokenizer
    from spectral_exp.models.gpt import GPT
    from spectral_exp.runs.layout import RunPaths

log = logging.getLogger(__name__)

POSITION_TABLE = "embedding.positions.weight"
"""The parameter of models whose embedding adds positions, (positions, C)."""


@dataclass(frozen=True)
class Trained:
    """A model with the weights of one checkpoint, in evaluation mode.

    Attributes:
        model: the model, on `device`.
        device: the device of its parameters.
        tokenizer: the tokenizer of the run.
        config: the resolved configuration, without recorded web addresses (see `trust.py`).
        step: the step of the checkpoint.
    """

    model: GPT
    device: torch.device
    tokenizer: Tokenizer
    config: dict[str, Any]
    step: int


def load_trained(
    run: Path,
    checkpoint: str = "best",
    device: str = "auto",
    block_size: int | None = None,
    packages: Sequence[str] = (),
) -> Trained:
    """Load the model of the run directory `run`.

    Args:
        run: the run directory.
        checkpoint: "best" (the latest if the best is not kept), "latest" or a step.
        device: as in the setting `device`.
        block_size: the longest sequence for which to build the model; by default, and at least,
            that of training.
        packages: packages that may be imported to build the model, beside those that the run's
            record names and that the user has used on this machine.

    Raises:
        UserError: the run, the checkpoint or the device does not exist, or the model has one
            vector for each position of training, so that it takes no longer sequences.
    """
    # Importing torch takes seconds, so the path is checked first.
    from spectral_exp.runs.layout import RunPaths

    paths = RunPaths(run)
    known = checkpoint in ("best", "latest") or (checkpoint.isdecimal() and len(checkpoint) < 20)
    require(known, "--checkpoint", checkpoint, "best, latest or a step")
    record = _read_record(paths)

    from spectral_exp.config.device import resolve_device
    from spectral_exp.config.packages import changed_packages
    from spectral_exp.config.trust import recorded_config
    from spectral_exp.data.tokenizer import load_tokenizer

    config = recorded_config(record, packages)
    if changed := changed_packages(record, config):
        log.warning(
            "the package %s has changed since the run %s: its present code builds the model",
            " and ".join(changed), run,
        )  # fmt: skip
    if block_size is not None:
        config = _lengthen(config, block_size)
    torch_device = resolve_device(device)
    tokenizer = load_tokenizer(paths.tokenizer)
    found = _load_checkpoint(paths, checkpoint)
    _refuse_longer_than_table(found["model_state_dict"], block_size)
    try:
        model = _build_with_weights(config, tokenizer.vocab_size, found["model_state_dict"])
    except UserError:
        raise
    except Exception as error:  # settings that do not fit the weights may raise any error
        log.debug("the model of %s", run, exc_info=True)
        raise UserError(
            f"the settings in {paths.config_file} do not fit the weights of its checkpoint: "
            f"{type(error).__name__}: {printable(error, 200)}; restore the file, for example from "
            "a backup"
        ) from error
    model.to(torch_device).eval()
    return Trained(model, torch_device, tokenizer, config, int(found["step"]))


def _read_record(paths: RunPaths) -> Mapping[str, Any]:
    """Return the record of a run. Raises UserError if it is no run, or one without settings."""
    from spectral_exp.runs.record import read_config

    if not paths.config_file.is_file():
        raise UserError(
            f"{paths.root} is not a run directory: it holds no {paths.config_file.name}; name one "
            "below outputs/"
        )
    if not paths.tokenizer.is_dir():
        raise UserError(
            f"{paths.root} holds no tokenizer ({paths.tokenizer.name}/); the run ended before "
            "training began"
        )
    record = read_config(paths.config_file)[0]
    if "config" not in record:
        raise UserError(
            f"{paths.config_file} holds no settings; restore the file, for example from a backup"
        )
    return record


def _lengthen(config: dict[str, Any], block_size: int) -> dict[str, Any]:
    """Return a configuration whose model takes sequences of at least `block_size` tokens."""
    model = config.get("model")
    if not isinstance(model, dict) or not isinstance(trained := model.get("block_size"), int):
        return config  # refused when the model is built
    return {**config, "model": {**model, "block_size": max(trained, block_size)}}


def _refuse_longer_than_table(weights: Mapping[str, torch.Tensor], block_size: int | None) -> None:
    table = weights.get(POSITION_TABLE)
    if table is not None and block_size is not None:
        most = len(table)
        require(
            block_size <= most,
            "--block-size",
            block_size,
            f"<= {most}: this model has a vector for each of {most} positions",
        )


def _load_checkpoint(paths: RunPaths, checkpoint: str) -> dict[str, Any]:
    """Load the checkpoint "best", "latest" or a step. Raises UserError if there is none."""
    from spectral_exp.monitoring import CheckpointManager

    manager = CheckpointManager(paths.root, enabled=False)
    if checkpoint.isdecimal():
        found = manager.load_checkpoint(int(checkpoint))
    else:
        found = manager.load_best_checkpoint() if checkpoint == "best" else None
        found = found or manager.load_latest_checkpoint()
    if found is None:
        steps = ", ".join(str(step) for step in paths.checkpoint_steps()) or "none"
        raise UserError(f"{paths.root} has no checkpoint {checkpoint}; saved steps: {steps}")
    return found


def _build_with_weights(
    config: Mapping[str, Any], vocab_size: int, weights: Mapping[str, torch.Tensor]
) -> GPT:
    """Return the model of a configuration with the given weights."""
    from spectral_exp.config.parts import build_model
    from spectral_exp.models.undrawn import UndrawnWeights

    section = config.get("model")
    n_layer = section.get("n_layer") if isinstance(section, dict) else None
    if isinstance(n_layer, int | float) and n_layer > len(weights):
        raise ValueError(f"model.n_layer={n_layer} with {len(weights)} weights")
    # Without initialization a model of any size takes no memory until its weights are loaded.
    with UndrawnWeights():
        model = build_model(config, vocab_size)
    model.load_state_dict(weights)
    return model
