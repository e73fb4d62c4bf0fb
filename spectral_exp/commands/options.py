"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add the folders of runs."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="runs, sweeps, or their folders"
    )


def add_where(parser: argparse.ArgumentParser, words: str, metavar: str | None = None) -> None:
    """Add `--where` with the help text `words`."""
    parser.add_argument("--where", action="append", default=[], metavar=metavar, help=words)


def add_archived(parser: argparse.ArgumentParser) -> None:
    """Add `--archived`."""
    parser.add_argument("--archived", action="store_true", help="include archived runs")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add `--force`, of commands that write a file."""
    parser.add_argument(
        "--force", action="store_true", help="overwrite a file that this command has not written"
    )
