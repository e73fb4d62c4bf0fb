"""The command line: `spectral-exp COMMAND ...`, or `python -m spectral_exp COMMAND ...`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable

from spectral_exp import __version__
from spectral_exp.config import completion
from spectral_exp.config.threads import set_waiting_of_threads
from spectral_exp.core.console import exit_code
from spectral_exp.core.errors import UserError, nearest
from spectral_exp.core.signals import end_at_ctrl_c

COMMANDS = {
    "train": ("spectral_exp.train", "train a model: compose the configuration, run, resume, sweep"),
    "submit": ("spectral_exp.commands.submit", "submit training to Slurm or Ray"),
    "compare": ("spectral_exp.commands.compare", "compare runs over seeds, or two configurations"),
    "dashboard": ("spectral_exp.commands.dashboard", "show runs as a local web page"),
    "runs": ("spectral_exp.commands.runs", "list, tag, archive or delete runs"),
    "mirror": (
        "spectral_exp.commands.mirror",
        "send runs to TensorBoard, Weights & Biases, MLflow or Trackio",
    ),
    "sweep": ("spectral_exp.commands.sweep", "show the jobs of a sweep and their states"),
    "report": ("spectral_exp.commands.report", "write the report of one run"),
    "paper": ("spectral_exp.commands.paper", "write a paper draft from runs, or verify one"),
    "generate": ("spectral_exp.commands.generate", "generate text with a trained model"),
    "evaluate": (
        "spectral_exp.commands.evaluate",
        "score a trained model on any text, at any length",
    ),
    "diagnose": ("spectral_exp.commands.diagnose", "print attention ranges and gradient shares"),
    "checkpoints": (
        "spectral_exp.commands.checkpoints",
        "list, verify, export or prune the checkpoints of a run",
    ),
    "export": ("spectral_exp.commands.export", "write a trained model for other libraries"),
    "verify_resume": ("spectral_exp.commands.verify_resume", "verify that a run resumes exactly"),
    "reproduce": ("spectral_exp.commands.reproduce", "repeat a run and compare every number"),
    "demo": ("spectral_exp.demo_monitoring", "show the monitoring components in a short loop"),
    "bench": ("spectral_exp.bench.__main__", "measure speed against limits and other tools"),
}
"""Module and help line of each command.

A module defines `main` and, except `train`, which Hydra parses, `build_parser`.
"""

_EPILOG = """\
exit codes: 0 success; 1 negative result or failure; 2 invalid usage; 128 + n stopped by signal n

`spectral-exp COMMAND --help` explains a command. For shell completion run
pip install 'spectral-exp[completion]', then eval "$(register-python-argcomplete spectral-exp)"
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` (default: `sys.argv`) and return the exit code."""
    if arguments is None:
        end_at_ctrl_c()
    words = sys.argv[1:] if arguments is None else arguments
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    if words and not words[0].startswith("-"):
        return _dispatch(words[0], None if arguments is None else words[1:])
    return exit_code(lambda: _print_help(words))


def _dispatch(name: str, arguments: list[str] | None) -> int:
    """Run a command; if `arguments` is None, it reads `sys.argv` like a separate program."""
    name = name.replace("-", "_")
    if name not in COMMANDS:
        return exit_code(lambda: _raise_unknown(name))
    if arguments is None:
        if name != "bench":  # which measures what the user has set
            set_waiting_of_threads()
        sys.argv[:2] = [f"{sys.argv[0]} {name}"]
    command: Callable[[list[str] | None], int] = importlib.import_module(COMMANDS[name][0]).main
    return command(arguments)


def _raise_unknown(name: str) -> int:
    raise UserError(
        f"{name} is not a command; choose from {', '.join(COMMANDS)}{nearest(name, COMMANDS)}"
    )


def _print_help(options: list[str]) -> int:
    _top_parser().parse_args(options)
    raise UserError(f"name a command: {', '.join(COMMANDS)}; `spectral-exp --help` explains them")


def _top_parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<14} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "spectral-exp",
        usage="spectral-exp COMMAND ...",
        description=f"Experiments with wave-based language models.\n\ncommands:\n{commands}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spectral-exp {__version__}")
    return parser


def _complete() -> None:
    """Print the completions of the command line for the shell and exit."""
    try:
        import argcomplete
    except ImportError:
        return
    parser = argparse.ArgumentParser("spectral-exp")
    commands = parser.add_subparsers()
    words = os.environ.get("COMP_LINE", "").split()
    for name, (module, text) in COMMANDS.items():
        # Imports take time, so only the typed command gets its full parser.
        is_typed = name in words[1:2]
        if is_typed and name == "train":
            completion.add_arguments(commands.add_parser(name, help=text))
        elif is_typed:
            parents = [importlib.import_module(module).build_parser()]
            commands.add_parser(name, help=text, parents=parents, add_help=False)
        else:
            commands.add_parser(name, help=text)
    argcomplete.autocomplete(parser)


if __name__ == "__main__":
    sys.exit(main())
