"""Repeat a run from its record and compare every number: `spectral-exp reproduce outputs/<run>`."""

from __future__ import annotations

import argparse
from pathlib import Path

from spectral_exp.commands.options import add_run
from spectral_exp.core.console import Parser, command
from spectral_exp.core.display import print_error
from spectral_exp.core.errors import Interrupted
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.signals import StopRequest
from spectral_exp.core.wording import format_count
from spectral_exp.runs.differences import shorten
from spectral_exp.runs.layout import REPRODUCTION_NAME
from spectral_exp.verification.reproduction import Code, reproduce


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp reproduce", description="Repeat a run and compare.")
    add_run(parser)
    parser.add_argument(
        "--steps", type=int, help="stop at the metrics line of this step or the next (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, help="directory of the new run (default: RUN_reproduced)"
    )
    parser.add_argument("--current-code", action="store_true", help="train with the current code")
    parser.add_argument(
        "--trust-code", action="store_true", help="execute the recorded code of an untrusted run"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Repeat the run and print the comparison; return 0 if all numbers are equal, else 1."""
    # `.` and `..` have no name.
    run = options.run if options.run.name not in ("", "..") else options.run.resolve()
    output = options.output or run.with_name(f"{run.resolve().name}_reproduced")
    code: Code = "current" if options.current_code else "trusted" if options.trust_code else "known"
    try:
        with StopRequest(immediate=True):
            report = reproduce(options.run, output, steps=options.steps, code=code)
    except Interrupted as stop:
        print_error("interrupted: nothing was compared")
        return stop.exit_code
    for name, differences in report["differences"].items():
        print(f"{name}: {format_count(len(differences), 'difference') if differences else 'equal'}")
        for line in shorten(differences):
            print(f"  {printable(line)}")
    n_lines = format_count(report["lines_compared"], "metrics line")
    print(f"compared {format_count(report['values_compared'], 'value')} of {n_lines}")
    for line in report["not_compared"]:
        print(f"not compared: {printable(line)}")
    print(f"{report['verdict']}; report: {output / REPRODUCTION_NAME}")
    return 0 if report["verdict"] == "identical" else 1


main = command(build_parser, run)
