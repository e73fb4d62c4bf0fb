"""Completions for the filter box: names of settings, then their values in the runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.results.names import ABSENT, Names, value_text
from spectral_exp.runs.run import Run

MAX_ITEMS = 50

_STARTED = re.compile(r"\s*([^=!<>\s]+)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


def complete(text: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return how a condition can go on: `text`, the whole condition, and `runs`, how many meet it.

    For an unfinished name `runs` is None.
    """
    names = Names(runs)
    started = _STARTED.fullmatch(text)
    if started is None:
        typed = text.strip().lower()
        matching = [name for name in names.known() if typed in name.lower()]
        matching.sort(key=lambda name: (not name.lower().startswith(typed), name.count("."), name))
        return [{"text": name, "runs": None} for name in matching[:MAX_ITEMS]]
    name, sign, values = started.groups()
    try:
        resolved = names.resolve(name)
    except UserError:
        return []
    *earlier, typed = values.split(",")
    known = (value for run in runs if (value := names.value(run, resolved)) is not ABSENT)
    found = Counter(map(value_text, known))
    before = f"{name}{sign}" + "".join(f"{value}," for value in earlier)
    matching = [value for value in found if typed.strip().lower() in value.lower()]
    matching.sort(key=lambda value: (-found[value], value))
    return [{"text": f"{before}{value}", "runs": found[value]} for value in matching[:MAX_ITEMS]]
