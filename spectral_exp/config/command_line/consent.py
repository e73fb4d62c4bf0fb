"""Recorded overrides that may be used again without the consent of the user.

A record may come from a stranger. So only overrides with plain values and options are used: none
that reads the environment, changes Hydra, loads a file from elsewhere or sends data away. The user
may give such an override again on the command line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from spectral_exp.config import packages, trust
from spectral_exp.config.command_line.grammar import (
    MAX_TEXT,
    format_value,
    is_interpolated,
    is_readable,
    parse,
    strings_in,
)
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable

_BACKUP_KEYS = ("backup_url", "monitoring.backup.url")
_MIRROR_KEYS = ("mirrors", "monitoring.companion.mirrors")
_ALERT_KEYS = ("alerts", "monitoring.companion.alerts")
_OPTION = re.compile(r"[\w-][\w.-]*")


def trusted_overrides(
    overrides: Iterable[str], run: str, files: Collection[str], source: str | None = None
) -> list[str]:
    """Return the recorded `overrides` without web addresses, which fall back to the defaults.

    Args:
        overrides: as recorded.
        run: the name of the run in messages.
        files: settings that may name a file, because a fingerprint of it was recorded.
        source: the run as the user named it; a recorded backup continues if this is a URL below
            the address of the backup.

    Raises:
        UserError: an override has an effect that needs the consent of the user.
    """
    kept = []
    for override in overrides:
        try:
            if not is_readable(override):
                raise UserError
            parsed = parse(override)
        except UserError:
            raise _needs_consent(override, run, "cannot be read") from None
        key = str(parsed.key_or_group)
        if key == packages.SETTING and not parsed.is_sweep_override():
            places, foreign = packages.resolve_recorded(strings_in(parsed.value()))
            if not foreign:
                kept.append(f"{key}={format_value(places)}")
                continue
        if reason := _reason_for_consent(parsed, files):
            raise _needs_consent(override, run, reason)
        if key in _BACKUP_KEYS and parsed.value() is not None:
            url = str(parsed.value())
            if not trust.may_back_up(url, source):
                reason = "sends backups to an address that you have not named on this machine"
                raise _needs_consent(override, run, reason, f"{key}=null")
        elif key.endswith(".url"):
            continue
        elif key in _MIRROR_KEYS and not all(map(trust.may_mirror, strings_in(parsed.value()))):
            reason = "sends the run to a tracker that you have not named on this machine"
            raise _needs_consent(override, run, reason, f"{key}=[]")
        elif key in _ALERT_KEYS and any(strings_in(parsed.value())):
            raise _needs_consent(override, run, "sends messages to an address", f"{key}=[]")
        kept.append(override)
    return kept


def _needs_consent(override: str, run: str, reason: str, instead: str = "") -> UserError:
    text = printable(override, MAX_TEXT if is_readable(override) else 60)
    other = f", or {instead} to switch it off" if instead else ""
    return UserError(
        f"{run}: its record holds {text}, which {reason}, and is not trusted with that; if you "
        f"trust the run, give it again on the command line: {shlex.quote(text)}{other}"
    )


def _reason_for_consent(parsed: Override, files: Collection[str]) -> str | None:
    """Return why an override may not come from a record, or None if it may."""
    key, value = str(parsed.key_or_group), parsed.value()
    if _changes_hydra(key, str(parsed.package or "")):
        return "changes Hydra"
    if parsed.is_sweep_override():
        return "is a sweep"
    if key.split(".")[0] == packages.SETTING and value is not None:
        return "names packages that you have not used on this machine"
    if is_interpolated(value):
        return "is computed from something else"
    is_group = "/" in key or ("." not in key and key not in _top_settings())
    if is_group and not isinstance(value, Mapping) and not _names_options(value):
        return "names a configuration file by its path"
    names = set(strings_in(value)) if isinstance(value, Mapping | list) else set()
    if names & {"url", "backup_url", "mirrors", "alerts"}:
        return "holds an address"
    named = {key} & set(trust.PATH_SETTINGS) | ({f"{key}.path"} if "path" in names else set())
    if named <= set(files) or value is None:
        return None
    return "names a file without a recorded fingerprint"


def _changes_hydra(key: str, package: str) -> bool:
    """Return whether an override sets Hydra itself: `hydra.run.dir`, `group@hydra.x`."""
    is_plain_package = re.fullmatch(r"([a-zA-Z][\w.]*)?", package, flags=re.ASCII)
    return "hydra" in (re.split(r"[./]", key)[0], package.split(".")[0]) or not is_plain_package


def _names_options(value: Any) -> bool:
    """Return whether a value chooses options of a group by name, as in `model=wave`."""
    chosen = strings_in(value)
    return all(_OPTION.fullmatch(option) and ".." not in option for option in chosen)


@cache
def _top_settings() -> frozenset[str]:
    keys = frozenset(str(key) for key in OmegaConf.load(CONF_DIR / "config.yaml"))
    return keys - {"defaults", "hydra"}
