"""Histograms of the inside of a model over the steps of a run, in `spectra.jsonl`.

A line is an entry as in `metrics.jsonl`, with `step` and `timestamp` and

- `bins`: family -> [scale, low, high, number of bins]. The family of a quantity is its name up to
  the first slash: `weights` for `weights/mlp`.
- `counts`: quantity -> [first bin with a count, counts of that bin and the following ones].
- `nan`: quantity -> number of values that are NaN, without the zeros.

Each line can be read alone. The bins of a family never change within a run, so counts of different
steps can be compared; values beyond the range count in the first or last bin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.series import FloatArray, IntArray
from spectral_exp.runs.follow import MetricsFollower
from spectral_exp.runs.layout import SPECTRA_NAME, RunPaths

Scale = Literal["linear", "octaves"]

_MAX_BINS = 512
_MAX_NAME = 200
_MAX_CELLS = 1 << 25
_MAX_EXPONENT = 1000
_MAX_COUNT = 1 << 62


class Bins(NamedTuple):
    """The bins of a quantity: closed below, open above.

    Attributes:
        scale: "linear" for `n` equal bins from `low` to `high`; "octaves" for bins whose edges are
            the powers of two from 2^low to 2^high.
        n: number of bins.
    """

    scale: Scale
    low: float
    high: float
    n: int

    @property
    def edges(self) -> FloatArray:
        """The n + 1 edges, ascending, in the unit of the quantity."""
        points = np.linspace(self.low, self.high, self.n + 1)
        return points if self.scale == "linear" else np.exp2(points)


@dataclass(frozen=True)
class Family:
    """Quantities with the same bins, as `SpectraLogger` records them."""

    title: str
    unit: str
    bins: Bins


OCTAVES = Bins("octaves", -40, 8, 48)

FAMILIES = {
    "frequencies": Family("Base frequencies", "cycles", Bins("linear", 0, 8, 64)),
    "phases": Family("Phases", "radians", Bins("linear", 0, 2 * np.pi, 36)),
    "amplitudes": Family("Harmonic amplitudes", "|a|", OCTAVES),
    "attention_entropy": Family("Attention entropy", "share of maximum", Bins("linear", 0, 1, 20)),
    "weights": Family("Weights", "|w|", OCTAVES),
    "gradients": Family("Gradients", "|g|", OCTAVES),
}


@dataclass(frozen=True)
class Spectrum:
    """The histograms of one quantity over the steps of a run.

    Attributes:
        name: family and part, such as `weights/mlp`.
        title: words for a heading.
        unit: of the values, "" for none.
        bins: the bins, the same at every step.
        steps: (S,) ascending.
        counts: (S, bins) values in each bin. The first and last bin also hold those beyond.
        n_nan: (S,) values that are NaN.
    """

    name: str
    title: str
    unit: str
    bins: Bins
    steps: IntArray
    counts: IntArray
    n_nan: IntArray

    @property
    def edges(self) -> FloatArray:
        """The edges of the bins, one more than there are bins."""
        return self.bins.edges

    @property
    def is_logarithmic(self) -> bool:
        """Whether the bins are equally wide on a logarithmic axis instead of a linear one."""
        return self.bins.scale == "octaves"

    @property
    def used_bins(self) -> slice:
        """The bins to show: from the first to the last one with a count at any step.

        Of octaves the first bin is left out, since it also holds the zeros. All bins if none is
        left.
        """
        used = np.flatnonzero(self.counts.sum(axis=0))
        if self.is_logarithmic:
            used = used[used > 0]
        return slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, self.bins.n)


class _Row(NamedTuple):
    """The counts of one quantity at one step, from bin `first` on."""

    first: int
    counts: IntArray
    n_nan: int


class SpectraReader:
    """Reads the spectra of a run; each `poll` reads only what was written since the last one.

    Args:
        run: a run directory; the file need not exist yet.

    Attributes:
        unreadable: number of lines that hold no spectra.
    """

    def __init__(self, run: str | Path) -> None:
        self._file = RunPaths(run).spectra_file
        self._follower = MetricsFollower(run, SPECTRA_NAME)
        self._restart()

    def poll(self) -> bool:
        """Read what is new. Return whether anything has changed.

        Raises:
            UserError: the file cannot be read.
        """
        changed = False
        while True:
            update = self._follower.poll()
            if update.was_cut_back:
                self._restart()
            self.unreadable += update.unreadable
            for entry in update.entries:
                self._add(entry)
            changed |= update.was_cut_back or bool(update.entries or update.unreadable)
            if not update.is_behind:
                return changed

    def names(self) -> list[str]:
        """Return the names of the quantities, in the order of their first lines."""
        return list(dict.fromkeys(name for name, _ in self._rows))

    def spectra(self, names: Collection[str] | None = None) -> list[Spectrum]:
        """Return the spectra that were read, or those of the quantities `names`.

        A step that occurs twice has the counts of its last line. A quantity whose bins have changed
        is returned once for each.

        Raises:
            UserError: the counts need too much memory.
        """
        chosen = {key: rows for key, rows in self._rows.items() if names is None or key[0] in names}
        cells = sum(len(rows) * bins.n for (_, bins), rows in chosen.items())
        if cells > _MAX_CELLS:
            raise UserError(
                f"{self._file} holds {cells:,} counts; at most {_MAX_CELLS:,} are read at once: "
                "read fewer quantities"
            )
        return [_spectrum(name, bins, rows) for (name, bins), rows in chosen.items()]

    def _restart(self) -> None:
        self.unreadable = 0
        self._rows: dict[tuple[str, Bins], dict[int, _Row]] = defaultdict(dict)

    def _add(self, entry: Mapping[str, Any]) -> None:
        rows = _parse(entry)
        if rows is None:
            self.unreadable += 1
            return
        for key, row in rows.items():
            self._rows[key][entry["step"]] = row


def read_spectra(run: str | Path, names: Collection[str] | None = None) -> list[Spectrum]:
    """Return the spectra of a run, or those of the quantities `names`; none without a file.

    Lines that are damaged are left out.

    Raises:
        UserError: the file cannot be read.
    """
    reader = SpectraReader(run)
    reader.poll()
    return reader.spectra(names)


def pack_counts(counts: IntArray) -> list[int]:
    """Return the counts of a histogram as they stand in a line."""
    used = np.flatnonzero(counts)
    if not used.size:
        return [0]
    first, last = int(used[0]), int(used[-1])
    return [first, *counts[first : last + 1].tolist()]


def describe(name: str) -> tuple[str, str]:
    """Return title and unit of a quantity."""
    family, _, part = name.partition("/")
    known = FAMILIES.get(family)
    words = family.replace("_", " ")
    title = words[:1].upper() + words[1:] if known is None else known.title
    parts = [words.replace("_", " ") for words in part.split("/") if words]
    return printable(": ".join([title, *([", ".join(parts)] if parts else [])])), (
        "" if known is None else known.unit
    )


def _spectrum(name: str, bins: Bins, rows: Mapping[int, _Row]) -> Spectrum:
    steps = sorted(rows)
    counts = np.zeros((len(steps), bins.n), dtype=np.int64)
    for place, step in zip(counts, steps, strict=True):
        row = rows[step]
        place[row.first : row.first + len(row.counts)] = row.counts
    n_nan = np.array([rows[step].n_nan for step in steps], dtype=np.int64)
    return Spectrum(name, *describe(name), bins, np.array(steps, dtype=np.int64), counts, n_nan)


def _parse(entry: Mapping[str, Any]) -> dict[tuple[str, Bins], _Row] | None:
    """Return the counts in an entry; None if any part of it is not as this module describes."""
    all_bins, all_counts, all_nan = (entry.get(key) for key in ("bins", "counts", "nan"))
    if not (isinstance(all_bins, dict) and isinstance(all_counts, dict)):
        return None
    bins = {family: _parse_bins(value) for family, value in all_bins.items()}
    rows: dict[tuple[str, Bins], _Row] = {}
    for name, packed in all_counts.items():
        own = bins.get(name.partition("/")[0])
        n_nan = all_nan.get(name, 0) if isinstance(all_nan, dict) else 0
        row = None if own is None else _parse_row(packed, n_nan, own)
        if own is None or row is None or len(name) > _MAX_NAME:
            return None
        rows[name, own] = row
    return rows


def _parse_bins(value: Any) -> Bins | None:
    if not (isinstance(value, list) and len(value) == 4):
        return None
    scale, low, high, n = value
    is_known = scale in ("linear", "octaves") and type(n) is int and 1 <= n <= _MAX_BINS
    if not (is_known and all(type(end) in (int, float) for end in (low, high))):
        return None
    if not -_MAX_EXPONENT <= low < high <= _MAX_EXPONENT:  # false for NaN
        return None
    return Bins(scale, float(low), float(high), n)


def _parse_row(packed: Any, n_nan: Any, bins: Bins) -> _Row | None:
    if not (isinstance(packed, list) and packed):
        return None
    if not all(type(number) is int and 0 <= number < _MAX_COUNT for number in (*packed, n_nan)):
        return None
    first, *counts = packed
    if first + len(counts) > bins.n:
        return None
    return _Row(first, np.array(counts, dtype=np.int64), n_nan)
