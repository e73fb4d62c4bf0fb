"""Write a trained model for other libraries: `spectral-exp export outputs/<run> --to onnx FILE`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from spectral_exp.commands.checkpoints import read_weights
from spectral_exp.commands.options import add_checkpoint, add_force, add_packages, add_run
from spectral_exp.config.trained import load_trained
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, explain_os_error
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.output_file import refuse_loss, run_around, write_output

FORMATS = ("safetensors", "huggingface", "torch-export", "onnx")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp export", description="Write a trained model for other libraries.")
    add_run(parser)
    parser.add_argument(
        "path", type=Path, help="the file to write; for huggingface a folder that does not exist"
    )
    parser.add_argument(
        "--to",
        choices=FORMATS,
        required=True,
        help="safetensors: the weights alone; huggingface: a folder for transformers with "
        "trust_remote_code=True, which needs spectral-exp installed; torch-export and onnx: the "
        "forward pass as a program",
    )
    add_checkpoint(parser)
    add_packages(parser)
    add_force(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the model and print the path; folders that are missing above it are made."""
    path: Path = options.path
    if options.to == "huggingface":
        _write_folder(options)
    else:
        refuse_loss(path, "path", force=options.force)
        content = _read_model(options)
        with explain_os_error(f"write {path}", "choose another file"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_output(path, content, "path", force=options.force)
    print(path)
    return 0


def _write_folder(options: argparse.Namespace) -> None:
    """Write the folder for transformers."""
    path: Path = options.path
    with explain_os_error(f"write {path}", "choose another folder"):
        if path.exists():
            raise UserError(f"{path} exists; name a new folder")
        around = run_around(Path(os.path.realpath(path.parent)))
    if around is not None:
        raise UserError(f"{path} is inside of the run {around}; name a folder elsewhere")
    trained = load_trained(options.run, options.checkpoint, "cpu", packages=options.packages)

    from spectral_exp.config.exported import write_huggingface

    write_huggingface(trained, RunPaths(options.run).tokenizer, path)


def _read_model(options: argparse.Namespace) -> bytes:
    """Return the content of the file to write."""
    if options.to == "safetensors":
        return read_weights(options.run, options.checkpoint)[1]
    trained = load_trained(options.run, options.checkpoint, "cpu", packages=options.packages)

    from spectral_exp.config.exported import export_onnx, export_program

    return export_program(trained) if options.to == "torch-export" else export_onnx(trained)


main = command(build_parser, run)
