"""Plots are found by their names; what is no plot is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.plot_files import PNG_SIGNATURE, named_plots, read_png


def test_plots_have_their_step_as_a_number(tmp_path: Path) -> None:
    folder = RunPaths(tmp_path).visualizations
    assert [*named_plots(RunPaths(tmp_path))] == []
    folder.mkdir()
    names = (
        "waves_step_9999999_20260102_030405.png",
        "waves_step_10000000_20260102_030405.png",
        "attention-2_step_0000012_20260102_030405.png",
    )
    others = ("waves.png", "waves_step_5.png", "a b_step_1_20260102_030405.png", "x.txt")
    for name in (*names, *others):
        (folder / name).touch()
    found = [(plot.kind, plot.step, plot.time) for plot in named_plots(RunPaths(tmp_path))]
    assert sorted(found) == [
        ("attention-2", 12, "20260102_030405"),
        ("waves", 9_999_999, "20260102_030405"),
        ("waves", 10_000_000, "20260102_030405"),
    ]


@pytest.mark.parametrize(
    ("content", "is_image"),
    [
        (PNG_SIGNATURE + bytes(25), True),
        (PNG_SIGNATURE + bytes(24), False),
        (b"GIF89a" + bytes(60), False),
        (b"", False),
    ],
)
def test_only_images_are_read(content: bytes, is_image: bool, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert read_png(tmp_path / "a.png") == (content if is_image else None)
    assert read_png(tmp_path) is None
    assert read_png(tmp_path / "b.png") is None
