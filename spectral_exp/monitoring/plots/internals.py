"""Plain arrays out of a model: its wave embedding and the mixing weights of a layer.

Letters: V vocabulary, W waves, M harmonics, H heads, T tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spectral_exp.monitoring.plots.histories import numbers
from spectral_exp.monitoring.plots.series import FloatArray, IntArray, even_rows

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import nn

Drawing: TypeAlias = "Callable[[], Figure]"
"""A drawing function with all its arguments, which are plain arrays: can be pickled."""

_log = logging.getLogger(__name__)

_WAVE_DIMS = {"base_freqs": 2, "phases": 2, "harmonic_amps": 3}
_OVERVIEWS = {
    "frequency_distributions": ("base_freqs", "frequency_figure"),
    "phase_distributions": ("phases", "phase_figure"),
    "harmonic_amplitudes": ("harmonic_amps", "amplitude_figure"),
}
_TABLE_TOKENS = 4096
_SAMPLE_TOKENS = 5


@dataclass(frozen=True)
class TextSample:
    """A piece of real text to show in the model plots.

    Args:
        ids: its token ids.
        labels: the text of each token.
    """

    ids: Sequence[int]
    labels: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.labels):
            raise ValueError(f"a text sample needs one label per token, got {len(self.labels)} for {len(self.ids)}")


def model_drawings(
    step: int, model: nn.Module, layer: int, sample: TextSample | None, token_labels: Callable[[int], str] | None
) -> dict[str, Callable[[], Drawing]]:
    """The plots that `model` has something for: by name, a function that takes out the numbers."""
    plots: dict[str, Callable[[], Drawing]] = {}
    module = _wave_module(model)
    if module is None:
        _log.debug("%s has no wave attributes to plot", type(model).__name__)
    else:
        for name, (attribute, _) in _OVERVIEWS.items():
            if _has_wave(module, attribute):
                plots[name] = partial(_overview, step, module, name, sample, token_labels)
        if _has_wave(module, "base_freqs"):
            plots["wave_packets"] = partial(_packets, step, module, sample, token_labels)
    if sample is not None and len(sample.ids) and callable(getattr(model, "attention_weights", None)):
        kind = "interference" if module is not None else "attention"
        plots[f"{kind}_patterns"] = partial(_mixing, step, model, layer, sample, kind)
    return plots


def unwrapped(model: Any) -> Any:
    """The model inside DataParallel, DistributedDataParallel and `torch.compile`."""
    while True:
        wrapper = "_orig_mod" if hasattr(model, "_orig_mod") else "module"
        if wrapper == "module" and not type(model).__name__.endswith("DataParallel"):
            return model
        model = getattr(model, wrapper)


def _wave_module(model: nn.Module) -> nn.Module | None:
    """The module with the most wave attributes; None when no module has any."""
    counts = [(sum(_has_wave(module, name) for name in _WAVE_DIMS), module) for module in model.modules()]
    most, module = max(counts, key=lambda pair: pair[0])
    return module if most else None


def _has_wave(module: nn.Module, name: str) -> bool:
    value: Any = getattr(module, name, None)
    return bool(hasattr(value, "detach") and value.ndim == _WAVE_DIMS[name] and value.numel())


def _overview(
    step: int, module: nn.Module, name: str, sample: TextSample | None, token_labels: Callable[[int], str] | None
) -> Drawing:
    """One wave attribute of the whole vocabulary, or of tokens spread evenly over a large one."""
    from spectral_exp.monitoring.plots import waves

    attribute, figure = _OVERVIEWS[name]
    table: torch.Tensor = getattr(module, attribute)
    ids = even_rows(len(table), _TABLE_TOKENS)
    named = ids[even_rows(len(ids), waves.HEAT_ROWS)]
    tokens = waves.Tokens(ids, len(table), _texts(named, sample, token_labels))
    return partial(getattr(waves, figure), step, tokens, _rows(table, ids))


def _packets(step: int, module: Any, sample: TextSample | None, token_labels: Callable[[int], str] | None) -> Drawing:
    """The waves of a few tokens; a part the model lacks takes its neutral value."""
    from spectral_exp.monitoring.plots import packets, waves

    vocab_size = len(module.base_freqs)
    ids = _sample_ids(sample, vocab_size)
    freqs = _rows(module.base_freqs, ids)
    phases = _rows(module.phases, ids) if _has_wave(module, "phases") else np.zeros_like(freqs)
    equal = np.full((*freqs.shape, 1), freqs.shape[1] ** -0.5)
    amps = _rows(module.harmonic_amps, ids) if _has_wave(module, "harmonic_amps") else equal
    rates = getattr(module, "position_rates", None)
    found = packets.Waves(freqs, phases, amps, None if rates is None else numbers(rates))
    return partial(packets.packet_figure, step, waves.Tokens(ids, vocab_size, _texts(ids, sample, token_labels)), found)


def _rows(table: torch.Tensor, ids: IntArray) -> FloatArray:
    """Rows of a parameter as float64, infinities as NaN; the rest of it never leaves its device."""
    import torch

    rows = table.detach()[torch.from_numpy(ids).to(table.device)]
    values = rows.cpu().double().numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _sample_ids(sample: TextSample | None, vocab_size: int) -> IntArray:
    """A few distinct tokens: the sample's, those with visible text first, else some spread over the vocabulary."""
    if sample is None or not len(sample.ids):
        return even_rows(vocab_size, _SAMPLE_TOKENS)
    texts = dict(zip(map(int, sample.ids), sample.labels, strict=True))
    known = [token for token in texts if 0 <= token < vocab_size]
    visible = sorted(known, key=lambda token: not texts[token].strip(" \t\r\n·␣"))
    return np.array(visible[:_SAMPLE_TOKENS], dtype=np.int64)


def _texts(ids: IntArray, sample: TextSample | None, token_labels: Callable[[int], str] | None) -> dict[int, str]:
    """Texts of tokens, as far as they are known."""
    if token_labels is not None:
        return {token: token_labels(token) for token in ids.tolist()}
    known = {} if sample is None else dict(zip(map(int, sample.ids), sample.labels, strict=True))
    return {token: known[token] for token in ids.tolist() if token in known}


def _mixing(step: int, model: Any, layer: int, sample: TextSample, kind: str) -> Drawing:
    """The mixing weights of one layer for the sample, cut to as many tokens as a panel can name.

    The models are causal, so that the weights among the first tokens do not depend on those cut off.
    """
    import torch

    from spectral_exp.monitoring.plots.interference import interference_figure, readable_tokens

    n_layer, block_size = getattr(model, "n_layer", None), getattr(model, "block_size", None)
    chosen = layer + n_layer if layer < 0 and n_layer is not None else layer
    n_tokens = min(readable_tokens(1), len(sample.ids), block_size or len(sample.ids))
    device = next((p.device for p in model.parameters()), None)
    with _undisturbed(model):
        ids = torch.tensor([list(map(int, sample.ids[:n_tokens]))], dtype=torch.int64, device=device)
        weights = model.attention_weights(ids, chosen).detach().cpu().double().numpy()
    n_tokens = min(n_tokens, readable_tokens(len(weights)))
    place = f"layer {chosen + 1}" + (f" of {n_layer}" if n_layer else "") if chosen >= 0 else f"layer {chosen}"
    title = f"{kind.capitalize()} patterns, {place}, step {step:,}"
    return partial(interference_figure, title, weights[:, :n_tokens, :n_tokens], list(sample.labels[:n_tokens]))


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module's mode and the random states are as they were."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=sorted(device.index for device in devices)):
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, training in modes:
            module.training = training
