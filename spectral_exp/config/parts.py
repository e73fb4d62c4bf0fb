"""Build the parts of training: model, optimizer, schedule, loss, text and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from spectral_exp.config.construct import Constructor
from spectral_exp.config.optimizer import ROLE as OPTIMIZER
from spectral_exp.config.roles import Role
from spectral_exp.data import Corpus, Dataset, KnownText, TokenizerSpec, prepare
from spectral_exp.distributed import DistributedSettings
from spectral_exp.models.gpt import GPT
from spectral_exp.models.twin import match_parameters
from spectral_exp.models.undrawn import UndrawnWeights
from spectral_exp.training.contracts import Schedule
from spectral_exp.training.settings import TrainingSettings
from spectral_exp.training.trial import try_loss, try_schedule

ROLES = {
    "model": Role(nn.Module, "spectral_exp.models"),
    "optimizer": OPTIMIZER,
    "schedule": Role(Schedule, "spectral_exp.optim"),
    "loss": Role(nn.Module, "spectral_exp.losses"),
    "data": Role(Corpus, "spectral_exp.data"),
    "tokenizer": Role(
        TokenizerSpec,
        "spectral_exp.data",
        # A run keeps its tokenizer, and is readable without the code of its author.
        instead_of_own="for one of your own write tokenizer=hf tokenizer.path=tokenizer.json",
    ),
    "training": Role(TrainingSettings, "spectral_exp.training"),
    "distributed": Role(DistributedSettings, "spectral_exp.distributed"),
}
"""Group of the configuration -> the classes and functions that it may name."""

# The attributes of a model that the training loop and the commands use.
_MODEL_ATTRIBUTES = (
    "block_size", "n_layer", "n_head", "new_cache", "metrics", "attention_weights",
    "parameter_groups", "component_parameters", "parameters_by_component", "flops_per_token",
)  # fmt: skip


def make_part(config: Mapping[str, Any], group: str, make: Constructor, **runtime: Any) -> Any:
    """Build the part that `config` chooses in `group`, or return None after adding its problems."""
    return make.make(config.get(group), group, ROLES[group], **runtime)


def make_schedule(
    config: Mapping[str, Any], make: Constructor, trial: bool, max_steps: int | None
) -> Any:
    """Build the schedule; on trial, compute the factor of the first step too."""
    schedule = make_part(config, "schedule", make, max_steps=max_steps)
    if trial and schedule is not None:
        make.call("schedule", lambda: try_schedule(schedule))
    return schedule


def make_loss(config: Mapping[str, Any], make: Constructor, trial: bool, vocab_size: int) -> Any:
    """Build the loss; on trial, compute it for small logits too."""
    loss = make_part(config, "loss", make, vocab_size=vocab_size)
    if trial and loss is not None:
        make.call("loss", lambda: try_loss(loss, vocab_size))
    return loss


def make_model(config: Mapping[str, Any], vocab_size: int, make: Constructor) -> Any:
    """Build the model; with `match`, resize it to the number of parameters of another model."""
    node = config.get("model")
    match = config.get("match")
    if match and isinstance(node, Mapping):
        original = node
        node = make.call("match", lambda: _resize_to_match(config, original, match, vocab_size))
        if node is None:
            return None
    model = make.make(node, "model", ROLES["model"], vocab_size=vocab_size)
    if model is None:
        return None
    if missing := [name for name in _MODEL_ATTRIBUTES if not hasattr(model, name)]:
        kind = type(model).__name__
        make.problems.append(
            f"model._target_: {kind} lacks {', '.join(missing)}, which every model needs"
        )
        return None
    return model


def make_dataset(
    config: Mapping[str, Any], make: Constructor, known: KnownText | None
) -> Dataset | None:
    """Read and tokenize the text; return None if a setting for it has a mistake."""
    corpus, tokenizer = make_part(config, "data", make), make_part(config, "tokenizer", make)
    model = config.get("model")
    block_size = model.get("block_size") if isinstance(model, Mapping) else None
    if isinstance(block_size, float) and block_size.is_integer():
        block_size = int(block_size)  # as the model takes it
    if not isinstance(block_size, int) or block_size < 1:
        return None
    if corpus is None or tokenizer is None:
        return None
    dataset = make.call(
        "data", lambda: prepare(corpus, tokenizer, block_size=block_size, known=known)
    )
    assert dataset is None or isinstance(dataset, Dataset)
    return dataset


def build_model(config: Mapping[str, Any], vocab_size: int) -> GPT:
    """Return the untrained model of `config`, as training builds it.

    Raises:
        UserError: the configuration of the model has a mistake.
    """
    make = Constructor(config)
    model = make_model(config, vocab_size, make)
    make.finish()
    return cast(GPT, model)


def build_dataset(config: Mapping[str, Any], known: KnownText | None = None) -> Dataset:
    """Return the tokenized text of `config`, as training reads it.

    Args:
        config: plain resolved configuration.
        known: fingerprints of the text of a run; any other text is refused.

    Raises:
        UserError: the configuration of the text has a mistake, or it cannot be read.
    """
    make = Constructor(config)
    dataset = make_dataset(config, make, known)
    make.finish()
    return cast(Dataset, dataset)


def _resize_to_match(
    config: Mapping[str, Any], node: Mapping[str, Any], parts: Mapping[str, Any], vocab_size: int
) -> dict[str, Any]:
    """Return the model node, its widths changed to give it as many parameters as with `parts`."""

    def count(candidate: Mapping[str, Any]) -> int:
        make = Constructor(config)
        with UndrawnWeights():
            model = make.make(candidate, "model", ROLES["model"], vocab_size=vocab_size)
        make.finish()
        return sum(p.numel() for p in model.parameters())

    def resize(n_embd: int, n_hidden: int | None) -> dict[str, Any]:
        return {**node, "n_embd": n_embd, "mlp": {**node["mlp"], "n_hidden": n_hidden}}

    target = count({**node, **parts})
    # Rotary positions turn pairs of channels, so each head keeps an even width.
    n_embd, n_hidden = match_parameters(
        lambda width, hidden: count(resize(width, hidden)),
        target,
        node["n_embd"],
        2 * node["n_head"],
    )
    return resize(n_embd, n_hidden)
