"""The filter of RGD: it passes the frequencies that parameter and update share.

With F a real FFT, P the parameter, and U the direction of the update:

    rho = sqrt(|F P| / max|F P| * |F U| / max|F U|)
    the update is F^-1((alpha rho + 1 - alpha) F U), alpha = resonance_strength * min(1, step /
    warmup_steps)
"""

from __future__ import annotations

import torch
from torch import Tensor


def resonance_strength_at(step: Tensor, strength: float, warmup_steps: int) -> Tensor:
    """Return alpha at `step` (any shape, from 1) in float64.

    It grows linearly to `strength` over the first `warmup_steps`.
    """
    if warmup_steps == 0:
        return torch.full_like(step, strength, dtype=torch.float64)
    return strength * (step.double() / warmup_steps).clamp(max=1.0)


def gated_directions(
    parameters: Tensor, directions: Tensor, resonant: Tensor, rest: Tensor, both_axes: bool = True
) -> tuple[Tensor, Tensor]:
    """Return F^-1((resonant rho + rest) F U) and the mean rho of N matrices, each independently.

    Parameters of more than two dimensions are flattened to a matrix of the first dimension by the
    rest. Half precisions are transformed in float32. rho is 0 for a zero matrix.

    Args:
        parameters: P, (N, R, ...).
        directions: U, (N, R, ...).
        resonant, rest: filter coefficients (N): alpha and 1 - alpha, or multiples of them.
        both_axes: if true, transform along both axes; if false, transform each row as a signal with
            its own maximum.

    Returns:
        The filtered directions, like `directions`, and the means (N).
    """
    matrices, updates = _matrices(parameters), _matrices(directions)
    width = matrices.shape[2]
    axes = (-2, -1) if both_axes else (-2,)
    # rho is the fourth root of the product of both powers, which avoids the two magnitudes. It is
    # computed as 1 / sqrt(1 / sqrt(x)), which is faster than a power of 1/4; 0 maps to infinity and
    # back to 0.
    rho = _relative_power(half_spectra(matrices, both_axes), axes)
    spectra = half_spectra(updates, both_axes)
    rho.mul_(_relative_power(spectra, axes)).rsqrt_().rsqrt_()
    means = _means_of_halves(rho, width)
    resonant, rest = (coefficients[:, None, None].to(rho) for coefficients in (resonant, rest))
    spectra.mul_(rho.mul_(resonant).add_(rest))
    filtered = from_half_spectra(spectra, width, both_axes)
    return filtered.reshape(directions.shape).to(directions.dtype), means


def _matrices(x: Tensor) -> Tensor:
    x = x.flatten(2)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def half_spectra(matrices: Tensor, both_axes: bool = True) -> Tensor:
    """Return half the spectra of `matrices` (N, R, C), as (N, C // 2 + 1, R).

    The other half mirrors it.
    Two one-dimensional transforms leave the result transposed in memory, which saves a copy in each
    direction compared with one two-dimensional transform.
    """
    rows = torch.fft.rfft(matrices)
    spectra: Tensor = torch.fft.fft(rows, dim=1) if both_axes else rows
    return spectra.mT


def from_half_spectra(spectra: Tensor, width: int, both_axes: bool = True) -> Tensor:
    """Return the matrices (N, R, C) of half spectra (N, C // 2 + 1, R)."""
    columns = torch.fft.ifft(spectra) if both_axes else spectra
    # With rows of 2^n numbers the last transform, which runs across them, would miss the cache at
    # every step.
    N, K, R = columns.shape
    padded = columns.new_empty(N, K, R + 8)[..., :R].copy_(columns)
    matrices: Tensor = torch.fft.irfft(padded.mT, n=width)
    return matrices


def _relative_power(spectra: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return |spectra|^2 divided by its maximum along `axes`, or zeros if the maximum is 0."""
    # Squaring real and imaginary parts in one call is contiguous and fast; only the sum separates
    # them.
    real, imag = torch.view_as_real(spectra).square().unbind(-1)
    power = real + imag
    peak = power.amax(dim=axes, keepdim=True)
    return power.div_(peak.clamp_min_(torch.finfo(power.dtype).tiny))


def _means_of_halves(rho: Tensor, width: int) -> Tensor:
    """Return the means over full spectra of `width` columns from half `rho` (N, C // 2 + 1, R).

    Every column counts twice, except the first one and, for an even width, the last one.
    """
    total = 2 * rho.sum((1, 2)) - rho[:, 0].sum(1)
    if width % 2 == 0:
        total -= rho[:, -1].sum(1)
    return total / (rho.shape[2] * width)
