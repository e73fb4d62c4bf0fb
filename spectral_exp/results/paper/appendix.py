"""The appendices: how to reproduce the runs, and the runs themselves."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial

from spectral_exp.results.document.model import (
    Block,
    Code,
    Heading,
    Listing,
    Paragraph,
    Table,
    Text,
    Verbatim,
    code_list,
    column_titles,
    join_texts,
)
from spectral_exp.results.document.prose import prose
from spectral_exp.results.document.trace import RUN_TABLE
from spectral_exp.results.group import Group
from spectral_exp.results.paper.material import DASH, NOT_RECORDED, Material, last_step
from spectral_exp.results.paper.passages import passage
from spectral_exp.runs.record import REPORTED_PACKAGES
from spectral_exp.runs.run import Run

# Overrides of paths and names, which are no properties of the experiment.
_PLACE = ("outputs", "experiment_id", "sweep", "resume", "backup_url", "mirrors", "alerts")
_WIDTH = 88

_passage = partial(passage, "appendix")


def reproducibility(material: Material) -> tuple[Block, ...]:
    """Return commands, configuration and environment."""
    is_single = len(material.runs) == 1
    these = "This command made the run" if is_single else "These commands made the runs"
    blocks: list[Block] = [
        Heading("Reproducibility"),
        Paragraph(_passage("commands", these=these)),
        Verbatim("\n\n".join(_command(group) for group in material.groups)),
        Paragraph(_passage("verification")),
    ]
    chosen = _selection(material)
    if chosen:
        blocks.append(Paragraph(chosen))
    packages: list[Text] = []
    for name in REPORTED_PACKAGES:
        versions = material.fact(f"packages.{name}")
        if versions != NOT_RECORDED:
            packages.append(prose("{{name}} {{versions}}", name=name, versions=versions))
    if packages:
        blocks.append(
            Paragraph(
                prose(
                    "Packages that the runs recorded: {{packages}}.", packages=join_texts(packages)
                )
            )
        )
    else:
        blocks.append(Paragraph(prose("No run recorded its packages."), aside=True))
    return tuple(blocks)


def _selection(material: Material) -> Text:
    choices = material.choices
    text: Text = ()
    if choices.where:
        text += prose("Only runs with {{where}} were taken. ", where=code_list(choices.where))
    if choices.group_by:
        text += prose("Runs are grouped by {{by}}. ", by=code_list(choices.group_by))
    return text


def _command(group: Group) -> str:
    """Return the command of a group's first run, for all its seeds."""
    run = group.runs[0]
    # A seed that ran twice is needed once.
    seeds = list(dict.fromkeys(str(other.seed) for other in group.runs if other.seed is not None))
    if not run.record.get("overrides"):
        return f"# {group.label}: the command was not recorded"
    multirun = ["-m"] if len(seeds) > 1 else []
    words = [
        "python",
        "-m",
        "spectral_exp.train",
        *multirun,
        *_overrides(run),
        *([f"seed={','.join(seeds)}"] if seeds else []),
    ]
    differing = {tuple(_overrides(other)) for other in group.runs}
    remark = f"# {group.label}" + (
        "; other runs of it had other overrides" if len(differing) > 1 else ""
    )
    return f"{remark}\n{wrap_command([_short(word) for word in words])}"


def _overrides(run: Run) -> list[str]:
    overrides = [str(item) for item in run.record.get("overrides") or ()]
    return [
        item for item in overrides if item.lstrip("+~").partition("=")[0] not in (*_PLACE, "seed")
    ]


def _short(word: str) -> str:
    """Return an override with the file's name for its path, which readers need not know."""
    name, equals, value = word.partition("=")
    return f"{name}={value.rpartition('/')[2]}" if equals and value.startswith("/") else word


def wrap_command(words: Sequence[str]) -> str:
    """Return a shell command on lines that fit a page, continued by backslashes."""
    lines, line = [], ""
    for word in map(shlex.quote, words):
        if line and len(line) + 1 + len(word) > _WIDTH - 2:
            lines.append(line + " \\")
            line = "    " + word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def run_table(material: Material) -> tuple[Block, ...]:
    """Return the table of runs with their short numbers."""
    rows: list[tuple[Text, ...]] = []
    for i, run in enumerate(material.runs, start=1):
        rows.append(
            (
                (str(i),),
                (Code(run.run_id),),
                (str(run.seed) if run.seed is not None else DASH,),
                (run.status.replace("_", " "),),
                (last_step(run),) if run.last_step else (DASH,),
                material.value(run),
                (Code(run.config_hash or DASH),),
            )
        )
    blocks: list[Block] = [
        Heading("Runs"),
        Table(
            RUN_TABLE,
            _passage("runs", metric=material.metric_words, at=material.comparison.at),
            column_titles("#", "run", "seed", "status", "steps", "value", "configuration"),
            tuple(rows),
            "llllrrl",
            small=True,
            anchors=tuple(f"run-{i}" for i in range(1, len(material.runs) + 1)),
            widths=(4, 44, 6, 12, 8, 10, 13),
        ),
    ]
    problems: list[Text] = [
        (Code(run.run_id), f": {problem}") for run in material.runs for problem in run.problems
    ]
    if problems:
        blocks += [Paragraph(prose("What could not be read:")), Listing(tuple(problems))]
    return tuple(blocks)
