"""Figure of wave packets: the sum of a token's waves, for a few tokens.

Letters: N tokens, W waves, M harmonics. With a token's amplitudes a_wm, frequencies f_w, phases
phi_w and the position rates gamma_w its packet is the sum over w and m of
a_wm sin(2 pi m f_w tau + phi_w + gamma_w t).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spectral_exp.core.series import FloatArray
from spectral_exp.plots.run.tokens import Tokens, Waves
from spectral_exp.plots.series import largest
from spectral_exp.plots.text import number_axis, token_text
from spectral_exp.plots.theme import current_theme, new_figure

MAX_TOKENS = 5
_POSITIONS = np.arange(64.0)


def packet_figure(step: int, tokens: Tokens, waves: Waves) -> Figure:
    """Return wave packets of the first `MAX_TOKENS` tokens, one row each, on one scale.

    The left panel has the packet and its envelope along phase time tau, in which a wave of
    frequency 1 turns once per unit. If the model has position rates, the right panel has the packet
    that the embedding produces at each position (tau = 1).
    """
    rows = range(min(MAX_TOKENS, len(tokens.ids)))
    tau = _phase_times(waves)
    along_tau = [waves.packet(row, tau, np.zeros_like(tau)) for row in rows]
    moving = waves.rates is not None
    figure = new_figure(
        current_theme(), 1.7 + 1.5 * len(rows), f"Wave packets of sample tokens at step {step:,}"
    )
    panels = figure.subplots(
        len(rows), 2 if moving else 1, squeeze=False, sharex="col", sharey=True
    )
    reach = largest(np.abs(along_tau)) or 1.0
    for row in rows:
        color = current_theme().series[row % len(current_theme().series)]
        _along_phase_time(panels[row, 0], tau, along_tau[row], color)
        panels[row, 0].set_ylim(-1.1 * reach, 1.1 * reach)
        _name_row(panels[row, 0], tokens, row, color)
        if moving:
            packet = waves.packet(row, np.ones_like(_POSITIONS), _POSITIONS)
            panels[row, 1].plot(
                _POSITIONS, packet.imag, ".-", color=color, linewidth=1.2, markersize=6
            )
    _frame(
        figure,
        [panels[0, i] for i in range(panels.shape[1])],
        [panels[-1, i] for i in range(panels.shape[1])],
    )
    return figure


def _phase_times(waves: Waves) -> FloatArray:
    """Return phase times from 0 to 1, dense enough for the fastest harmonic."""
    fastest = largest(np.abs(waves.freqs)) * waves.amps.shape[2]
    return np.linspace(0, 1, int(np.clip(24 * fastest, 500, 6000)))


def _along_phase_time(
    axes: Axes, tau: FloatArray, packet: NDArray[np.complex128], color: str
) -> None:
    size = np.abs(packet)
    axes.fill_between(tau, -size, size, color=color, alpha=0.16, linewidth=0)
    axes.plot(tau, packet.imag, color=color, linewidth=1.5)


def _name_row(axes: Axes, tokens: Tokens, row: int, color: str) -> None:
    token = int(tokens.ids[row])
    name = f"{token_text(tokens.texts[token])}\n" if token in tokens.texts else ""
    axes.set_ylabel(
        f"{name}id {token}",
        rotation=0,
        ha="right",
        va="center",
        color=color,
        family="DejaVu Sans Mono",
    )
    number_axis(axes, "y", 3)


def _frame(figure: Figure, top: Sequence[Axes], bottom: Sequence[Axes]) -> None:
    top[0].set_title("Along phase time, with envelope")
    bottom[0].set_xlabel("phase time τ (turns of a wave of frequency 1)")
    number_axis(bottom[0], "x", 6)
    bottom[0].set_xlim(0, 1)
    if len(top) > 1:
        top[1].set_title("At each position, as embedded (τ = 1)")
        bottom[1].set_xlabel("position t (tokens)")
        number_axis(bottom[1], "x", 8, integer=True)
    figure.supylabel("packet: Σ a sin θ", fontsize=13)
