"""The author's text: a Markdown file whose `## headings` name places of the paper."""

from __future__ import annotations

from collections.abc import Mapping

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.results.document.model import Block, Inline, Text
from spectral_exp.results.document.prose import blocks, split_sections
from spectral_exp.results.paper.material import Material
from spectral_exp.results.paper.passages import read_list, read_passage

PLACES = read_list("notes", "places")
"""The place of the text below each heading."""

HELP = " ".join(read_passage("notes", "help").split()).replace(
    "PLACES", "; ".join(f"{name} ({where})" for name, where in PLACES.items())
)


def sections(source: str) -> dict[str, str]:
    """Return the author's text by place.

    Raises:
        UserError: an unknown name, a name used twice, text in front of the first heading.
    """
    before, *found = split_sections(source)
    if before.text:
        lines = enumerate(source.splitlines(), start=1)
        first = next(number for number, line in lines if line.strip())
        raise UserError(
            f"line {first} of the notes stands before the first '## NAME'; places:"
            f" {', '.join(PLACES)}"
        )
    texts: dict[str, str] = {}
    for section in found:
        heading = f"line {section.line} of the notes: '## {section.name}'"
        if section.name not in PLACES:
            raise UserError(
                f"{heading} names no place of the paper{nearest(section.name, PLACES)}; places:"
                f" {', '.join(PLACES)}"
            )
        if section.name in texts:
            raise UserError(f"{heading} is there already; put its text together")
        texts[section.name] = section.text
    return texts


class Notes:
    """The author's text as blocks, its {{values}} measured."""

    def __init__(self, material: Material) -> None:
        self._sections = sections(material.choices.notes)
        self._values = measured_values(material)

    def at(self, place: str) -> tuple[Block, ...]:
        """Return the author's blocks for a place."""
        return blocks(self._sections.get(place, ""), self._values)


def measured_values(material: Material) -> Mapping[str, Inline | Text]:
    """Return the values that {{...}} in the notes can name."""
    values: dict[str, Inline | Text] = {}
    for summary in material.comparison.summaries:
        label = summary.group.label
        values[f"mean {label}"] = material.mean(summary)
        values[f"median {label}"] = material.median(summary)
        values[f"interval {label}"] = material.interval(summary)
        values[f"n {label}"] = material.count(summary)
    for difference in material.comparison.differences:
        pair = f"{difference.a.group.label} {difference.b.group.label}"
        values[f"difference {pair}"] = material.difference(difference)
        values[f"interval {pair}"] = material.difference_interval(difference)
        values[f"p {pair}"] = material.p_holm(difference)
    return values
