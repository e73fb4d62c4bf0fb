"""Title and abstract: what was measured, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence

from spectral_exp.core.wording import noun
from spectral_exp.results.compared import Difference, moment
from spectral_exp.results.document.model import Code, Inline, Number, Paragraph, Source, Text, joined
from spectral_exp.results.document.prose import prose
from spectral_exp.results.paper.material import Material
from spectral_exp.runs.metric_names import DERIVED

CORPORA = {
    "Shakespeare": "TinyShakespeare",
    "PythonStdlib": "the source text of Python's standard library",
    "FineWebEdu": "FineWeb-Edu",
    "Markov": "synthetic text of a Markov chain",
}
"""The corpora of the package in words."""


_WORDS = dict(
    enumerate(["Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"], start=2)
)


def title(material: Material) -> str:
    """The author's title, or one that says what was compared."""
    if material.choices.title:
        return material.choices.title
    n = len(material.groups)
    if n == 1:
        return f"{material.groups[0].label}: {material.metric_words}"
    return f"{_WORDS.get(n, n)} configurations compared by {material.metric_words}"


def corpus_words(material: Material) -> Text:
    """What was trained on."""
    names = dict.fromkeys(str(run.record.get("dataset", {}).get("corpus", "")) for run in material.runs)
    words: list[Text] = []
    for name in filter(None, names):
        if name == "TextFile":
            paths = [str(run.settings["data.path"]) for run in material.runs if "data.path" in run.settings]
            files = dict.fromkeys(path.rstrip("/").rpartition("/")[2] for path in paths)
            words.append(joined([(Code(file),) for file in files]) if files else ("a text file",))
        else:
            words.append((CORPORA.get(name, f"the corpus {name}"),))
    return joined(words) if words else ("a corpus that was not recorded",)


def abstract(material: Material) -> tuple[Paragraph, ...]:
    """What was compared, and the headline that the intervals allow."""
    sizes = [run.n_parameters for run in material.runs if run.n_parameters]
    setting = prose(
        "We compare {{groups}} {{configurations}} of a small language model, trained on {{corpus}}, in {{metric}} "
        "({{direction}}){{at}}. There {{are}} {{runs}} {{noun}}, of which {{seeds}} per configuration "
        "{{count}}{{parameters}}. ",
        are=noun(len(material.runs), "is", "are"),
        noun=noun(len(material.runs), "run"),
        count="counts" if _counts(material) == [1] else "count",
        groups=material.counted(len(material.groups), "configurations"),
        configurations=noun(len(material.groups), "configuration"),
        corpus=corpus_words(material),
        metric=material.metric_words,
        direction=material.comparison.direction_words,
        at=_at(material.comparison.metric, material.comparison.at),
        runs=material.counted(len(material.runs), "runs"),
        seeds=_per_group(material),
        parameters=prose(", with {{sizes}} million parameters", sizes=_range(material, [size / 1e6 for size in sizes]))
        if sizes
        else (),
    )
    return (Paragraph((*setting, *headline(material), *_caution(material))),)


def _at(metric: str, at: str) -> str:
    if metric in DERIVED:
        return f", {moment(metric, at)}"
    if at == "final":
        return ", taken at the end of training"
    if at == "best":
        return ", taken at the most favourable validation of each run"
    return f", taken at step {at.removeprefix('step:')}"


def _per_group(material: Material) -> Text:
    counts = _counts(material)
    numbers: list[Inline] = [material.counted(n, "runs of a group that count") for n in counts]
    return (numbers[0],) if len(counts) == 1 else (numbers[0], " to ", numbers[-1])


def _counts(material: Material) -> list[int]:
    """How many runs of a group count, each number once."""
    return sorted({len(summary.values) for summary in material.comparison.summaries})


def _range(material: Material, values: Sequence[float]) -> Text:
    ids = tuple(run.run_id for run in material.runs if run.n_parameters)
    low, high = min(values), max(values)
    first = Number(f"{low:.2f}", low, Source("n_parameters", ids, formula="smallest, in millions"))
    last = Number(f"{high:.2f}", high, Source("n_parameters", ids, formula="largest, in millions"))
    return (first,) if first.shown == last.shown else (first, " to ", last)


def headline(material: Material) -> Text:
    """Which configurations are separated from the baseline, in which direction, and which are not."""
    comparison = material.comparison
    with_values = [summary for summary in comparison.summaries if summary.mean is not None]
    if not with_values:
        return prose("No run has a usable value yet, so nothing is claimed.")
    against = [d for d in comparison.differences if d.kind == "baseline"]
    if comparison.baseline is None or not against:
        best = with_values[0]
        return prose(
            "{{label}} reaches {{mean}} {{interval}}; there is nothing to compare it with.",
            label=Code(best.group.label),
            mean=material.mean(best),
            interval=material.interval(best),
        )
    base = against[0].a
    lead = prose(
        "The baseline {{label}} reaches {{mean}} {{interval}}. ",
        label=Code(base.group.label),
        mean=material.mean(base),
        interval=material.interval(base) if base.interval else "(too few runs for an interval)",
    )
    if not any(d.interval for d in against):
        return (
            *lead,
            *prose("No comparison has the three runs per side that an interval needs: nothing is claimed."),
        )
    better = [d for d in against if d.separated and d.better]
    worse = [d for d in against if d.separated and not d.better]
    rest = [d for d in against if not d.separated]
    parts = [lead]
    if comparison.lower_is_better is None:
        different, worse = worse, []
        if different:
            parts.append(prose("Separated from it {{are}}: {{list}}. ", **_listed(material, different)))
        else:
            parts.append(prose("No configuration is separated from it. "))
    elif better:
        parts.append(prose("Better than it, and separated from it, {{are}}: {{list}}. ", **_listed(material, better)))
    else:
        parts.append(prose("No configuration is separated from it for the better. "))
    if worse:
        parts.append(prose("Worse, and separated, {{are}}: {{list}}. ", **_listed(material, worse)))
    if rest:
        names = joined([(Code(d.b.group.label),) for d in rest])
        parts.append(prose("Not separated: {{names}}. ", names=names))
    parts.append(
        prose(
            "Brackets hold 95 % intervals; separated means that the interval of the difference excludes zero and that "
            "p < 0.05 after Holm's correction over all comparisons of this paper ({{m}}).",
            m=material.tests,
        )
    )
    return tuple(run for part in parts for run in part)


def _listed(material: Material, differences: Sequence[Difference]) -> dict[str, Inline | Text]:
    ordered = sorted(differences, key=lambda d: abs(d.mean or 0.0), reverse=True)
    items = [
        prose(
            "{{label}} ({{mean}} {{interval}}, n\u00a0=\u00a0{{n}})",
            label=Code(d.b.group.label),
            mean=material.difference(d),
            interval=material.difference_interval(d),
            n=material.pairs(d),
        )
        for d in ordered
    ]
    return {"list": joined(items), "are": "is" if len(items) == 1 else "are"}


def _caution(material: Material) -> Text:
    """What does not match between the two sides of the comparisons with the baseline."""
    unequal: dict[str, list[str]] = {}
    for difference in material.comparison.differences:
        if difference.kind == "baseline":
            for quantity, match in difference.matches.items():
                if match is False:
                    unequal.setdefault(quantity, []).append(difference.b.group.label)
    if not unequal:
        return ()
    items = []
    total = sum(d.kind == "baseline" for d in material.comparison.differences)
    for quantity, labels in unequal.items():
        names: Text = ("all",) if len(labels) == total > 1 else joined([(Code(label),) for label in labels])
        items.append(prose("{{quantity}} ({{names}})", quantity=quantity, names=names))
    return prose(" The sides of the comparison do not match in {{items}}.", items=joined(items))
