"""The weights of a model under the names that they have without wrappers, anywhere in the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from spectral_exp.monitoring.torch_private import (
    COMPILED_NAME,
    layout_versions,
    set_layout_versions,
)
from spectral_exp.monitoring.wrappers import inner_name, unwrap

_INNER_NAMES = (COMPILED_NAME, "module")


def plain_state(model: nn.Module) -> dict[str, Any]:
    """The state of `model`, parameters and buffers themselves, without the names of wrappers.

    These are (distributed) data parallelism and `torch.compile`, around the model or parts of it.
    """
    model = unwrap(model)
    state = model.state_dict(keep_vars=True)
    if not any(f"{inner}." in name for name in state for inner in _INNER_NAMES):
        return state
    plain_name = _plain_names(model)
    plain = OrderedDict((plain_name(name), value) for name, value in state.items())
    if len(plain) < len(state):  # a wrapper with weights of its own, named as those inside
        return state
    versions = layout_versions(state) or {}
    # A module comes behind its wrapper, and its version is the one that counts.
    set_layout_versions(
        plain, OrderedDict((plain_name(path), entry) for path, entry in versions.items())
    )
    return plain


def load_plain_state(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True) -> None:
    """Load what `plain_state` returned into `model`, whose parts may have other wrappers.

    Args:
        model: wrapped or not, as a whole or in parts.
        state: names without wrappers -> values.
        strict: whether missing and unexpected names are errors.
    """
    model = unwrap(model)
    plain_name = _plain_names(model)
    own_names = {plain_name(name): name for name in model.state_dict()}
    own = OrderedDict((own_names.get(name, name), value) for name, value in state.items())
    metadata = layout_versions(state) or {}
    paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
    versions = {path: metadata[plain_name(path)] for path in paths if plain_name(path) in metadata}
    set_layout_versions(own, OrderedDict(versions))
    model.load_state_dict(own, strict=strict)


def _plain_names(model: nn.Module) -> Callable[[str], str]:
    """A function from names and paths in `model` to those without wrappers."""
    prefixes = []
    for path, module in model.named_modules(remove_duplicate=False):
        if (inner := inner_name(module)) is not None:
            start = f"{path}." if path else ""
            prefixes.append((f"{start}{inner}", path))
    prefixes.sort(key=lambda pair: len(pair[0]), reverse=True)

    def plain_name(name: str) -> str:
        for wrapped, outer in prefixes:  # the innermost first
            if name == wrapped or name.startswith(f"{wrapped}."):
                name = (outer + name[len(wrapped) :]).removeprefix(".")
        return name

    return plain_name
