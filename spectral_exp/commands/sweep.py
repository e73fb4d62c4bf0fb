"""Show which jobs of a sweep are done, run, or failed and why: `spectral-exp sweep status NAME`."""

from __future__ import annotations

import argparse
import sys

from spectral_exp.core.console import Parser, command
from spectral_exp.sweeps.status import FORMATS, find_sweep, read_status, render_status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp sweep", description="Show the state of a sweep.")
    commands = parser.add_subparsers(dest="command", required=True)
    text = "list the jobs of a sweep with their states"
    status = commands.add_parser("status", help=text, description=text)
    status.add_argument("sweep", metavar="NAME", help="name of a sweep in outputs/, or its folder")
    status.add_argument(
        "--format", choices=FORMATS, default="table", help="output format (default: table)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the status of a sweep and return 0."""
    status = read_status(find_sweep(options.sweep))
    sys.stdout.write(render_status(status, options.format))
    return 0


main = command(build_parser, run)
