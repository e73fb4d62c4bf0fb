"""Look after a run's checkpoints: `python -m spectral_exp.checkpoints list|verify|export|prune outputs/<run>`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spectral_exp import run_dir
from spectral_exp.errors import UserError, require
from spectral_exp.monitoring import CheckpointManager, checkpoint_file
from spectral_exp.monitoring.checkpoint_file import BrokenCheckpointError
from spectral_exp.run_dir import RunPaths
from spectral_exp.run_lock import RunLock


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, 1 if `verify` found a broken checkpoint, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        "python -m spectral_exp.checkpoints", description="Look after a run's checkpoints."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in {
        "list": "the checkpoints of a run",
        "verify": "compare every byte with its checksum; changes nothing",
        "export": "the weights alone, as safetensors",
        "prune": "remove older checkpoints, once the newer are verified",
    }.items():
        commands.add_parser(name, help=what, description=what).add_argument("run", type=Path, help="run directory")
    export = commands.choices["export"]
    export.add_argument("--checkpoint", default="best", help="best, latest or a step (default: best)")
    export.add_argument("--output", type=Path, help="file to write (default: weights_step_N.safetensors in the run)")
    prune = commands.choices["prune"]
    prune.add_argument("--keep-last", type=int, default=1, help="how many of the newest to keep (default: 1)")
    prune.add_argument("--keep-every", type=int, help="keep those of steps divisible by it too")
    options = parser.parse_args(arguments)
    try:
        paths = _paths(options.run)
        if options.command == "list":
            print(_listed(options.run))
        elif options.command == "verify":
            return _verify(paths)
        elif options.command == "export":
            print(_export(options.run, options.checkpoint, options.output))
        else:
            print(_prune(options.run, options.keep_last, options.keep_every))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _paths(run: Path) -> RunPaths:
    paths = RunPaths(run)
    if not paths.checkpoints.is_dir():
        raise UserError(f"{run} is not a run directory: it holds no {paths.checkpoints.name}/; name one below outputs/")
    return paths


def _listed(run: Path) -> str:
    """A table of all checkpoints."""
    rows = [("step", "size", "saved", "")]
    for found in CheckpointManager(run, enabled=False).list_checkpoints():
        notes = [name for name in ("latest", "best") if found[f"is_{name}"]]
        if checkpoint_file.read_sidecar(Path(found["path"])) is None:
            notes.append("no sidecar")
        rows.append((str(found["step"]), f"{found['size_mb']:.1f} MB", found["timestamp"], ", ".join(notes)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"{step:>{widths[0]}}  {size:>{widths[1]}}  {when:<{widths[2]}}  {note}".rstrip()
        for step, size, when, note in rows
    ]
    return "\n".join(lines) if len(rows) > 1 else f"{run} has no checkpoint"


def _verify(paths: RunPaths) -> int:
    """Tell of every checkpoint whether it is intact; 1 if one is not."""
    broken = 0
    for step in paths.checkpoint_steps():
        path = paths.checkpoint_file(step)
        try:
            print(f"step {step}: intact, by {checkpoint_file.verify(path)}")
        except BrokenCheckpointError as error:
            broken += 1
            print(f"step {step}: BROKEN, {error} ({path})")
        except OSError as error:
            broken += 1
            print(f"step {step}: cannot be read: {error.strerror} ({path})")
    if not paths.checkpoint_steps():
        print(f"{paths.root} has no checkpoint")
    elif broken:
        print(f"{broken} broken; resuming sets them aside and takes the newest that is intact")
    return 1 if broken else 0


def _export(run: Path, which: str, output: Path | None) -> Path:
    """Write the weights of a checkpoint as safetensors and return the file."""
    known = which in ("best", "latest") or which.isdecimal()
    require(known, "--checkpoint", which, "best, latest or a step")
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError("export needs the package safetensors: pip install 'spectral-exp[safetensors]'") from error
    paths = RunPaths(run)
    link = {"best": paths.best_link, "latest": paths.latest_link}.get(which)
    path = paths.checkpoint_file(int(which)) if link is None else run_dir.follow(link)
    if path is None and which == "best":
        path = run_dir.follow(paths.latest_link)
    if path is None or not path.is_file():
        steps = ", ".join(str(step) for step in paths.checkpoint_steps()) or "none"
        raise UserError(f"{run} has no checkpoint {which}; saved steps: {steps}")
    try:
        state = checkpoint_file.read_checkpoint(path)
    except BrokenCheckpointError as error:
        raise UserError(f"{path} is broken ({error}); choose another one with --checkpoint") from error
    # Tied weights are written once for each name: the format knows no sharing.
    weights = {name: tensor.clone().contiguous() for name, tensor in state["model_state_dict"].items()}
    facts = {"step": str(state["step"]), "git_hash": str(state["git_hash"]), "run": run.resolve().name}
    output = output or run / f"weights_step_{state['step']}.safetensors"
    try:
        with run_dir.atomic_writer(output) as file:
            file.write(save(weights, metadata=facts))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}; choose another file with --output") from error
    return output


def _prune(run: Path, keep_last: int, keep_every: int | None) -> str:
    """Remove checkpoints beyond what is to be kept; never those of a run that is going on."""
    require(keep_last >= 1, "--keep-last", keep_last, ">= 1")
    require(keep_every is None or keep_every >= 1, "--keep-every", keep_every, ">= 1")
    with RunLock(run):
        before = RunPaths(run).checkpoint_steps()
        CheckpointManager(run, keep_last_n=keep_last, keep_every_n_steps=keep_every).cleanup_old_checkpoints()
        after = RunPaths(run).checkpoint_steps()
    removed = ", ".join(str(step) for step in before if step not in after) or "nothing"
    return f"removed {removed}; kept {', '.join(map(str, after)) or 'nothing'}"


if __name__ == "__main__":
    sys.exit(main())
