"""Write the report of one run: `spectral-exp report outputs/<run>`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError
from spectral_exp.results.names import split_names
from spectral_exp.results.paper.folder import Folder
from spectral_exp.results.paper.generator import FORMATS, REPORT, check_formats
from spectral_exp.results.paper.report import run_report
from spectral_exp.runs.layout import RunPaths


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp report",
        description="Write the report of one run: settings, curves, plots, samples, cost and "
        "next commands. `spectral-exp paper REPORT --verify` recomputes its numbers.",
    )
    parser.add_argument("run", type=Path, help="run directory, finished or not")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the report (default: report/ in the run directory found below RUN)",
    )
    parser.add_argument(
        "--formats",
        default="md,html,pdf",
        help=f"comma-separated, of {', '.join(FORMATS)} (default: md,html,pdf)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="overwrite files that were edited or are not the report's",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the report and print its files."""
    formats = split_names(options.formats)
    check_formats(formats)
    folder = Folder(options.output) if options.output is not None else None
    report = run_report(options.run)
    folder = folder or Folder(_default_folder(report.material.runs[0].path))
    written = report.write(folder, formats, REPORT, force=options.force)
    for path in written.files:
        print(path)
    for message in written.missing:
        print(f"left out: {message}", file=sys.stderr)
    return 0


def _default_folder(run: Path) -> Path:
    """Return the folder of the report in a run.

    Raises:
        UserError: it is a link, which may point outside the run.
    """
    folder = RunPaths(run).report
    if folder.is_symlink():
        raise UserError(f"{folder} is a link; name a folder with --output")
    return folder


main = command(build_parser, run)
