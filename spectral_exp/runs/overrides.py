"""Classes of settings by their effect, and the syntax of overrides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

PLACE = (
    "resume", "outputs", "backup_url", "experiment_id", "sweep", "search", "hydra", "distributed",
    "packages", "mirrors", "alerts",
)  # fmt: skip
"""Settings that say where a run takes place: its folders, copies, processes, code and messages."""

WATCHING = (
    "monitoring.backup",
    "monitoring.checkpoint",
    "monitoring.visualization",
    "monitoring.spectra",
    "monitoring.tracking",
    "monitoring.system",
    "monitoring.companion",
)
"""Settings that change no logged number."""

BUDGET = ("training.max_steps", "training.max_tokens", "training.max_flops", "training.max_train_s")
"""Settings that end a run; schedules follow them."""

AROUND_STEPS = (
    "monitoring",
    "training.eval_interval",
    "training.patience",
    "training.min_delta",
    "training.restore_best",
    "training.max_bad_steps",
    "training.sample_tokens",
    "training.sample_prompt",
    "training.profile_steps",
    "training.stop_signals",
)
"""Settings that do not change the computation of a training step."""


def setting_of(override: str) -> str:
    """Return the setting that an override changes: `model/size` for `+model/size@x=tiny`."""
    return re.split(r"[=@]", override.lstrip("+~"), maxsplit=1)[0]


def is_among(setting: str, names: Sequence[str]) -> bool:
    """Return whether a setting or group (`monitoring/metrics`) is one of `names` or below one."""
    dotted = setting.replace("/", ".")
    return any(dotted == name or dotted.startswith(f"{name}.") for name in names)


def matters_for_logs(setting: str) -> bool:
    """Return whether a setting may change a logged number."""
    return not is_among(setting, (*PLACE, *WATCHING))


def matters_for_steps(setting: str) -> bool:
    """Return whether a setting may change the result of a training step."""
    return not is_among(setting, (*PLACE, *AROUND_STEPS))


def override_to_continue(status: str, pruner: str | None, prolonged: str) -> str:
    """Return the override with which `resume=` continues a run that has ended; "" for none.

    Args:
        status: of the run.
        pruner: its setting `search.pruner`; None if the run belongs to no search.
        prolonged: the override that raises the limit which ended a completed run.
    """
    if status == "completed":
        return prolonged
    if status == "stopped_early":
        return "training.patience=null"
    return "search.pruner=none" if status == "pruned" and pruner is not None else ""


def changed_settings(
    attempts: Sequence[Mapping[str, Any]], matters: Callable[[str], bool] = matters_for_logs
) -> list[tuple[int, str]]:
    """Return (step, changes) for each attempt that continued a run with other settings."""
    found = []
    for before, now in pairwise(attempts):
        # The last override of a setting counts.
        old, new = (
            {setting_of(o): o for o in attempt["overrides"] if matters(setting_of(o))}
            for attempt in (before, now)
        )
        changed = [
            f"{old.get(key, 'default')} -> {new.get(key, 'default')}"
            for key in {**old, **new}
            if old.get(key) != new.get(key)
        ]
        if changed:
            found.append((int(now["from_step"]), ", ".join(changed)))
    return found


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for the leaves of nested mappings."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def quote(value: str) -> str:
    """Quote `value` so that Hydra's override grammar and OmegaConf read it back unchanged."""
    # Bare words are text unless they read as a number, a truth value or null.
    bare = re.fullmatch(r"[A-Za-z./][\w./-]*", value, flags=re.ASCII)
    if bare and not re.fullmatch(r"[\d.e]+|null|true|false|nan|inf", value, flags=re.IGNORECASE):
        return value
    # OmegaConf reads `${` as an interpolation unless a backslash precedes it.
    return in_quotes(re.sub(r"(\\*)\$\{", r"\1\1\\${", value))


def in_quotes(value: str) -> str:
    """Return `value` in single quotes; interpolations in it stay active."""
    # Inside quotes a backslash is special only before a quote.
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", value)
    return "'" + doubled.replace("'", "\\'") + "'"
