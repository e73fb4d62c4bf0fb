"""Starting a run from the weights that `init_from` names, and the record of their origin."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectral_exp.config.construct import Constructor
from spectral_exp.config.parts import make_model
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.wording import format_count
from spectral_exp.data.tokenizer_base import Tokenizer
from spectral_exp.models.undrawn import UndrawnWeights
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.parentage import SETTING, loading_words, origin_words, short_list
from spectral_exp.runs.record import Parent
from spectral_exp.training.initial_weights import (
    InitialWeights,
    pinned_address,
    read_initial_weights,
)
from spectral_exp.training.weight_fit import (
    WeightFit,
    fit_weights,
    load_optimizer,
    load_weights,
    optimizer_problem,
)

log = logging.getLogger(__name__)

_MAX_RECORDED_NAMES = 1000
_OTHER_TOKENIZER = "the tokenizer differs"


@dataclass(frozen=True)
class StartingPoint:
    """Weights that fit the parts of a run, to be loaded before its first step.

    Attributes:
        source: the weights.
        fit: which of them are loaded.
        parent: their origin, for the record of the run.
        with_optimizer: whether the state of the optimizer is loaded too.
    """

    source: InitialWeights
    fit: WeightFit
    parent: Parent
    with_optimizer: bool

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Load weights, and the state of the optimizer if the configuration asks for it."""
        load_weights(model, self.source.weights, self.fit)
        if self.with_optimizer:
            assert self.source.optimizer_state is not None
            load_optimizer(optimizer, self.source.optimizer_state)

    def report(self, recorded: Parent | None) -> None:
        """Log what was loaded and what was not.

        Args:
            recorded: the origin that an earlier attempt recorded, which had saved nothing.
        """
        words = loading_words(self.parent)
        log.info(
            "starting from the weights of %s%s", origin_words(self.parent), words and f" ({words})"
        )
        if self.fit.not_loaded:
            log.warning(
                "%s keep their initial values: %s",
                format_count(len(self.fit.not_loaded), "parameter"),
                short_list(self.fit.not_loaded, 20),
            )
        if self.fit.unexpected:
            unused = short_list([*self.fit.unexpected], 20)
            log.warning("not in the model, and not used: %s", unused)
        if self.source.tokenizer_fingerprint is None:
            log.warning(
                "the tokenizer of %s is unknown; if it is another one, its token ids mean other "
                "text",
                origin_words(self.parent),
            )
        if recorded and recorded["weights_sha256"] != self.parent["weights_sha256"]:
            log.warning(
                "an earlier attempt at this run, which saved nothing, started from other weights: "
                "%s",
                origin_words(recorded),
            )


def has_begun(run_dir: Path | None) -> bool:
    """Return whether a run has a checkpoint, so that it never reads `init_from` again."""
    if run_dir is None:
        return False
    paths = RunPaths(run_dir)
    # A link whose checkpoint is gone does not count: such a run starts anew.
    return bool(paths.checkpoint_steps()) or paths.latest_link.exists()


def find_starting_point(
    config: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
) -> StartingPoint | None:
    """Return the starting point of a configuration, or None without `init_from`; load nothing.

    Args:
        config: plain resolved configuration.
        model: the model; its values are not used.
        optimizer: of that model.
        tokenizer: of the text of the run.

    Raises:
        UserError: the weights cannot be read or do not fit, one line per reason.
    """
    text = config.get(SETTING)
    if text is None:
        return None
    is_partial = bool(config.get("init_partial"))
    source = read_initial_weights(str(text))
    skipped: dict[str, str] = {}
    if difference := _tokenizer_difference(source, tokenizer):
        if not is_partial:
            raise UserError(
                f"{SETTING}={text}: {difference}, so its token ids would mean other text; train "
                "with the same tokenizer and text, or start with init_partial=true, which loads "
                "no parameters of single tokens"
            )
        skipped = dict.fromkeys(_token_parameters(config, tokenizer.vocab_size), _OTHER_TOKENIZER)
    fit = fit_weights(model, source.weights, skipped)
    problems = list(fit.unusable)
    if not (is_partial or fit.is_complete):
        problems += fit.problems()
        problems[-1] += "; init_partial=true loads only what fits"
    elif not fit.loaded:
        problems.append("none of its parameters fits the model")
    with_optimizer = bool(config.get("init_optimizer"))
    if with_optimizer and (problem := _optimizer_problem(source, config, optimizer, fit)):
        problems.append(problem)
    if problems:
        raise UserError("\nerror: ".join(f"{SETTING}={text}: {problem}" for problem in problems))
    parent = source.parent()
    if with_optimizer:
        parent["optimizer"] = True
    if fit.not_loaded:
        parent["not_loaded"] = fit.not_loaded
    if fit.unexpected:
        names = [printable(name, 200) for name in fit.unexpected[:_MAX_RECORDED_NAMES]]
        parent["not_used"] = names
    return StartingPoint(source, fit, parent, with_optimizer)


def pin_parent(run: Path, config: dict[str, Any], parent: Parent | None) -> None:
    """Let `init_from` in the configuration of a recorded run name exactly its initial weights.

    Args:
        run: the run directory.
        config: its configuration, which is changed.
        parent: the recorded origin of its weights.

    Raises:
        UserError: the weights are unknown, missing, or no longer those that the run recorded.
    """
    if config.get(SETTING) is None:
        return
    if parent is None:
        raise UserError(f"the record of {run} does not identify the weights that it started from")
    address = pinned_address(parent)
    origin = origin_words(parent)
    try:
        found = read_initial_weights(address).parent()
    except UserError as error:
        raise UserError(
            f"{run} started from weights that cannot be read any more ({origin}): {error}"
        ) from error
    if found["weights_sha256"] != parent["weights_sha256"]:
        raise UserError(
            f"{run} started from other weights than {address} holds now ({origin}); restore them"
        )
    config[SETTING] = address


def _tokenizer_difference(source: InitialWeights, tokenizer: Tokenizer) -> str:
    """Return how the tokenizer of the weights differs from that of the run, or ""."""
    if source.tokenizer_fingerprint in (None, tokenizer.fingerprint):
        return ""
    there = source.tokenizer
    if there is None or there.fingerprint != source.tokenizer_fingerprint:
        return "its weights were trained with another tokenizer"
    sizes = f"{there.kind} of {there.vocab_size} there, {tokenizer.kind} of {tokenizer.vocab_size}"
    common = range(min(there.vocab_size, tokenizer.vocab_size))
    first = next((i for i in common if there.token_text(i) != tokenizer.token_text(i)), None)
    example = (
        ""
        if first is None
        else f"; id {first} is {there.token_text(first)!r} there and "
        f"{tokenizer.token_text(first)!r} here"
    )
    return f"its weights were trained with another tokenizer ({sizes} here{example})"


def _token_parameters(config: Mapping[str, Any], vocab_size: int) -> list[str]:
    """Return the names of the parameters whose shape depends on the size of the vocabulary."""
    make = Constructor(config)
    # A matched model would change its widths with the vocabulary.
    plain = {key: value for key, value in config.items() if key != "match"}
    with UndrawnWeights():
        one, other = (make_model(plain, size, make) for size in (vocab_size, vocab_size + 1))
    make.finish()
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    return [name for name, value in one.state_dict().items() if value.shape != shapes.get(name)]


def _optimizer_problem(
    source: InitialWeights,
    config: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    fit: WeightFit,
) -> str | None:
    """Return why the state of the optimizer cannot be taken along, or None if it can."""
    remedy = "leave out init_optimizer=true"
    if source.optimizer_state is None:
        return f"it holds no state of an optimizer; {remedy}"
    if fit.not_loaded:
        return f"the state of the optimizer needs all parameters of the model; {remedy}"
    names = [_optimizer_name(source.config), _optimizer_name(config)]
    if names[0] != names[1]:
        return f"its optimizer is {names[0]}, and that of this run {names[1]}; {remedy}"
    problem = optimizer_problem(optimizer, source.optimizer_state)
    return f"the state of its optimizer does not fit: {problem}; {remedy}" if problem else None


def _optimizer_name(config: Mapping[str, Any]) -> str:
    node = config.get("optimizer")
    if not isinstance(node, Mapping):
        return "unknown"
    direction = node.get("direction", "adam")
    of = "" if direction == "adam" else f" with direction={direction}"
    return f"{node.get('_target_')}{of}"
