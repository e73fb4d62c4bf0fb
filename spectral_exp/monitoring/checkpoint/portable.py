"""State made of types that `torch.load(..., weights_only=True)` reads on any machine.

What comes out of here is of a closed set of types, all of which that loader reads. Whatever has no
plain form of equal value is refused, with the name of its place, before anything is written.
"""

from __future__ import annotations

import codecs
import functools
import io
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

from spectral_exp.monitoring.torch_private import (
    is_lazy,
    is_traceable_wrapper_subclass,
    layout_versions,
    own_attributes,
    set_layout_versions,
    without_subclass,
)

log = logging.getLogger(__name__)


def portable_state(value: Any, where: str, found: list[torch.Tensor] | None = None) -> Any:
    """Return `value` with equal containers, numbers and tensors in their plain, compact form.

    Args:
        value: nested containers of tensors, numbers, strings, bytes, paths and dates (the last two
            become strings).
        where: how error messages name it.
        found: takes the tensors of the result, in order.

    Raises:
        TypeError: something inside has no plain form.
    """
    try:
        return _convert(value, where, False, [] if found is None else found)
    except RecursionError:
        raise TypeError(f"{where} is nested too deeply, or contains itself") from None


def portable_config(value: Any) -> Any:
    """Return a configuration in plain form: tensors become lists, unknown objects their text.

    Raises:
        TypeError: it contains itself.
    """
    try:
        return _convert(value, "config", True, [])
    except RecursionError:
        raise TypeError("config is nested too deeply, or contains itself") from None


def aliased_state(value: Any, watched: list[torch.Tensor], urgent: list[torch.Tensor]) -> Any:
    """`value` with aliases in place of its tensors, and with containers of its own.

    An alias shows the present memory of the tensor even if its `.data` is replaced.

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


class _EmptyBytes:
    """Stands for `b""`, which pickle writes in a form that torch's safe loader refuses."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return codecs.encode, ("", "latin1")  # as for all other bytes


EMPTY_BYTES = _EmptyBytes()
_PLAIN = frozenset(
    {bool, int, float, str, bytes, type(None), torch.dtype, torch.device, _EmptyBytes}
)
_PLAIN_TENSORS = frozenset({torch.Tensor, nn.Parameter})
_COMMON_DTYPES = frozenset(
    {torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64}
)
# Longer ones are written in a form that torch's safe loader does not know.
_MAX_INT = 1 << 2039
_MAX_CONFIG_ELEMENTS = 1000


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-_MAX_INT < value < _MAX_INT)
    return kind in _PLAIN and (kind is not bytes or len(value) > 0)


def _convert(value: Any, where: str, lenient: bool, found: list[torch.Tensor]) -> Any:
    kind = type(value)
    if kind in _PLAIN_TENSORS or isinstance(value, torch.Tensor):
        if lenient:
            return _list_tensor(value)
        found.append(_convert_tensor(value, where))
        return found[-1]
    if _is_plain(value):
        return value
    # The methods of the base classes: an enumeration or another subclass may have its own.
    if isinstance(value, int):
        return _convert_int(int.__index__(value), where, lenient)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes(memoryview(value)) if len(value) else EMPTY_BYTES
    if isinstance(value, np.generic) and not isinstance(item := value.item(), np.generic):
        return _convert(item, where, lenient, found)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return _convert_mapping(value, where, lenient, found)
    if isinstance(value, tuple):
        return tuple(
            _convert(item, f"{where}[{i}]", lenient, found) for i, item in enumerate(value)
        )
    if isinstance(value, Sequence) and not isinstance(value, bytearray | memoryview):
        if all(map(_is_plain, value)):  # as the numbers of an optimizer's parameters
            return list(value)
        return [_convert(item, f"{where}[{i}]", lenient, found) for i, item in enumerate(value)]
    if lenient:
        if isinstance(value, np.ndarray) and value.size <= _MAX_CONFIG_ELEMENTS:
            return _convert(value.tolist(), where, lenient, found)
        return _text(value)
    raise _refusal(where, f"a {kind.__qualname__}")


def _convert_mapping(
    value: Mapping[Any, Any], where: str, lenient: bool, found: list[torch.Tensor]
) -> dict[Any, Any]:
    converted: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
    for key, item in value.items():
        plain_key = key if _is_plain(key) else _convert_key(key, where, lenient)
        if plain_key in converted:  # of different types, and equal in plain form
            if not lenient:
                raise TypeError(f"{where} has several keys that are kept as {plain_key!r}")
            plain_key = f"{plain_key!r} of type {type(key).__qualname__}"
        plain = _is_plain(item)
        converted[plain_key] = (
            item if plain else _convert(item, f"{where}[{key!r}]", lenient, found)
        )
    # Modules keep the versions of their layout here, and look for them when they load.
    if isinstance(converted, OrderedDict) and (versions := layout_versions(value)) is not None:
        set_layout_versions(converted, _convert(versions, f"{where}._metadata", lenient, []))
    return converted


def _convert_key(key: Any, where: str, lenient: bool) -> Any:
    """A key as a number, a string or a tuple of these."""
    inside: list[torch.Tensor] = []
    plain = _convert(key, f"a key of {where}", lenient, inside)
    try:
        hash(plain)
    except TypeError:
        plain = None
    if plain is None or inside:
        if lenient:
            return _text(key)
        raise _refusal(f"a key of {where}", f"a {type(key).__qualname__}")
    return plain


def _convert_int(value: int, where: str, lenient: bool) -> int | str:
    if -_MAX_INT < value < _MAX_INT:
        return value
    if lenient:
        return hex(value)
    raise _refusal(where, f"an integer of {value.bit_length()} bits")


def _convert_tensor(tensor: torch.Tensor, where: str) -> torch.Tensor:
    """Return the tensor without history, class and unused parts of its storage."""
    if type(tensor) not in _PLAIN_TENSORS:
        tensor = _without_class(tensor, where)
    tensor = tensor.detach()
    if tensor.is_meta:
        raise _refusal(where, "a tensor on the device meta, which has no values")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        return _copy_of_odd_kind(tensor, where)
    if tensor.is_neg() or tensor.is_conj():
        return tensor.resolve_conj().resolve_neg()
    if tensor.dtype not in _COMMON_DTYPES and not _loads(tensor.dtype):
        raise _refusal(where, f"a tensor of {tensor.dtype}")
    try:
        held = tensor.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError) as error:
        raise _refusal(where, "a tensor without memory of its own") from error
    needed = tensor.nbytes
    if needed and not held:
        raise _refusal(where, "a tensor whose memory has been taken away")
    return tensor if needed >= held else tensor.clone()


def _without_class(tensor: torch.Tensor, where: str) -> torch.Tensor:
    """The plain tensor with the memory of an instance of a subclass.

    Raises:
        TypeError: it would not have the same values: the subclass has no memory of its own, or
            further attributes.
    """
    if is_lazy(tensor):
        raise _refusal(
            where,
            "a parameter without values",
            "run the model once before saving, so that it has some",
        )
    kind = type(tensor).__qualname__
    if attributes := own_attributes(tensor):
        remedy = "give it as_subclass(torch.Tensor), and its attributes apart"
        raise _refusal(where, f"a {kind} with attributes ({', '.join(attributes)})", remedy)
    if not is_traceable_wrapper_subclass(tensor):
        try:
            plain = without_subclass(tensor)
            if type(plain) is torch.Tensor and (plain.numel() == 0 or plain.data_ptr() != 0):
                return plain
        except (RuntimeError, NotImplementedError, TypeError):  # it wraps something else
            pass
    remedy = "turn it into a plain tensor first; a distributed one has full_tensor()"
    raise _refusal(where, f"a {kind}, which is not one plain tensor", remedy)


def _copy_of_odd_kind(tensor: torch.Tensor, where: str) -> torch.Tensor:
    """Return a copy of a sparse or quantized tensor, if torch loads it again."""
    try:
        copy = tensor.clone()
        if not tensor.is_nested and _survives(copy):
            return copy
    except (RuntimeError, NotImplementedError):
        pass
    kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    raise _refusal(where, f"a {kind} tensor of {tensor.dtype}")


@functools.cache
def _loads(dtype: torch.dtype) -> bool:
    """Whether torch's safe loader knows a dtype."""
    return _survives(torch.empty(0, dtype=dtype))


def _survives(tensor: torch.Tensor) -> bool:
    file = io.BytesIO()
    try:
        torch.save(tensor, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # each kind that it does not know fails in its own way
        return False
    return True


def _list_tensor(tensor: torch.Tensor) -> Any:
    """Return the numbers of a tensor in a configuration if they are few, else its description."""
    try:
        if tensor.numel() <= _MAX_CONFIG_ELEMENTS and tensor.untyped_storage().nbytes() > 0:
            plain = tensor.detach().cpu().resolve_conj().resolve_neg()
            return _convert(plain.tolist(), "config", True, [])
    except (
        Exception
    ):  # kinds of tensors that have no list fail in many ways, and are kept for readers only
        log.debug("a tensor of the configuration is kept as text", exc_info=True)
    if is_lazy(tensor):
        return f"{type(tensor).__name__} without a shape"
    shape = "an irregular shape" if tensor.is_nested else f"shape {tuple(tensor.shape)}"
    return f"{type(tensor).__name__} of {shape}, {tensor.dtype}"


def _text(value: object) -> str:
    try:
        return str.__str__(str(value))
    except Exception:  # `__str__` may raise anything, and the text is for readers only
        return object.__repr__(value)


def _refusal(where: str, what: str, remedy: str = "") -> TypeError:
    remedy = remedy or "give it as tensors, numbers, strings or containers of these"
    return TypeError(f"{where} holds {what}, which a checkpoint cannot keep safely; {remedy}")
