"""The paper's text: Markdown files in the folder `text`, a passage below each `## name`."""

from __future__ import annotations

from functools import cache
from importlib import resources

from spectral_exp.results.document.model import Inline, Text, join_texts
from spectral_exp.results.document.prose import prose, split_sections


def passage(section: str, name: str, /, **values: Inline | Text) -> Text:
    """Return a passage of one paragraph; `{{name}}` in it stands for one of `values`."""
    return prose(read_passage(section, name).replace("\n", " "), **values)


def join_sentences(*sentences: Text) -> Text:
    """Return sentences with spaces between them; empty ones are left out."""
    return join_texts([sentence for sentence in sentences if sentence], " ", " ")


def has_passage(section: str, name: str) -> bool:
    """Return whether `text/<section>.md` holds a passage `name`."""
    return name in _read_section(section)


def read_passage(section: str, name: str) -> str:
    """Return the Markdown of the passage `name` of `text/<section>.md`."""
    return _read_section(section)[name]


def read_list(section: str, name: str) -> dict[str, str]:
    """Return the items `- key: words` of a passage by their keys."""
    lines = read_passage(section, name).splitlines()
    return dict(line.removeprefix("- ").split(": ", 1) for line in lines)


@cache
def _read_section(section: str) -> dict[str, str]:
    file = resources.files(__package__).joinpath("text").joinpath(f"{section}.md")
    _, *passages = split_sections(file.read_text(encoding="utf-8"))
    return {passage.name: passage.text for passage in passages}
