"""Compare runs, `spectral-exp compare outputs/`, or two configurations, `config-diff RUN RUN`."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from spectral_exp.commands.options import (
    USUAL_METRIC,
    add_archived,
    add_at,
    add_folders,
    add_margin,
    add_where,
)
from spectral_exp.core.allocator import keep_freed_memory
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import Interrupted, SettingError, UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.wording import format_count
from spectral_exp.plots.load import import_matplotlib
from spectral_exp.results import tables
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.attribution import attribute
from spectral_exp.results.compared import Comparison
from spectral_exp.results.comparison import (
    compare,
    explain_unknown_metric,
    refuse_missing_series,
)
from spectral_exp.results.evaluated import evaluation_metrics
from spectral_exp.results.group import Group
from spectral_exp.results.names import ABSENT, Names, split_names, value_text
from spectral_exp.runs.budget import parse_at
from spectral_exp.runs.differences import run_differences
from spectral_exp.runs.evaluations import SCORES
from spectral_exp.runs.load import load_run
from spectral_exp.runs.output_file import refuse_loss, write_output
from spectral_exp.runs.run import Run, shared_metric_info, usual_metric

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
    """Print, write or watch a comparison; return 0, or 1 if `config-diff` found a difference."""
    if options.folders[0] == Path(CONFIG_DIFF):
        return _config_diff(options.folders[1:])
    _check(options)
    keep_freed_memory()  # every file allocates and frees arrays of the same sizes
    if options.watch is not None:
        return _watch(options)
    _show(options, _report(options))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp compare",
        description="Compare finished and running experiments over their seeds.",
        epilog=f"{CONFIG_DIFF} RUN RUN: print the differences of two runs before training.",
    )
    add_folders(parser)
    add_where(
        parser,
        "only runs that meet optimizer=rgd, learning_rate<=1e-3, name=wave*,classic ...; "
        "tag=good, note=*text*, pinned; repeatable, all conditions must hold",
        "CONDITION",
    )
    add_archived(parser)
    parser.add_argument(
        "--group-by",
        metavar="NAMES",
        help="comma-separated settings or parts (default: all settings except the seed)",
    )
    parser.add_argument(
        "--metric",
        metavar="NAMES",
        help=f"comma-separated metrics (default: {USUAL_METRIC}; with --evaluation bpb)",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        metavar="CONDITION",
        help="compare what spectral-exp evaluate has recorded: all, text=test, block_size=128,256, "
        "stride<64 ...; repeatable, all conditions must hold",
    )
    add_at(parser)
    parser.add_argument(
        "--baseline",
        metavar="GROUP",
        help="group to compare the others with, independent of --sort "
        "(default: classic, else the first by its settings); best is the one with the best mean",
    )
    _add_test_options(parser)
    parser.add_argument(
        "--sort",
        metavar="NAME",
        help="order by a metric, best first, or by a setting or label; changes no number "
        "(default: groups by the first metric, runs by name and seed)",
    )
    _add_output_options(parser)
    return parser


def _add_test_options(parser: argparse.ArgumentParser) -> None:
    add_margin(parser)
    parser.add_argument(
        "--attribute",
        nargs="?",
        const="",
        metavar="GROUP",
        help="also print what each part contributes to the difference between the "
        "baseline and this group (default: the group that differs in most parts)",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    parser.add_argument("--runs", action="store_true", help="print one line per run, not per group")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="output format (default: by the suffix .txt, .md, .csv, .json or .tex, else table)",
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
        help="repeat at this interval (default: 10)",
    )
    parser.add_argument(
        "--no-index",
        action="store_true",
        help="read every file again, and do not write an index",
    )


def _check(options: argparse.Namespace) -> None:
    """Raise SettingError for options that are wrong for any runs."""
    parse_at(options.at)
    given = options.metric
    metrics = [] if given is None else split_names(given)
    is_empty = given is not None and not metrics
    require(not is_empty, "--metric", repr(given), "one or several metrics, by commas")
    _check_tests(options, metrics)
    watch, output, plots = options.watch, options.output, options.plots
    is_interval = watch is None or 0 < watch <= 86400
    require(is_interval, "--watch", watch, "> 0 and <= 86400 (seconds)")
    if output is not None:
        require(output.parent.is_dir(), "--output", output, "a file in an existing folder")
        refuse_loss(output, force=options.force)
        has_format = options.format is not None or output.suffix.lower() in _BY_SUFFIX
        allowed = f"a file that ends with {', '.join(filter(None, _BY_SUFFIX))}"
        require(has_format, "--output", output, allowed, "or name its --format")
    if plots is not None:
        require(not options.runs, "--plots", plots, "without --runs: groups are drawn")
        require(not plots.exists() or plots.is_dir(), "--plots", plots, "a folder")


def _check_tests(options: argparse.Namespace, metrics: Sequence[str]) -> None:
    margin = options.margin
    if margin is not None:
        require(0 < margin < math.inf, "--margin", margin, "> 0 and finite, in the metric's unit")
        require(len(metrics) <= 1, "--margin", margin, "with one --metric, whose unit it has")
        require(not options.runs, "--margin", margin, "without --runs: groups are tested")
    if options.attribute is not None:
        shown = options.attribute or "given"
        require(not options.runs, "--attribute", shown, "without --runs: groups are tested")
        allowed = "without --group-by: groups must not mix settings"
        require(not options.group_by, "--attribute", shown, allowed)
    if options.evaluation:
        require(options.at == "final", "--at", options.at, "final with --evaluation")


def _metric_names(options: argparse.Namespace, runs: Sequence[Run]) -> list[str]:
    """Return the names of --metric, each once, or the default."""
    if options.metric is not None:
        return list(dict.fromkeys(split_names(options.metric)))
    return [SCORES[0] if options.evaluation else usual_metric(runs)]


# --- one report -----------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> str:
    """Read the runs, draw the plots of --plots, and return the text."""
    results = ResultsAggregator(options.folders, index=not options.no_index)
    if not results.runs:
        places = ", ".join(str(folder) for folder in options.folders)
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in results.left_out)
        raise UserError(
            f"there is no run that can be used below {places}"
            + (f"; left out:{reasons}" if reasons else "")
        )
    chosen = results.select(options.where, archived=options.archived)
    if not chosen.runs:
        raise UserError(
            chosen.archived_note
            or f"none of {format_count(len(results.runs), 'run')} meets "
            f"{' and '.join(options.where)}"
        )
    metrics = _metric_names(options, chosen.runs)
    if options.evaluation:
        metrics = evaluation_metrics(chosen.runs, options.evaluation, metrics)
    for metric in metrics:
        _require_metric(metric, chosen.runs)
    form = options.format or _BY_SUFFIX[options.output.suffix.lower() if options.output else ""]
    if options.runs:
        refuse_missing_series(chosen.runs, options.at)
        runs = _sort(chosen.runs, options, chosen.runs, lambda run: [run], lambda run: run.run_id)
        return tables.render_runs(
            runs, metrics, options.at, form, chosen.left_out, chosen.archived_note
        )
    by = list(dict.fromkeys(split_names(options.group_by))) if options.group_by else None
    groups = chosen.groups(by)
    comparisons = [
        compare(groups, metric, at=options.at, baseline=options.baseline, margin=options.margin)
        for metric in metrics
    ]
    attributions = []
    if options.attribute is not None:
        attributions = [attribute(one, options.attribute or None) for one in comparisons]
    order = _order(groups, comparisons, options, chosen.runs)
    comparisons = [comparison.reorder(order) for comparison in comparisons]
    if options.plots is not None:
        import_matplotlib(options.plots)
        from spectral_exp.results.figures import comparison_figures

        for comparison in comparisons:
            for figure in comparison_figures(comparison, options.plots, force=options.force):
                lines = figure.paths or [f"not drawn: {figure.caption}"]
                print(*lines, sep="\n", file=sys.stderr)
    return tables.render_comparisons(
        comparisons, form, chosen.left_out, chosen.archived_note, attributions
    )


def _require_metric(metric: str, runs: Sequence[Run]) -> None:
    if not any(run.value(metric) is not None for run in runs):
        raise UserError(explain_unknown_metric(metric, runs))


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
    return comparison.best_first(reverse=options.reverse)


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
        reverse = reverse is (shared_metric_info(name, runs).direction != "higher")
    else:
        names = Names(runs)
        try:
            setting = names.resolve(name)
        except UserError as error:
            raise UserError(f"--sort={name} is not a metric, and {error}") from error
        values = [names.value(runs_of(item)[0], setting) for item in items]
    keyed = list(zip(values, items, strict=True))
    missing = (None, ABSENT)
    known = [pair for pair in keyed if pair[0] not in missing]
    known.sort(key=lambda pair: _comparable(pair[0]), reverse=reverse)
    return [item for _, item in known] + [item for value, item in keyed if value in missing]


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
                sys.stdout.write(f"{_CLEAR}{head}{text}" if on_terminal else f"{head}{text}\n")
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
    names = " ".join(map(str, folders)) or "nothing"
    require(len(folders) == 2, CONFIG_DIFF, names, "two run directories")
    one, other = (_load(path) for path in folders)
    sections = run_differences(one, other)
    for title, lines in sections.items():
        print(f"{title}: {format_count(len(lines), 'difference') if lines else 'equal'}")
        for line in lines:
            print(f"  {printable(line)}")
    return 1 if any(sections.values()) else 0


def _load(path: Path) -> Run:
    if not path.is_dir():
        raise UserError(f"{path} is not a run directory; name one below outputs/")
    run = load_run(path)
    if not run.settings:
        raise UserError(f"{path}: {'; '.join(run.problems) or 'it has no settings'}")
    return run


main = command(build_parser, run)
