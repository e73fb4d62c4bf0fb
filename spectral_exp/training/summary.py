"""The summary that training logs when a run ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.shell import shell_command, shell_word
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.overrides import override_to_continue, quote
from spectral_exp.runs.record import ResultsRecord, read_config, read_results
from spectral_exp.runs.status import DONE
from spectral_exp.training.progress import duration


def summary(root: Path, search: Sequence[str] = (), no_results: str = "") -> str:
    """Return the results of a run, the paths of its files and the commands to try next.

    Args:
        root: the run directory.
        search: arguments of its command that locate further configuration files.
        no_results: why this attempt has written no results; "" if it has.
    """
    paths = RunPaths(root)
    if no_results or not paths.results_file.is_file():
        reason = no_results or "there are none"
        return f"no results were written to {root} ({reason})"
    results, _ = read_results(paths.results_file)
    rows = [*_rows(results), ("", "")]
    places = (
        ("results", paths.results_file),
        ("config", paths.config_file),
        ("metrics", paths.metrics_file),
        ("plots", paths.visualizations),
        ("checkpoints", paths.checkpoints),
    )
    rows += [(name, str(path)) for name, path in places if path.exists()]
    lines = [f"  {name:<12}{text}".rstrip() for name, text in rows]
    # Both commands need a checkpoint.
    if paths.checkpoint_steps():
        lines += ["", "Next", *_next_commands(root, results, search)]
    return "\n".join(["", f"Run {root}", *lines])


def _rows(results: ResultsRecord) -> Iterator[tuple[str, str]]:
    """Yield (title, text) of each result that exists."""
    totals, reference = results.get("totals", {}), results.get("reference", {})
    yield "status", results.get("status", "unknown")
    if {"steps", "tokens", "train_s"} <= totals.keys():
        spent = duration(totals["train_s"])
        yield "steps", f"{totals['steps']}, {totals['tokens']:,} tokens in {spent} of training"
    seconds = {"processors": totals.get("cpu_s"), "devices": totals.get("device_s")}
    if used := [
        f"{value:,.1f} s of {name}" for name, value in seconds.items() if value is not None
    ]:
        yield "used", ", ".join(used)
    reached = results.get("budget", {}).get("reached")
    if reached and reached != "training.max_steps":
        yield "ended by", printable(reached)
    if "tokens_per_s" in totals:
        yield "speed", f"{totals['tokens_per_s']:,.0f} tokens/s"
    for title, metrics in (
        ("final", results.get("final_metrics")),
        ("best", results.get("best_metrics")),
    ):
        if metrics:
            tested = {n: v for n, v in metrics.items() if n.startswith("test_")}
            yield title, _format_metrics({n: v for n, v in metrics.items() if n not in tested})
            if tested:
                yield "test", _format_metrics(tested)
    limits = (("unigram", "byte frequencies alone"), ("entropy", "the limit of the source"))
    for name, words in limits:
        bits = reference.get(f"{name}_bits_per_byte")
        if isinstance(bits, int | float):
            yield name, f"{bits:.4f} bits per byte: {words}"
    cost = results.get("monitoring_cost", {})
    if {"blocked_s", "share_of_training"} <= cost.keys():
        parts = [
            f"{printable(name)} {seconds:.2f} s" for name, seconds in cost["blocked_s"].items()
        ]
        share = 100 * cost["share_of_training"]
        yield "monitoring", f"{share:.2f} % of training time blocked ({', '.join(parts)})"


def _format_metrics(values: Mapping[str, float | None]) -> str:
    """Format metrics with their step; validation metrics may belong to an earlier step."""
    shown = {
        name: f"{printable(name)} {value:.4f}"
        for name, value in values.items()
        if isinstance(value, float)
    }
    step = [f"at step {values['step']}"] if "step" in values else []
    if (val_step := values.get("val_step")) is None:
        return "  ".join([*shown.values(), *step])
    loss = [shown.pop("loss"), *step] if "loss" in shown else []
    return "  ".join([*loss, *shown.values(), f"at step {val_step}"])


def _double_limit(results: ResultsRecord, steps: int) -> str:
    """Return the override that doubles the limit which has ended the run."""
    budget = results.get("budget", {})
    reached = budget.get("reached")
    limits: dict[str, float | None] = {
        "training.max_tokens": budget.get("max_tokens"),
        "training.max_flops": budget.get("max_flops"),
        "training.max_train_s": budget.get("max_train_s"),
    }
    limit = None if reached is None else limits.get(reached)
    return f"training.max_steps={2 * steps}" if limit is None else f"{reached}={2 * limit}"


def _next_commands(root: Path, results: ResultsRecord, search: Sequence[str]) -> list[str]:
    # A name that begins with a dash looks like an option.
    place = f"./{root}" if str(root).startswith("-") else str(root)
    resume = "  python -m spectral_exp.train " + shell_command(
        [*search, f"resume={quote(str(root))}"]
    )
    generate = f"  python -m spectral_exp generate {shell_word(place)} --tokens 200"
    status, steps = results.get("status"), results.get("totals", {}).get("steps", 0)
    if status == "diverged":  # it would diverge again
        return [generate]
    if status not in DONE:
        return [resume, generate]
    further = override_to_continue(status, _pruner(root), _double_limit(results, steps))
    return [generate, f"{resume} {further}".rstrip()]


def _pruner(root: Path) -> str | None:
    """Return the setting `search.pruner`, or None if the run belongs to no search."""
    try:
        record, _ = read_config(RunPaths(root).config_file)
    except UserError:
        return None
    search = record.get("config", {}).get("search")
    pruner = search.get("pruner") if isinstance(search, Mapping) else None
    return pruner if isinstance(pruner, str) else None
