"""Readings of NVIDIA GPUs through NVML."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_MB = 1e6


class Gpus:
    """Reads the GPUs that training may use; none without `nvidia-ml-py`, driver or GPU."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}
        try:
            import pynvml
        except ImportError:
            return
        self._nvml = pynvml
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._handles = {str(index): handle for index, handle in self._visible_gpus()}

    def read(self) -> dict[str, float]:
        """Return the readings by name; what a GPU does not report is left out."""
        values: dict[str, float] = {}
        for index, handle in self._handles.items():
            for name, query in self._queries().items():
                with suppress(self._nvml.NVMLError):
                    values[f"gpu/{index}/{name}"] = query(handle)
        return values

    def _queries(self) -> dict[str, Callable[[Any], float]]:
        nvml = self._nvml
        return {
            "utilization_percent": lambda gpu: float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu),
            "memory_mb": lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used / _MB,
            "power_w": lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
            "temperature_c": lambda gpu: float(
                nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
            ),
        }

    def _visible_gpus(self) -> list[tuple[int, Any]]:
        """Return the GPUs that CUDA_VISIBLE_DEVICES names, or all, with their indices."""
        nvml = self._nvml
        found = [
            (index, nvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(nvml.nvmlDeviceGetCount())
        ]
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return found
        words = [word.strip() for word in named.split(",") if word.strip()]
        return [
            (index, handle)
            for index, handle in found
            if str(index) in words or _uuid(nvml.nvmlDeviceGetUUID(handle)).startswith(tuple(words))
        ]


def _uuid(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
