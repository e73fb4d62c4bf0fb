"""Write a trained model for other libraries: `spectral-exp export outputs/<run> --to onnx FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from spectral_exp.commands.checkpoints import export_weights
from spectral_exp.commands.options import add_checkpoint, add_force, add_packages
from spectral_exp.config.trained import load_trained
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.output_file import refuse_loss, run_around, write_output

FORMATS = ("safetensors", "huggingface", "torch-export", "onnx")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp export", description="Write a trained model for other libraries.")
    parser.add_argument("run", type=Path, help="run directory, for example outputs/<run>")
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
    """Write the model and print the path."""
    path: Path = options.path
    if options.to == "safetensors":
        print(export_weights(options.run, options.checkpoint, path, options.force))
        return 0
    if options.to == "huggingface":
        if path.exists():
            raise UserError(f"{path} exists; name a new folder")
        if (around := run_around(path.absolute().parent)) is not None:
            raise UserError(f"{path} is inside of the run {around}; name a folder elsewhere")
    else:
        refuse_loss(path, "path", force=options.force)
    trained = load_trained(options.run, options.checkpoint, "cpu", packages=options.packages)

    from spectral_exp.config.exported import export_onnx, export_program, write_huggingface

    if options.to == "huggingface":
        write_huggingface(trained, RunPaths(options.run).tokenizer, path)
    else:
        convert = export_program if options.to == "torch-export" else export_onnx
        write_output(path, convert(trained), "path", force=options.force)
    print(path)
    return 0


main = command(build_parser, run)
