"""Answers of the server made from numbers: curves and bands in the binary framing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spectral_exp.core.series import FloatArray
from spectral_exp.dashboard.answers import FrameWriter
from spectral_exp.dashboard.bands import COLUMNS as BAND_COLUMNS
from spectral_exp.dashboard.bands import band_columns
from spectral_exp.dashboard.binning import COLUMNS, RAW_COLUMNS, Points, bin_points


def curve_frame(
    curves: Mapping[str, tuple[FloatArray, FloatArray]],
    window: tuple[float, float] | None = None,
    n_bins: int = 400,
) -> bytes:
    """Return curves as `api/curves` does: x and y of each key, raw if they are few."""
    writer = FrameWriter()
    series = []
    for key, (x, y) in curves.items():
        points = Points.of(x, y)
        low, high = window or (points.x[0], points.x[-1]) if len(points) else (0.0, 1.0)
        inside = points[points.window(low, high)]
        is_raw = len(inside) <= 2 * n_bins
        columns = (
            np.stack([inside.x, inside.y]) if is_raw else bin_points(inside, low, high, n_bins)
        )
        series.append(
            {
                "key": key,
                "raw": is_raw,
                "columns": RAW_COLUMNS if is_raw else COLUMNS,
                "n": columns.shape[1],
                "offset": writer.add(columns),
            }
        )
    return writer.content({"series": series})


def band_frame(
    groups: Mapping[str, Sequence[tuple[FloatArray, FloatArray]]],
    window: tuple[float, float] | None = None,
    n_bins: int = 400,
) -> bytes:
    """Return groups of runs as `api/band` does: x and y of each run of each group."""
    writer = FrameWriter()
    series = []
    for key, runs in groups.items():
        points = [Points.of(x, y) for x, y in runs]
        low, high = window or (points[0].x[0], points[0].x[-1])
        inside = [part[part.window(low, high)] for part in points]
        columns = band_columns(inside, [0] * len(inside), low, high, n_bins, "interval")
        series.append(
            {
                "id": key,
                "n_runs": len(runs),
                "columns": BAND_COLUMNS,
                "n": columns.shape[1],
                "offset": writer.add(columns),
            }
        )
    return writer.content({"series": series})
