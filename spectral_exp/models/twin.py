"""Search for the sizes at which one model has as many parameters as another."""

from __future__ import annotations

from collections.abc import Callable

from spectral_exp.core.errors import UserError, require

TOLERANCE = 0.01


def match_parameters(
    build: Callable[[int, int | None], int], target: int, n_embd: int, multiple: int
) -> tuple[int, int]:
    """Return the width and MLP size at which a model has `target` parameters within 1 %.

    The width is the largest one that does not exceed `target` with the default MLP size; the MLP
    size is then the closest one.

    Args:
        build: returns the number of parameters for n_embd and n_hidden (None: the default size). It
            must increase with both, and linearly with n_hidden. Building on `torch.device("meta")`
            makes counting cheap.
        target: number of parameters to reach.
        n_embd: width at which the search starts.
        multiple: n_embd must be a multiple of this, e.g. the number of heads.

    Returns:
        n_embd and n_hidden.

    Raises:
        UserError: if no model comes within 1 % of `target`.
    """
    require(multiple >= 1, "multiple", multiple, ">= 1")
    width = _find_width(lambda n: build(n, None), target, max(n_embd // multiple, 1), multiple)
    smallest = build(width, 1)
    per_channel = build(width, 2) - smallest
    n_hidden = max(1, 1 + round((target - smallest) / per_channel))
    count = build(width, n_hidden)
    if abs(count - target) > TOLERANCE * target:
        raise UserError(
            f"no width is within 1 % of {target} parameters: n_embd={width} with "
            f"n_hidden={n_hidden} has {count}; change n_layer or the reference model"
        )
    return width, n_hidden


def _find_width(count: Callable[[int], int], target: int, guess: int, multiple: int) -> int:
    """Return the largest multiple of `multiple` whose count is at most `target`.

    The search starts at guess * multiple.
    """
    if count(multiple) > target:
        raise UserError(
            f"the narrowest model, n_embd={multiple}, already has {count(multiple)} > {target} "
            "parameters"
        )
    while count(guess * multiple) > target:
        guess -= 1
    while count((guess + 1) * multiple) <= target:
        guess += 1
    return guess * multiple
