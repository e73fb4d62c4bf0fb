"""The experimental set-up: configurations, data, training, machine and code, as the runs recorded them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from spectral_exp.core.wording import noun
from spectral_exp.results.checks import Evaluated, evaluated
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
    join_texts,
)
from spectral_exp.results.document.prose import prose
from spectral_exp.results.document.trace import spans
from spectral_exp.results.paper.front import corpus_words
from spectral_exp.results.paper.material import NOT_RECORDED, Material, dig, plain_number, shared
from spectral_exp.results.paper.method import matched_to
from spectral_exp.runs.parts import PARTS
from spectral_exp.runs.run import Run

_SETTINGS = (
    ("model width C", "model.n_embd"),
    ("layers", "model.n_layer"),
    ("heads H", "model.n_head"),
    ("context length T", "model.block_size"),
    ("dropout", "model.dropout"),
    ("steps", "training.max_steps"),
    ("sequences per micro-batch", "training.batch_size"),
    ("micro-batches per step", "training.grad_accum_steps"),
    ("peak learning rate", "optimizer.learning_rate"),
    ("weight decay", "optimizer.weight_decay"),
    ("warm-up steps", "schedule.warmup_steps"),
    ("last over peak learning rate", "schedule.min_ratio"),
    ("gradient clipping (norm)", "training.grad_clip"),
    ("precision", "training.precision"),
    ("steps between validations", "training.eval_interval"),
    ("threads", "threads"),
)

_SCHEDULES = {
    "Constant": "then stays at its peak",
    "Linear": "then falls along a straight line to {{ratio}} of its peak",
    "Cosine": "then falls along half a cosine wave [@loshchilov2017] to {{ratio}} of its peak",
    "WarmupStableDecay": "then stays at its peak and at the end falls along a straight line to {{ratio}} [@hu2024]",
}


def setup(material: Material) -> tuple[Block, ...]:
    """The whole section."""
    return (
        Heading("Experimental set-up"),
        Heading("Configurations", 2),
        *_configurations(material),
        Heading("Data and metric", 2),
        *_data(material),
        Heading("Training", 2),
        *_training(material),
        Heading("Machine and code", 2),
        *_machine(material),
    )


def _configurations(material: Material) -> tuple[Block, ...]:
    header: list[Text] = [("Configuration",), *((part,) for part in PARTS), ("parameters",), ("seeds",)]
    rows = []
    for group in material.groups:
        runs = group.runs
        parts: list[Text] = [
            (", ".join(dict.fromkeys(run.parts[part] for run in runs if part in run.parts)) or "\u2013",)
            for part in PARTS
        ]
        seeds = spans(run.seed for run in runs if run.seed is not None) or "\u2013"
        sizes = per_run(runs, "n_parameters", lambda run: run.n_parameters)
        rows.append(((Code(group.label),), *parts, sizes, (seeds,)))
    blocks: list[Block] = [
        Table(
            "tab:configurations",
            prose("The configurations, one point of the grid each. Parameters are the trainable ones."),
            tuple(header),
            tuple(rows),
            "l" * (1 + len(PARTS)) + "rl",
        )
    ]
    matched = [run for run in material.runs if matched_to(run)]
    if matched:
        blocks.append(
            Paragraph(
                prose(
                    "By the setting `match`, model width and hidden layer of {{labels}} were adjusted so that the "
                    "number of parameters is within 1 % of that of {{stack}}.",
                    labels=material.labels(matched),
                    stack=join_texts([(Code(name),) for name in sorted({matched_to(run) for run in matched})]),
                )
            )
        )
    return tuple(blocks)


def per_run(runs: Sequence[Run], metric: str, read: Callable[[Run], Any]) -> Text:
    """A whole number that runs share, or its range, or a dash."""
    found = {run.run_id: value for run in runs if (value := read(run)) is not None}
    if not found:
        return ("\u2013",)
    low, high = min(found.values()), max(found.values())
    source = Source(metric, tuple(found), formula="of each run")
    first: list[Inline] = [Number(plain_number(low), low, source)]
    return tuple(first if low == high else [*first, "\u2013", Number(plain_number(high), high, source)])


def _data(material: Material) -> tuple[Block, ...]:
    by_print: dict[str, list[Run]] = {}
    for run in material.runs:
        dataset = run.record.get("dataset")
        if dataset:
            prints = [dig(dataset, name) for name in ("corpus_sha256", "train_sha256", "val_sha256", "tokenizer")]
            by_print.setdefault(json.dumps(prints), []).append(run)
    if not by_print:
        return (Paragraph(prose("No run recorded what text it was trained on."), aside=True),)
    one = len(by_print) == 1
    intro = prose(
        "Training text is {{corpus}}. {{match}} Validation text is held out and shares no position with the training "
        "text.",
        corpus=corpus_words(material),
        match=prose(
            "Its fingerprints are in [#tab:data]."
            if len(material.runs) == 1
            else "All runs that recorded it have the same fingerprints ([#tab:data])."
            if one
            else "The runs do **not** all have the same fingerprints ([#tab:data]); their figures must not be compared."
        ),
    )
    citation = _corpus_citation(material)
    return (
        Paragraph((*intro, *citation)),
        _data_table(material, list(by_print.values())),
        Paragraph(
            (
                *_evaluated_text(material),
                *prose(
                    " A validation measures the plain cross-entropy over these windows, in nats per token, and gives "
                    "it in bits per byte,"
                ),
            )
        ),
        Equation(
            r"\mathrm{bpb} = \frac{L_{\mathrm{CE}}}{\ln 2} \cdot \frac{\mathrm{tokens}}{\mathrm{bytes}},", "eq:bpb"
        ),
        Paragraph((*prose("which does not depend on the tokenizer."), *_references(material))),
    )


def _evaluated_text(material: Material) -> Text:
    """How much of the validation text was read, for all runs or by the configurations that differ."""
    by_amount: dict[tuple[Evaluated | None, Any], list[Run]] = {}
    for run in material.runs:
        by_amount.setdefault((evaluated(run), run.settings.get("model.block_size")), []).append(run)
    sentences = []
    for (found, _), runs in by_amount.items():
        of_whom: Text = prose(" of {{labels}}", labels=material.labels(runs)) if len(by_amount) > 1 else ()
        sentences.append(_evaluated_sentence(material, found, runs, of_whom))
    return join_texts(sentences, " ", " ")


def _evaluated_sentence(material: Material, found: Evaluated | None, runs: Sequence[Run], of_whom: Text) -> Text:
    if found is None:
        return prose("How much of the validation text a validation{{of}} reads was not recorded.", of=of_whom)
    ids = tuple(run.run_id for run in runs)
    source = Source("dataset.val_tokens", ids, formula=FITTING_WINDOWS)
    fitting = Number(plain_number(found.all_windows), found.all_windows, source)
    tokens = material.setting("model.block_size", runs)
    if found.windows == found.all_windows:
        return prose(
            "A validation{{of}} reads all of its text that fits into windows of {{tokens}} tokens without overlap, "
            "{{all}} {{noun}}.",
            of=of_whom,
            tokens=tokens,
            all=fitting,
            noun=noun(found.all_windows, "window"),
        )
    share = 100 * found.share
    shown = f"{share:.1f}" if share >= 0.1 else f"{share:.2g}"
    return prose(
        "A validation{{of}} reads {{read}} of the {{all}} windows of {{tokens}} tokens that fit into the validation "
        "text without overlap, evenly spread over it: {{share}} % of the text.",
        of=of_whom,
        read=Number(plain_number(found.windows), found.windows, Source("training.eval_windows", ids)),
        all=fitting,
        tokens=tokens,
        share=Number(
            shown,
            share,
            Source("training.eval_windows", ids, formula=READ_SHARE),
        ),
    )


FITTING_WINDOWS = "windows without overlap that fit into the validation text"
READ_SHARE = "share of the validation text's tokens that are predicted, in per cent"
"""Formulas of numbers."""


def _data_table(material: Material, sets: Sequence[Sequence[Run]]) -> Table:
    """Sizes and fingerprints; a column for each of `sets`, the runs that saw one text."""
    rows: list[tuple[Text, ...]] = []
    names = (
        ("training text, bytes", "train_bytes"),
        ("training text, tokens", "train_tokens"),
        ("validation text, bytes", "val_bytes"),
        ("validation text, tokens", "val_tokens"),
        ("vocabulary", "vocab_size"),
    )
    fingerprints = (
        ("SHA-256 of the text", "corpus_sha256"),
        ("SHA-256 of the training ids", "train_sha256"),
        ("SHA-256 of the validation ids", "val_sha256"),
        ("fingerprint of the tokenizer", "tokenizer"),
    )
    for words, name in names:
        rows.append(((words,), *(material.fact(f"dataset.{name}", runs) for runs in sets)))
    for words, name in fingerprints:
        rows.append(
            ((words,), *((Code(str(dig(runs[0].record, f"dataset.{name}") or "\u2013")[:16]),) for runs in sets))
        )
    tokenizer = _class_words(material, "tokenizer._target_")
    header: list[Text] = [("Quantity",)]
    header += [("value",)] if len(sets) == 1 else [(f"text {i}",) for i in range(1, len(sets) + 1)]
    notes = (
        ()
        if len(sets) == 1
        else tuple(
            prose("Text {{i}}: {{labels}}.", i=str(i), labels=material.labels(runs))
            for i, runs in enumerate(sets, start=1)
        )
    )
    return Table(
        "tab:data",
        prose(
            "The text and its tokens ({{tokenizer}} tokenizer). Fingerprints are cut to 16 digits.",
            tokenizer=tokenizer,
        ),
        tuple(header),
        tuple(rows),
        "l" + "r" * len(sets),
        notes=notes,
    )


def _references(material: Material) -> Text:
    unigram = _reference(material, "reference.unigram_bits_per_byte")
    entropy = _reference(material, "reference.entropy_bits_per_byte")
    parts: Text = ()
    if unigram != NOT_RECORDED:
        parts += prose(
            " A model that knows the byte frequencies alone reaches {{unigram}} bits per byte.", unigram=unigram
        )
    if entropy != NOT_RECORDED:
        parts += prose(
            " The entropy rate of the source is {{entropy}} bits per byte: no honest model can be below it.",
            entropy=entropy,
        )
    return parts


def _reference(material: Material, path: str) -> Text:
    return shared(material.runs, path, lambda run: dig(run.results, path), decimals=4)


def _corpus_citation(material: Material) -> Text:
    corpora = {str(run.record.get("dataset", {}).get("corpus")) for run in material.runs}
    text: Text = ()
    if "Shakespeare" in corpora:
        text += prose(" TinyShakespeare comes from [@karpathy2015].")
    if "FineWebEdu" in corpora:
        text += prose(" FineWeb-Edu is described in [@penedo2024].")
    return text


def _class_words(material: Material, setting: str) -> Text:
    names = dict.fromkeys(
        str(run.settings[setting]).rpartition(".")[2].lower() for run in material.runs if setting in run.settings
    )
    return (", ".join(names) or "unrecorded",)


def _training(material: Material) -> tuple[Block, ...]:
    blocks: list[Block] = []
    schedules = dict.fromkeys(
        str(run.settings.get("schedule._target_", "")).rpartition(".")[2] for run in material.runs
    )
    for name in schedules:
        runs = [r for r in material.runs if str(r.settings.get("schedule._target_", "")).rpartition(".")[2] == name]
        if name in _SCHEDULES:
            template = "The learning rate grows linearly over {{warmup}} {{noun}}, " + _SCHEDULES[name] + "."
            if len(schedules) > 1:
                template += " This holds for {{labels}}."
            blocks.append(
                Paragraph(
                    prose(
                        template,
                        warmup=material.setting("schedule.warmup_steps", runs),
                        noun=noun(
                            1 if {run.settings.get("schedule.warmup_steps") for run in runs} == {1} else 2, "step"
                        ),
                        ratio=material.setting("schedule.min_ratio", runs),
                        labels=material.labels(runs),
                    )
                )
            )
    tokens = per_run(material.runs, "tokens_per_step", lambda run: run.tokens_per_step)
    recipe = _recipe(material)
    blocks.append(
        Paragraph(
            (
                *prose(
                    "One step takes {{tokens}} tokens. Batches and all random draws of a step are functions of the "
                    "seed and the step alone, so runs of one seed see the same batches where batch and context sizes "
                    "agree. All settings are in [#tab:settings].",
                    tokens=tokens,
                ),
                *recipe,
            )
        )
    )
    rows = []
    for words, name in _SETTINGS:
        if any(name in run.settings for run in material.runs):
            rows.append(((words,), (Code(name),), _by_value(material, name)))
    blocks.append(
        Table(
            "tab:settings",
            prose("Settings. Where configurations differ, each value says whose it is."),
            (("What",), ("setting",), ("value",)),
            tuple(rows),
            "lll",
        )
    )
    return tuple(blocks)


def _recipe(material: Material) -> Text:
    names = {
        value
        for run in material.runs
        for override in run.record.get("overrides") or ()
        for name, _, value in [str(override).lstrip("+").partition("=")]
        if name == "recipe"
    }
    if "nanogpt_cpu" in names:
        return prose(" The budget is that of nanoGPT's recipe for a CPU [@karpathy2022].")
    return ()


def _by_value(material: Material, name: str) -> Text:
    """One value for all, or each with the groups that have it."""
    by_value: dict[str, list[Run]] = {}
    for run in material.runs:
        if name in run.settings:
            by_value.setdefault(json.dumps(run.settings[name], default=str), []).append(run)
    result: list[Inline] = []
    for i, runs in enumerate(by_value.values()):
        if i:
            result.append("; ")
        value = material.setting(name, runs)
        result += [Code("null")] if runs[0].settings[name] is None else value
        if len(by_value) > 1:
            result += [" (", *material.labels(runs), ")"]
    return tuple(result)


def _machine(material: Material) -> tuple[Block, ...]:
    runs = material.runs
    gpu = any(dig(run.record, "hardware.gpu_available") for run in runs)
    hardware = prose(
        "Hardware: {{gpu}}{{cpu}}; processors: {{cpus}}, threads of PyTorch: {{threads}}.",
        gpu=(*material.fact("hardware.gpu_model"), " with ") if gpu else (),
        cpu=material.fact("hardware.cpu_model"),
        cpus=material.fact("hardware.cpu_count"),
        threads=material.fact("hardware.torch_threads"),
    )
    code = prose(
        " Software: Python {{python}}, PyTorch {{torch}} [@paszke2019], configured through Hydra [@yadan2019]. The "
        "code is at commit {{commit}}; {{dirty}}.",
        python=material.fact("packages.python"),
        torch=material.fact("packages.torch"),
        commit=_commits(material),
        dirty=_dirty(material),
    )
    return (Paragraph((*hardware, *code)),)


def _commits(material: Material) -> Text:
    commits = dict.fromkeys(str(c)[:8] for run in material.runs if (c := dig(run.record, "git.hash")))
    return join_texts([(Code(commit),) for commit in commits]) if commits else NOT_RECORDED


def _dirty(material: Material) -> Text:
    dirty = [run for run in material.runs if dig(run.record, "git.dirty")]
    unknown = [run for run in material.runs if dig(run.record, "git.dirty") is None]
    if dirty:
        return prose(
            "{{n}} {{noun}} had uncommitted changes, kept as a patch in the run",
            noun=noun(len(dirty), "run"),
            n=material.counted(len(dirty), "runs with uncommitted changes", dirty),
        )
    return (
        ("whether there were uncommitted changes is not known for all runs",)
        if unknown
        else ("there were no uncommitted changes",)
    )
