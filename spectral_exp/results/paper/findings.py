"""Results, ablations, statistics and limitations: what the comparison says, and how far it can be trusted."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from spectral_exp.results.comparison import Difference, GroupSummary
from spectral_exp.results.group import Group
from spectral_exp.results.paper.document import (
    Block,
    Code,
    Figure,
    Heading,
    Inline,
    Listing,
    Number,
    Paragraph,
    Source,
    Strong,
    Table,
    Text,
    joined,
)
from spectral_exp.results.paper.material import Material, plain_number
from spectral_exp.results.paper.prose import prose
from spectral_exp.results.paper.setup import per_run
from spectral_exp.results.run import Run
from spectral_exp.results.settings import PARTS

_NO_DATA = "There is no data for this section: {{why}}."
_QUANTITIES = ("parameters", "tokens", "steps", "wall-clock", "data", "tokenizer", "hardware", "code")


def results(material: Material) -> tuple[Block, ...]:
    """Each configuration, and the differences to the baseline."""
    usable = [s for s in material.comparison.summaries if s.mean is not None]
    blocks: list[Block] = [Heading("Results")]
    if not usable:
        blocks.append(_nothing("no finished run has the metric {{metric}}", material))
        return tuple(blocks)
    blocks += [Paragraph(_leader(material, usable)), _means(material)]
    blocks += [figure for figure in material.figures if _section(figure) == "results"]
    blocks += [Heading("Differences to the baseline", 2), *_differences(material)]
    blocks += [figure for figure in material.figures if _section(figure) == "differences"]
    blocks += [Heading("Cost", 2), *_cost(material)]
    blocks += [figure for figure in material.figures if _section(figure) == "cost"]
    return tuple(blocks)


def _leader(material: Material, usable: Sequence[GroupSummary]) -> Text:
    """Which configuration has the most favourable mean: no claim that it is separated from the next."""
    sign = 1.0 if material.comparison.lower_is_better else -1.0
    best = min(usable, key=lambda summary: sign * (summary.mean or 0.0))
    return prose(
        "[#tab:means] gives each configuration. The {{end}} mean is that of {{label}}, {{mean}} {{interval}}; a mean "
        "alone says nothing about which differences are more than chance, for which see [#tab:differences]."
        if any(d.kind == "baseline" for d in material.comparison.differences)
        else "[#tab:means] gives each configuration. The {{end}} mean is that of {{label}}, {{mean}} {{interval}}.",
        end="lowest" if material.comparison.lower_is_better else "highest",
        label=Code(best.group.label),
        mean=material.mean(best),
        interval=material.interval(best) if best.interval else "(no interval)",
    )


def _nothing(why: str, material: Material) -> Paragraph:
    reason = prose(why, metric=Code(material.comparison.metric))
    return Paragraph(prose(_NO_DATA, why=reason), aside=True)


def _section(figure: Figure) -> str:
    """Where a figure belongs."""
    sections = {"ablation": "ablations", "baseline_differences": "differences", "train_s": "cost"}
    return next((section for words, section in sections.items() if words in figure.key), "results")


def _means(material: Material) -> Table:
    rows = []
    for summary in material.comparison.summaries:
        rows.append(
            (
                (Code(summary.group.label),),
                material.count(summary),
                material.mean(summary),
                material.interval(summary),
                material.median(summary),
                material.iqm(summary),
                _spread(material, summary.values, material.ids(summary)),
            )
        )
    few = [s for s in material.comparison.summaries if s.interval is None]
    notes: tuple[Text, ...] = ()
    if few:
        names = joined([(Code(s.group.label),) for s in few])
        notes = (prose("No interval is given for {{names}}: there are fewer than three usable runs.", names=names),)
    return Table(
        "tab:means",
        prose(
            "{{metric}} of each configuration: mean over seeds with 95 % interval, median, interquartile mean (IQM), "
            "and lowest and highest run. {{direction}} is better.",
            metric=material.metric_words[:1].upper() + material.metric_words[1:],
            direction="Lower" if material.comparison.lower_is_better else "Higher",
        ),
        (("Configuration",), ("n",), ("mean",), ("95 % interval",), ("median",), ("IQM",), ("lowest, highest",)),
        tuple(rows),
        "lrrrrrr",
        notes=notes,
    )


def _spread(material: Material, values: Sequence[float], ids: tuple[str, ...]) -> Text:
    if not values:
        return ("\u2013",)
    bounds = []
    for value, formula in ((min(values), "lowest of the runs"), (max(values), "highest of the runs")):
        source = Source(material.comparison.metric, ids, material.comparison.at, formula)
        bounds.append(Number(f"{value:.{material.decimals}f}", value, source))
    return (bounds[0], ", ", bounds[1])


def _differences(material: Material) -> tuple[Block, ...]:
    against = [d for d in material.comparison.differences if d.kind == "baseline"]
    if not against:
        return (_nothing("there is only one configuration with a usable {{metric}}", material),)
    base = against[0].a.group.label
    return (
        Paragraph(
            prose(
                "[#tab:differences] holds every configuration against {{base}}. {{reading}}",
                base=Code(base),
                reading=_reading(material, against),
            )
        ),
        _difference_table(
            material,
            against,
            "tab:differences",
            prose("Difference to {{base}} in {{metric}}.", base=Code(base), metric=material.metric_words),
            (("Configuration",),),
            [((Code(d.b.group.label),),) for d in against],
        ),
        *_fairness(material, against),
    )


def _reading(material: Material, differences: Sequence[Difference]) -> Text:
    """How many are better, worse and not separated."""
    better = sum(d.separated and d.better for d in differences)
    worse = sum(d.separated and not d.better for d in differences)
    rest = len(differences) - better - worse
    return prose(
        "Of {{all}} differences {{better}} are separated for the better, {{worse}} for the worse, and {{rest}} are "
        "not separated.",
        all=material.counted(len(differences), "differences"),
        better=material.counted(better, "differences separated for the better"),
        worse=material.counted(worse, "differences separated for the worse"),
        rest=material.counted(rest, "differences not separated"),
    )


def _difference_table(
    material: Material,
    differences: Sequence[Difference],
    key: str,
    caption: Text,
    first: tuple[Text, ...],
    names: Sequence[tuple[Text, ...]],
) -> Table:
    rows: list[tuple[Text, ...]] = []
    for name, d in zip(names, differences, strict=True):
        mean = material.difference(d)
        verdict = ("better" if d.better else "worse") if d.separated else "not separated" if d.interval else "no test"
        # Bold says separated, and nothing else.
        shown: Text = (Strong(mean),) if d.separated else mean
        rows.append(
            (
                *name,
                (*material.pairs(d), "" if d.paired else "*"),
                shown,
                material.difference_interval(d),
                material.probability(d),
                material.p_value(d),
                material.p_holm(d),
                (verdict,),
            )
        )
    notes: list[Text] = []
    if not all(d.paired for d in differences):
        notes.append(("* not paired by seed: the two groups are taken as independent.",))
    return Table(
        key,
        (
            *caption,
            *_key_to_columns(material),
        ),
        (*first, ("n",), ("difference",), ("95 % interval",), ("P",), ("p",), ("p (Holm)",), ("verdict",)),
        tuple(rows),
        "l" * len(first) + "rrrrrrl",
        notes=tuple(notes),
    )


def _key_to_columns(material: Material) -> Text:
    text = prose(
        " n: pairs of equal seed; P: probability that a run of the second is better than one of the first; p: before "
        "and after Holm's correction over all comparisons ({{m}}). Bold: separated.",
        m=material.tests,
    )
    return (
        text
        if material.tests.value
        else (" n: runs; P: as in the text. No difference has the runs that a test needs.",)
    )


def _fairness(material: Material, differences: Sequence[Difference]) -> tuple[Block, ...]:
    """What matches between the two sides, quantity by quantity."""
    names = list(dict.fromkeys([*_QUANTITIES, *(name for d in differences for name in d.matches)]))
    names = [name for name in names if any(name in d.matches for d in differences)]
    if not names:
        return (_nothing("whether the two sides match was not checked", material),)
    told = []
    for answer, template in (
        (True, "All sides match in {}"),
        (False, "none match in {}"),
        (None, "{} could not be told"),
    ):
        same = [name for name in names if all(d.matches.get(name) is answer for d in differences)]
        names = [name for name in names if name not in same]
        told += [template.format(", ".join(same))] if same else []
    agree = "; ".join(told) or "No quantity matches everywhere"
    agree = agree[:1].upper() + agree[1:]
    if not names:
        return (Paragraph((f"{agree}.",)),)
    words = {True: "yes", False: "no", None: "?"}
    rows = []
    for d in differences:
        cells: list[Text] = [(words[d.matches.get(name)],) for name in names]
        rows.append(((Code(d.b.group.label),), *((Strong(c),) if c == ("no",) else c for c in cells)))
    return (
        Paragraph(prose("{{agree}}; for the rest see [#tab:fairness].", agree=agree)),
        Table(
            "tab:fairness",
            prose(
                "Whether the two sides of each difference match in what a fair comparison holds equal; ?: not known. "
                "The limitations give the values."
            ),
            (("Configuration",), *((name,) for name in names)),
            tuple(rows),
            "l" + "l" * len(names),
        ),
    )


def _cost(material: Material) -> tuple[Block, ...]:
    baseline = next((g for g in material.groups if g.label == material.comparison.baseline), None)
    rows = []
    for group in material.groups:
        rows.append(
            (
                (Code(group.label),),
                per_run(group.runs, "n_parameters", lambda run: run.n_parameters),
                per_run(group.runs, "steps", lambda run: run.last_step or None),
                per_run(group.runs, "tokens", lambda run: _whole(run.value("tokens"))),
                material.average(group.runs, "train_s", lambda x: plain_number(round(x))),
                material.average(group.runs, "tokens_per_s", lambda x: plain_number(round(x))),
                _ratio(group, baseline),
            )
        )
    against = f"time / {baseline.label}" if baseline else "time ratio"
    return (
        Paragraph(
            prose(
                "[#tab:cost] gives what the runs cost. Times are those of training alone, without validation, plots "
                "and checkpoints; they are comparable only between runs of one machine under one load."
            )
        ),
        Table(
            "tab:cost",
            prose(
                "Size and cost; times and speeds are means over the runs, the speed of a run is the median over its "
                "steps."
            ),
            (
                ("Configuration",),
                ("parameters",),
                ("steps",),
                ("tokens",),
                ("training, s",),
                ("tokens/s",),
                (against,),
            ),
            tuple(rows),
            "lrrrrrr",
        ),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _ratio(group: Group, baseline: Group | None) -> Text:
    """Mean training time over the baseline's, where all runs of both are finished."""
    if baseline is None:
        return ("\u2013",)
    times = []
    for runs in (group.runs, baseline.runs):
        found = [seconds for run in runs if run.finished and (seconds := run.train_s) is not None]
        if not found:
            return ("\u2013",)
        times.append(statistics.fmean(found))
    ratio = times[0] / times[1]
    ids = tuple(run.run_id for run in (*group.runs, *baseline.runs) if run.finished)
    formula = f"mean of {group.label} over mean of {baseline.label}"
    return (Number(f"{ratio:.2f}", ratio, Source("train_s", ids, "final", formula)),)


# --- ablations -------------------------------------------------------------------------------------------------------


def ablations(material: Material) -> tuple[Block, ...]:
    """What changing one part alone does."""
    blocks: list[Block] = [Heading("Ablations")]
    found = [d for d in material.comparison.differences if d.kind == "ablation"]
    if not found:
        blocks.append(_nothing("no two configurations differ in exactly one part of the grid", material))
        return tuple(blocks)
    order = {part: i for i, part in enumerate(PARTS)}
    found.sort(key=lambda d: order.get(d.part or "", len(PARTS)))
    blocks.append(
        Paragraph(
            prose(
                "[#tab:ablations] compares configurations that differ in one part alone. {{reading}}",
                reading=tuple(run for text in _by_part(material, found) for run in text),
            )
        )
    )
    names: list[tuple[Text, ...]] = [
        ((Code(d.a.group.label), " → ", Code(d.b.group.label)), (d.part or "\u2013",)) for d in found
    ]
    blocks.append(
        _difference_table(
            material,
            found,
            "tab:ablations",
            prose("Difference in {{metric}} when one part changes.", metric=material.metric_words),
            (("change",), ("part",)),
            names,
        )
    )
    blocks += [figure for figure in material.figures if _section(figure) == "ablations"]
    return tuple(blocks)


def _by_part(material: Material, differences: Sequence[Difference]) -> list[Text]:
    sentences = []
    for part in dict.fromkeys(d.part for d in differences):
        of_part = [d for d in differences if d.part == part]
        separated = [d for d in of_part if d.separated]
        if not separated:
            template = "For the {{part}}, none of {{n}} changes is separated. "
            n = material.counted(len(of_part), f"ablations of the {part}")
            sentences.append(prose(template, part=part or "\u2013", n=n))
            continue
        changes = [
            prose(
                "{{a}} → {{b}} {{verdict}} ({{mean}} {{interval}}, n\u00a0=\u00a0{{n}})",
                a=Code(d.a.group.label),
                b=Code(d.b.group.label),
                verdict="helps" if d.better else "hurts",
                mean=material.difference(d),
                interval=material.difference_interval(d),
                n=material.pairs(d),
            )
            for d in separated
        ]
        rest = len(of_part) - len(separated)
        tail: Text = (
            prose("; not separated: {{n}} more", n=material.counted(rest, f"ablations of the {part}, not separated"))
            if rest
            else ()
        )
        template = "For the {{part}}: {{changes}}{{tail}}. "
        sentences.append(prose(template, part=part or "\u2013", changes=joined(changes, last=", "), tail=tail))
    return sentences


# --- statistics and limitations --------------------------------------------------------------------------------------


def methods_of_statistics(material: Material) -> tuple[Block, ...]:
    """Which intervals and tests were used, and why."""
    comparison = material.comparison
    chosen = {
        "final": "the last value of each run",
        "best": "the most favourable validation of each run, which flatters every configuration, the more the more "
        "validations it has",
    }.get(comparison.at, f"the last value at or before step {comparison.at.removeprefix('step:')}")
    items: list[Text] = [
        prose("A run counts with one number: {{chosen}}. Runs that did not finish do not count.", chosen=chosen),
        prose(
            "The interval of a mean is a stratified bootstrap [@efron1993; @agarwal2021] over the runs of a "
            "configuration. Percentile intervals are too narrow for few runs [@hesterberg2015]; the distances of its "
            "percentiles from the mean are therefore widened by $\\sqrt{n/(n-1)}$ and by the ratio of Student's "
            "quantile to the normal one."
        ),
        prose("With fewer than three runs there is neither an interval nor a p value."),
    ]
    paired = [d for d in comparison.differences if d.paired]
    unpaired = [d for d in comparison.differences if not d.paired]
    if paired:
        items.append(
            prose(
                "Differences are taken seed by seed where both sides have the same seeds; their interval is that of a "
                "mean, their p value that of the two-sided paired t-test [@student1908]."
            )
        )
    if unpaired:
        items.append(
            prose("Where seeds do not agree, the groups count as independent, with Welch's t-test [@welch1947].")
        )
    if any(d.p_value is not None for d in comparison.differences):
        items += [
            prose(
                "The probability of improvement is the share of all pairs of runs, one of each side, in which the "
                "second is better; ties count half [@mann1947; @agarwal2021]."
            ),
            prose(
                "p values are corrected by Holm's method [@holm1979] over all {{m}} pairs of configurations that this "
                "paper compares. A difference is called separated if the corrected p is below 0.05 and its interval "
                "excludes zero.",
                m=material.tests,
            ),
        ]
    return (Heading("Statistics"), Listing(tuple(items)))


def limitations(material: Material) -> tuple[Block, ...]:
    """What the checks found, and what the set-up cannot tell."""
    comparison = material.comparison
    items: list[Text] = [
        checked(sentence(note), "checks of the whole", material.runs)
        for note in comparison.notes
        if not note.startswith(_TOLD)
    ]
    notes: dict[str, list[Group]] = {}
    for summary in comparison.summaries:
        for note in summary.notes:
            if not note.startswith(_TOLD):
                notes.setdefault(note, []).append(summary.group)
    for note, groups in notes.items():
        runs = [run for group in groups for run in group.runs]
        names = joined([(Code(group.label),) for group in groups])
        items.append((*names, ": ", *checked(sentence(note, capital=False), "checks of the group", runs)))
    items += _mismatches(comparison.differences)
    for summary in comparison.summaries:
        by_id = {run.run_id: run for run in summary.group.runs}
        for run_id, reason in summary.left_out:
            words = checked(sentence(reason, capital=False), "checks of the run", [by_id[run_id]])
            items.append((Code(run_id), " does not count: ", *words))
    items += [
        (Code(name), " could not be used: ", sentence(reason, capital=False)) for name, reason in material.left_out
    ]
    items += _scope(material)
    return (Heading("Limitations"), Listing(tuple(items)))


# What the tables and the section on statistics say already.
_TOLD = ("p-values are corrected", "no interval and no test", "no interval: 0", "no interval: 1", "no interval: 2")


def _mismatches(differences: Sequence[Difference]) -> list[Text]:
    """The warnings of all differences, those of a kind together; a pair that is shown twice warns once."""
    kinds: dict[str, dict[tuple[str, str], Text]] = {}
    for d in differences:
        for warning in d.warnings:
            if not warning.startswith(_TOLD):
                kind, colon, values = warning.partition(": ")
                pair = sorted((d.a.group.label, d.b.group.label))
                runs = [*d.a.group.runs, *d.b.group.runs]
                words = checked(f": {values}", "checks of the comparison", runs) if colon else ()
                between = (Code(d.a.group.label), " and ", Code(d.b.group.label))
                kinds.setdefault(kind, {}).setdefault((pair[0], pair[1]), (*between, *words))
    items = []
    for kind, pairs in kinds.items():
        if kind.startswith("wall-clock"):  # the table of costs has the values
            items.append(_slower(kind, list(pairs)))
            continue
        shown = list(pairs.values())
        parts: list[Inline] = [f"{sentence(kind)} "]
        for i, words in enumerate(shown):
            parts += [*(["; "] if i else []), *words]
        items.append((*parts, "."))
    return items


def _slower(kind: str, pairs: Sequence[tuple[str, str]]) -> Text:
    """Pairs of configurations, each first one with all its seconds."""
    firsts: dict[str, list[str]] = {}
    for a, b in pairs:
        firsts.setdefault(a, []).append(b)
    parts = [
        prose("{{a}} against {{b}}", a=Code(a), b=joined([(Code(b),) for b in others])) for a, others in firsts.items()
    ]
    return prose(
        "{{what}} [#tab:cost] has the values. This concerns {{pairs}}.",
        what=sentence(kind),
        pairs=joined(parts, "; ", "; "),
    )


_FIGURE = re.compile(r"(?<![\w.])[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?(?![\w])")


def checked(words: str, what: str, runs: Sequence[Run]) -> Text:
    """The words of a check, whose numbers come from `runs`."""
    return traced(words, Source(what, tuple(run.run_id for run in runs), formula="as the check says"))


def traced(words: str, source: Source) -> Text:
    """Words that were written elsewhere, with a source for the numbers in them."""
    result: list[Inline] = []
    end = 0
    for match in _FIGURE.finditer(words):
        value = match[0].replace(",", "")
        shown = plain_number(int(value)) if value.isdecimal() else value
        result += [words[end : match.start()], Number(shown, value, source)]
        end = match.end()
    return (*result, words[end:])


def sentence(words: str, capital: bool = True) -> str:
    """Words of a check as a sentence."""
    words = words.strip().rstrip(".")
    return (words[:1].upper() + words[1:] if capital else words) + "."


def _scope(material: Material) -> list[Text]:
    """How far the set-up reaches: texts, sizes, learning rates."""
    items: list[Text] = []
    texts = {str(run.record.get("dataset", {}).get("corpus_sha256")) for run in material.runs}
    finished = [run for run in material.runs if run.finished]
    steps = per_run(finished, "steps", lambda run: run.last_step or None)
    if finished and len(texts) == 1:
        items.append(
            prose(
                "Everything was measured on one text, with runs of {{steps}} steps; other texts, sizes and budgets "
                "may order the configurations differently.",
                steps=steps,
            )
        )
    return items


def where_words(conditions: Sequence[str]) -> Text:
    """The conditions by which runs were selected."""
    parts: list[tuple[Inline, ...]] = [(Code(condition),) for condition in conditions]
    return joined(parts)
