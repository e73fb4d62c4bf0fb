"""The sections of results, costs and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from spectral_exp.core.wording import noun
from spectral_exp.results.compared import Difference, GroupSummary
from spectral_exp.results.document.model import (
    Block,
    Code,
    Heading,
    Number,
    Paragraph,
    Strong,
    Table,
    Text,
    code_list,
    column_titles,
    join_texts,
)
from spectral_exp.results.document.prose import prose
from spectral_exp.results.finding import Source
from spectral_exp.results.group import Group
from spectral_exp.results.paper.contributions import contributions
from spectral_exp.results.paper.evaluations import evaluations
from spectral_exp.results.paper.material import DASH, Material, plain_number
from spectral_exp.results.paper.passages import join_sentences, passage
from spectral_exp.results.paper.setup import per_run
from spectral_exp.results.times import compare_times
from spectral_exp.runs.metric_names import USE
from spectral_exp.runs.parts import PARTS

_QUANTITIES = (
    "parameters",
    "tokens",
    "steps",
    "wall-clock",
    "data",
    "tokenizer",
    "hardware",
    "code",
)

_USED_WORDS = {"cpu_s": "processors, s", "device_s": "device, s"}

_passage = partial(passage, "findings")


def results(material: Material) -> tuple[Block, ...]:
    """Return each configuration, the differences to the baseline, and the cost."""
    usable = [s for s in material.comparison.summaries if s.mean is not None]
    blocks: list[Block] = [Heading("Results")]
    if not usable:
        blocks.append(_no_data("no finished run has the metric {{metric}}", material))
        return tuple(blocks)
    blocks += [Paragraph(_leader(material, usable)), _means(material)]
    blocks += material.figures.get("values", ())
    blocks += [Heading("Differences to the baseline", 2), *_differences(material)]
    blocks += material.figures.get("differences", ())
    blocks += evaluations(material)
    blocks += [Heading("Cost", 2), *_cost(material)]
    blocks += material.figures.get("cost", ())
    return tuple(blocks)


def _leader(material: Material, usable: Sequence[GroupSummary]) -> Text:
    """Return which configuration has the most favourable mean, which is no claim of separation."""
    lower = material.comparison.lower_is_better is not False
    best = min(usable, key=lambda summary: (summary.mean or 0.0) * (1 if lower else -1))
    is_compared = any(d.kind == "baseline" for d in material.comparison.differences)
    return _passage(
        "leader of several" if is_compared else "leader",
        end="lowest" if lower else "highest",
        label=Code(best.group.label),
        mean=material.mean(best),
        interval=material.interval(best) if best.interval else "(no interval)",
    )


def _no_data(why: str, material: Material) -> Paragraph:
    reason = prose(why, metric=Code(material.comparison.metric))
    return Paragraph(passage("report", "no data", why=reason), aside=True)


def _means(material: Material) -> Table:
    # Below four runs the interquartile mean is the mean.
    with_iqm = any(summary.iqm is not None for summary in material.comparison.summaries)
    rows: list[tuple[Text, ...]] = [
        (
            (Code(summary.group.label),),
            material.count(summary),
            material.mean(summary),
            material.interval(summary),
            material.median(summary),
            *([material.iqm(summary)] if with_iqm else []),
            material.extremes(summary),
        )
        for summary in material.comparison.summaries
    ]
    iqm = ("IQM",) if with_iqm else ()
    few = [s for s in material.comparison.summaries if s.interval is None]
    notes: tuple[Text, ...] = ()
    if few:
        notes = (_passage("no mean interval", names=code_list(s.group.label for s in few)),)
    full = "interquartile mean (IQM; from four runs on, below it is the mean), "
    return Table(
        "tab:means",
        _passage(
            "means",
            iqm=full if with_iqm else "",
            metric=material.metric_words[:1].upper() + material.metric_words[1:],
            direction=material.comparison.direction_words.capitalize(),
        ),
        column_titles(
            "Configuration", "n", "mean", "95 % interval", "median", *iqm, "lowest, highest"
        ),
        tuple(rows),
        "lrrrrr" + "r" * len(iqm),
        notes=notes,
    )


def _differences(material: Material) -> tuple[Block, ...]:
    against = [d for d in material.comparison.differences if d.kind == "baseline"]
    if not against:
        return (_no_data("there is only one configuration with a usable {{metric}}", material),)
    base = against[0].a.group.label
    return (
        Paragraph(
            _passage(
                "differences",
                base=Code(base),
                default=", the baseline by default" if material.choices.baseline is None else "",
                reading=_reading(material, against),
            )
        ),
        _difference_table(
            material,
            against,
            "tab:differences",
            prose(
                "Difference to {{base}} in {{metric}}.",
                base=Code(base),
                metric=material.metric_words,
            ),
            ("Configuration",),
            [((Code(d.b.group.label),),) for d in against],
        ),
        *_fairness(material, against),
    )


def _reading(material: Material, differences: Sequence[Difference]) -> Text:
    """Return how many differences are better, worse and not separated."""
    separated = sum(d.separated for d in differences)
    better = sum(d.better is True for d in differences)
    worse, rest = separated - better, len(differences) - separated
    has_direction = material.comparison.lower_is_better is not None
    return _passage(
        "reading" if has_direction else "reading without direction",
        noun=noun(len(differences), "difference"),
        are=noun(better if has_direction else separated, "is", "are"),
        rest_are=noun(rest, "is", "are"),
        all=material.number_of(len(differences), "differences"),
        separated=material.number_of(separated, "differences separated"),
        better=material.number_of(better, "differences separated for the better"),
        worse=material.number_of(worse, "differences separated for the worse"),
        rest=material.number_of(rest, "differences not separated"),
    )


def _difference_table(
    material: Material,
    differences: Sequence[Difference],
    key: str,
    caption: Text,
    first: tuple[str, ...],
    names: Sequence[tuple[Text, ...]],
) -> Table:
    key_to_columns = (
        _passage("columns", m=material.tests)
        if material.tests.value
        else _passage("columns without tests")
    )
    rows = []
    for name, d in zip(names, differences, strict=True):
        mean = material.difference(d)
        cells: tuple[Text, ...] = (
            (*material.pairs(d), "" if d.paired else "*"),
            (Strong(mean),) if d.separated else mean,  # bold means separated, and nothing else
            material.difference_interval(d),
            material.probability(d),
            material.p_value(d),
            material.p_holm(d),
            (d.verdict if d.interval else "no test",),
        )
        rows.append((*name, *cells))
    unpaired: Text = ("* not paired by seed: the two groups are taken as independent.",)
    return Table(
        key,
        join_sentences(caption, key_to_columns),
        column_titles(*first, "n", "difference", "95 % interval", "P", "p", "p (Holm)", "verdict"),
        tuple(rows),
        "l" * len(first) + "rrrrrrl",
        notes=() if all(d.paired for d in differences) else (unpaired,),
    )


def _fairness(material: Material, differences: Sequence[Difference]) -> tuple[Block, ...]:
    """Return for each quantity whether the two sides match."""
    names = list(dict.fromkeys([*_QUANTITIES, *(name for d in differences for name in d.matches)]))
    names = [name for name in names if any(name in d.matches for d in differences)]
    if not names:
        return (_no_data("whether the two sides match was not checked", material),)
    sentences = []
    for answer, template in (
        (True, "All sides match in {}"),
        (False, "none match in {}"),
        (None, "{} is unknown"),
    ):
        same = [name for name in names if all(d.matches.get(name) is answer for d in differences)]
        names = [name for name in names if name not in same]
        sentences += [template.format(", ".join(same))] if same else []
    agree = "; ".join(sentences) or "No quantity matches everywhere"
    agree = agree[:1].upper() + agree[1:]
    if not names:
        return (Paragraph((f"{agree}.",)),)
    words: dict[bool | None, Text] = {True: ("yes",), False: (Strong(("no",)),), None: ("?",)}
    rows = [
        ((Code(d.b.group.label),), *(words[d.matches.get(name)] for name in names))
        for d in differences
    ]
    return (
        Paragraph(prose("{{agree}}; for the rest see [#tab:fairness].", agree=agree)),
        Table(
            "tab:fairness",
            _passage("fairness"),
            column_titles("Configuration", *names),
            tuple(rows),
            "l" + "l" * len(names),
        ),
    )


def _cost(material: Material) -> tuple[Block, ...]:
    baseline = next((g for g in material.groups if g.label == material.comparison.baseline), None)
    used = [name for name in USE if any(run.value(name) is not None for run in material.runs)]
    times = ["train_s", *used]
    rows = [
        (
            (Code(group.label),),
            per_run(group.runs, "n_parameters", lambda run: run.n_parameters),
            per_run(group.runs, "steps", lambda run: run.last_step or None),
            per_run(group.runs, "tokens", lambda run: _whole(run.value("tokens"))),
            *(
                material.average(group.runs, name, lambda x: plain_number(round(x)))
                for name in times
            ),
            material.average(group.runs, "tokens_per_s", lambda x: plain_number(round(x))),
            _ratio(group, baseline),
        )
        for group in material.groups
    ]
    against = f"time / {baseline.label}" if baseline else "time ratio"
    return (
        Paragraph(_passage("cost")),
        Table(
            "tab:cost",
            _passage("cost table"),
            column_titles(
                *("Configuration", "parameters", "steps", "tokens", "training, s"),
                *(_USED_WORDS[name] for name in used),
                *("tokens/s", against),
            ),
            tuple(rows),
            "lrrrrrr" + "r" * len(used),
        ),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _ratio(group: Group, baseline: Group | None) -> Text:
    """Return training time over the baseline's with its interval, marked ~ if not separated."""
    if baseline is None or group is baseline:
        return (DASH,)
    one, other = ([run for run in side.runs if run.finished] for side in (baseline, group))
    found = compare_times(one, other)
    if found is None:
        return (DASH,)
    ids = tuple(run.run_id for runs in found.runs for run in runs)

    def number(value: float, formula: str) -> Number:
        return Number(f"{value:.2f}", value, Source("train_s", ids, "final", formula))

    ratio = number(found.ratio, f"median of {group.label} over median of {baseline.label}")
    bounds: Text = ()
    if found.interval is not None:
        formula = f"bound of the 95 % interval of {group.label} over {baseline.label}"
        low, high = (number(x, formula) for x in (found.interval.low, found.interval.high))
        bounds = (" [", low, ",\u00a0", high, "]")
    return ("" if found.separated else "~", ratio, *bounds)


# --- ablations ----------------------------------------------------------------------------


def ablations(material: Material) -> tuple[Block, ...]:
    """Return the effects of changing one part only."""
    blocks: list[Block] = [Heading("Ablations")]
    found = [d for d in material.comparison.differences if d.kind == "ablation"]
    if not found:
        blocks.append(
            _no_data("no two configurations differ in exactly one part of the grid", material)
        )
        return (*blocks, *contributions(material))
    order = {part: i for i, part in enumerate(PARTS)}
    found.sort(key=lambda d: order.get(d.part or "", len(PARTS)))
    blocks.append(Paragraph(_passage("ablations", reading=_by_part(material, found))))
    names: list[tuple[Text, ...]] = [
        ((Code(d.a.group.label), " → ", Code(d.b.group.label)), (d.part or DASH,)) for d in found
    ]
    blocks.append(
        _difference_table(
            material,
            found,
            "tab:ablations",
            prose("Difference in {{metric}} when one part changes.", metric=material.metric_words),
            ("change", "part"),
            names,
        )
    )
    blocks += material.figures.get("ablations", ())
    blocks += contributions(material)
    return tuple(blocks)


def _by_part(material: Material, differences: Sequence[Difference]) -> Text:
    """Return for each part of the grid the effects of changing it."""
    sentences = []
    for part in dict.fromkeys(d.part for d in differences):
        of_part = [d for d in differences if d.part == part]
        separated = [d for d in of_part if d.separated]
        if not separated:
            name = "no effects" if len(of_part) > 1 else "no effect"
            n = material.number_of(len(of_part), f"ablations of the {part}")
            sentences.append(_passage(name, part=part or DASH, n=n))
            continue
        changes = [
            _passage(
                "effect",
                a=Code(d.a.group.label),
                b=Code(d.b.group.label),
                verdict={True: "helps", False: "hurts", None: "differs"}[d.better],
                mean=material.difference(d),
                interval=material.difference_interval(d),
                n=material.pairs(d),
            )
            for d in separated
        ]
        rest = len(of_part) - len(separated)
        sentences.append(
            _passage(
                "effects of several" if rest else "effects",
                part=part or DASH,
                changes=join_texts(changes, last=", "),
                n=material.number_of(rest, f"ablations of the {part}, not separated"),
            )
        )
    return tuple(run for sentence in sentences for run in (*sentence, " "))
