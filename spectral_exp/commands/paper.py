"""Write a paper draft from runs, or verify one: `spectral-exp paper outputs/ --output paper/`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from spectral_exp.commands.options import (
    USUAL_METRIC,
    add_archived,
    add_at,
    add_margin,
    add_where,
)
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.wording import format_count
from spectral_exp.results.names import split_names
from spectral_exp.results.paper.folder import Folder
from spectral_exp.results.paper.generator import FORMATS, PaperGenerator, Written
from spectral_exp.results.paper.material import Choices
from spectral_exp.results.paper.notes import HELP
from spectral_exp.results.paper.verify import Verdict, verify

_NO_NOTES = "none"


def run(options: argparse.Namespace) -> int:
    """Write a paper, or verify one.

    Returns:
        0; with --verify 1 if a number of the paper is wrong, 2 if it cannot be verified in full.
    """
    if options.verify:
        n_folders = len(options.folders)
        require(n_folders == 1, "folders", n_folders, "one paper for --verify")
        return _print_verdict(verify(options.folders[0], options.runs or []), options.folders[0])
    allowed = "left out without --verify; name the runs as the folders"
    require(not options.runs, "--runs", "given", allowed)
    if options.attribute is not None:
        allowed = "without --group-by: groups must not mix settings"
        require(not options.group_by, "--attribute", options.attribute, allowed)
    written = _write(options)
    for path in written.files:
        print(path)
    for message in written.missing:
        print(f"left out: {printable(message, 2000)}", file=sys.stderr)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp paper",
        description="Write a paper draft from runs, with the source of every number.",
        epilog=HELP,
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        help="runs, sweeps or folders of them; with --verify the paper",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("paper"), help="folder of the paper (default: paper)"
    )
    parser.add_argument("--metric", help=f"metric to compare (default: {USUAL_METRIC})")
    add_at(parser)
    parser.add_argument(
        "--baseline",
        help="group to compare the others with (default: classic, else the first by its settings)",
    )
    _add_comparison_options(parser)
    add_where(
        parser,
        "only runs that meet a condition such as optimizer=rgd or tag=good; repeatable",
    )
    add_archived(parser)
    parser.add_argument(
        "--group-by",
        help="comma-separated settings or parts (default: all settings except the seed)",
    )
    parser.add_argument("--title", help="title of the paper")
    parser.add_argument("--authors", help="comma-separated names")
    parser.add_argument(
        "--notes",
        help="Markdown file with your own text, see below; 'none' removes earlier notes",
    )
    parser.add_argument(
        "--formats",
        default=",".join(FORMATS),
        help=f"comma-separated, of {', '.join(FORMATS)} (default: all)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite files that were edited or are not the paper's",
    )
    parser.add_argument(
        "--verify", action="store_true", help="recompute and compare every number of a paper"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        action="append",
        help="with --verify: current folder of the runs; repeatable",
    )
    return parser


def _add_comparison_options(parser: argparse.ArgumentParser) -> None:
    add_margin(parser)
    parser.add_argument(
        "--attribute",
        metavar="GROUP",
        help="the group whose difference to the baseline is attributed to single parts (default: "
        "the group that differs in most parts, if all groups between the two are there)",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        metavar="CONDITION",
        help="evaluations to compare, as for spectral-exp compare; repeatable (default: all that "
        "spectral-exp evaluate has recorded)",
    )


def _write(options: argparse.Namespace) -> Written:
    notes, notes_file = _notes(options)
    choices = Choices(
        metric=options.metric or "",
        at=options.at,
        baseline=options.baseline,
        margin=options.margin,
        attribute=options.attribute,
        where=tuple(options.where),
        group_by=tuple(split_names(options.group_by)) if options.group_by else None,
        title=options.title,
        authors=tuple(split_names(options.authors or "")),
        notes=notes,
        notes_file=notes_file,
    )
    generator = PaperGenerator(
        options.folders, choices, archived=options.archived, evaluation=options.evaluation
    )
    if generator.archived_note:
        print(generator.archived_note, file=sys.stderr)
    return generator.write(options.output, split_names(options.formats), force=options.force)


def _notes(options: argparse.Namespace) -> tuple[str, str | None]:
    """Return the author's text and its path relative to the paper.

    Without --notes they are those of the existing paper.
    """
    output: Path = options.output
    if options.notes == _NO_NOTES:
        return "", None
    if options.notes is not None:
        path = Path(options.notes)
    else:
        before = Folder(output).record.get("choices", {})
        if not before.get("notes"):
            return "", None
        path = output / str(before.get("notes_file"))
        if not path.is_file():
            print(
                f"the notes file {path} is missing; the recorded text is used",
                file=sys.stderr,
            )
            return str(before["notes"]), before.get("notes_file")
        print(f"using the notes of {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the notes {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
        ) from error
    return text, Path(os.path.relpath(path.resolve(), output.resolve())).as_posix()


def _print_verdict(verdict: Verdict, paper: Path) -> int:
    for remark in verdict.remarks:
        print(f"note: {printable(remark, 2000)}")
    for item in verdict.unknown:
        print(f"not verified: {printable(item, 2000)}")
    for item in verdict.wrong:
        print(f"WRONG: {printable(item, 2000)}")
    outcome = {
        0: f"holds: {format_count(verdict.checked, 'number')} recomputed from the runs, all equal",
        1: "does not hold",
        2: "cannot be verified in full",
    }
    print(f"{paper} {outcome[verdict.exit_code]}")
    return verdict.exit_code


main = command(build_parser, run)
