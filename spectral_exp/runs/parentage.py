"""The origin of a run's weights, if it started from those of another run or of a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_exp.core.foreign_text import printable
from spectral_exp.core.wording import format_count
from spectral_exp.runs.record import Ancestor, Parent

SETTING = "init_from"
"""The setting that names the weights to start from."""

_WHICH = re.compile(r"(.+)@([\w.+-]*)", re.DOTALL)
_MAX_ANCESTORS = 100
_MAX_NAMES = 3


def split_address(text: str) -> tuple[str, str | None]:
    """Return the place in a value of `init_from`, and the text after its `@` or None.

    A place that exists is never split, so its name may contain `@`.
    """
    found = _WHICH.fullmatch(text)
    if found is None or os.path.lexists(expand_user(text)):
        return text, None
    return found[1], found[2]


def expand_user(place: str) -> Path:
    """Return the path of a place, in which `~` at the beginning is the home directory."""
    return Path(os.path.expanduser(place))  # noqa: PTH111 - raises no error


def origin_settings(settings: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with the origin of its weights as the value of `init_from`.

    The origin is the parent's experiment and step, or that it is the best step. Runs of other seeds
    share these, unlike the path of the parent.

    Args:
        settings: dotted name -> value.
        record: the record of the run.
    """
    parent = record.get("parent")
    if SETTING not in settings or not parent:
        return dict(settings)
    return {**settings, SETTING: _origin(parent, str(settings[SETTING]).endswith("@best"))}


def lineage(parent: Parent) -> list[Ancestor]:
    """Return the ancestors of a run that starts from weights of the run with this parent."""
    return [_ancestor(one) for one in (parent, *parent.get("ancestors", []))][:_MAX_ANCESTORS]


def origin_words(origin: Ancestor) -> str:
    """Return the origin of weights in words, such as `wave_rgd_... at step 1200`."""
    name = printable(origin.get("experiment_id") or origin["path"], 200)
    return f"{name} at step {origin['step']}" if "step" in origin else name


def loading_words(parent: Parent) -> str:
    """Return what a run took from its parent, and the further ancestors, in words; may be ""."""
    words = []
    if parent.get("optimizer"):
        words.append("with the state of the optimizer")
    if missing := parent.get("not_loaded", []):
        words.append(f"{format_count(len(missing), 'parameter')} not loaded: {short_list(missing)}")
    if ancestors := parent.get("ancestors", []):
        words.append(f"which started from {', then '.join(map(origin_words, ancestors[:5]))}")
    return "; ".join(words)


def short_list(names: list[str], most: int = _MAX_NAMES) -> str:
    """Return the first names, and the number of the others."""
    more = len(names) - most
    shown = ", ".join(printable(name, 80) for name in names[:most])
    return f"{shown} and {more} more" if more > 0 else shown


def _ancestor(origin: Ancestor) -> Ancestor:
    """Return the known entries of an origin, which a stranger may have recorded with others."""
    kept: Ancestor = {"path": origin["path"], "weights_sha256": origin["weights_sha256"]}
    if "experiment_id" in origin:
        kept["experiment_id"] = origin["experiment_id"]
    if "step" in origin:
        kept["step"] = origin["step"]
    return kept


def _origin(parent: Parent, is_best: bool) -> str:
    if "config_hash" not in parent:
        return f"weights {parent['weights_sha256'][:8]}"
    step = "its best step" if is_best else f"step {parent.get('step', 0)}"
    name = printable(parent.get("name", ""), 100)
    return f"{name} {printable(parent['config_hash'], 100)} at {step}"
