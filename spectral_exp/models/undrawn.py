"""Models built to be looked at, not trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class UndrawnWeights(TorchFunctionMode):
    """A `with` block in which `torch.nn.init` does nothing: a model's matrices are reserved but never touched.

    Untouched memory is free, so a model of any size is built in milliseconds. The meta device would do the same, but
    its first multiplication imports torch's compiler, which takes about a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, unless it would fill a tensor with first values."""
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))
