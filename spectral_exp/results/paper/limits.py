"""Statistics and limitations: how differences were judged, and what the checks found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spectral_exp.core.wording import noun
from spectral_exp.results.checks import TOO_GOOD
from spectral_exp.results.compared import Difference, moment
from spectral_exp.results.comparison_notes import pair_of
from spectral_exp.results.document.model import Block, Code, Heading, Listing, Number, Text, join_texts
from spectral_exp.results.document.prose import prose
from spectral_exp.results.finding import Finding, Measured, Piece
from spectral_exp.results.paper.material import Material, plain_number
from spectral_exp.results.paper.setup import per_run


def methods_of_statistics(material: Material) -> tuple[Block, ...]:
    """Which intervals and tests were used, and why."""
    comparison = material.comparison
    items: list[Text] = [
        prose(
            "A run counts with one number: {{metric}}, {{chosen}}. Runs that did not {{finish}} do not count.",
            metric=Code(comparison.metric),
            chosen=moment(comparison.metric, comparison.at),
            finish="get so far" if comparison.at.startswith("step:") else "finish",
        ),
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
                "p values are corrected by Holm's method [@holm1979] over all pairs of configurations that this paper "
                "compares ({{m}}). A difference is called separated if the corrected p is below 0.05 and its interval "
                "excludes zero.",
                m=material.tests,
            ),
        ]
    return (Heading("Statistics"), Listing(tuple(items)))


def limitations(material: Material) -> tuple[Block, ...]:
    """What the checks found, and what the set-up cannot tell."""
    comparison = material.comparison
    items: list[Text] = [remark(note) for note in comparison.notes if note.severity == "warning"]
    by_note = [(s.group.label, note) for s in comparison.summaries for note in s.notes if note.severity == "warning"]
    for words, labels in _labels_of(by_note).items():
        note = next(note for _, note in by_note if str(note) == words)
        items.append((*join_texts([(Code(label),) for label in labels]), ": ", *remark(note, capital=False)))
    items += _mismatches(comparison.differences)
    for summary in comparison.summaries:
        for run_id, reason in summary.left_out:
            items.append((Code(run_id), " does not count: ", *remark(reason, capital=False)))
    items += [
        (Code(name), " could not be used: ", sentence(reason, capital=False)) for name, reason in material.left_out
    ]
    items += _scope(material)
    return (Heading("Limitations"), Listing(tuple(items)))


def _labels_of(notes: Sequence[tuple[str, Finding]]) -> dict[str, list[str]]:
    """The groups that share a note, by its sentence."""
    found: dict[str, list[str]] = {}
    for label, note in notes:
        found.setdefault(str(note), []).append(label)
    return found


def _mismatches(differences: Sequence[Difference]) -> list[Text]:
    """The warnings of all differences, those of one heading together; a pair that is shown twice warns once."""
    by_heading: dict[str, tuple[Finding, dict[frozenset[str], tuple[Difference, Finding]]]] = {}
    for d in differences:
        for warning in d.warnings:
            if warning.severity != "warning" or warning.kind in TOO_GOOD:  # which the groups' own notes say
                continue
            heading = str(replace(warning, detail=""))
            _, pairs = by_heading.setdefault(heading, (replace(warning, detail=""), {}))
            pairs.setdefault(pair_of(d), (d, warning))
    items = []
    for shared, pairs in by_heading.values():
        if shared.kind == "wall-clock":  # the table of costs has the values
            items.append(_slower(shared, [d for d, _ in pairs.values()]))
            continue
        between: list[Text] = []
        for d, warning in pairs.values():
            labels: Text = (Code(d.a.group.label), " and ", Code(d.b.group.label))
            between.append((*labels, ": ", *_text(warning.detail_pieces())) if warning.detail else labels)
        items.append((*remark(shared), " ", *join_texts(between, "; ", "; "), "."))
    return items


def _slower(heading: Finding, differences: Sequence[Difference]) -> Text:
    """Pairs of configurations, each first one with all its seconds."""
    firsts: dict[str, list[str]] = {}
    for d in differences:
        firsts.setdefault(d.a.group.label, []).append(d.b.group.label)
    parts = [
        prose("{{a}} against {{b}}", a=Code(a), b=join_texts([(Code(b),) for b in others]))
        for a, others in firsts.items()
    ]
    return prose(
        "{{what}} [#tab:cost] has the values. This concerns {{pairs}}.",
        what=remark(heading),
        pairs=join_texts(parts, "; ", "; "),
    )


def remark(found: Finding, *, capital: bool = True) -> Text:
    """A finding as a sentence; its values carry their sources, the constants in its words none."""
    text = _text(found.pieces())
    first, last = text[0], text[-1]
    if found.subject:  # a name, which keeps its spelling
        text = (f"{found.subject}: ", *text)
    elif capital and isinstance(first, str) and "_" not in first.partition(" ")[0]:
        text = (first[:1].upper() + first[1:], *text[1:])
    return text if isinstance(last, str) and last.endswith((".", "?", "!")) else (*text, ".")


def _text(pieces: Sequence[Piece]) -> Text:
    return tuple(piece if isinstance(piece, str) else _number(piece) for piece in pieces)


def _number(piece: Measured) -> Number:
    shown = plain_number(piece.value) if isinstance(piece.value, int) else piece.shown.replace(",", "")
    return Number(shown, piece.value, piece.source)


def sentence(words: str, capital: bool = True) -> str:
    """Words as a sentence."""
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
                "Everything was measured on one text, with runs of {{steps}} {{noun}}; other texts, sizes and budgets "
                "may order the configurations differently.",
                steps=steps,
                noun=noun(1 if {run.last_step for run in finished} == {1} else 2, "step"),
            )
        )
    return items
