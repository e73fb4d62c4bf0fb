"""Names of settings and overrides, and what they affect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

PLACE = ("resume", "outputs", "backup_url", "experiment_id", "hydra")
"""Settings of the places of a run and its copies."""


WATCHING = (
    "monitoring.backup",
    "monitoring.checkpoint",
    "monitoring.visualization",
    "monitoring.tracking",
)
"""Settings that change no logged number."""


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
"""Settings that change nothing that a step computes."""


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
    """Return whether a setting may change what a training step computes."""
    return not is_among(setting, (*PLACE, *AROUND_STEPS))


def changed_settings(
    attempts: Sequence[Mapping[str, Any]], matters: Callable[[str], bool] = matters_for_logs
) -> list[tuple[int, str]]:
    """Return the steps after which a run was continued with other settings, and the changes."""
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


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their dotted names."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def quoted(value: str) -> str:
    """Quote `value` so that Hydra's override grammar and OmegaConf read it back unchanged."""
    # Bare words are text unless they read as a number, a truth value or null.
    bare = re.fullmatch(r"[A-Za-z./][\w./-]*", value, flags=re.ASCII)
    if bare and not re.fullmatch(r"[\d.e]+|null|true|false|nan|inf", value, flags=re.IGNORECASE):
        return value
    # OmegaConf reads `${` as an interpolation unless a backslash precedes it.
    return _in_quotes(re.sub(r"(\\*)\$\{", r"\1\1\\${", value))


def _in_quotes(value: str) -> str:
    # Inside quotes a backslash is special before a quote only.
    doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", value)
    return "'" + doubled.replace("'", "\\'") + "'"
