"""The method section: the mathematics of the components that the compared runs use.

The formulas are those of the modules that implement them: `models`, `optim`, `losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectral_exp.results.document.model import (
    Block,
    Code,
    Heading,
    Inline,
    Paragraph,
    Text,
    join_texts,
)
from spectral_exp.results.document.prose import blocks, inline, placeholders, prose
from spectral_exp.results.group import group_by
from spectral_exp.results.paper.material import Material
from spectral_exp.results.paper.passages import has_passage, passage, read_passage
from spectral_exp.runs.parts import PARTS, SECTIONS, component_name
from spectral_exp.runs.run import Run

_TITLES = {
    "embedding": "Embedding",
    "attention": "Attention",
    "mlp": "Feed-forward layer",
    "optimizer": "Optimizer",
    "loss": "Training loss",
}
_SAME_TEXT = {"attention pure_wave_linear": "attention pure_wave"}
_WITH_POSITION_TABLE = ("dot_product", "interference")
"""Attention for which the embedding adds positions."""


def method(material: Material) -> tuple[Block, ...]:
    """Return the whole section."""
    found: list[Block] = [Heading("Method")]
    if others := material.other_runs:
        text = passage("method", "own program", labels=material.labels(others))
        found.append(Paragraph(text, aside=True))
    if not material.language_model_runs:
        return tuple(found)
    found += [*_skeleton(material), *_switches(material)]
    for part in PARTS:
        found.append(Heading(_TITLES[part], 2))
        users: dict[str, list[Run]] = {}
        for choice in material.choices_of(part):
            key = f"{part} {choice}"
            name = _SAME_TEXT.get(key, key)
            users.setdefault(name, []).extend(material.users(part, choice))
        for name, runs in users.items():
            found += _describe(material, name, runs)
        unknown = [run for run in material.language_model_runs if part not in run.parts]
        if unknown:
            labels, title = material.labels(unknown), _TITLES[part].lower()
            text = passage("method", "unknown part", labels=labels, part=title)
            found.append(Paragraph(text, aside=True))
    return tuple(found)


def _skeleton(material: Material) -> tuple[Block, ...]:
    runs = material.language_model_runs
    tied = {run.settings.get("model.tie_weights") for run in runs}
    head = "" if True in tied else ", a matrix of its own"
    if tied == {True}:
        head = "; the head shares the token table"
    which = "The other" if material.other_runs else "All"
    return _render(material, "skeleton", runs, head=head, which=which)


def _switches(material: Material) -> tuple[Block, ...]:
    """Return a paragraph with a sentence for each switch that some runs have turned on."""
    sentences = []
    for name, is_on in _SWITCHES.items():
        runs = [run for run in material.runs if is_on(run.settings)]
        if runs:
            words = _sentence(material, f"switch {name}", runs)
            labels = material.labels(runs)
            sentences.append(prose("{{words}} ({{labels}}).", words=words, labels=labels))
    return (Paragraph(join_texts(sentences, between=" ", last=" ")),) if sentences else ()


def _describe(material: Material, name: str, runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return the description of a component, `part choice`, as `runs` use it."""
    if name == "embedding standard":
        return _standard_embedding(material, runs)
    if name == "loss qfe":
        sketch = _sentence(material, "sketch", runs) if _uses_sketch(runs) else ()
        return _render(material, name, runs, sketch=(" ", *sketch) if sketch else ())
    if name == "optimizer rgd":
        return (*_rgd(material, runs), *_settings_of_roles(material, runs))
    if has_passage("method", name):
        return (*_render(material, name, runs), *_settings_of_roles(material, runs))
    part, _, choice = name.partition(" ")
    target = material.setting(f"{SECTIONS[part]}._target_", runs)
    text = passage("method", "undescribed", choice=Code(choice), target=target)
    return (Paragraph(text, aside=True),)


def _standard_embedding(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    with_table = [run for run in runs if run.parts.get("attention") in _WITH_POSITION_TABLE]
    if len(with_table) == len(runs):
        return _render(material, "embedding standard", runs)
    if not with_table:
        return _render(material, "embedding standard, no table", runs)
    labels = material.labels(with_table)
    return _render(material, "embedding standard, tables in some", runs, labels=labels)


def _rgd(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    on_muon = [run for run in runs if run.settings.get("optimizer.direction") == "muon"]
    found = _render(material, "optimizer rgd", runs)
    if not on_muon:
        return found
    return (*found, *_render(material, "rgd on muon", on_muon, labels=material.labels(on_muon)))


def _settings_of_roles(material: Material, runs: Sequence[Run]) -> tuple[Block, ...]:
    """Return a paragraph with the settings that single roles of parameters have for themselves."""
    start = "optimizer.roles."
    names = sorted({name for run in runs for name in run.settings if name.startswith(start)})
    sentences = []
    for name in names:
        those = [run for run in runs if name in run.settings]
        role, _, setting = name.removeprefix(start).partition(".")
        labels: Text = () if len(those) == len(runs) else (" (", *material.labels(those), ")")
        sentences.append(
            passage(
                "method",
                "setting of a role",
                role=Code(role),
                setting=Code(setting),
                value=material.setting(name, those),
                labels=labels,
            )
        )
    return (Paragraph(join_texts(sentences, between=" ", last=" ")),) if sentences else ()


def _uses_sketch(runs: Sequence[Run]) -> bool:
    """Return whether the vocabulary of any run is larger than the dimensions of its loss."""
    sizes = [(run.record.get("dataset") or {}).get("vocab_size") for run in runs]
    largest = max((size for size in sizes if isinstance(size, int)), default=0)
    dimensions = [run.settings.get("loss.projection_dim") for run in runs]
    return any(isinstance(size, int) and largest > size for size in dimensions)


def find_match(run: Run) -> str:
    """Return the stack to whose size a run was matched by the override `match=`, or ""."""
    for override in run.record.get("overrides") or ():
        name, _, value = str(override).lstrip("+").partition("=")
        if name == "match" and value not in ("none", "null", ""):
            return value
    return ""


# --- passages with settings ---------------------------------------------------------------


def _sentence(material: Material, name: str, runs: Sequence[Run]) -> Text:
    """Return a passage of one paragraph with the settings of `runs`."""
    template = read_passage("method", name).replace("\n", " ")
    return inline(template, _settings(material, template, runs))


def _render(
    material: Material, name: str, runs: Sequence[Run], **values: Inline | Text
) -> tuple[Block, ...]:
    """Return the blocks of a passage with the settings of `runs` and its variants."""
    template = read_passage("method", name)
    variants = {
        key: _variant_sentences(material, _VARIANTS[key], runs)
        for key in placeholders(template)
        if key in _VARIANTS
    }
    return blocks(template, {**_settings(material, template, runs), **variants, **values})


def _settings(material: Material, template: str, runs: Sequence[Run]) -> dict[str, Text]:
    """Return the values of the settings that a template names, "a or b" for alternatives."""
    found = {}
    for key in placeholders(template):
        names = key.split(" or ")
        known = [name for name in names if any(name in run.all_settings for run in runs)]
        if "." in key:
            found[key] = material.setting((known or names)[0], runs)
    return found


@dataclass(frozen=True)
class _Variant:
    """A sentence that depends on a setting.

    Attributes:
        setting: its dotted name.
        choose: returns the name of the passage for runs that agree in the setting.
    """

    setting: str
    choose: Callable[[Sequence[Run]], str]


def _variant_sentences(material: Material, variant: _Variant, runs: Sequence[Run]) -> Text:
    """Return one sentence, or one for each value of the setting with the groups that have it."""
    by_value = group_by(runs, lambda run: repr(run.settings.get(variant.setting)))
    users: dict[Text, list[Run]] = {}  # a default that is left out and one spelt out read the same
    for those in by_value.values():
        sentence = _sentence(material, variant.choose(those), those)
        users.setdefault(sentence, []).extend(those)
    if len(users) == 1:
        return (*next(iter(users)), ".")
    sentences = [
        prose("{{words}} ({{labels}}).", words=words, labels=material.labels(those))
        for words, those in users.items()
    ]
    return join_texts(sentences, between=" ", last=" ")


def _choose_bias(runs: Sequence[Run]) -> str:
    return "with biases" if runs[0].settings.get("model.bias") else "without biases"


def _choose_ratio(runs: Sequence[Run]) -> str:
    is_scheduled = runs[0].settings.get("model.embedding.wave_ratio") == "scheduled"
    return "scheduled ratio" if is_scheduled else "learned ratio"


def _choose_frequencies(runs: Sequence[Run]) -> str:
    is_learned = runs[0].settings.get("model.attention.frequencies") == "learned"
    return "learned frequencies" if is_learned else "linear frequencies"


def _choose_rates(runs: Sequence[Run]) -> str:
    is_fixed = runs[0].settings.get("model.attention.frequencies") == "fixed"
    return "fixed rates" if is_fixed else "learned rates"


def _choose_length(runs: Sequence[Run]) -> str:
    is_default = runs[0].settings.get("model.attention.feature_length") is None
    return "default length" if is_default else "given length"


def _choose_width(runs: Sequence[Run]) -> str:
    is_relative = runs[0].settings.get("model.mlp.n_hidden") is None
    name = "relative width" if is_relative else "given width"
    return f"{name}, adjusted" if any(map(find_match, runs)) else name


def _choose_filter(runs: Sequence[Run]) -> str:
    is_usual = runs[0].settings.get("optimizer.gate_every", 1) == 1
    return "filter at every step" if is_usual else "filter of sums"


def _choose_lookahead(runs: Sequence[Run]) -> str:
    return "with lookahead" if runs[0].settings.get("optimizer.nesterov") else "without lookahead"


def _choose_scale(runs: Sequence[Run]) -> str:
    is_original = runs[0].settings.get("optimizer.rate_scale") == "original"
    return "original scale" if is_original else "scale of adamw"


def _choose_gated_width(runs: Sequence[Run]) -> str:
    return _choose_width(runs).replace("width", "gated width")


def _is_rotary(settings: Mapping[str, Any]) -> bool:
    return component_name(settings, SECTIONS["attention"]) == "rotary"


_SWITCHES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "rms_norm": lambda s: component_name(s, "model.norm") == "rmsnorm",
    "embedding_norm": lambda s: s.get("model.embedding_norm") is True,
    "qk_norm": lambda s: s.get("model.qk_norm") is True,
    "logit_softcap": lambda s: s.get("model.logit_softcap") is not None,
    "rotary_base": lambda s: _is_rotary(s) and s.get("model.attention.base", 10000) != 10000,
    "rotary_rates": lambda s: _is_rotary(s) and s.get("model.attention.frequencies") == "learned",
    "z_loss": lambda s: bool(s.get("loss.z_loss")),
}
"""Switch -> whether settings turn it on; those without effect are not recorded."""

_VARIANTS = {
    "biases": _Variant("model.bias", _choose_bias),
    "ratio": _Variant("model.embedding.wave_ratio", _choose_ratio),
    "frequencies": _Variant("model.attention.frequencies", _choose_frequencies),
    "rates": _Variant("model.attention.frequencies", _choose_rates),
    "length": _Variant("model.attention.feature_length", _choose_length),
    "width": _Variant("model.mlp.n_hidden", _choose_width),
    "gated_width": _Variant("model.mlp.n_hidden", _choose_gated_width),
    "every": _Variant("optimizer.gate_every", _choose_filter),
    "lookahead": _Variant("optimizer.nesterov", _choose_lookahead),
    "scale": _Variant("optimizer.rate_scale", _choose_scale),
}
"""Placeholders of method.md that stand for a sentence of its own."""
