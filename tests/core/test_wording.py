"""Counted things and installation hints, in one form everywhere."""

from __future__ import annotations

import re

import pytest

from spectral_exp.core.wording import format_count, install, noun
from spectral_exp.results.document.bibliography import WORKS
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 steps"),
        (1, "1 step"),
        (1.0, "1 step"),
        (2, "2 steps"),
        (-1, "-1 steps"),
        (12_345, "12,345 steps"),
    ],
)
def test_a_count_has_its_noun(count: float, words: str) -> None:
    assert format_count(count, "step") == words


def test_other_plurals() -> None:
    assert [format_count(n, "entry", "entries") for n in (1, 3)] == ["1 entry", "3 entries"]
    assert [noun(n, "rests", "rest") for n in (1, 3)] == ["rests", "rest"]


def test_extras_are_installed_by_one_name_that_exists() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(
        re.findall(
            r"^(\w+) = \[",
            declared.partition("optional-dependencies]")[2].partition("[project.")[0],
            re.M,
        )
    )
    sources = [
        *(ROOT / "spectral_exp").rglob("*.py"),
        *(ROOT / "conf").rglob("*.yaml"),
        ROOT / "README.md",
    ]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for quoted in re.findall(r"pip install ['\"`]?[\w.-]*\[\w+\]['\"`]?", text):
            if "ray[" in quoted:
                continue
            extra = quoted.partition("[")[2].partition("]")[0]
            assert quoted.rstrip("`") == install(extra), f"{path.name}: {quoted}"
            assert extra in extras
        for extra in re.findall(r"install\([\"'](\w+)[\"']\)", text):
            assert extra in extras, path.name


def test_no_reference_has_two_full_stops() -> None:
    lines = [work.line for work in WORKS.values()]
    assert any(" et al. " in line for line in lines)
    assert not [line for line in lines if re.search(r"[.?!]\.", line)]
