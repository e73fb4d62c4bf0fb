"""Title and abstract: what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from spectral_exp.core.wording import noun
from spectral_exp.results.compared import Difference, GroupSummary, moment
from spectral_exp.results.document.model import (
    Code,
    Inline,
    Number,
    Paragraph,
    Source,
    Text,
    code_list,
    join_texts,
)
from spectral_exp.results.document.prose import prose
from spectral_exp.results.paper.material import Material
from spectral_exp.results.paper.passages import (
    join_sentences,
    passage,
    read_list,
    read_passage,
)
from spectral_exp.runs.metric_names import DERIVED

_COUNTS = read_passage("findings", "counts").split(", ")
_CORPORA = read_list("findings", "corpora")

_passage = partial(passage, "findings")


def title(material: Material) -> str:
    """Return the author's title, or one that names what was compared."""
    if material.choices.title:
        return material.choices.title
    n = len(material.groups)
    if n == 1:
        return f"{material.groups[0].label}: {material.metric_words}"
    words = _COUNTS[n - 2] if n - 2 < len(_COUNTS) else str(n)
    return f"{words} configurations compared by {material.metric_words}"


def corpus_words(material: Material) -> Text:
    """Return the names of the training texts."""
    names = dict.fromkeys(
        str(run.record.get("dataset", {}).get("corpus", "")) for run in material.runs
    )
    words: list[Text] = []
    for name in filter(None, names):
        if name == "TextFile":
            paths = [
                str(run.settings["data.path"])
                for run in material.runs
                if "data.path" in run.settings
            ]
            files = dict.fromkeys(path.rstrip("/").rpartition("/")[2] for path in paths)
            words.append(code_list(files) if files else ("a text file",))
        else:
            words.append((_CORPORA.get(name, f"the corpus {name}"),))
    return join_texts(words) if words else ("a corpus that was not recorded",)


def abstract(material: Material) -> tuple[Paragraph, ...]:
    """Return what was compared, and the headline that the intervals allow."""
    n_groups, n_runs = len(material.groups), len(material.runs)
    sizes = [run.n_parameters / 1e6 for run in material.runs if run.n_parameters]
    parameters = (
        prose(", with {{sizes}} million parameters", sizes=_range(material, sizes)) if sizes else ()
    )
    setting = _passage(
        "abstract",
        are=noun(n_runs, "is", "are"),
        noun=noun(n_runs, "run"),
        count="counts" if _counts(material) == [1] else "count",
        groups=material.number_of(n_groups, "configurations"),
        configurations=noun(n_groups, "configuration"),
        subject=_subject(material),
        metric=material.metric_words,
        direction=material.comparison.direction_words,
        at=_at(material.comparison.metric, material.comparison.at),
        runs=material.number_of(n_runs, "runs"),
        seeds=_per_group(material),
        parameters=parameters,
    )
    text = join_sentences(setting, *_headline(material), _mismatches(material))
    return (Paragraph(text),)


def _subject(material: Material) -> Text:
    """Return what was trained, if this package's training command has trained all of it."""
    if material.other_runs:
        return ()
    words = " of a small language model, trained on {{corpus}},"
    return prose(words, corpus=corpus_words(material))


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
    numbers: list[Inline] = [material.number_of(n, "runs of a group that count") for n in counts]
    return (numbers[0],) if len(counts) == 1 else (numbers[0], " to ", numbers[-1])


def _counts(material: Material) -> list[int]:
    """Return how many runs of a group count, each number once."""
    return sorted({len(summary.values) for summary in material.comparison.summaries})


def _range(material: Material, values: Sequence[float]) -> Text:
    ids = tuple(run.run_id for run in material.runs if run.n_parameters)
    low, high = min(values), max(values)
    first = Number(f"{low:.2f}", low, Source("n_parameters", ids, formula="smallest, in millions"))
    last = Number(f"{high:.2f}", high, Source("n_parameters", ids, formula="largest, in millions"))
    return (first,) if first.shown == last.shown else (first, " to ", last)


def _headline(material: Material) -> list[Text]:
    """Return which configurations are separated from the baseline, in which direction."""
    comparison = material.comparison
    with_values = [summary for summary in comparison.summaries if summary.mean is not None]
    if not with_values:
        return [_passage("no value")]
    against = [d for d in comparison.differences if d.kind == "baseline"]
    if comparison.baseline is None or not against:
        return [_passage("single", **_lead_values(material, with_values[0]))]
    base = _lead_values(material, against[0].a)
    lead = _passage("baseline", **base)
    if not any(d.interval for d in against):
        return [lead, _passage("no interval")]
    better = [d for d in against if d.better]
    worse = [d for d in against if d.separated and not d.better]
    rest = [d.b.group.label for d in against if not d.separated]
    sentences = [lead]
    if comparison.lower_is_better is None:
        different, worse = worse, []
        sentences.append(
            _passage("different", **_effects(material, different))
            if different
            else _passage("none different")
        )
    else:
        sentences.append(
            _passage("better", **_effects(material, better)) if better else _passage("none better")
        )
    return [
        *sentences,
        _passage("worse", **_effects(material, worse)) if worse else (),
        _passage("not separated", names=code_list(rest)) if rest else (),
        _passage("brackets", m=material.tests),
    ]


def _group_values(material: Material, summary: GroupSummary) -> dict[str, Inline | Text]:
    return {
        "label": Code(summary.group.label),
        "mean": material.mean(summary),
        "interval": material.interval(summary),
    }


def _lead_values(material: Material, summary: GroupSummary) -> dict[str, Inline | Text]:
    """Return the values of a group for a sentence, which says why an interval is missing."""
    values = _group_values(material, summary)
    return values if summary.interval else {**values, "interval": "(too few runs for an interval)"}


def _effects(material: Material, differences: Sequence[Difference]) -> dict[str, Inline | Text]:
    """Return differences as a list, the largest first, with the verb of its sentence."""
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
    return {"list": join_texts(items), "are": noun(len(items), "is", "are")}


def _mismatches(material: Material) -> Text:
    """Return the quantities in which groups do not match the baseline."""
    against = [d for d in material.comparison.differences if d.kind == "baseline"]
    unequal: dict[str, list[str]] = {}
    for difference in against:
        for quantity, match in difference.matches.items():
            if match is False:
                unequal.setdefault(quantity, []).append(difference.b.group.label)
    items = [
        prose(
            "{{quantity}} ({{names}})",
            quantity=quantity,
            names="all" if len(labels) == len(against) > 1 else code_list(labels),
        )
        for quantity, labels in unequal.items()
    ]
    return _passage("mismatch", items=join_texts(items)) if items else ()
