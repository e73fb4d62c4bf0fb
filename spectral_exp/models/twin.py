"""Finding the sizes at which a model has as many parameters as another."""

from __future__ import annotations

from collections.abc import Callable

from spectral_exp.core.errors import UserError, require

TOLERANCE = 0.01


def match_parameters(
    build: Callable[[int, int | None], int], target: int, n_embd: int, multiple: int
) -> tuple[int, int]:
    """The width and MLP size at which a model has `target` parameters, within 1 %.

    First the widest model that does not exceed `target` with its usual MLP, then the MLP size that comes nearest.

    Args:
        build: the number of parameters with a given n_embd and n_hidden (None: the usual one). It must grow with both,
            and with n_hidden in equal steps. Building on `torch.device("meta")` makes counting cheap.
        target: the number to reach.
        n_embd: the width to start searching from.
        multiple: what n_embd must be a multiple of, e.g. the number of heads.

    Returns:
        n_embd and n_hidden.

    Raises:
        UserError: if no model comes within 1 % of `target`.
    """
    require(multiple >= 1, "multiple", multiple, ">= 1")
    width = _widest(lambda n: build(n, None), target, max(n_embd // multiple, 1), multiple)
    smallest = build(width, 1)
    per_channel = build(width, 2) - smallest
    n_hidden = max(1, 1 + round((target - smallest) / per_channel))
    count = build(width, n_hidden)
    if abs(count - target) > TOLERANCE * target:
        raise UserError(
            f"no width is within 1 % of {target} parameters: n_embd={width} with n_hidden={n_hidden} has {count}; "
            "change n_layer or the reference model"
        )
    return width, n_hidden


def _widest(count: Callable[[int], int], target: int, guess: int, multiple: int) -> int:
    """The largest multiple of `multiple` whose count does not exceed `target`, searched from guess * multiple."""
    if count(multiple) > target:
        raise UserError(
            f"the narrowest model, n_embd={multiple}, already has {count(multiple)} > {target} parameters"
        )
    while count(guess * multiple) > target:
        guess -= 1
    while count((guess + 1) * multiple) <= target:
        guess += 1
    return guess * multiple
