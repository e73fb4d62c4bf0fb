"""The text `at`: which value of a run counts, the last one, the best one, or that within a budget.

A budget is written as `step:100`, `tokens=1e6`, `seconds=60` or `flops=1e15`; `:` and `=` mean the
same. Seconds are those of training, as in `train_s`. FLOPs are those of training steps, forward and
backward.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from spectral_exp.core.errors import require

KINDS = ("step", "tokens", "seconds", "flops")
"""What a budget may limit."""

ALLOWED_AT = "final, best, step:N, tokens=N, seconds=N or flops=N with N > 0"

_FORM = re.compile(r"(step|tokens|seconds|flops)[:=](.{1,40})", re.ASCII)
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE | re.ASCII)
_MAX_STEP = 10**19


@dataclass(frozen=True)
class Budget:
    """A limit on training, up to which the last value of a run counts.

    Attributes:
        kind: of `KINDS`.
        amount: steps, tokens, seconds of training or FLOPs; > 0.
    """

    kind: str
    amount: float

    @property
    def words(self) -> str:
        """The budget within a sentence, as `step 100` or `60 s of training`."""
        if self.kind == "step":
            return f"step {self.amount:,.0f}"
        shown = f"{self.amount:.6g}" if self.amount >= 1e15 else f"{self.amount:,.10g}"
        return {
            "tokens": f"{shown} training tokens",
            "seconds": f"{shown} s of training",
            "flops": f"{self.amount:.6g} training FLOPs",
        }[self.kind]


def parse_at(at: str) -> Budget | None:
    """Return the budget that a text names, None for `final` and `best`.

    Raises:
        SettingError: the text has another form.
    """
    if at in ("final", "best"):
        return None
    match = _FORM.fullmatch(at)
    is_number = match is not None and _NUMBER.fullmatch(match[2]) is not None
    amount = float(match[2]) if match is not None and is_number else 0.0
    is_step = match is not None and match[1] == "step"
    is_whole = not is_step or (amount < _MAX_STEP and amount == math.floor(amount))
    require(0 < amount < math.inf and is_whole, "at", at, ALLOWED_AT)
    assert match is not None
    return Budget(match[1], amount)
