"""Find and read the weights that `init_from` names: of a run, a checkpoint or a safetensors file.

All of them may come from a stranger. They are read as tensors and plain values only, and nothing
that they contain is run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_value import jsonable
from spectral_exp.core.regular_file import open_regular
from spectral_exp.core.wording import install
from spectral_exp.data.tokenizer import load_tokenizer
from spectral_exp.data.tokenizer_base import Tokenizer
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint.reader import BrokenCheckpointError, read_checkpoint
from spectral_exp.runs.layout import CHECKPOINTS_FOLDER, COMPRESSED_SUFFIX, RunPaths
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.parentage import (
    SETTING,
    expand_user,
    lineage,
    origin_settings,
    split_address,
)
from spectral_exp.runs.parts import config_hash
from spectral_exp.runs.record import Parent, known_settings, parent_in, read_config
from spectral_exp.runs.renamed import update_names

log = logging.getLogger(__name__)

LAST, BEST = "last", "best"
_KINDS = "a run directory, a checkpoint (.pt or .pt.zst) or a .safetensors file"
_MAX_STEPS_SHOWN = 20


@dataclass(frozen=True)
class InitialWeights:
    """Weights to start from, on the CPU, and what is known of their origin.

    Attributes:
        text: the value of `init_from`.
        path: the run directory, or the file.
        weights: name -> tensor.
        step: the step after which they were saved, if known.
        optimizer_state: the `state_dict` of the optimizer, or None if the source holds none.
        config: the configuration in the checkpoint; empty if the source holds none.
        record: the record of the run in `config.json`; empty if there is none.
        grandparent: the origin of the weights that this run started from.
        tokenizer: the tokenizer of the run, or None if it cannot be loaded.
        tokenizer_fingerprint: that of the tokenizer of the run, or None if it is unknown.
    """

    text: str
    path: Path
    weights: Mapping[str, torch.Tensor]
    step: int | None = None
    optimizer_state: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    grandparent: Parent | None = None
    tokenizer: Tokenizer | None = None
    tokenizer_fingerprint: str | None = None

    def parent(self) -> Parent:
        """Return the origin of the weights for the record of the run that starts from them."""
        parent: Parent = {
            "path": str(self.path.absolute()),
            "weights_sha256": weights_sha256(self.weights),
        }
        if self.step is not None:
            parent["step"] = self.step
        if isinstance(experiment_id := self.record.get("experiment_id"), str):
            parent["experiment_id"] = experiment_id
        if self.config:
            settings = known_settings(dict(flatten(jsonable(self.config))), "")[0]
            parent["config_hash"] = config_hash(
                origin_settings(settings, {"parent": self.grandparent})
            )
            parent["name"] = str(settings.get("name", ""))
        if grandparent := self.grandparent:
            parent["ancestors"] = lineage(grandparent)
        return parent


def read_initial_weights(text: str) -> InitialWeights:
    """Read the weights that `init_from=text` names.

    Raises:
        UserError: they do not exist or cannot be read.
    """
    place, which = split_address(text)
    path = expand_user(place)
    if "://" in place:
        raise UserError(f"{SETTING}={text} must be given on the command line, which fetches it")
    if not os.path.exists(path):  # noqa: PTH110 - false for a name that no file can have
        raise UserError(f"{SETTING}={text} does not exist{_neighbour(path)}; name {_KINDS}")
    if path.is_dir():
        return _read_run(text, RunPaths(path), LAST if which is None else which)
    if which is not None:
        raise UserError(
            f"{SETTING}={text}: @{which} chooses a checkpoint of a run, and {place} is a file; "
            f"leave @{which} out"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(text, path)
    if path.name.removesuffix(COMPRESSED_SUFFIX).endswith(".pt"):
        return _read_checkpoint_file(text, path)
    raise UserError(f"{SETTING}={text} must be {_KINDS}")


def pinned_address(parent: Parent) -> str:
    """Return the value of `init_from` that names exactly the weights of a recorded parent."""
    path = parent["path"]
    return f"{path}@{parent['step']}" if Path(path).is_dir() and "step" in parent else path


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bits of all weights, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous()
        facts = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(facts.encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- runs and checkpoints -------------------------------------------------------------------------


def _neighbour(path: Path) -> str:
    """Return the words "; did you mean X?" if a neighbour of a missing path has a similar name."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return nearest(path.name, names)


def _read_run(text: str, paths: RunPaths, which: str) -> InitialWeights:
    if not paths.checkpoint_steps():
        reason = "has no checkpoint" if paths.config_file.is_file() else "is not a run directory"
        raise UserError(f"{SETTING}={text}: {paths.root} {reason}; name {_KINDS}")
    manager = CheckpointManager(paths.root, enabled=False)
    if which in (LAST, "latest"):
        state = manager.load_latest_checkpoint()
    elif which == BEST:
        best = [entry for entry in manager.list_checkpoints() if entry["is_best"]]
        state = _read_step(text, paths, best[0]["step"]) if best else None
    elif which.isdecimal() and len(which) < 20:
        state = _read_step(text, paths, int(which))
    else:
        raise UserError(
            f"{SETTING}={text}: @{which} must be @{BEST}, @{LAST} or @STEP; {_saved_steps(paths)}"
        )
    if state is None:
        what = f"checkpoint of step {which}" if which.isdecimal() else f"{which} checkpoint"
        raise UserError(f"{SETTING}={text}: {paths.root} keeps no {what}; {_saved_steps(paths)}")
    return _from_checkpoint(text, paths.root, state, paths)


def _read_step(text: str, paths: RunPaths, step: int) -> dict[str, Any] | None:
    """Return the checkpoint of a step, or None if there is none."""
    path = paths.checkpoint_file(step)
    try:
        return read_checkpoint(path)
    except FileNotFoundError:
        return None
    except BrokenCheckpointError as error:
        raise UserError(
            f"{SETTING}={text}: {path} is damaged ({error}); {_saved_steps(paths, without=step)}"
        ) from error


def _saved_steps(paths: RunPaths, without: int | None = None) -> str:
    steps = [step for step in paths.checkpoint_steps() if step != without]
    hidden = len(steps) - _MAX_STEPS_SHOWN
    shown = ", ".join(map(str, steps[-_MAX_STEPS_SHOWN:])) or "none"
    return f"saved steps: {shown}" + (f", and {hidden} earlier ones" if hidden > 0 else "")


def _read_checkpoint_file(text: str, path: Path) -> InitialWeights:
    path = path.resolve()  # the checksum lies beside the file, not beside a link to it
    try:
        state = read_checkpoint(path)
    except (FileNotFoundError, BrokenCheckpointError) as error:
        raise UserError(f"{SETTING}={text} is damaged ({error}); name another one") from error
    is_in_run = path.parent.name == CHECKPOINTS_FOLDER
    return _from_checkpoint(text, path, state, RunPaths(path.parent.parent) if is_in_run else None)


def _from_checkpoint(
    text: str, path: Path, state: Mapping[str, Any], run: RunPaths | None
) -> InitialWeights:
    record, tokenizer = ({}, None) if run is None else _read_facts(run)
    fingerprint = (record.get("dataset") or {}).get("tokenizer")
    if fingerprint is None and tokenizer is not None:
        fingerprint = tokenizer.fingerprint
    return InitialWeights(
        text=text,
        path=path,
        weights=_tensors(text, state["model_state_dict"]),
        step=int(state["step"]),
        optimizer_state=state["optimizer_state_dict"],
        config=update_names(state["config"]),
        record=record,
        grandparent=record.get("parent") or parent_in(state),
        tokenizer=tokenizer,
        tokenizer_fingerprint=fingerprint,
    )


def _read_facts(run: RunPaths) -> tuple[Mapping[str, Any], Tokenizer | None]:
    """Return the record and the tokenizer of a run, as far as they can be read."""
    record: Mapping[str, Any] = {}
    if run.config_file.is_file():
        try:
            record = read_config(run.config_file)[0]
        except UserError as error:
            log.warning("%s; its weights are used without it", error)
    tokenizer = None
    if run.tokenizer.is_dir():
        try:
            tokenizer = load_tokenizer(run.tokenizer)
        except UserError as error:  # its library may be missing
            log.debug("the tokenizer of %s cannot be loaded: %s", run.root, error)
    return record, tokenizer


def _tensors(text: str, weights: Mapping[Any, Any]) -> dict[str, torch.Tensor]:
    wrong = [
        name
        for name, value in weights.items()
        if not isinstance(name, str)
        or not isinstance(value, torch.Tensor)
        or value.layout is not torch.strided
        or value.device.type != "cpu"  # such as meta, which has no values
    ]
    if wrong:
        raise UserError(
            f"{SETTING}={text}: {printable(wrong[0], 80)} of its model is not a tensor with plain "
            "values; only such tensors are loaded"
        )
    return dict(weights)


# --- safetensors ----------------------------------------------------------------------------------


def _read_safetensors(text: str, path: Path) -> InitialWeights:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise UserError(
            f"{SETTING}={text} needs the package safetensors: {install('safetensors')}"
        ) from error
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
        if size > (available := psutil.virtual_memory().available):
            raise UserError(
                f"{SETTING}={text} needs {size / 1e6:.0f} MB of memory, and {available / 1e6:.0f} "
                "MB are available; free memory, or start on a machine with more"
            )
        # The library refuses large headers, and offsets that overlap or lie outside of the file.
        with safe_open(path, framework="pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            facts = opened.metadata() or {}
    except UserError:
        raise
    except Exception as error:  # the library has errors of its own
        reason = printable(" ".join(str(error).split()), 200)
        raise UserError(
            f"{SETTING}={text} cannot be read: {reason or type(error).__name__}; name {_KINDS}"
        ) from error
    step = str(facts.get("step", ""))
    record = {"experiment_id": facts["run"][:200]} if isinstance(facts.get("run"), str) else {}
    return InitialWeights(
        text=text,
        path=path,
        weights=weights,
        step=int(step) if re.fullmatch("[0-9]{1,15}", step) else None,
        record=record,
        tokenizer_fingerprint=facts.get("tokenizer"),
    )
