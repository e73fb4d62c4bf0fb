"""Fingerprints of training steps: hashes of all that a step makes, and where two executions first differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral_exp.training.runner import Runner

PARTS = ("loss", "gradients", "weights", "optimizer", "rng")
"""What is compared, in the order in which a step makes it."""

Hashes = dict[str, dict[str, str]]
"""Part -> name -> hash."""


@dataclass(frozen=True)
class StepFingerprint:
    """Hashes of one step, and its loss and gradient norm as numbers."""

    step: int
    loss: float
    grad_norm: float
    hashes: Hashes

    def summary(self) -> dict[str, Any]:
        """Step, loss and one hash for each part."""
        return {"step": self.step, "loss": self.loss, **{part: _joint(self.hashes[part]) for part in PARTS}}


@dataclass(frozen=True)
class Divergence:
    """The first difference between two executions of the same steps."""

    step: int
    part: str
    name: str
    between: str

    @property
    def order(self) -> tuple[int, int]:
        """Sorts divergences by the time at which they show."""
        return self.step, PARTS.index(self.part)

    def __str__(self) -> str:
        return f"step {self.step}: {self.part} ({self.name}) differ between {self.between}"


def train_step(runner: Runner) -> StepFingerprint:
    """Do the next step of `runner` and return its fingerprint.

    Raises:
        RunError: too many steps in a row were skipped.
    """
    from spectral_exp.training.seeding import rng_state

    gradients: dict[str, str] = {}

    def hash_gradients(*_: Any) -> None:
        # They are gone once the weights are updated.
        for name, parameter in runner.model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = _hash(parameter.grad)

    hook = runner.optimizer.register_step_pre_hook(hash_gradients)
    report = runner.stepper.take_step(runner.state.step + 1)
    hook.remove()
    runner.stepper.record(report)
    state = state_hashes(
        runner.model.state_dict(), runner.loss.state_dict(), runner.optimizer.state_dict(), rng_state()
    )
    loss, grad_norm = float(report.loss), float(report.grad_norm)
    hashes = {"loss": {"loss": loss.hex()}, "gradients": gradients, **state}
    return StepFingerprint(runner.state.step, loss, grad_norm, hashes)


def state_hashes(
    model: Mapping[str, Any], loss: Mapping[str, Any], optimizer: Mapping[str, Any], rng: Mapping[str, Any]
) -> Hashes:
    """Hashes of the state after a step; what the loss has learned counts among the weights."""
    return {
        "weights": _leaves(model, "model") | _leaves(loss, "loss"),
        "optimizer": _leaves(optimizer),
        "rng": _leaves(rng),
    }


def first_divergence(
    one: Sequence[StepFingerprint], other: Sequence[StepFingerprint], between: str
) -> Divergence | None:
    """The first difference between two executions of the same steps, in the order of `PARTS` within a step."""
    for left, right in zip(one, other, strict=True):
        for part in PARTS:
            if name := first_difference(left.hashes[part], right.hashes[part]):
                return Divergence(left.step, part, name, between)
    return None


def first_difference(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """The first name, in alphabetical order, whose hash differs or is missing in one of the two."""
    return next((name for name in sorted({*one, *other}) if one.get(name) != other.get(name)), None)


def _leaves(value: Any, name: str = "") -> dict[str, str]:
    """The hash of every leaf in nested containers, by its path."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {name: _hash(value)}
    found: dict[str, str] = {}
    for key, item in items:
        found |= _leaves(item, f"{name}.{key}" if name else key)
    return found


def _hash(value: Any) -> str:
    """Of a tensor type, shape and every bit, so that -0.0 is not 0.0; of anything else what `repr` shows."""
    import torch

    if not isinstance(value, torch.Tensor):
        return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()
    tensor = value.detach().cpu().contiguous()
    found = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=8)
    found.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _joint(hashes: Mapping[str, str]) -> str:
    return hashlib.blake2b(repr(sorted(hashes.items())).encode(), digest_size=8).hexdigest()
