"""Histograms of the inside of a model, with the bins of `runs/spectra.py`.

The size of a weight falls into the octave of its exponent, which is read from the bits of the
number: no logarithm, and the counts are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spectral_exp.core.series import FloatArray, IntArray
from spectral_exp.plots.run.internals import has_wave, mixing_weights, wave_module
from spectral_exp.plots.run.tokens import TAU
from spectral_exp.plots.series import row_entropies
from spectral_exp.runs.spectra import FAMILIES, OCTAVES, Bins

if TYPE_CHECKING:
    import torch
    from torch import nn

_WAVES = {"frequencies": "base_freqs", "phases": "phases", "amplitudes": "harmonic_amps"}
_CPU_PIECE = 1 << 16
_GPU_PIECE = 1 << 24
_EXPONENTS = 256  # of a float32
_BIAS = 127
_MAX_GROUPS = 12


class Histogram(NamedTuple):
    """Values in each bin, and the number of values that are NaN."""

    counts: IntArray
    n_nan: int


def model_histograms(
    model: nn.Module, layer: int, ids: Sequence[int]
) -> Iterator[tuple[str, Callable[[], dict[str, Histogram]]]]:
    """Yield the histograms that `model` allows: name of a part -> function that counts it.

    A function returns histograms by the names of their quantities. The model is left as it was.

    Args:
        model: a model without wrappers. `component_parameters()`, if it has that, groups its
            matrices; otherwise its modules do.
        layer: the layer whose attention is counted, from the end if negative.
        ids: token ids of a text for the attention; none leaves it out.
    """
    waves = _wave_tensors(model)
    for name, values in waves.items():
        yield name, partial(_count_wave, name, values)
    if len(ids) > 1 and callable(getattr(model, "attention_weights", None)):
        yield "attention_entropy", partial(_count_entropies, model, layer, ids)
    groups = _group_matrices(model, waves)
    for group, matrices in groups.items():
        if group not in waves:
            yield f"weights/{group}", partial(_count_sizes, f"weights/{group}", matrices)
    for group, matrices in groups.items():
        yield f"gradients/{group}", partial(_count_gradients, f"gradients/{group}", matrices)


def _wave_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    module = wave_module(model)
    if module is None:
        return {}
    return {
        name: getattr(module, attribute)
        for name, attribute in _WAVES.items()
        if has_wave(module, attribute)
    }


def _group_matrices(model: Any, waves: Mapping[str, torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """Return the parameters of two and more dimensions in groups; each wave tensor is its own."""
    if callable(getattr(model, "component_parameters", None)):
        members = {name: list(own) for name, own in model.component_parameters().items()}
    else:
        members = _parameters_by_module(model)
    wave_names = {id(values): name for name, values in waves.items()}
    groups: dict[str, list[torch.Tensor]] = {}
    for group, parameters in members.items():
        for parameter in parameters:
            if parameter.ndim >= 2 and parameter.numel():
                groups.setdefault(wave_names.get(id(parameter), group), []).append(parameter)
    return groups


def _parameters_by_module(model: nn.Module) -> dict[str, list[torch.Tensor]]:
    """Return parameters by the first part of their names, or in one group if these are many."""
    members: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        members.setdefault(name.partition(".")[0], []).append(parameter)
    if len(members) <= _MAX_GROUPS:
        return members
    return {"all": [parameter for own in members.values() for parameter in own]}


def _count_wave(name: str, values: torch.Tensor) -> dict[str, Histogram]:
    if FAMILIES[name].bins == OCTAVES:
        return _count_sizes(name, [values])
    import torch

    numbers: FloatArray = values.detach().to("cpu", torch.float64).numpy().ravel()
    if name == "phases":
        with np.errstate(invalid="ignore"):  # an infinite phase counts as NaN
            numbers = numbers % TAU
    return {name: count_equal_bins(numbers, name)}


def _count_entropies(model: nn.Module, layer: int, ids: Sequence[int]) -> dict[str, Histogram]:
    """Count the entropies of each head, as shares of the entropy of equal weights."""
    chosen, weights = mixing_weights(model, layer, ids)
    n_tokens = weights.shape[-1]
    is_causal = not np.any(np.triu(np.nan_to_num(weights), 1))
    n_seen = np.arange(2, n_tokens + 1) if is_causal else np.full(n_tokens - 1, n_tokens)
    # The first token sees only itself.
    with np.errstate(invalid="ignore"):  # infinite weights have no entropy
        shares = row_entropies(weights.astype(np.float64))[:, 1:] / np.log(n_seen)
    place = f"attention_entropy/layer_{chosen + 1 if chosen >= 0 else chosen}"
    return {
        f"{place}/head_{head + 1}": count_equal_bins(of_head, "attention_entropy")
        for head, of_head in enumerate(shares)
    }


def _count_gradients(name: str, parameters: Iterable[torch.Tensor]) -> dict[str, Histogram]:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return _count_sizes(name, gradients) if gradients else {}


def _count_sizes(name: str, tensors: Sequence[torch.Tensor]) -> dict[str, Histogram]:
    return {name: count_octaves(tensors, FAMILIES[name.partition("/")[0]].bins)}


def count_equal_bins(values: FloatArray, family: str) -> Histogram:
    """Return the histogram of numbers with the linear bins of a family."""
    bins = FAMILIES[family].bins
    is_nan = np.isnan(values)
    within = np.clip(values[~is_nan], bins.low, bins.high)
    places = (within - bins.low) * (bins.n / (bins.high - bins.low))
    inside = np.minimum(places.astype(np.int64), bins.n - 1)
    return Histogram(np.bincount(inside, minlength=bins.n), int(is_nan.sum()))


def count_octaves(tensors: Iterable[torch.Tensor], bins: Bins) -> Histogram:
    """Return the histogram of the sizes of all values in `tensors`, with bins of octaves.

    Zeros count in the first bin, infinities in the last one.
    """
    import torch

    totals = np.zeros(_EXPONENTS, dtype=np.int64)
    n_nan = 0
    for tensor in tensors:
        values = _flat(tensor)
        of_tensor = torch.zeros(_EXPONENTS, dtype=torch.int64, device=values.device)
        size = _CPU_PIECE if values.device.type == "cpu" else _GPU_PIECE
        for piece in torch.split(values, size):
            exponents = (piece.float().contiguous().view(torch.int32) >> 23) & (_EXPONENTS - 1)
            of_tensor += torch.bincount(exponents, minlength=_EXPONENTS)
        counts = of_tensor.cpu().numpy()
        totals += counts
        if counts[-1]:
            n_nan += int(torch.isnan(values).sum())
    totals[-1] -= n_nan
    # A float32 with the exponent e has a size from 2^(e - 127) to 2^(e - 126).
    octave = np.arange(_EXPONENTS) - _BIAS
    inside = np.clip(octave - int(bins.low), 0, bins.n - 1)
    counted = np.zeros(bins.n, dtype=np.int64)
    np.add.at(counted, inside, totals)
    return Histogram(counted, n_nan)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return all values of a tensor in one dimension; of a sparse one those that it stores."""
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return (tensor.abs() if tensor.is_complex() else tensor).reshape(-1)
