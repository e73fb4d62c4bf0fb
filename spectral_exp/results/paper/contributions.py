"""The section on what each part contributes to a difference of two configurations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from spectral_exp.results.attribution import Attribution, Effect
from spectral_exp.results.attribution_tables import change_words
from spectral_exp.results.document.model import (
    Block,
    Code,
    Heading,
    Number,
    Paragraph,
    Source,
    Strong,
    Table,
    Text,
    column_titles,
    join_texts,
)
from spectral_exp.results.paper.material import DASH, Material, format_p, plain_number
from spectral_exp.results.paper.passages import passage

_passage = partial(passage, "findings")


def contributions(material: Material) -> tuple[Block, ...]:
    """Return the table of `compare --attribute`, or nothing without an attribution."""
    found = material.attribution
    if found is None:
        return ()
    base, label = Code(found.baseline), Code(found.candidate)
    text = _passage(
        "contributions",
        base=base,
        label=label,
        parts=material.number_of(len(found.grid.parts), "parts that differ"),
        notes=_notes(material, found),
    )
    caption = _passage("contributions table", base=base, label=label, metric=material.metric_words)
    titles = ("part", "change", "together with", "n", "effect", "95 % interval")
    unpaired: Text = ("* not paired by seed: the two groups are taken as independent.",)
    table = Table(
        "tab:contributions",
        caption,
        column_titles(*titles, "p (Holm)", "detectable", "verdict"),
        tuple(_row(material, found, effect) for effect in found.effects),
        "lllrrrrrl",
        notes=() if all(effect.paired for effect in found.effects) else (unpaired,),
    )
    return (Heading("Contributions of single parts", 2), Paragraph(text), table)


def _notes(material: Material, found: Attribution) -> Text:
    """Return the whole difference, and what limits its attribution."""
    ends = (found.grid.cells.get(cell) for cell in (frozenset[str](), frozenset(found.grid.names)))
    ids = tuple(run for end in ends if end for run in material.ids(end))
    formula = f"{found.candidate} minus {found.baseline}"
    notes = [
        _passage(
            "contributions in total",
            mean=material.number(found.total.mean, ids, formula, material.signed),
            interval=material.bounds(found.total.interval, ids, formula, material.signed),
            n=material.number(found.total.n, ids, f"number of seeds, {formula}", str),
        )
    ]
    if missing := found.grid.missing:
        names = "; ".join(map(found.grid.describe, missing))
        notes.append(_passage("contributions without groups", names=names))
    if sizes := found.unequal_sizes:
        low, high = (
            (Number(plain_number(size), size, Source("n_parameters", ids)),) for size in sizes
        )
        notes.append(_passage("contributions of the size", low=low, high=high))
    return join_texts(notes, between=" ", last=" ")


def _row(material: Material, found: Attribution, effect: Effect) -> tuple[Text, ...]:
    change, together = change_words(found, effect)
    ids = tuple(
        run
        for cell, summary in found.grid.cells.items()
        if effect.given is None or cell - {effect.part} == effect.given
        for run in material.ids(summary)
    )

    def number(value: float | None, what: str, show: Callable[[float], str]) -> Text:
        return material.number(value, ids, f"{what}, {effect.part} {change}, {together}", show)

    mean = number(effect.mean, "effect", material.signed)
    is_small = effect.separated or effect.detectable is None
    return (
        (Code(effect.part),),
        (change,),
        (together,),
        (*number(effect.n, "number of seeds", str), "" if effect.paired else "*"),
        (Strong(mean),) if effect.separated else mean,
        material.bounds(
            effect.interval, ids, f"bound of the 95 % interval of {effect.part}", material.signed
        ),
        number(effect.p_holm, "p value after Holm's correction", format_p),
        (DASH,) if is_small else number(effect.detectable, "detectable effect", material.plain),
        (effect.verdict(found.lower_is_better),),
    )
