"""Manage a run's checkpoints: `spectral-exp checkpoints list|verify|export|prune outputs/<run>`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from spectral_exp.commands.options import add_checkpoint, add_force
from spectral_exp.core.console import Parser, command, confirm
from spectral_exp.core.errors import UserError, explain_missing, require
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint import reader as checkpoint_reader
from spectral_exp.monitoring.checkpoint.reader import BrokenCheckpointError
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.output_file import refuse_loss, write_output
from spectral_exp.runs.record import read_config


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser("spectral-exp checkpoints", description="Manage a run's checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in {
        "list": "list the checkpoints of a run",
        "verify": "compare every checkpoint with its checksum, without changes",
        "export": "write the weights as safetensors",
        "prune": "verify the newest checkpoints and, after a question, remove older ones",
    }.items():
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.add_argument("run", type=Path, help="run directory")
    export = commands.choices["export"]
    add_checkpoint(export)
    export.add_argument(
        "--output", type=Path, help="file to write (default: weights_step_N.safetensors in the run)"
    )
    add_force(export)
    prune = commands.choices["prune"]
    prune.add_argument(
        "--keep-last", type=int, default=1, help="number of newest checkpoints to keep (default: 1)"
    )
    prune.add_argument("--keep-every", type=int, help="also keep steps divisible by this number")
    prune.add_argument("--yes", action="store_true", help="remove without asking")
    prune.add_argument(
        "--dry-run", action="store_true", help="print the checkpoints to remove, without removal"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the subcommand; return 1 if `verify` found a broken checkpoint, else 0."""
    paths = _require_run(options.run)
    if options.command == "list":
        print(_format_table(options.run))
    elif options.command == "verify":
        return _verify(paths)
    elif options.command == "export":
        print(_export_weights(options.run, options.checkpoint, options.output, options.force))
    else:
        print(_prune(options))
    return 0


def _require_run(run: Path) -> RunPaths:
    paths = RunPaths(run)
    if not paths.checkpoints.is_dir():
        raise UserError(
            f"{run} is not a run directory: it holds no {paths.checkpoints.name}/; "
            "name one below outputs/"
        )
    return paths


def _format_table(run: Path) -> str:
    """Return a table of all checkpoints."""
    rows = [("step", "size", "saved", "")]
    for entry in CheckpointManager(run, enabled=False).list_checkpoints():
        notes = [name for name in ("latest", "best") if entry[f"is_{name}"]]
        if checkpoint_file.read_sidecar(Path(entry["path"])) is None:
            notes.append("no sidecar")
        size = f"{entry['size_mb']:.1f} MB"
        rows.append((str(entry["step"]), size, entry["timestamp"], ", ".join(notes)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"{step:>{widths[0]}}  {size:>{widths[1]}}  {saved:<{widths[2]}}  {note}".rstrip()
        for step, size, saved, note in rows
    ]
    return "\n".join(lines) if len(rows) > 1 else f"{run} has no checkpoint"


def _verify(paths: RunPaths) -> int:
    """Print whether each checkpoint is intact; return 1 if one is broken or unreadable, else 0."""
    broken = unreadable = 0
    for step in paths.checkpoint_steps():
        path = paths.checkpoint_file(step)
        try:
            print(f"step {step}: intact, by {checkpoint_reader.verify(path)}")
        except BrokenCheckpointError as error:
            broken += 1
            print(f"step {step}: BROKEN, {error} ({path})")
        except FileNotFoundError:
            print(f"step {step}: removed meanwhile, by the run's retention settings")
        except UserError as error:
            unreadable += 1
            print(f"step {step}: {error}")
    if not paths.checkpoint_steps():
        print(f"{paths.root} has no checkpoint")
    elif broken:
        print(f"{broken} broken; a resumed run moves them away and uses the newest intact one")
    return 1 if broken or unreadable else 0


def _export_weights(run: Path, which: str, output: Path | None, force: bool) -> Path:
    """Write the weights of a checkpoint as safetensors and return the file."""
    if output is not None:
        refuse_loss(output, force=force)
    step, content = read_weights(run, which)
    path = output or run / f"weights_step_{step}.safetensors"
    write_output(path, content, force=force, is_default=output is None)
    return path


def read_weights(run: Path, which: str) -> tuple[int, bytes]:
    """Return the step of a checkpoint, and its weights as the content of a safetensors file.

    Args:
        run: the run directory.
        which: "best" (the latest if there is no best), "latest" or a step.

    Raises:
        UserError: the checkpoint does not exist or is broken, or safetensors is not installed.
    """
    is_allowed = which in ("best", "latest") or (which.isdecimal() and len(which) < 20)
    require(is_allowed, "--checkpoint", which, "best, latest or a step")
    _require_run(run)
    with explain_missing("export needs the package safetensors", "safetensors"):
        from safetensors.torch import save
    manager, paths = CheckpointManager(run, enabled=False), RunPaths(run)
    state = None
    if which.isdecimal():
        path = paths.checkpoint_file(int(which))
        try:
            state = checkpoint_reader.read_checkpoint(path)
        except BrokenCheckpointError as error:
            raise UserError(
                f"{path} is broken ({error}); choose another one with --checkpoint"
            ) from error
        except FileNotFoundError:
            pass
    else:
        state = manager.load_best_checkpoint() if which == "best" else None
        state = state or manager.load_latest_checkpoint()
    if state is None:
        steps = ", ".join(map(str, paths.checkpoint_steps())) or "none"
        raise UserError(f"{run} has no checkpoint {which}; saved steps: {steps}")
    weights = _copy_tensors(state["model_state_dict"])
    facts = {
        "step": str(state["step"]),
        "git_hash": str(state["git_hash"]),
        "run": run.resolve().name,
    }
    if (tokenizer := _tokenizer_fingerprint(paths)) is not None:
        facts["tokenizer"] = tokenizer
    return int(state["step"]), save(weights, metadata=facts)


def _tokenizer_fingerprint(paths: RunPaths) -> str | None:
    """Return the recorded fingerprint of a run's tokenizer, which identifies its token ids."""
    if not paths.config_file.is_file():
        return None
    return (read_config(paths.config_file)[0].get("dataset") or {}).get("tokenizer")


def _copy_tensors(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of each weight, since safetensors does not support shared memory."""
    import torch

    wrong = [name for name, value in weights.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        raise UserError(
            f"export supports only tensors, and {wrong[0]!r} of the model is not one; "
            "load the checkpoint instead"
        )
    needed = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    if needed > (available := psutil.virtual_memory().available):
        raise UserError(
            f"export needs {needed / 1e6:.0f} MB of memory, and {available / 1e6:.0f} MB are "
            "available; free memory, or export on a machine with more"
        )
    return {name: tensor.clone().contiguous() for name, tensor in weights.items()}


def _prune(options: argparse.Namespace) -> str:
    """Remove checkpoints beyond the retention options and return a summary.

    The lock of the run prevents removal while it is training.
    """
    run, keep_last, keep_every = options.run, options.keep_last, options.keep_every
    require(keep_last >= 1, "--keep-last", keep_last, ">= 1")
    require(keep_every is None or keep_every >= 1, "--keep-every", keep_every, ">= 1")
    manager = CheckpointManager(run, keep_last_n=keep_last, keep_every_n_steps=keep_every)
    paths = RunPaths(run)
    if options.dry_run:
        return f"would remove {_describe_removal(manager)}"
    with RunLock(run):
        before = paths.checkpoint_steps()
        is_needed = bool(manager.removable_checkpoints())
        if is_needed and not options.yes:
            remedy = "add --yes, or --dry-run to print the checkpoints only"
            if not confirm(f"remove {_describe_removal(manager)}", remedy):
                return "removed nothing"
        manager.cleanup_old_checkpoints()
        after = paths.checkpoint_steps()
    removed = ", ".join(str(step) for step in before if step not in after) or "nothing"
    return f"removed {removed}; kept {', '.join(map(str, after)) or 'nothing'}"


def _describe_removal(manager: CheckpointManager) -> str:
    """Return the steps to remove, the memory this frees, and the steps to keep."""
    files = manager.removable_checkpoints()
    steps = {manager.paths.checkpoint_step(file) for file in files}
    freed_mb = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    kept = [str(step) for step in manager.paths.checkpoint_steps() if step not in steps]
    removed = ", ".join(map(str, sorted(step for step in steps if step is not None)))
    return f"{removed or 'nothing'} ({freed_mb:.1f} MB) and keep {', '.join(kept) or 'nothing'}"


main = command(build_parser, run)
