"""The report of one run: set-up, outcome, curves, cost, and commands to continue it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from spectral_exp.core.errors import UserError
from spectral_exp.plots.load import import_matplotlib
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import Comparison, compare
from spectral_exp.results.document.model import (
    Appendix,
    Block,
    Code,
    Document,
    Emphasis,
    Figure,
    Heading,
    Inline,
    Listing,
    Number,
    Paragraph,
    References,
    Source,
    Table,
    Text,
    Verbatim,
    column_titles,
    join_texts,
)
from spectral_exp.results.paper import appendix, limits
from spectral_exp.results.paper.evaluations import evaluations_of_run
from spectral_exp.results.paper.generator import Paper, assemble
from spectral_exp.results.paper.material import (
    DASH,
    Choices,
    Material,
    dig,
    last_step,
    plain_number,
    shown_metrics,
)
from spectral_exp.results.paper.method import method
from spectral_exp.results.paper.passages import join_sentences, passage, read_passage
from spectral_exp.results.paper.setup import setup
from spectral_exp.runs.evaluations import evaluation_conditions
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.overrides import BUDGET, override_to_continue
from spectral_exp.runs.parts import PARTS
from spectral_exp.runs.plot_files import NamedPlot, named_plots, read_png
from spectral_exp.runs.run import Run, usual_metric

# Drawn again in print colours.
_REDRAWN = "training_dynamics"
_MAX_SAMPLES = 4

_passage = partial(passage, "report")


def run_report(
    folder: Path, *, index: bool = True, evaluations: Sequence[str] | None = None
) -> Paper:
    """Return the report of the run in `folder`.

    Args:
        folder: the run directory.
        index: whether to use the index on disk.
        evaluations: names of the evaluations to show; None for all.

    Raises:
        UserError: the folder holds no run, or several.
    """
    import_matplotlib()
    # Slow: these load matplotlib.
    from spectral_exp.results.paper.run_curves import run_curves
    from spectral_exp.results.paper.run_spectra import run_spectra
    from spectral_exp.results.paper.run_system import run_system

    found = ResultsAggregator([folder], index=index, marks=False)
    if len(found.runs) != 1:
        reasons = "".join(f"; {path.name}: {reason}" for path, reason in found.left_out)
        raise UserError(
            f"{folder} holds {len(found.runs)} runs; name the directory of one{reasons}"
        )
    (run,) = found.runs
    groups = tuple(found.groups())
    metric = usual_metric([run])
    metric = metric if run.value(metric) is not None else ""
    comparison = (
        compare(groups, metric)
        if metric
        else Comparison("val_bpb", "final", True, [], None, [], [])
    )
    shown = [one.name for one in evaluation_conditions(run.evaluations)]
    if evaluations is not None:
        shown = [name for name in shown if name in evaluations]
    choices = Choices(metric=comparison.metric, evaluations=tuple(shown))
    material = Material(choices, (run,), groups, comparison, (), {})
    material = replace(material, metric_decimals=4)
    curves, inside = run_curves(run), run_spectra(run)
    blocks: list[Block] = [Heading("Outcome"), *_outcome(run)]
    blocks += [Heading("Curves"), *((curves,) if curves else _none("the run logged no metric"))]
    blocks += evaluations_of_run(run, shown)
    blocks += [Heading("Samples"), *(_samples(run) or _none("the run generated no text"))]
    blocks += [Heading("Cost"), *_cost(run)]
    machine = run_system(run)
    blocks += [Heading("Machine"), machine] if machine else []
    blocks += [Heading("Remarks"), *_remarks(material, run)]
    blocks += [Heading("How to go on"), *_commands(run)]
    blocks += [Heading("Plots"), *(_plots(run) or _none("the run drew none"))]
    blocks += [Heading("Inside"), inside] if inside else []
    blocks += [*method(material), *setup(material)]
    blocks += [Heading("References", named=True), References(), Appendix()]
    blocks += [*appendix.reproducibility(material), *appendix.run_table(material)]
    document = Document(
        f"Run {run.run_id}", (), (Paragraph(_summary(material, run)),), tuple(blocks), "Summary"
    )
    return assemble(material, document)


def _none(why: str) -> tuple[Block, ...]:
    return (Paragraph(_passage("no data", why=why), aside=True),)


def _total(run: Run, path: str, show: str) -> Text:
    """Return an entry of `results.json`, or a dash."""
    value = dig(run.results, path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return (DASH,)
    shown = plain_number(round(value)) if show == ",.0f" else f"{value:{show}}"
    return (Number(shown, value, Source(path, (run.run_id,))),)


def _summary(material: Material, run: Run) -> Text:
    parts = join_texts([(Code(run.parts[part]),) for part in PARTS if part in run.parts])
    status = {
        "completed": "has completed",
        "stopped_early": "stopped early, as its patience setting says",
        "pruned": "was ended early by a search, since it was worse than others",
    }
    has_value = run.value(material.comparison.metric) is not None
    words = material.metric_words
    text = _passage(
        "summary",
        name=Code(run.name),
        seed=str(run.seed) if run.seed is not None else "not recorded",
        status=status.get(run.status, f"has the status {run.status.replace('_', ' ')}"),
        step=last_step(run),
    )
    value = _passage("value", value=material.value(run), metric=words) if has_value else ()
    return (*join_sentences(text, value), " ", *(_passage("parts", parts=parts) if parts else ()))


def _outcome(run: Run) -> tuple[Block, ...]:
    blocks: list[Block] = []
    error = run.results.get("error")
    if error:
        blocks.append(Paragraph(_passage("error", error=Code(str(error)))))
    rows: list[tuple[Text, ...]] = []
    for name in shown_metrics(run):
        info = run.metric_info(name)
        last = _metric(run, name, run.value(name), "final")
        at: Text = (DASH,)
        best: Text = (DASH,)
        if not info.is_timing:
            step = run.final_step(name) or run.metrics[name].final_step
            source = Source(name, (run.run_id,), "final", "its step")
            at = (Number(plain_number(step), step, source),)
            if info.direction:
                best = _metric(run, name, run.value(name, "best"), "best")
        rows.append(((Code(name),), last, at, best))
    if not rows:
        return (*blocks, *_none("the run logged no metric"))
    blocks.append(
        Table(
            "tab:metrics",
            _passage("metrics"),
            column_titles("metric", "last", "at step", "best"),
            tuple(rows),
            "lrrr",
        )
    )
    return tuple(blocks)


def _metric(run: Run, name: str, value: float | None, at: str) -> Text:
    if value is None:
        return (DASH,)
    # Thousands are written in full, unless they are not finite or too large.
    shown = plain_number(round(value)) if 1000 <= abs(value) < 1e15 else f"{value:.5g}"
    return (Number(shown, value, Source(name, (run.run_id,), at)),)


def _plots(run: Run) -> tuple[Block, ...]:
    """Return the newest plot of each kind."""
    newest: dict[str, tuple[NamedPlot, bytes]] = {}
    plots = sorted(named_plots(RunPaths(run.path)), key=lambda one: (one.step, one.time))
    for plot in reversed(plots):
        is_wanted = plot.kind not in newest and plot.kind != _REDRAWN
        if is_wanted and (png := read_png(plot.file)):
            newest[plot.kind] = plot, png
    figures = []
    for kind, (plot, png) in sorted(newest.items()):
        words = kind.replace("_", " ")
        source = Source("visualizations", (run.run_id,), formula=plot.file.name)
        at = Number(plain_number(plot.step), plot.step, source)
        caption = _passage("plot", what=words[:1].upper() + words[1:], step=at)
        figures.append(Figure(f"fig:{kind}", caption, {"png": png}, source, width=0.85))
    return tuple(figures)


def _samples(run: Run) -> tuple[Block, ...]:
    samples = run.results.get("generation_samples")
    blocks: list[Block] = []
    for sample in list(samples)[-_MAX_SAMPLES:] if isinstance(samples, list) else ():
        if isinstance(sample, Mapping):
            step = sample.get("step")
            at: Inline = (
                Number(plain_number(step), step, Source("generation_samples.step", (run.run_id,)))
                if isinstance(step, int)
                else DASH
            )
            blocks.append(Paragraph(_passage("sample", step=at)))
            blocks.append(Verbatim(f"{sample.get('prompt', '')}{sample.get('text', '')}"))
    return tuple(blocks)


def _cost(run: Run) -> tuple[Block, ...]:
    blocked: Any = dig(run.results, "monitoring_cost.blocked_s")
    entries = [
        ("training, s", "totals.train_s", ",.0f"),
        ("training, processor s", "totals.cpu_s", ",.0f"),
        ("training, device s", "totals.device_s", ",.0f"),
        ("training, FLOPs", "totals.flops", ".4g"),
        ("everything, s", "totals.time_s", ",.0f"),
        ("tokens", "totals.tokens", ",.0f"),
        ("tokens/s in training", "totals.tokens_per_s", ",.0f"),
        ("validation, s", "monitoring_cost.evaluation_s", ".2f"),
        ("test, s", "monitoring_cost.test_s", ".2f"),
        *(
            (f"{words} of the {title} text", f"evaluation.{name}.{key}", ",.0f")
            for name, title in (("val", "validation"), ("test", "test"))
            for words, key in (("windows read", "windows"), ("windows", "available_windows"))
        ),
        *(
            (f"training waited for {name}, s", f"monitoring_cost.blocked_s.{name}", ".3f")
            for name in (blocked if isinstance(blocked, Mapping) else ())
        ),
        ("share of training that waited", "monitoring_cost.share_of_training", ".2%"),
    ]
    rows: list[tuple[Text, ...]] = [
        ((words,), _total(run, path, show)) for words, path, show in entries
    ]
    rows = [row for row in rows if row[1] != (DASH,)]
    if not rows:
        return _none("the run has no results yet")
    titles = column_titles("What", "value")
    return (Table("tab:run-cost", ("What the run cost.",), titles, tuple(rows), "lr"),)


def _remarks(material: Material, run: Run) -> tuple[Block, ...]:
    items: list[Text] = []
    if not material.comparison.summaries:
        items += [(limits.sentence(problem),) for problem in run.problems]
    for summary in material.comparison.summaries:
        items += [
            limits.remark(note.about("")) for note in summary.notes if note.severity == "warning"
        ]
        items += [
            ("Not usable in comparisons: ", *limits.remark(reason, capital=False))
            for _, reason in summary.left_out
        ]
    return (
        (Listing(tuple(items)),)
        if items
        else (Paragraph((Emphasis(("The checks found nothing to remark.",)),)),)
    )


def _commands(run: Run) -> tuple[Block, ...]:
    place = f"{run.path.resolve().parent.name}/{run.path.resolve().name}"
    word = shlex.quote(f"./{place}" if place.startswith("-") else place)
    reached = dig(run.results, "budget.reached")
    limit = reached if reached in BUDGET else "training.max_steps"
    more = override_to_continue(run.status, run.settings.get("search.pruner"), f"{limit}=MORE")
    resume = ["python", "-m", "spectral_exp.train", f"resume={place}", *more.split()]
    text = read_passage("report", "commands").strip("`\n")
    text = text.replace("{{resume}}", appendix.wrap_command(resume)).replace("{{run}}", word)
    return (Verbatim(text),)
