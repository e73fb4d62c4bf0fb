"""Attributions as tables with notes, and as plain values for JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spectral_exp.results.attribution import Attribution, Effect
from spectral_exp.results.number_texts import (
    NOTHING,
    decimals,
    interval_text,
    number_text,
    probability_text,
)
from spectral_exp.results.table_formats import VERDICT, Cell, TextTable

_ALL = "mean over all"
_NOTHING_ELSE = "nothing else"


def attribution_table(attribution: Attribution) -> TextTable:
    """Return a table with the main effect and the simple effects of each part."""
    digits = decimals(
        value for summary in attribution.grid.cells.values() for value in summary.values
    )
    return TextTable(
        f"{attribution.metric}: what each part contributes from {attribution.baseline} to "
        f"{attribution.candidate}",
        (
            *("part", "change", "together with", "n", "effect", "95 % interval", "p (Holm)"),
            *("detectable", VERDICT),
        ),
        [list(map(_cell, _row(attribution, one, digits))) for one in attribution.effects],
        n_texts=3,
    )


def attribution_notes(attribution: Attribution, *, several: bool) -> tuple[str, list[str]]:
    """Return the title and the notes; the title names the metric if there are several."""
    of = f" of {attribution.metric}" if several else ""
    notes = attribution.notes
    if any(not one.paired for one in attribution.effects):
        notes.append("n*: not paired by seed, but taken as independent samples")
    if any(one.detectable is not None for one in attribution.effects):
        notes.append(
            "detectable: the true effect that four of five such tests would find, at the level that"
            " the correction leaves"
        )
    return f"notes on the contributions{of}", notes


def attribution_values(attribution: Attribution) -> dict[str, Any]:
    """Return an attribution as plain values."""
    return {
        "metric": attribution.metric,
        "at": attribution.at,
        "baseline": attribution.baseline,
        "candidate": attribution.candidate,
        "parts": [
            {"name": part.name, "before": part.before, "after": part.after}
            for part in attribution.grid.parts
        ],
        "cells": [
            {"changed": sorted(cell), "group": summary.group.label}
            for cell, summary in attribution.grid.cells.items()
        ],
        "missing": [sorted(cell) for cell in attribution.grid.missing],
        "total": _effect_values(attribution, attribution.total),
        "effects": [_effect_values(attribution, one) for one in attribution.effects],
        "notes": attribution.notes,
    }


def attribution_rows(attribution: Attribution) -> Iterable[dict[str, Any]]:
    """Yield a row of values for each effect, with the names of the columns of CSV."""
    for one in attribution.effects:
        low, high = (one.interval.low, one.interval.high) if one.interval else (None, None)
        yield {
            **_effect_values(attribution, one),
            "metric": attribution.metric,
            "at": attribution.at,
            "row": "main effect" if one.given is None else "simple effect",
            "given": None if one.given is None else "+".join(sorted(one.given)),
            "group": attribution.candidate,
            "against": attribution.baseline,
            "low": low,
            "high": high,
            "notes": one.reason,
        }


def change_words(attribution: Attribution, effect: Effect) -> tuple[str, str]:
    """Return what changes in an effect, and together with what."""
    part = next(part for part in attribution.grid.parts if part.name == effect.part)
    given = [name for name in attribution.grid.names if effect.given and name in effect.given]
    together = _ALL if effect.given is None else ", ".join(given) or _NOTHING_ELSE
    return f"{part.before} to {part.after}", together


def _row(attribution: Attribution, effect: Effect, digits: int) -> tuple[str | Cell, ...]:
    is_small = effect.separated or effect.detectable is None
    return (
        effect.part,
        *change_words(attribution, effect),
        f"{effect.n}{'' if effect.paired else '*'}",
        Cell(number_text(effect.mean, digits, signed=True), bold=effect.separated),
        interval_text(effect.interval, digits, signed=True),
        probability_text(effect.p_holm),
        NOTHING if is_small else number_text(effect.detectable, digits),
        Cell(effect.verdict(attribution.lower_is_better), bold=effect.separated),
    )


def _cell(value: str | Cell) -> Cell:
    return Cell(value) if isinstance(value, str) else value


def _effect_values(attribution: Attribution, effect: Effect) -> dict[str, Any]:
    names = ("part", "n", "paired", "mean", "p_value", "p_holm", "level", "detectable", "separated")
    return {
        **{name: getattr(effect, name) for name in names},
        "given": None if effect.given is None else sorted(effect.given),
        "interval": effect.interval and [effect.interval.low, effect.interval.high],
        "verdict": effect.verdict(attribution.lower_is_better),
    }
