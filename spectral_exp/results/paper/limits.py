"""The sections of statistical methods and of limitations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from spectral_exp.core.wording import noun
from spectral_exp.results.checks import TOO_GOOD
from spectral_exp.results.compared import Difference, moment
from spectral_exp.results.comparison_notes import pair_of
from spectral_exp.results.document.model import (
    Block,
    Code,
    Heading,
    Listing,
    Number,
    Text,
    code_list,
    join_texts,
)
from spectral_exp.results.document.prose import prose
from spectral_exp.results.finding import Finding, Measured, Piece
from spectral_exp.results.group import group_by
from spectral_exp.results.paper.material import ARCHIVED, Material, plain_number
from spectral_exp.results.paper.passages import passage
from spectral_exp.results.paper.setup import per_run
from spectral_exp.runs.budget import parse_at

_passage = partial(passage, "statistics")


def methods_of_statistics(material: Material) -> tuple[Block, ...]:
    """Return which intervals and tests were used, and why."""
    comparison = material.comparison
    items: list[Text] = [
        _passage(
            "values",
            metric=Code(comparison.metric),
            chosen=moment(comparison.metric, comparison.at),
            finish="get so far" if parse_at(comparison.at) else "finish",
        ),
        _passage("intervals"),
        _passage("few runs"),
    ]
    differences = comparison.differences
    items += [_passage("paired")] if any(d.paired for d in differences) else []
    items += [_passage("unpaired")] if not all(d.paired for d in differences) else []
    if any(d.p_value is not None for d in differences):
        items += [_passage("improvement"), _passage("correction", m=material.tests)]
    if material.choices.margin is not None:
        items.append(_passage("equivalence", margin=f"{material.choices.margin:g}"))
    return (Heading("Statistics"), Listing(tuple(items)))


def limitations(material: Material) -> tuple[Block, ...]:
    """Return the warnings of the checks, and the reach of the set-up."""
    comparison = material.comparison
    items: list[Text] = [remark(note) for note in comparison.notes if note.severity == "warning"]
    on_groups = [(s.group.label, note) for s in comparison.summaries for note in s.notes]
    warnings = [(label, note) for label, note in on_groups if note.severity == "warning"]
    for shared in group_by(warnings, lambda pair: str(pair[1])).values():
        labels = code_list(label for label, _ in shared)
        items.append((*labels, ": ", *remark(shared[0][1], capital=False)))
    items += _mismatches(comparison.differences)
    for summary in comparison.summaries:
        for run_id, reason in summary.left_out:
            items.append((Code(run_id), " does not count: ", *remark(reason, capital=False)))
    items += [
        (Code(name), " could not be used: ", sentence(reason, capital=False))
        for name, reason in material.left_out
        if reason != ARCHIVED
    ]
    if archived := [name for name, reason in material.left_out if reason == ARCHIVED]:
        items.append(("Archived runs are left out: ", *code_list(archived), "."))
    items += _scope(material)
    return (Heading("Limitations"), Listing(tuple(items)))


def _mismatches(differences: Sequence[Difference]) -> list[Text]:
    """Return the warnings of all differences by heading; a pair that appears twice warns once."""
    by_heading: dict[str, tuple[Finding, dict[frozenset[str], tuple[Difference, Finding]]]] = {}
    for d in differences:
        for warning in d.warnings:
            if (
                warning.severity != "warning" or warning.kind in TOO_GOOD
            ):  # the notes of groups report these
                continue
            heading = str(replace(warning, detail=""))
            _, pairs = by_heading.setdefault(heading, (replace(warning, detail=""), {}))
            pairs.setdefault(pair_of(d), (d, warning))
    items = []
    for shared, pairs in by_heading.values():
        if shared.kind == "wall-clock":  # the table of costs has the values
            items.append(_slower(shared, [d for d, _ in pairs.values()]))
            continue
        between: list[Text] = []
        for d, warning in pairs.values():
            labels: Text = (Code(d.a.group.label), " and ", Code(d.b.group.label))
            between.append(
                (*labels, ": ", *_text(warning.detail_pieces())) if warning.detail else labels
            )
        items.append((*remark(shared), " ", *join_texts(between, "; ", "; "), "."))
    return items


def _slower(heading: Finding, differences: Sequence[Difference]) -> Text:
    """Return pairs of configurations, each baseline with all that it is compared with."""
    firsts = group_by(differences, lambda d: d.a.group.label)
    parts = [
        prose("{{a}} against {{b}}", a=Code(a), b=code_list(d.b.group.label for d in others))
        for a, others in firsts.items()
    ]
    return prose(
        "{{what}} [#tab:cost] has the values. This concerns {{pairs}}.",
        what=remark(heading),
        pairs=join_texts(parts, "; ", "; "),
    )


def remark(found: Finding, *, capital: bool = True) -> Text:
    """Return a finding as a sentence with the sources of its values."""
    text = _text(found.pieces())
    first, last = text[0], text[-1]
    if found.subject:  # a name, which keeps its spelling
        text = (f"{found.subject}: ", *text)
    elif capital and isinstance(first, str) and "_" not in first.partition(" ")[0]:
        text = (first[:1].upper() + first[1:], *text[1:])
    return text if isinstance(last, str) and last.endswith((".", "?", "!")) else (*text, ".")


def _text(pieces: Sequence[Piece]) -> Text:
    return tuple(piece if isinstance(piece, str) else _number(piece) for piece in pieces)


def _number(piece: Measured) -> Number:
    shown = (
        plain_number(piece.value) if isinstance(piece.value, int) else piece.shown.replace(",", "")
    )
    return Number(shown, piece.value, piece.source)


def sentence(words: str, capital: bool = True) -> str:
    """Return words as a sentence."""
    words = words.strip().rstrip(".")
    return (words[:1].upper() + words[1:] if capital else words) + "."


def _scope(material: Material) -> list[Text]:
    """Return the limits of the set-up: one text, one budget."""
    items: list[Text] = []
    trained = material.language_model_runs
    texts = {str(run.record.get("dataset", {}).get("corpus_sha256")) for run in trained}
    finished = [run for run in trained if run.finished]
    steps = per_run(finished, "steps", lambda run: run.last_step or None)
    if finished and len(texts) == 1:
        items.append(
            _passage(
                "one text",
                steps=steps,
                noun=noun(1 if {run.last_step for run in finished} == {1} else 2, "step"),
            )
        )
    return items
