"""Verify that a run resumes exactly: `spectral-exp verify_resume outputs/<run>`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_exp.commands.options import add_force, add_packages
from spectral_exp.core.console import Parser, command
from spectral_exp.core.display import print_error
from spectral_exp.core.errors import Interrupted
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_files import json_bytes
from spectral_exp.core.redact import redact
from spectral_exp.core.signals import StopRequest
from spectral_exp.runs.differences import shorten
from spectral_exp.runs.layout import CERTIFICATE_NAME, RunPaths
from spectral_exp.runs.output_file import refuse_loss, write_output
from spectral_exp.verification.replay import verify_resume


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp verify_resume", description="Verify that a run resumes exactly.")
    parser.add_argument("run", type=Path, help="run directory, for example outputs/<run>")
    parser.add_argument(
        "--steps", type=int, default=10, help="steps to repeat, at least 2 (default: 10)"
    )
    parser.add_argument(
        "--from",
        type=int,
        dest="start",
        help="step of the first checkpoint; 0 for the start of the run",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help=f"file of the certificate (default: RUN/{CERTIFICATE_NAME})",
    )
    add_packages(parser)
    add_force(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Verify the run, write and print the certificate; return 0 if all is identical, else 1."""
    # Print warnings, such as that of a broken checkpoint, on one line each.
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    output = options.output or RunPaths(options.run).certificate_file
    is_default = options.output is None
    try:
        if not is_default:
            refuse_loss(output, force=options.force)
        with StopRequest(immediate=True):
            certificate = verify_resume(options.run, options.steps, options.start, options.packages)
        write_output(
            output, json_bytes(redact(certificate)), force=options.force, is_default=is_default
        )
    except Interrupted as stop:
        print_error("interrupted: nothing was compared")
        return stop.exit_code
    print("\n".join(map(printable, _format_certificate(certificate))))
    print(f"{certificate['verdict']}; certificate: {output}")
    return 0 if certificate["verdict"] == "identical" else 1


def _format_certificate(certificate: Mapping[str, Any]) -> list[str]:
    """Return the content of a certificate as lines of text."""
    lines = [f"compared: {line}" for line in certificate["compared"]]
    lines += [f"not compared: {line}" for line in certificate["not_compared"]]
    for name, differences in certificate["differences"].items():
        lines += [f"{name} changed: {line}" for line in shorten(differences)]
    for position, line in enumerate(certificate["divergences"]):
        lines.append(f"{'then' if position else 'DIVERGED first'}: {line}")
    return lines


main = command(build_parser, run)
