"""The private names of torch that monitoring uses; a test pins what each of them does."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy as is_lazy
from torch.utils._python_dispatch import (
    is_traceable_wrapper_subclass as is_traceable_wrapper_subclass,
)

COMPILED_NAME = "_orig_mod"
"""The name under which the wrapper of `torch.compile` holds its module."""

# Attributes that torch itself gives to parameters and buffers.
_ATTRIBUTES_OF_TORCH = {"_is_param", "_is_buffer", "persistent"}

rebuild_tensor: Callable[..., torch.Tensor] = torch._utils._rebuild_tensor_v2
"""The function that a checkpoint names for every tensor."""


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return a number that no other living storage has."""
    return int(storage._cdata)


@functools.cache
def storage_class(dtype: torch.dtype) -> type | None:
    """Return the class that stands for a dtype in a checkpoint; None for newer dtypes."""
    empty = torch.empty(0, dtype=dtype).untyped_storage()
    wrap: Any = torch.storage.TypedStorage
    typed = wrap(wrap_storage=empty, dtype=dtype, _internal=True)
    try:
        kind: type = getattr(torch, typed._pickle_storage_type())
    except KeyError:
        return None
    return kind


def storage_in(typed: torch.storage.TypedStorage) -> tuple[torch.UntypedStorage, int]:
    """Return the storage inside a typed one, and its number of elements."""
    return typed._untyped_storage, int(typed._size())  # type: ignore[no-untyped-call]


def change_count(tensor: torch.Tensor) -> int:
    """Return how often torch has changed the tensor in place."""
    return tensor._version


def without_subclass(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory of an instance of a subclass, read by none of the subclass's own code."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach().as_subclass(torch.Tensor)


def own_attributes(tensor: torch.Tensor) -> list[str]:
    """Return the names of attributes that an instance of a subclass has beside torch's own."""
    return sorted(vars(tensor).keys() - _ATTRIBUTES_OF_TORCH)


def layout_versions(state: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the versions of module layouts that a `state_dict` keeps, or None."""
    versions: Mapping[str, Any] | None = getattr(state, "_metadata", None)
    return versions


def set_layout_versions(state: OrderedDict[str, Any], versions: object) -> None:
    """Let a `state_dict` keep the versions of module layouts."""
    state._metadata = versions  # type: ignore[attr-defined]


def compiled_inside(module: nn.Module) -> nn.Module | None:
    """Return the module inside the wrapper of `torch.compile`; None for all other modules."""
    inner = getattr(module, COMPILED_NAME, None)
    return inner if isinstance(inner, nn.Module) else None
