"""Phrases that messages share: counted nouns, and the command that installs a package."""

from __future__ import annotations


def noun(count: float, one: str, many: str = "") -> str:
    """Return the noun for `count` things: `step` for 1, else `steps` or the plural `many`."""
    return one if count == 1 else many or f"{one}s"


def format_count(count: float, one: str, many: str = "") -> str:
    """A whole number with its noun: `1 step`, `2 steps`, `10,000 steps`."""
    return f"{count:,.0f} {noun(count, one, many)}"


def install(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f"pip install 'spectral-exp[{extra}]'"
