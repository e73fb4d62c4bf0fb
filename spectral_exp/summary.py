"""The page a person reads when a run has ended."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectral_exp.command_line import quoted
from spectral_exp.progress import duration
from spectral_exp.run_dir import RunPaths, read_json


def summary(root: Path, no_results: str = "") -> str:
    """What the run in `root` came to, where everything lies and what to try next; read from its results file.

    Args:
        root: of the run.
        no_results: why this attempt has written none; those of an earlier attempt are not its own.
    """
    paths = RunPaths(root)
    if no_results or not paths.results_file.is_file():
        return f"no results were written to {root} ({no_results or 'there are none'})"
    results = read_json(paths.results_file)
    totals, reference = results["totals"], results["reference"]
    rows = [
        ("status", results["status"]),
        ("steps", f"{totals['steps']}, {totals['tokens']:,} tokens in {duration(totals['train_s'])} of training"),
        ("speed", f"{totals['tokens_per_s']:,.0f} tokens/s"),
        ("final", _metrics(results["final_metrics"])),
    ]
    if results.get("best_metrics"):
        rows.append(("best", _metrics(results["best_metrics"])))
    rows.append(("unigram", f"{reference['unigram_bits_per_byte']:.4f} bits per byte: byte frequencies alone"))
    if reference.get("entropy_bits_per_byte") is not None:
        rows.append(("entropy", f"{reference['entropy_bits_per_byte']:.4f} bits per byte: the source's own limit"))
    rows.append(("monitoring", _cost(results["monitoring_cost"])))
    rows += [("", "")]
    places = (
        ("results", paths.results_file),
        ("config", paths.config_file),
        ("metrics", paths.metrics_file),
        ("plots", paths.visualizations),
        ("checkpoints", paths.checkpoints),
    )
    rows += [(name, str(path)) for name, path in places if path.exists()]
    lines = [f"  {name:<12}{text}".rstrip() for name, text in rows]
    # Both continuing and writing text need a checkpoint.
    next_ = ["", "Next", *_next_commands(root, results["status"])] if paths.checkpoint_steps() else []
    return "\n".join(["", f"Run {root}", *lines, *next_])


def _metrics(values: Mapping[str, Any]) -> str:
    shown = [f"{k} {v:.4f}" for k, v in values.items() if isinstance(v, float)]
    return "  ".join([*shown, f"at step {values['step']}"])


def _cost(cost: Mapping[str, Any]) -> str:
    parts = [f"{name} {seconds:.2f} s" for name, seconds in cost["blocked_s"].items()]
    return f"{100 * cost['share_of_training']:.2f} % of training time blocked ({', '.join(parts)})"


def _next_commands(root: Path, status: str) -> list[str]:
    resume = "  python -m spectral_exp.train " + shlex.quote(f"resume={quoted(str(root))}")
    generate = f"  python -m spectral_exp.generate {shlex.quote(str(root))} --tokens 200"
    if status == "completed":
        return [generate, resume + " training.max_steps=<more>"]
    if status == "stopped_early":
        return [generate, resume + " training.patience=null"]
    return [resume, generate]
