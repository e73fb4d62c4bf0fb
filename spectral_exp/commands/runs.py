"""List runs, mark, archive, pack and delete them: `spectral-exp runs list`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectral_exp.commands.options import add_archived, add_folders, add_force, add_where
from spectral_exp.core.console import Parser, command, confirm
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable, printable_lines
from spectral_exp.core.wording import format_count
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.names import split_names
from spectral_exp.results.run_list import FORMATS, render_list
from spectral_exp.runs.delete import delete_run, plan_deletion
from spectral_exp.runs.find import is_run_directory
from spectral_exp.runs.marks import MAX_NOTE_CHARACTERS, Marks, read_marks, update_marks
from spectral_exp.runs.output_file import output_writer
from spectral_exp.runs.pack import SUFFIX, pack_runs

_STDIN = "-"
_FLAGS = {
    "pin": ("list runs before all others", {"pinned": True}),
    "unpin": ("list runs in their usual place again", {"pinned": False}),
    "archive": ("leave runs out of lists and comparisons; nothing is deleted", {"archived": True}),
    "restore": ("show archived runs again", {"archived": False}),
}
"""Subcommands that set a mark: help and changes."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp runs", description="List, mark, archive, pack and delete runs.")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    _add_list_options(add("list", "list the runs in and below folders"))
    tag = add("tag", "add tags to runs, or remove them")
    _add_runs(tag)
    for option, text in {"--add": "add", "--remove": "remove"}.items():
        tag.add_argument(
            option,
            action="append",
            default=[],
            metavar="TAGS",
            help=f"comma-separated; {text} them",
        )
    note = add("note", "write the note of a run, or print it")
    note.add_argument("run", type=Path, metavar="RUN", help="run directory")
    note.add_argument(
        "text",
        nargs="?",
        metavar="TEXT",
        help="the new note; - reads standard input, '' removes the note (default: print it)",
    )
    for name, (text, _) in _FLAGS.items():
        _add_runs(add(name, text))
    _add_pack_options(add("pack", "write the records of runs to an archive, to be published"))
    delete = add("delete", "delete runs with all their files, after a question")
    _add_runs(delete)
    delete.add_argument("--yes", action="store_true", help="delete without asking")
    return parser


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directory")


def _add_list_options(parser: argparse.ArgumentParser) -> None:
    add_folders(parser)
    add_where(
        parser,
        "only runs that meet tag=good, note=*text*, pinned, status=failed, optimizer=rgd ...; "
        "repeatable, all conditions must hold",
        "CONDITION",
    )
    add_archived(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="output format (default: table)"
    )


def _add_pack_options(parser: argparse.ArgumentParser) -> None:
    add_folders(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=f"the archive, NAME{SUFFIX}"
    )
    parser.add_argument(
        "--no-metrics",
        action="store_true",
        help="only a summary of each metric, without curves and without --at BUDGET",
    )
    parser.add_argument(
        "--running", action="store_true", help="also pack runs in progress, as far as they are"
    )
    add_force(parser)


def run(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    if options.command == "list":
        found = ResultsAggregator(options.folders)
        sys.stdout.write(
            render_list(found.select(options.where, archived=options.archived), options.format)
        )
    elif options.command == "tag":
        _tag(options)
    elif options.command == "note":
        _note(options.run, options.text)
    elif options.command == "pack":
        _pack(options)
    elif options.command == "delete":
        _delete(options)
    else:
        _update(options.runs, _FLAGS[options.command][1])
    return 0


# --- marks ----------------------------------------------------------------------------------------


def _tag(options: argparse.Namespace) -> None:
    added, removed = (
        [tag for text in texts for tag in split_names(text)]
        for texts in (options.add, options.remove)
    )
    if not added and not removed:
        raise UserError("name tags with --add or --remove")
    for path in options.runs:
        _require_run(path)
    known = {tag for path in options.runs for tag in read_marks(path)[0].tags}
    for tag in removed:
        if tag not in known:
            print(f"--remove={tag}: none of the runs has this tag", file=sys.stderr)
    _update(options.runs, {"add_tags": added, "remove_tags": removed})


def _note(run: Path, text: str | None) -> None:
    if text is not None:
        _update([run], {"note": _read_note() if text == _STDIN else text})
        return
    _require_run(run)
    marks, problems = read_marks(run)
    if marks.note:
        print(printable_lines(marks.note))
    elif problems:
        raise UserError(f"{run}: {problems[0]}")


def _read_note() -> str:
    """Return the text on standard input, which is not read beyond the limit of notes."""
    require(sys.stdin is not None, "TEXT", _STDIN, "another text: standard input is closed")
    most_bytes = 4 * MAX_NOTE_CHARACTERS
    content = sys.stdin.buffer.read(most_bytes + 1)
    allowed = f"a text of at most {MAX_NOTE_CHARACTERS:,} characters"
    require(len(content) <= most_bytes, "TEXT", _STDIN, allowed)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the note on standard input is not UTF-8: {error.reason}") from error


def _update(runs: Sequence[Path], changes: dict[str, Any]) -> None:
    """Change the marks of all runs, none if one of them is no run, and print the new ones."""
    for path in runs:
        _require_run(path)
    for path in dict.fromkeys(runs):
        print(f"{printable(path)}: {_describe(update_marks(path, changes))}")


def _require_run(path: Path) -> None:
    if not is_run_directory(path):
        raise UserError(f"{path} is not a run directory; name one below outputs/")


def _describe(marks: Marks) -> str:
    parts = [
        "pinned" * marks.is_pinned,
        "archived" * marks.is_archived,
        f"tags {', '.join(marks.tags)}" * bool(marks.tags),
        f"a note of {format_count(len(marks.note), 'character')}" * bool(marks.note),
    ]
    return "; ".join(filter(None, parts)) or "no marks"


# --- archives -------------------------------------------------------------------------------------


def _pack(options: argparse.Namespace) -> None:
    output: Path = options.output
    require(output.name.endswith(SUFFIX), "--output", output, f"a file that ends with {SUFFIX}")
    with output_writer(output, force=options.force) as file:
        packed = pack_runs(
            options.folders,
            file,
            with_metrics=not options.no_metrics,
            running=options.running,
        )
    for path, reason in packed.left_out:
        print(f"left out: {printable(path)}: {reason}", file=sys.stderr)
    for sentence in packed.remaining:
        print(f"note: {printable(sentence)}", file=sys.stderr)
    n_bytes = output.stat().st_size
    runs, files = format_count(packed.n_runs, "run"), format_count(packed.n_files, "file")
    print(f"{printable(output)}: {runs}, {files}, {n_bytes:,} bytes")
    removed = [f"{kind} ({count:,})" for kind, count in sorted(packed.removed.items())]
    print(f"removed: {', '.join(removed) or 'nothing'}")


# --- deletion -------------------------------------------------------------------------------------


def _delete(options: argparse.Namespace) -> None:
    plans = list({plan.root: plan for plan in map(plan_deletion, options.runs)}.values())
    for plan in plans:
        size = f"{plan.n_bytes:,} bytes in {format_count(plan.n_files, 'file')}"
        print(f"{printable(plan.root)}: {size}")
    total = (
        f"{format_count(len(plans), 'run')} and free {sum(plan.n_bytes for plan in plans):,} bytes"
    )
    if not options.yes and not confirm(f"delete {total}", "add --yes"):
        print("deleted nothing")
        return
    for plan in plans:
        delete_run(plan)
        print(f"deleted {printable(plan.root)}")


main = command(build_parser, run)
