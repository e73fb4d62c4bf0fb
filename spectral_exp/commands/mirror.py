"""Send finished or running runs to a tracker: `spectral-exp mirror RUN... --to tensorboard`."""

from __future__ import annotations

import argparse
from pathlib import Path

from spectral_exp.core.console import Parser, command
from spectral_exp.core.display import print_error
from spectral_exp.core.errors import UserError
from spectral_exp.core.redact import redact_text
from spectral_exp.monitoring.companion.mirror import Mirror
from spectral_exp.monitoring.companion.targets import Target, parse_targets
from spectral_exp.runs.find import find_runs
from spectral_exp.runs.lock import is_running


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp mirror",
        description="Send runs to a tracker, with their metrics, settings, results, samples, plots "
        "and tags. What a tracker already has is not sent again, so the command also completes "
        "what an outage has kept back. Training does the same with mirrors=[TRACKER, ...].",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories, or folders of them"
    )
    parser.add_argument(
        "--to",
        action="append",
        required=True,
        metavar="TRACKER",
        help="tensorboard[:FOLDER], wandb[:[ENTITY/]PROJECT], mlflow:http://HOST:5000 or "
        "trackio[:PROJECT]; may be repeated",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Send every run to every tracker; return 1 if some could not be sent, else 0."""
    targets = parse_targets(options.to, "--to")
    runs = find_runs(options.runs).runs
    if not runs:
        raise UserError(f"there is no run in {', '.join(map(str, options.runs))}")
    failures = sum(not _mirror(root, target) for root in runs for target in targets)
    return 1 if failures else 0


def _mirror(root: Path, target: Target) -> bool:
    """Send a run as far as it has come, and print the outcome; return whether it was sent."""
    mirror = Mirror(root, target)
    is_over = not is_running(root)
    try:
        if not is_over and mirror.waits_for_end:
            raise UserError("it takes whole runs, and this one goes on; repeat this after its end")
        while mirror.push(is_over):
            pass
    except Exception as error:  # of a foreign library
        reason = redact_text(" ".join(str(error).split())) or type(error).__name__
        print_error(f"error: {root} is not mirrored to {target}: {reason}")
        return False
    finally:
        mirror.abandon()
    print(f"{root} -> {target}" + ("" if is_over else ", as far as it has come"))
    return True


main = command(build_parser, run)
