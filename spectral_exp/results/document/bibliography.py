"""The works that a paper can cite, and their BibTeX."""

from __future__ import annotations

import json
from dataclasses import dataclass

from spectral_exp.core.errors import UserError, nearest
from spectral_exp.results.document.writer import read_template


@dataclass(frozen=True)
class Work:
    """One work.

    Attributes:
        kind: BibTeX's name: article, inproceedings, book, misc.
        authors: as "First Last"; the last may be "others".
        title: as printed on it.
        year: of publication.
        where: journal, proceedings, publisher or archive.
        details: volume and pages.
        url: address of a work that appeared nowhere else.
    """

    kind: str
    authors: tuple[str, ...]
    title: str
    year: int
    where: str = ""
    details: str = ""
    url: str = ""

    @property
    def names(self) -> str:
        """The authors on one line."""
        *first, last = self.authors
        if last == "others":
            return ", ".join(first) + " et al."
        return f"{', '.join(first)} and {last}" if first else last

    @property
    def line(self) -> str:
        """The whole entry without its address."""
        venue = ", ".join(part for part in (self.where, self.details, str(self.year)) if part)
        return " ".join(_sentence(part) for part in (self.names, self.title, venue))


def _sentence(words: str) -> str:
    """Return words with a full stop, unless they end with a mark, as "et al." does."""
    return words if words.endswith((".", "?", "!")) else f"{words}."


def _read_works() -> dict[str, Work]:
    entries = json.loads(read_template("bibliography.json"))
    return {
        key: Work(**{**item, "authors": tuple(item["authors"])}) for key, item in entries.items()
    }


WORKS = _read_works()
"""The works of `bibliography.json`, by the key that `[@key]` names."""

_VENUE = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}


def work(key: str) -> Work:
    """Return the work of a key.

    Raises:
        UserError: the bibliography has no such key.
    """
    if key not in WORKS:
        raise UserError(
            f"[@{key}] is not in the bibliography{nearest(key, WORKS)}; known:"
            f" {', '.join(sorted(WORKS))}"
        )
    return WORKS[key]


def bibtex(keys: tuple[str, ...]) -> str:
    """Return the works as a .bib file in ASCII."""
    entries = []
    for key in keys:
        item = work(key)
        fields = {
            "author": " and ".join(
                "{Student}" if name == "Student" else _tex(name) for name in item.authors
            ),
            "title": "{" + _tex(item.title) + "}",
            _VENUE.get(item.kind, "howpublished"): _tex(item.where),
            "year": str(item.year),
        }
        if item.details:
            issue, _, pages = item.details.partition(":")
            volume, _, number = issue.partition("(")
            fields |= {
                "volume": volume,
                "number": number.rstrip(")"),
                "pages": pages.replace("-", "--"),
            }
        if item.url:
            fields["note"] = "\\url{" + item.url + "}"
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
        entries.append(f"@{item.kind}{{{key},\n{body}\n}}\n")
    return "\n".join(entries)


def _tex(text: str) -> str:
    for letter, command in {"Ł": "{\\L}", "ç": "{\\c{c}}", "í": "{\\'i}", "č": "{\\v{c}}"}.items():
        text = text.replace(letter, command)
    return text.replace("&", "\\&")
