"""The trackers that a run can be mirrored to, as users name them: `wandb:entity/project`."""

from __future__ import annotations

import hashlib
import importlib.util
import netrc
import os
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.core.errors import SettingError, UserError, nearest
from spectral_exp.core.redact import redact_text
from spectral_exp.core.wording import install

SETTING = "mirrors"

# Module that a tracker needs, and an example of how to name it.
_KINDS = {
    "tensorboard": ("tensorboardX", "tensorboard or tensorboard:FOLDER"),
    "wandb": ("wandb", "wandb:PROJECT or wandb:ENTITY/PROJECT"),
    "mlflow": ("mlflow", "mlflow:http://HOST:5000 or mlflow:sqlite:///FILE"),
    "trackio": ("trackio", "trackio:PROJECT"),
}
_NAME = r"[\w.-]{1,128}"
_WANDB = re.compile(rf"(?:(?P<entity>{_NAME})/)?(?P<project>{_NAME})", re.ASCII)
DEFAULT_PROJECT = "spectral_exp"


@dataclass(frozen=True)
class Target:
    """A tracker, and where it keeps its runs.

    Attributes:
        kind: tensorboard, wandb, mlflow or trackio.
        where: a folder, `entity/project`, the address of a server or a project.
    """

    kind: str
    where: str

    def __str__(self) -> str:
        """Return it as users name it, without secrets."""
        return redact_text(f"{self.kind}:{self.where}" if self.where else self.kind)

    @property
    def file_name(self) -> str:
        """The name of the file in which a run keeps how far it was mirrored."""
        # A password may change, and must not leave a trace.
        place = urllib.parse.urlsplit(self.where)
        where = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
        return f"{self.kind}-{hashlib.sha256(where.encode()).hexdigest()[:8]}.json"

    @property
    def stays_here(self) -> bool:
        """Whether nothing leaves the run and the user's own folders."""
        return self.kind == "trackio" or (self.kind == "tensorboard" and not self.where)


def parse_target(text: str, setting: str = SETTING) -> Target:
    """Return the tracker that a text names.

    Args:
        text: as typed.
        setting: the setting or flag that holds it, for messages.

    Raises:
        SettingError: it names none, its library is missing, or it cannot be used on this machine.
    """
    kind, _, where = str(text).partition(":")
    if kind not in _KINDS:
        allowed = "; ".join(example for _, example in _KINDS.values())
        raise SettingError(setting, redact_text(str(text)), f"{allowed}{nearest(kind, _KINDS)}")
    target = Target(kind, where or _default_place(kind))
    _check_place(target, setting)
    module, _ = _KINDS[kind]
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{setting}={target} needs {module}, which is missing: {install(kind)}")
    if kind == "wandb" and not _has_wandb_key():
        raise UserError(
            f"{setting}={target} has no API key: run `wandb login`, set WANDB_API_KEY, or set "
            "WANDB_MODE=offline to keep the run on this machine"
        )
    return target


def parse_targets(texts: Sequence[str], setting: str = SETTING) -> list[Target]:
    """Return the trackers of a setting, each once. Raises as `parse_target` does."""
    return list(dict.fromkeys(parse_target(text, setting) for text in texts))


def _default_place(kind: str) -> str:
    if kind == "mlflow":
        return os.environ.get("MLFLOW_TRACKING_URI", "")
    return "" if kind == "tensorboard" else DEFAULT_PROJECT


def _check_place(target: Target, setting: str) -> None:
    where = target.where
    place = urllib.parse.urlsplit(where)
    is_allowed = {
        "tensorboard": "://" not in where and "\x00" not in where,
        "wandb": _WANDB.fullmatch(where) is not None,
        "mlflow": (place.scheme in ("http", "https") and bool(place.hostname))
        or (place.scheme == "sqlite" and bool(place.path.strip("/"))),
        "trackio": re.fullmatch(_NAME, where, re.ASCII) is not None,
    }
    if not is_allowed[target.kind]:
        raise SettingError(setting, target, _KINDS[target.kind][1])


def split_wandb(where: str) -> tuple[str | None, str]:
    """Return the entity, None for the user's own, and the project."""
    match = _WANDB.fullmatch(where)
    assert match is not None
    return match["entity"], match["project"]


def is_wandb_offline() -> bool:
    """Return whether wandb keeps runs on this machine."""
    return os.environ.get("WANDB_MODE", "").lower() in ("offline", "dryrun")


def _has_wandb_key() -> bool:
    if is_wandb_offline() or os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = urllib.parse.urlsplit(address).hostname or ""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(file)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
