"""State made of types that `torch.load(..., weights_only=True)` reads on any machine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import PurePath
from typing import Any

import numpy as np
import torch


def portable_state(value: Any, where: str, found: list[torch.Tensor] | None = None) -> Any:
    """`value` with containers, numbers and tensors in their plain, compact form, and nothing changed in meaning.

    Args:
        value: nested containers of tensors, numbers, strings, bytes, paths and dates (the last two become strings).
        where: how error messages name it.
        found: takes the tensors of the result, in order.

    Raises:
        TypeError: something inside has no plain form.
    """
    return _convert(value, where, False, [] if found is None else found)


def portable_config(value: Any) -> Any:
    """The same for configurations, which are kept to be read: arrays become lists, and unknown objects their text."""
    return _convert(value, "config", True, [])


def aliased_state(value: Any, watched: list[torch.Tensor], urgent: list[torch.Tensor]) -> Any:
    """`value` with aliases in place of its tensors, and with containers of its own.

    An alias shows the same memory as the tensor does now, whatever the tensor's `.data` becomes.

    Args:
        value: nested containers of tensors and other values.
        watched: takes the aliases in order, but for
        urgent: those in which torch does not count changes.
    """
    kind = type(value)
    if kind is torch.Tensor or kind is torch.nn.Parameter or isinstance(value, torch.Tensor):
        alias = value.detach()
        (urgent if alias.is_inference() else watched).append(alias)
        return alias
    if kind in _PLAIN:
        return value
    if isinstance(value, Mapping):
        made = {key: aliased_state(item, watched, urgent) for key, item in value.items()}
        return OrderedDict(made) if isinstance(value, OrderedDict) else made
    if isinstance(value, tuple):
        return tuple(aliased_state(item, watched, urgent) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [aliased_state(item, watched, urgent) for item in value]
    return value


def to_device(value: Any, device: str | torch.device) -> Any:
    """A loaded state with all its tensors on `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = to_device(item, device)
        return value
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


_PLAIN = frozenset({bool, int, float, str, bytes, type(None), torch.dtype, torch.device})


def _convert(value: Any, where: str, lenient: bool, found: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        found.append(_compact(value))
        return found[-1]
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.generic):
        return value.item()
    for plain in (int, float, str):  # enumerations and other subclasses
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return _convert_mapping(value, where, lenient, found)
    if isinstance(value, tuple):
        return tuple(_convert(item, f"{where}[{i}]", lenient, found) for i, item in enumerate(value))
    if isinstance(value, Sequence) and not isinstance(value, bytearray):
        if all(type(item) in _PLAIN for item in value):  # as the numbers of an optimizer's parameters
            return list(value)
        return [_convert(item, f"{where}[{i}]", lenient, found) for i, item in enumerate(value)]
    if lenient:
        return value.tolist() if isinstance(value, np.ndarray) else str(value)
    raise TypeError(
        f"{where} holds a {type(value).__qualname__}, which a checkpoint cannot keep safely; "
        "give it as tensors, numbers, strings or containers of these"
    )


def _convert_mapping(value: Mapping[Any, Any], where: str, lenient: bool, found: list[torch.Tensor]) -> dict[Any, Any]:
    converted: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
    for key, item in value.items():
        if type(key) not in _PLAIN:
            key = _convert(key, f"a key of {where}", lenient, [])
        converted[key] = item if type(item) in _PLAIN else _convert(item, f"{where}[{key!r}]", lenient, found)
    # Modules keep the versions of their layout here, and look for them when they load.
    if isinstance(converted, OrderedDict) and hasattr(value, "_metadata"):
        converted._metadata = value._metadata  # type: ignore[attr-defined]
    return converted


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without history, and without the rest of a storage of which it shows only a part."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized:
        return tensor.clone()  # its storages are hidden inside, so that it has to be copied whole
    shows_all = tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()
    return tensor if shows_all else tensor.clone()
