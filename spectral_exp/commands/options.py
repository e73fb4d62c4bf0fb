"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

USUAL_METRIC = "val_bpb, or of runs without it val_loss, another metric of validation or loss"
"""The default of `--metric`, in words."""


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


def add_at(parser: argparse.ArgumentParser) -> None:
    """Add `--at`, the value of each run."""
    parser.add_argument(
        "--at",
        default="final",
        help="value of each run: final, best, or the last one within step:N, tokens=N, "
        "seconds=N (of training) or flops=N (default: final)",
    )


def add_margin(parser: argparse.ArgumentParser) -> None:
    """Add `--margin`, which adds tests of equivalence."""
    parser.add_argument(
        "--margin",
        type=float,
        metavar="SIZE",
        help="also test whether differences are smaller than this, in the unit of the metric",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add `--force`, of commands that write a file."""
    parser.add_argument(
        "--force", action="store_true", help="overwrite a file that this command has not written"
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run that a command reads."""
    parser.add_argument("run", type=Path, help="run directory, for example outputs/<run>")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the runs whose trained models a command uses."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run directories, for example outputs/<run>",
    )


def add_packages(parser: argparse.ArgumentParser) -> None:
    """Add `--packages`, of commands that build a recorded model."""
    parser.add_argument(
        "--packages",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package with parts of the model, beside those that you have used on this machine; "
        "repeatable",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`."""
    parser.add_argument(
        "--checkpoint", default="best", help="best, latest or a step (default: best)"
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`, of commands that compute with a trained model."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
