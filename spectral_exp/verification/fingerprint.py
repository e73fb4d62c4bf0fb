"""Fingerprints of training steps: hashes of their results, and their first difference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectral_exp.training.runner import Runner

PARTS = ("loss", "gradients", "weights", "optimizer", "rng")
"""The parts of a step that are compared, in the order of their computation."""

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
        """Return step, loss and one hash for each part."""
        parts = {part: _combine(self.hashes[part]) for part in PARTS}
        return {"step": self.step, "loss": self.loss, **parts}


@dataclass(frozen=True)
class Divergence:
    """The first difference between two executions of the same steps."""

    step: int
    part: str
    name: str
    between: str

    @property
    def order(self) -> tuple[int, int]:
        """Key that sorts divergences by time."""
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
        # Not after the update, which may change them.
        for name, parameter in runner.model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = _hash(parameter.grad)

    hook = runner.optimizer.register_step_pre_hook(hash_gradients)
    report = runner.stepper.take_step(runner.state.step + 1)
    hook.remove()
    runner.stepper.record(report)
    state = state_hashes(
        runner.model.state_dict(),
        runner.loss.state_dict(),
        runner.optimizer.state_dict(),
        rng_state(),
    )
    loss, grad_norm = float(report.loss), float(report.grad_norm)
    hashes = {"loss": {"loss": loss.hex()}, "gradients": gradients, **state}
    return StepFingerprint(runner.state.step, loss, grad_norm, hashes)


def state_hashes(
    model: Mapping[str, Any],
    loss: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    rng: Mapping[str, Any],
) -> Hashes:
    """Return the hashes of the state after a step; parameters of the loss count as weights."""
    return {
        "weights": _hash_leaves(model, "model") | _hash_leaves(loss, "loss"),
        "optimizer": _hash_leaves(optimizer),
        "rng": _hash_leaves(rng),
    }


def first_divergence(
    one: Sequence[StepFingerprint], other: Sequence[StepFingerprint], between: str
) -> Divergence | None:
    """Return the first difference between two executions of the same steps, or None."""
    for left, right in zip(one, other, strict=True):
        for part in PARTS:
            if name := first_difference(left.hashes[part], right.hashes[part]):
                return Divergence(left.step, part, name, between)
    return None


def first_difference(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """Return the first name in alphabetical order with a different or missing hash, or None."""
    return next((name for name in sorted({*one, *other}) if one.get(name) != other.get(name)), None)


def _hash_leaves(value: Any, name: str = "") -> dict[str, str]:
    """Return path -> hash of every leaf in nested containers."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {name: _hash(value)}
    found: dict[str, str] = {}
    for key, item in items:
        found |= _hash_leaves(item, f"{name}.{key}" if name else key)
    return found


def _hash(value: Any) -> str:
    """Hash type, shape and bits of a tensor (-0.0 is not 0.0), or the `repr` of another value."""
    import torch

    if not isinstance(value, torch.Tensor):
        return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()
    tensor = value.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=8)
    digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _combine(hashes: Mapping[str, str]) -> str:
    """Return one hash of several named hashes."""
    return hashlib.blake2b(repr(sorted(hashes.items())).encode(), digest_size=8).hexdigest()
