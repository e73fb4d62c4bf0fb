"""Spectra are read back as they were written, from files in any state."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import UserError
from spectral_exp.runs import spectra
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.spectra import (
    FAMILIES,
    OCTAVES,
    Bins,
    SpectraReader,
    Spectrum,
    describe,
    pack_counts,
    read_spectra,
)

PHASES = FAMILIES["phases"].bins
ENTRY: dict[str, Any] = {
    "step": 5,
    "timestamp": "2026-01-01T00:00:00+00:00",
    "bins": {"phases": ["linear", 0, 6.283185307179586, 36]},
    "counts": {"phases": [3, 1, 0, 2]},
    "nan": {"phases": 7},
}


def line(step: int, counts: list[int], n_nan: int = 0, name: str = "phases") -> bytes:
    nan = {name: n_nan} if n_nan else {}
    family = name.partition("/")[0]
    changed = {"bins": {family: list(PHASES)}, "counts": {name: counts}, "nan": nan}
    return json.dumps({**ENTRY, "step": step, **changed}).encode() + b"\n"


def make_run(root: Path, content: bytes = b"") -> Path:
    file = RunPaths(root).spectra_file
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def one(found: list[Spectrum]) -> Spectrum:
    (spectrum,) = found
    return spectrum


_HISTOGRAMS = st.lists(
    st.tuples(
        st.integers(0, 2**40),
        st.lists(st.integers(0, 2**50), min_size=PHASES.n, max_size=PHASES.n)
        | st.just([0] * PHASES.n),
        st.integers(0, 2**50),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row[0],
)


@settings(max_examples=25, deadline=None)
@given(_HISTOGRAMS)
def test_counts_are_read_back_exactly_in_ascending_steps(
    rows: list[tuple[int, list[int], int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = [line(step, pack_counts(np.array(counts)), nan) for step, counts, nan in rows]
        make_run(Path(folder), b"".join(lines))
        found = one(read_spectra(folder))
    rows.sort()
    assert found.steps.tolist() == [step for step, _, _ in rows]
    assert found.counts.tolist() == [counts for _, counts, _ in rows]
    assert found.n_nan.tolist() == [nan for _, _, nan in rows]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damage_costs_only_the_lines_that_it_hits(data: st.DataObject) -> None:
    steps = (11, 222, 3333, 44444)  # no change of one byte turns one into another
    lines = [line(step, [place, 7]) for place, step in enumerate(steps)]
    content = bytearray(b"".join(lines))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    at = data.draw(st.integers(0, len(content) - 1))
    hit = content[:at].count(b"\n")
    if kind == "cut":
        del content[at:]
        intact = set(range(hit))
    elif kind == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
        intact = set(range(4)) - {hit, hit + 1}  # a newline may be gone
    else:
        content[at:at] = data.draw(st.binary(max_size=20))
        intact = set(range(4)) - {hit}
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder), bytes(content))
        rows = {}
        for found in read_spectra(folder):
            if found.name == "phases" and found.bins == PHASES:
                rows = dict(zip(found.steps.tolist(), found.counts.tolist(), strict=True))
    for place in intact:
        expected = np.zeros(PHASES.n, dtype=int)
        expected[place] = 7
        assert rows[steps[place]] == expected.tolist()


WRONG: list[dict[str, Any]] = [
    {"bins": None},
    {"counts": [1]},
    {"bins": {}},
    {"counts": {"phases": []}},
    {"counts": {"phases": 3}},
    {"counts": {"phases": [0, -1]}},
    {"counts": {"phases": [0, 1.0]}},
    {"counts": {"phases": [0, True]}},
    {"counts": {"phases": [0, 2**70]}},
    {"counts": {"phases": [-1, 1]}},
    {"counts": {"phases": [35, 1, 1]}},
    {"counts": {"phases": [0, 1], "weights/mlp": [0, 1]}},
    {"counts": {"phases/" + "x" * 200: [0, 1]}},
    {"nan": {"phases": -1}},
    {"nan": {"phases": "3"}},
    {"bins": {"phases": ["cubic", 0, 1, 36]}},
    {"bins": {"phases": [["linear"], 0, 1, 36]}},
    {"bins": {"phases": ["linear", 1, 0, 36]}},
    {"bins": {"phases": ["linear", "NaN", 1, 36]}},
    {"bins": {"phases": ["octaves", 0, 1e9, 36]}},
    {"bins": {"phases": ["linear", 0, 1, 10**9]}},
    {"bins": {"phases": ["linear", 0, 1, True]}},
    {"bins": {"phases": ["linear", 0, 1]}},
]


def test_entries_that_are_no_spectra_are_counted_and_left_out(tmp_path: Path) -> None:
    lines = [json.dumps({**ENTRY, **changed}) for changed in WRONG]
    make_run(tmp_path, "\n".join([*lines, json.dumps(ENTRY), ""]).encode())
    reader = SpectraReader(tmp_path)
    assert reader.poll()
    assert reader.unreadable == len(WRONG)
    found = one(reader.spectra())
    assert (found.steps.tolist(), found.n_nan.tolist()) == ([5], [7])
    assert found.counts[0, 2:7].tolist() == [0, 1, 0, 2, 0]


def test_a_reader_reads_on_and_follows_a_cut(tmp_path: Path) -> None:
    reader = SpectraReader(tmp_path)
    assert not reader.poll()
    assert reader.spectra() == []
    file = make_run(tmp_path, line(3, [0, 1]) + line(6, [0, 2])[:-5])
    assert reader.poll()
    assert one(reader.spectra()).steps.tolist() == [3]
    assert not reader.poll()
    file.write_bytes(line(3, [0, 1]) + line(6, [0, 2]) + line(9, [0, 3], name="other/x"))
    assert reader.poll()
    assert reader.names() == ["phases", "other/x"]
    assert one(reader.spectra(["phases"])).steps.tolist() == [3, 6]
    file.write_bytes(line(3, [0, 1]) + line(6, [0, 5]) + line(6, [0, 7]))  # as after a resume
    assert reader.poll()
    again = one(reader.spectra())
    assert (again.steps.tolist(), again.counts[:, 0].tolist()) == ([3, 6], [1, 7])
    file.unlink()
    assert reader.poll()
    assert reader.spectra() == []


def test_other_bins_of_a_quantity_are_kept_apart(tmp_path: Path) -> None:
    other = {**ENTRY, "step": 9, "bins": {"phases": ["linear", 0, 1, 36]}}
    make_run(tmp_path, line(5, [3, 1]) + json.dumps(other).encode() + b"\n")
    old, new = read_spectra(tmp_path)
    assert (old.name, old.steps.tolist(), new.steps.tolist()) == (new.name, [5], [9])
    assert old.edges[-1] == pytest.approx(2 * np.pi)
    assert new.edges[-1] == 1


def test_edges_titles_and_units(tmp_path: Path) -> None:
    octaves = Bins("octaves", -2, 1, 3)
    assert octaves.edges.tolist() == [0.25, 0.5, 1, 2]
    assert Bins("linear", 0, 1, 2).edges.tolist() == [0, 0.5, 1]
    assert all(len(family.bins.edges) == family.bins.n + 1 for family in FAMILIES.values())
    assert describe("frequencies") == ("Base frequencies", "cycles")
    assert describe("attention_entropy/layer_4/head_2") == (
        "Attention entropy: layer 4, head 2",
        "share of maximum",
    )
    assert describe("my_own/\x1bx") == ("My own: \\x1bx", "")
    make_run(tmp_path, line(5, [3, 1], name="weights/mlp"))
    found = one(read_spectra(tmp_path))
    assert (found.title, found.unit, found.is_logarithmic) == ("Weights: mlp", "|w|", False)


def test_used_bins_leave_out_empty_ends_and_zeros(tmp_path: Path) -> None:
    entries = [
        {**ENTRY, "step": step, "bins": {name: list(bins)}, "counts": {name: counts}, "nan": {}}
        for step, name, bins, counts in (
            (1, "phases", PHASES, [4, 1, 0, 1]),
            (2, "phases", PHASES, [0, 1]),
            (1, "weights", OCTAVES, [0, 9, 0, 0, 1, 0, 1]),
            (1, "amplitudes", OCTAVES, [0, 9]),
        )
    ]
    make_run(tmp_path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
    found = {spectrum.name: spectrum.used_bins for spectrum in read_spectra(tmp_path)}
    assert found == {
        "phases": slice(0, 7),
        "weights": slice(3, 6),
        "amplitudes": slice(0, OCTAVES.n),
    }


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "_MAX_CELLS", 2 * PHASES.n)
    make_run(tmp_path, b"".join(line(step, [0]) for step in (1, 2, 3)))
    with pytest.raises(UserError, match=r"holds 108 counts; at most 72 .* read fewer quantities"):
        read_spectra(tmp_path)
    assert read_spectra(tmp_path, ["weights"]) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    RunPaths(tmp_path).spectra_file.mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot read .*spectra\.jsonl: Is a directory"):
        read_spectra(tmp_path)
