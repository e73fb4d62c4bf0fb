"""Plots of a model, from plain arrays: its wave embedding and the mixing weights of a layer.

Letters: V vocabulary, W waves, M harmonics, H heads, T tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from spectral_exp.core.series import FloatArray, IntArray
from spectral_exp.plots.run import DrawFigure
from spectral_exp.plots.run.tokens import MAX_SENTENCE, Tokens, Waves, heat_rows, named_rows
from spectral_exp.plots.series import even_rows

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import nn

_log = logging.getLogger(__name__)

WAVE_DIMS = {"base_freqs": 2, "phases": 2, "harmonic_amps": 3}
"""Wave attribute of a module -> its dimensions: (V, W), (V, W) and (V, W, M)."""

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
            raise ValueError(
                f"a text sample needs one label per token, got {len(self.labels)} labels "
                f"for {len(self.ids)} tokens"
            )


def model_drawings(
    step: int,
    model: nn.Module,
    layer: int,
    sample: TextSample | None,
    token_labels: Callable[[int], str] | None,
) -> dict[str, Callable[[], DrawFigure]]:
    """Return the plots that `model` allows: name -> function that copies the arrays to draw."""
    plots: dict[str, Callable[[], DrawFigure]] = {}
    module = wave_module(model)
    if module is None:
        _log.debug("%s has no wave attributes to plot", type(model).__name__)
    else:
        for name, (attribute, _) in _OVERVIEWS.items():
            if has_wave(module, attribute):
                plots[name] = partial(_plot_overview, step, module, name, sample, token_labels)
        if has_wave(module, "base_freqs"):
            plots["wave_packets"] = partial(_plot_packets, step, module, sample, token_labels)
    if (
        sample is not None
        and len(sample.ids)
        and callable(getattr(model, "attention_weights", None))
    ):
        kind = "interference" if module is not None else "attention"
        plots[f"{kind}_patterns"] = partial(_plot_mixing, step, model, layer, sample, kind)
    return plots


def wave_module(model: nn.Module) -> nn.Module | None:
    """Return the module with the most of `WAVE_DIMS`, the first of several, or None."""
    found, most = None, 0
    for module in model.modules():
        count = sum(has_wave(module, name) for name in WAVE_DIMS)
        if count > most:
            found, most = module, count
        if most == len(WAVE_DIMS):
            break
    return found


def has_wave(module: nn.Module, name: str) -> bool:
    """Return whether a module has the wave attribute `name` as a tensor of the right rank."""
    value: Any = getattr(module, name, None)
    return bool(hasattr(value, "detach") and value.ndim == WAVE_DIMS[name] and value.numel())


def _plot_overview(
    step: int,
    module: nn.Module,
    name: str,
    sample: TextSample | None,
    token_labels: Callable[[int], str] | None,
) -> DrawFigure:
    """Return the plot of one wave attribute, of at most 4096 evenly spaced tokens."""
    attribute, figure = _OVERVIEWS[name]
    table: torch.Tensor = getattr(module, attribute)
    ids = even_rows(len(table), _TABLE_TOKENS)
    shown = ids[heat_rows(len(ids))]
    texts = _known_texts(shown[named_rows(len(shown))], sample, token_labels)
    return partial(
        _draw_overview, figure, step, Tokens(ids, len(table), texts), _copy_rows(table, ids)
    )


def _draw_overview(figure: str, step: int, tokens: Tokens, table: FloatArray) -> Figure:
    from spectral_exp.plots.run import waves

    drawn: Figure = getattr(waves, figure)(step, tokens, _mask_infinities(table))
    return drawn


def _plot_packets(
    step: int, module: Any, sample: TextSample | None, token_labels: Callable[[int], str] | None
) -> DrawFigure:
    """Return the plot of the wave packets of a few tokens.

    Missing phases are zero, and missing amplitudes equal.
    """
    vocab_size = len(module.base_freqs)
    ids = _sample_ids(sample, vocab_size)
    freqs = _copy_rows(module.base_freqs, ids)
    phases = _copy_rows(module.phases, ids) if has_wave(module, "phases") else np.zeros_like(freqs)
    equal = np.full((*freqs.shape, 1), freqs.shape[1] ** -0.5)
    amps = _copy_rows(module.harmonic_amps, ids) if has_wave(module, "harmonic_amps") else equal
    rates = getattr(module, "position_rates", None)
    copied = None if rates is None else _copy(rates)
    return partial(
        _draw_packets,
        step,
        Tokens(ids, vocab_size, _known_texts(ids, sample, token_labels)),
        freqs,
        phases,
        amps,
        copied,
    )


def _draw_packets(
    step: int,
    tokens: Tokens,
    freqs: FloatArray,
    phases: FloatArray,
    amps: FloatArray,
    rates: FloatArray | None,
) -> Figure:
    from spectral_exp.plots.run.packets import packet_figure

    moving = None if rates is None else rates.astype(np.float64)
    return packet_figure(
        step,
        tokens,
        Waves(_mask_infinities(freqs), _mask_infinities(phases), _mask_infinities(amps), moving),
    )


def _mask_infinities(values: FloatArray) -> FloatArray:
    """Return values as float64, infinities as NaN."""
    values = values.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _copy_rows(table: torch.Tensor, ids: IntArray) -> FloatArray:
    """Return a copy of the rows `ids` of a parameter; other rows never leave its device."""
    import torch

    table = table.detach()
    return _copy(table if len(ids) == len(table) else table[torch.from_numpy(ids).to(table.device)])


def _copy(values: torch.Tensor) -> FloatArray:
    """Return a copy as an array, in single precision unless the tensor is float64."""
    import torch

    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    copied: FloatArray = values.detach().to("cpu", dtype, copy=True).numpy()
    return copied


def _sample_ids(sample: TextSample | None, vocab_size: int) -> IntArray:
    """Return a few tokens of the sample, visible ones first; without one, of the vocabulary."""
    if sample is None or not len(sample.ids):
        return even_rows(vocab_size, _SAMPLE_TOKENS)
    texts = dict(zip(map(int, sample.ids), sample.labels, strict=True))
    known = [token for token in texts if 0 <= token < vocab_size]
    visible = sorted(known, key=lambda token: not texts[token].strip(" \t\r\n·␣"))
    return np.array(visible[:_SAMPLE_TOKENS], dtype=np.int64)


def _known_texts(
    ids: IntArray, sample: TextSample | None, token_labels: Callable[[int], str] | None
) -> dict[int, str]:
    """Return the texts of the tokens `ids`, as far as they are known."""
    if token_labels is not None:
        return {token: token_labels(token) for token in ids.tolist()}
    known = {} if sample is None else dict(zip(map(int, sample.ids), sample.labels, strict=True))
    return {token: known[token] for token in ids.tolist() if token in known}


def _plot_mixing(step: int, model: Any, layer: int, sample: TextSample, kind: str) -> DrawFigure:
    """Return the plot of one layer's mixing weights, for as many tokens as a figure can name."""
    n_layer = getattr(model, "n_layer", None)
    chosen, weights = mixing_weights(model, layer, sample.ids)
    place = f"layer {chosen + 1 if chosen >= 0 else chosen}"
    if chosen >= 0 and n_layer:
        place += f" of {n_layer}"
    title = f"{kind.capitalize()} patterns, {place}, step {step:,}"
    return partial(_draw_mixing, title, weights, list(sample.labels[: weights.shape[-1]]))


def mixing_weights(model: Any, layer: int, ids: Sequence[int]) -> tuple[int, FloatArray]:
    """Return the index of a layer and its mixing weights (H, T, T) for the first tokens of a text.

    The model is left as it was.

    Args:
        model: has `attention_weights(ids (1, T), layer) -> (H, T, T)`.
        layer: index of the layer, from the end if negative.
        ids: token ids of the text, of which a figure can name `MAX_SENTENCE`.
    """
    import torch

    n_layer, block_size = getattr(model, "n_layer", None), getattr(model, "block_size", None)
    chosen = layer + n_layer if layer < 0 and n_layer is not None else layer
    n_tokens = min(MAX_SENTENCE, len(ids), block_size or len(ids))
    device = next((p.device for p in model.parameters()), None)
    with _evaluation_mode(model):
        shown = torch.tensor([list(map(int, ids[:n_tokens]))], dtype=torch.int64, device=device)
        return chosen, _copy(model.attention_weights(shown, chosen))


def _draw_mixing(title: str, weights: FloatArray, texts: Sequence[str]) -> Figure:
    from spectral_exp.plots.run.interference import interference_figure

    return interference_figure(title, weights.astype(np.float64), texts)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, which is enough for a few tokens and waits for no other core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients; restore modes and random states afterwards."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    devices: list[int] = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            for module, _ in modes:
                module.training = False
            yield
    finally:
        for module, training in modes:
            module.training = training
