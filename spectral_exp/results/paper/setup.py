"""The experimental set-up: configurations, data, training, machine and code of the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from spectral_exp.core.wording import noun
from spectral_exp.results.checks import Evaluated, evaluated_share
from spectral_exp.results.document.model import (
    Block,
    Code,
    Equation,
    Heading,
    Inline,
    Number,
    Paragraph,
    Source,
    Table,
    Text,
    code_list,
    column_titles,
)
from spectral_exp.results.document.prose import prose
from spectral_exp.results.document.trace import spans
from spectral_exp.results.group import group_by
from spectral_exp.results.paper.front import corpus_words
from spectral_exp.results.paper.material import (
    DASH,
    NOT_RECORDED,
    Material,
    dig,
    plain_number,
    shared_value,
)
from spectral_exp.results.paper.method import find_match
from spectral_exp.results.paper.passages import has_passage, join_sentences, passage, read_list
from spectral_exp.runs.parts import PARTS
from spectral_exp.runs.run import Run

_BITS_PER_BYTE = (
    r"\mathrm{bpb} = \frac{L_{\mathrm{CE}}}{\ln 2} \cdot \frac{\mathrm{tokens}}{\mathrm{bytes}},"
)

FITTING_WINDOWS = "windows without overlap that fit into the validation text"
_MAX_OWN = 40
"""Settings of own training loops in the table; more are in the runs' records."""

READ_SHARE = "share of the validation text's tokens that are predicted, in per cent"
"""Formulas of numbers."""

_passage = partial(passage, "setup")


def setup(material: Material) -> tuple[Block, ...]:
    """Return the whole section."""
    return (
        Heading("Experimental set-up"),
        Heading("Configurations", 2),
        *_configurations(material),
        Heading("Data and metric", 2),
        *_data(material),
        Heading("Training", 2),
        *_training(material),
        Heading("Machine and code", 2),
        _machine(material),
    )


def _configurations(material: Material) -> tuple[Block, ...]:
    rows = []
    columns = [part for part in PARTS if any(part in run.parts for run in material.runs)]
    for group in material.groups:
        parts: list[Text] = [
            (
                ", ".join(dict.fromkeys(run.parts[part] for run in group.runs if part in run.parts))
                or DASH,
            )
            for part in columns
        ]
        seeds = spans(run.seed for run in group.runs if run.seed is not None) or DASH
        sizes = per_run(group.runs, "n_parameters", lambda run: run.n_parameters)
        rows.append(((Code(group.label),), *parts, sizes, (seeds,)))
    table = Table(
        "tab:configurations",
        _passage("configurations"),
        column_titles("Configuration", *columns, "parameters", "seeds"),
        tuple(rows),
        "l" * (1 + len(columns)) + "rl",
    )
    matched = [run for run in material.runs if find_match(run)]
    if not matched:
        return (table,)
    stacks = code_list(sorted({find_match(run) for run in matched}))
    return (table, Paragraph(_passage("matched", labels=material.labels(matched), stack=stacks)))


def per_run(runs: Sequence[Run], metric: str, read: Callable[[Run], Any]) -> Text:
    """Return the whole number that runs share, or its range, or a dash."""
    found = {run.run_id: value for run in runs if (value := read(run)) is not None}
    if not found:
        return (DASH,)
    low, high = min(found.values()), max(found.values())
    source = Source(metric, tuple(found), formula="of each run")
    first = Number(plain_number(low), low, source)
    return (first,) if low == high else (first, DASH, Number(plain_number(high), high, source))


def _data(material: Material) -> tuple[Block, ...]:
    with_data = [run for run in material.runs if run.record.get("dataset")]
    fingerprints = read_list("setup", "fingerprints table")
    by_print = group_by(
        with_data,
        lambda run: json.dumps([dig(run.record, f"dataset.{name}") for name in fingerprints]),
    )
    if not by_print:
        return (Paragraph(_passage("no text"), aside=True),)
    same = "one run" if len(material.runs) == 1 else "same text"
    match = _passage(same if len(by_print) == 1 else "other text")
    intro = _passage("data", corpus=corpus_words(material), match=match)
    closing = prose("which does not depend on the tokenizer.")
    return (
        Paragraph(join_sentences(intro, _corpus_citation(material))),
        _data_table(material, list(by_print.values())),
        Paragraph(join_sentences(_evaluated_text(material), _passage("metric"))),
        Equation(_BITS_PER_BYTE, "eq:bpb"),
        Paragraph(join_sentences(closing, *_references(material))),
    )


def _evaluated_text(material: Material) -> Text:
    """Return how much of the validation text was read, by the configurations that differ."""
    by_amount = group_by(
        material.runs, lambda run: (evaluated_share(run), run.settings.get("model.block_size"))
    )
    sentences = []
    for (found, _), runs in by_amount.items():
        labels = prose(" of {{labels}}", labels=material.labels(runs)) if len(by_amount) > 1 else ()
        sentences.append(_evaluated_sentence(material, found, runs, labels))
    return join_sentences(*sentences, *_tested_sentences(material))


def _tested_sentences(material: Material) -> list[Text]:
    """Return how much of the test text was read, by the configurations that differ."""
    tested = [(run, amounts) for run in material.runs if (amounts := _tested_windows(run))]
    by_amount = group_by(tested, lambda pair: (pair[1], pair[0].settings.get("model.block_size")))
    sentences = []
    for (amounts, _), pairs in by_amount.items():
        runs = [run for run, _ in pairs]
        ids = tuple(run.run_id for run in runs)
        read, fitting = (
            Number(plain_number(amount), amount, Source(f"evaluation.test.{name}", ids))
            for amount, name in zip(amounts, _WINDOWS, strict=True)
        )
        of: Text = ()
        if len(by_amount) > 1 or len(runs) < len(material.runs):
            of = prose(" of {{labels}}", labels=material.labels(runs))
        tokens = material.setting("model.block_size", runs)
        sentences.append(_passage("test windows", of=of, read=read, all=fitting, tokens=tokens))
    return sentences


_WINDOWS = ("windows", "available_windows")


def _tested_windows(run: Run) -> tuple[int, ...] | None:
    """Return how many windows of the test text a run read, and how many there are; or None."""
    if dig(run.results, "final_metrics.test_loss") is None:
        return None
    amounts = [dig(run.results, f"evaluation.test.{name}") for name in _WINDOWS]
    known = tuple(amount for amount in amounts if isinstance(amount, int))
    return known if len(known) == len(_WINDOWS) else None


def _evaluated_sentence(
    material: Material, found: Evaluated | None, runs: Sequence[Run], of: Text
) -> Text:
    if found is None:
        return _passage("unknown windows", of=of)
    ids = tuple(run.run_id for run in runs)
    values: dict[str, Inline | Text] = {
        "of": of,
        "tokens": material.setting("model.block_size", runs),
        "all": Number(
            plain_number(found.all_windows),
            found.all_windows,
            Source("dataset.val_tokens", ids, formula=FITTING_WINDOWS),
        ),
    }
    if found.windows == found.all_windows:
        return _passage("all windows", noun=noun(found.all_windows, "window"), **values)
    share = 100 * found.share
    shown = f"{share:.1f}" if share >= 0.1 else f"{share:.2g}"
    metric = "training.eval_windows"
    return _passage(
        "some windows",
        read=Number(plain_number(found.windows), found.windows, Source(metric, ids)),
        share=Number(shown, share, Source(metric, ids, formula=READ_SHARE)),
        **values,
    )


def _data_table(material: Material, sets: Sequence[Sequence[Run]]) -> Table:
    """Return sizes and fingerprints, with a column for each text that runs saw."""

    def fingerprint(name: str, runs: Sequence[Run]) -> Text:
        return (Code(str(dig(runs[0].record, f"dataset.{name}") or DASH)[:16]),)

    has_test = any(dig(runs[0].record, "dataset.test_tokens") is not None for runs in sets)
    rows: list[tuple[Text, ...]] = [
        ((words,), *(material.fact(f"dataset.{name}", runs) for runs in sets))
        for name, words in read_list("setup", "sizes table").items()
        if has_test or not name.startswith("test_")
    ]
    rows += [
        ((words,), *(fingerprint(name, runs) for runs in sets))
        for name, words in read_list("setup", "fingerprints table").items()
        if has_test or not name.startswith("test_")
    ]
    titles = ["value"]
    notes: tuple[Text, ...] = ()
    if len(sets) > 1:
        titles = [f"text {i}" for i in range(1, len(sets) + 1)]
        notes = tuple(
            prose("Text {{i}}: {{labels}}.", i=str(i), labels=material.labels(runs))
            for i, runs in enumerate(sets, start=1)
        )
    tokenizers = dict.fromkeys(
        _class_name(run, "tokenizer").lower()
        for run in material.runs
        if "tokenizer._target_" in run.settings
    )
    return Table(
        "tab:data",
        _passage("data table", tokenizer=", ".join(tokenizers) or "unrecorded"),
        column_titles("Quantity", *titles),
        tuple(rows),
        "l" + "r" * len(sets),
        notes=notes,
    )


def _references(material: Material) -> list[Text]:
    """Return what simple models and the source itself reach, as far as it is recorded."""
    found = []
    for name in ("unigram", "entropy"):
        value = shared_value(
            material.runs,
            f"reference.{name}_bits_per_byte",
            partial(_reference, name=name),
            decimals=4,
        )
        if value != NOT_RECORDED:
            found.append(_passage(name, **{name: value}))
    return found


def _reference(run: Run, name: str) -> Any:
    return dig(run.results, f"reference.{name}_bits_per_byte")


def _corpus_citation(material: Material) -> Text:
    corpora = {str(run.record.get("dataset", {}).get("corpus")) for run in material.runs}
    return join_sentences(
        prose("TinyShakespeare comes from [@karpathy2015].") if "Shakespeare" in corpora else (),
        prose("FineWeb-Edu is described in [@penedo2024].") if "FineWebEdu" in corpora else (),
    )


def _class_name(run: Run, section: str) -> str:
    return str(run.settings.get(f"{section}._target_", "")).rpartition(".")[2]


def _training(material: Material) -> tuple[Block, ...]:
    schedules = group_by(material.runs, lambda run: _class_name(run, "schedule"))
    paragraphs = [
        Paragraph(_schedule(material, name, runs, alone=len(schedules) == 1))
        for name, runs in schedules.items()
        if has_passage("setup", f"schedule {name.lower()}")
    ]
    tokens = per_run(material.runs, "tokens_per_step", lambda run: run.tokens_per_step)
    if material.language_model_runs:
        step = _passage("step", tokens=tokens)
        paragraphs.append(Paragraph(join_sentences(step, _recipe(material))))
    rows = _settings_rows(material)
    if not rows:
        return (*paragraphs, Paragraph(_passage("no settings"), aside=True))
    table = Table(
        "tab:settings",
        prose("Settings. Where configurations differ, each value says whose it is."),
        column_titles("What", "setting", "value"),
        tuple(rows),
        "lll",
    )
    return (*paragraphs, table)


def _settings_rows(material: Material) -> list[tuple[Text, ...]]:
    """Return the usual settings, and those of training loops of the author's own."""
    usual = read_list("setup", "settings table")
    own = sorted({name for run in material.other_runs for name in run.settings})
    hidden = ("name", "seed")
    names = usual | {name: DASH for name in own[:_MAX_OWN] if name not in (*usual, *hidden)}
    return [
        ((words,), (Code(name),), _by_value(material, name))
        for name, words in names.items()
        if any(name in run.all_settings for run in material.runs)
    ]


def _schedule(material: Material, name: str, runs: Sequence[Run], *, alone: bool) -> Text:
    """Return the course of the learning rate in `runs`, which are all runs if `alone`."""
    warmups = {run.settings.get("schedule.warmup_steps") for run in runs}
    ratio = material.setting("schedule.min_ratio", runs)
    users = () if alone else prose(" This holds for {{labels}}.", labels=material.labels(runs))
    return _passage(
        "schedule",
        warmup=material.setting("schedule.warmup_steps", runs),
        noun=noun(1 if warmups == {1} else 2, "step"),
        course=_passage(f"schedule {name.lower()}", ratio=ratio),
        users=users,
    )


def _recipe(material: Material) -> Text:
    recipes = {
        value
        for run in material.runs
        for override in run.record.get("overrides") or ()
        for name, _, value in [str(override).lstrip("+").partition("=")]
        if name == "recipe"
    }
    if "nanogpt_cpu" in recipes:
        return prose("The budget is that of nanoGPT's recipe for a CPU [@karpathy2022].")
    return ()


def _by_value(material: Material, name: str) -> Text:
    """Return the value of a setting, or each value with the groups that have it."""
    with_setting = [run for run in material.runs if name in run.all_settings]
    by_value = group_by(with_setting, lambda run: json.dumps(run.all_settings[name], default=str))
    result: list[Inline] = []
    for runs in by_value.values():
        result += ["; "] if result else []
        is_null = runs[0].all_settings[name] is None
        result += [Code("null")] if is_null else material.setting(name, runs)
        result += [" (", *material.labels(runs), ")"] if len(by_value) > 1 else []
    return tuple(result)


def _machine(material: Material) -> Paragraph:
    has_gpu = any(dig(run.record, "hardware.gpu_available") for run in material.runs)
    hardware = _passage(
        "hardware",
        gpu=(*material.fact("hardware.gpu_model"), " with ") if has_gpu else (),
        cpu=material.fact("hardware.cpu_model"),
        cpus=material.fact("hardware.cpu_count"),
        threads=material.fact("hardware.torch_threads"),
    )
    commits = dict.fromkeys(
        str(c)[:8] for run in material.runs if (c := dig(run.record, "git.hash"))
    )
    software = _passage(
        "software",
        python=material.fact("packages.python"),
        torch=material.fact("packages.torch"),
        hydra=_passage("hydra") if material.language_model_runs else (),
        commit=code_list(commits) if commits else NOT_RECORDED,
        dirty=_dirty(material),
    )
    return Paragraph(join_sentences(hardware, software))


def _dirty(material: Material) -> Text:
    answers = [dig(run.record, "git.dirty") for run in material.runs]
    dirty = [run for run, answer in zip(material.runs, answers, strict=True) if answer]
    if dirty:
        return prose(
            "{{n}} {{noun}} had uncommitted changes, kept as a patch in the run",
            noun=noun(len(dirty), "run"),
            n=material.number_of(len(dirty), "runs with uncommitted changes", dirty),
        )
    if None in answers:
        return ("whether there were uncommitted changes is not known for all runs",)
    return ("there were no uncommitted changes",)
