"""Models without initial weights, for inspection of their structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class UndrawnWeights(TorchFunctionMode):
    """Context manager that disables `torch.nn.init`, so a model is allocated but not initialized.

    Untouched memory costs nothing, so a model of any size is built in milliseconds. The meta device
    would do the same, but its first multiplication imports torch's compiler, which takes about a
    second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func` unless it initializes a tensor."""
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))
