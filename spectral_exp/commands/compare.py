"""Compare runs, `spectral-exp compare outputs/`, or two configurations, `config-diff RUN RUN`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from spectral_exp.core.allocator import keep_freed_memory
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import Interrupted, SettingError, UserError, nearest, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.wording import counted
from spectral_exp.plots.load import import_matplotlib
from spectral_exp.results import tables
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.compared import Comparison
from spectral_exp.results.comparison import compare
from spectral_exp.results.group import Group
from spectral_exp.results.names import Names, split_names, value_text
from spectral_exp.runs import layout
from spectral_exp.runs.differences import code_differences, environment_differences, unequal
from spectral_exp.runs.load import load_run
from spectral_exp.runs.metric_names import DERIVED, metric_info
from spectral_exp.runs.output_file import refuse_loss, write_output
from spectral_exp.runs.overrides import PLACE, flat, is_among
from spectral_exp.runs.run import Run, check_at
from spectral_exp.runs.training_record import recorded_patch

CONFIG_DIFF = "config-diff"
FORMATS = ("table", "markdown", "csv", "json", "latex")

_BY_SUFFIX = {
    "": "table",
    ".txt": "table",
    ".md": "markdown",
    ".csv": "csv",
    ".json": "json",
    ".tex": "latex",
}
_CLEAR = "\033[H\033[2J"


def run(options: argparse.Namespace) -> int:
    """Print, write or watch a comparison; returns 0, or 1 if `config-diff` found a difference."""
    if options.folders[0] == Path(CONFIG_DIFF):
        return _config_diff(options.folders[1:])
    _check(options)
    keep_freed_memory()  # arrays of the same sizes come and go with every file
    if options.watch is not None:
        return _watch(options)
    _show(options, _report(options))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp compare",
        description="Compare finished and running experiments, over their seeds.",
        epilog=f"{CONFIG_DIFF} RUN RUN: what differs between two runs before training begins.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="runs, sweeps, or what holds such"
    )
    parser.add_argument(
        "--where", action="append", default=[], metavar="CONDITION",
        help="only runs with optimizer=rgd, learning_rate<=1e-3, name=wave*,classic ...; repeatable: all must hold",
    )  # fmt: skip
    parser.add_argument(
        "--group-by",
        metavar="NAMES",
        help="settings or parts, by commas (default: runs that differ in their seed alone)",
    )
    parser.add_argument(
        "--metric",
        default="val_bpb",
        metavar="NAMES",
        help="one or several, by commas (default: val_bpb)",
    )
    parser.add_argument(
        "--at",
        default="final",
        help="which value of each run: final, best or step:N (default: final)",
    )
    parser.add_argument(
        "--baseline",
        metavar="GROUP",
        help="what the others are held against, whatever the order (default: classic, else the first by its settings)",
    )
    parser.add_argument(
        "--sort",
        metavar="NAME",
        help="order by a metric, best first, or a setting, or label; changes no number "
        "(default: groups by the first metric, runs by name and seed)",
    )
    parser.add_argument("--reverse", action="store_true", help="sort the other way round")
    parser.add_argument(
        "--runs", action="store_true", help="one line for each run instead of groups"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="(default: by the file's suffix .txt, .md, .csv, .json or .tex, else table)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write to this file instead of printing"
    )
    parser.add_argument(
        "--plots",
        type=Path,
        metavar="FOLDER",
        help="draw curves, intervals and effects into this folder",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite files that this command has not written"
    )
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="do it again every so often (default: 10)",
    )
    parser.add_argument(
        "--no-index",
        action="store_true",
        help="read every file anew, and keep nothing for next time",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuse options that are wrong for any runs."""
    check_at(options.at)
    metrics = split_names(options.metric)
    require(bool(metrics), "--metric", repr(options.metric), "one or several metrics, by commas")
    require(
        options.watch is None or 0 < options.watch <= 86400,
        "--watch",
        options.watch,
        "> 0 and <= 86400 (seconds)",
    )
    if options.output is not None:
        require(
            options.output.parent.is_dir(),
            "--output",
            options.output,
            "a file in an existing folder",
        )
        refuse_loss(options.output, force=options.force)
        known = options.format is not None or options.output.suffix.lower() in _BY_SUFFIX
        allowed = f"a file that ends with {', '.join(filter(None, _BY_SUFFIX))}"
        require(known, "--output", options.output, allowed, "or name its --format")
    if options.plots is not None:
        require(not options.runs, "--plots", options.plots, "without --runs: groups are drawn")
        require(
            not options.plots.exists() or options.plots.is_dir(),
            "--plots",
            options.plots,
            "a folder",
        )


# --- one report -----------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> str:
    """Read the runs; return the text and draw the plots that the options ask for."""
    found = ResultsAggregator(options.folders, index=not options.no_index)
    if not found.runs:
        places = ", ".join(str(folder) for folder in options.folders)
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in found.left_out)
        raise UserError(
            f"there is no run that can be used below {places}"
            + (f"; left out:{reasons}" if reasons else "")
        )
    chosen = found.where(options.where)
    if not chosen.runs:
        raise UserError(
            f"none of {counted(len(found.runs), 'run')} meets {' and '.join(options.where)}"
        )
    metrics = list(dict.fromkeys(split_names(options.metric)))
    for metric in metrics:
        _require_metric(metric, chosen.runs)
    form = options.format or _BY_SUFFIX[options.output.suffix.lower() if options.output else ""]
    if options.runs:
        runs = _sort(chosen.runs, options, chosen.runs, lambda run: [run], lambda run: run.run_id)
        return tables.render_runs(runs, metrics, options.at, form, chosen.left_out)
    groups = chosen.groups(
        list(dict.fromkeys(split_names(options.group_by))) if options.group_by else None
    )
    comparisons = [
        compare(groups, metric, at=options.at, baseline=options.baseline) for metric in metrics
    ]
    order = _order(groups, comparisons, options, chosen.runs)
    comparisons = [comparison.reorder(order) for comparison in comparisons]
    if options.plots is not None:
        import_matplotlib(options.plots)
        from spectral_exp.results.figures import comparison_figures

        for comparison in comparisons:
            for figure in comparison_figures(comparison, options.plots, force=options.force):
                lines = figure.paths or [f"not drawn: {figure.caption}"]
                print(*lines, sep="\n", file=sys.stderr)
    return tables.render_comparisons(comparisons, form, chosen.left_out)


def _require_metric(metric: str, runs: Sequence[Run]) -> None:
    if not any(run.value(metric) is not None for run in runs):
        known = {
            *DERIVED,
            *(
                name
                for run in runs
                for name in (*run.metrics, *run.results.get("final_metrics", ()))
            ),
        }
        known.discard("step")
        raise UserError(
            f"no run has a metric {metric}; known are {', '.join(sorted(known))}{nearest(metric, known)}"
        )


def _order(
    groups: Sequence[Group],
    comparisons: Sequence[Comparison],
    options: argparse.Namespace,
    runs: Sequence[Run],
) -> list[str]:
    """Return the labels of groups in the order of --sort, by default the best mean first."""
    compared = {comparison.metric: comparison for comparison in comparisons}
    comparison = compared.get(options.sort) if options.sort else comparisons[0]
    if comparison is None:
        items = _sort(groups, options, runs, lambda group: group.runs, lambda group: group.label)
        return [group.label for group in items]
    if comparison.lower_is_better is None:
        return sorted((group.label for group in groups), reverse=options.reverse)
    sign = (1 if comparison.lower_is_better else -1) * (-1 if options.reverse else 1)
    ordered = sorted(
        comparison.summaries,
        key=lambda s: (s.mean is None, sign * (s.mean or 0.0), s.group.natural_order),
    )
    return [summary.group.label for summary in ordered]


def _sort(
    items: Sequence[Any],
    options: argparse.Namespace,
    runs: Sequence[Run],
    runs_of: Callable[[Any], Sequence[Run]],
    label_of: Callable[[Any], str],
) -> list[Any]:
    """Return groups or runs in the order of --sort; those without a value come last."""
    if not options.sort:
        return list(items)
    name, reverse = options.sort, options.reverse
    if name in ("label", "run"):
        return sorted(items, key=label_of, reverse=reverse)
    values: list[Any]
    if any(run.value(name) is not None for run in runs):
        values = [_mean(runs_of(item), name, options.at) for item in items]
        reverse = reverse is (metric_info(name).direction != "higher")
    else:
        names = Names(runs)
        try:
            setting = names.resolve(name)
        except UserError as error:
            raise UserError(f"--sort={name} is no metric, and {error}") from error
        values = [names.value(runs_of(item)[0], setting) for item in items]
    keyed = list(zip(values, items, strict=True))
    known = [pair for pair in keyed if pair[0] is not None]
    known.sort(key=lambda pair: _comparable(pair[0]), reverse=reverse)
    return [item for _, item in known] + [item for value, item in keyed if value is None]


def _mean(runs: Sequence[Run], metric: str, at: str) -> float | None:
    """Return the mean over the finished runs, or over all runs if none has finished."""
    done = [run for run in runs if run.finished] or runs
    values = [
        value
        for run in done
        if (value := run.value(metric, at)) is not None and abs(value) < float("inf")
    ]
    return sum(values) / len(values) if values else None


def _comparable(value: Any) -> tuple[bool, float, str]:
    """Return a key that sorts numbers by size, before texts."""
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, "" if is_number else value_text(value)


def _show(options: argparse.Namespace, text: str) -> None:
    if options.output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_output(options.output, text.encode(errors="backslashreplace"), force=options.force)


def _watch(options: argparse.Namespace) -> int:
    """Print or write the comparison at intervals until Ctrl-C; wait for missing values."""
    on_terminal = options.output is None and sys.stdout.isatty()
    try:
        while True:
            try:
                text = _report(options)
            except SettingError:
                raise
            except UserError as error:
                text = f"{error}\n"
            head = f"{datetime.now():%Y-%m-%d %H:%M:%S}, every {options.watch:g} s, Ctrl-C ends\n\n"
            if options.output is None:
                sys.stdout.write(
                    f"{_CLEAR if on_terminal else ''}{head}{text}{'' if on_terminal else chr(10)}"
                )
                sys.stdout.flush()
            else:
                _show(options, text)
            time.sleep(options.watch)
    except Interrupted as stop:
        if stop.signal_number != signal.SIGINT:
            raise
        return 0


# --- config-diff --------------------------------------------------------------------------


def _config_diff(folders: Sequence[Path]) -> int:
    require(
        len(folders) == 2,
        CONFIG_DIFF,
        " ".join(map(str, folders)) or "nothing",
        "two run directories",
    )
    one, other = (_load(path) for path in folders)
    found = _differences(one, other)
    for title, lines in found.items():
        print(f"{title}: {counted(len(lines), 'difference') if lines else 'equal'}")
        for line in lines:
            print(f"  {printable(line)}")
    return 1 if any(found.values()) else 0


def _load(path: Path) -> Run:
    if not path.is_dir():
        raise UserError(f"{path} is not a run directory; name one below outputs/")
    run = load_run(path)
    if not run.settings:
        raise UserError(f"{path}: {'; '.join(run.problems) or 'it has no settings'}")
    return run


def _differences(one: Run, other: Run) -> dict[str, list[str]]:
    """Return a line for each difference, by section."""
    settings = (
        {name: value for name, value in run.settings.items() if not is_among(name, PLACE)}
        for run in (one, other)
    )
    data, model = (
        unequal(*(dict(flat(run.record.get(section) or {})) for run in (one, other)))
        for section in ("dataset", "model")
    )
    code = (
        (
            run.record.get("git") or {},
            recorded_patch(layout.RunPaths(run.path), run.record.get("git") or {}),
        )
        for run in (one, other)
    )
    (git_one, patch_one), (git_other, patch_other) = code
    return {
        "settings": unequal(*settings),
        "data": data,
        "model": model,
        "code": code_differences(git_one, patch_one, git_other, patch_other),
        "environment": environment_differences(one.record, other.record),
    }


main = command(build_parser, run)
