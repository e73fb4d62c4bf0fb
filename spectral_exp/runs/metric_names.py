"""The catalogue of metrics: title, unit, direction and kind of a metric by its name.

A metric is known by its exact name, by the name after a prefix (`best_val_loss` is a `val_loss`,
`val_accuracy` is an accuracy on the validation text, `test_bpb` a `val_bpb` of the test text), or
by its prefix (`checkpoint_...`). For unknown metrics nothing is assumed, in particular not that low
values are better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from spectral_exp.runs.evaluations import EvaluationMetric, parse_evaluation

Direction = Literal["lower", "higher"]
Kind = Literal["training", "validation", "machine", "cost"]


@dataclass(frozen=True)
class Metric:
    """Properties of a metric.

    Attributes:
        title: heading of a panel.
        unit: text of the axis.
        log: whether the axis is logarithmic; None for logarithmic if the values span a factor
            above 30.
        direction: which values are better; None if neither are, or if it is unknown.
        kind: `training` and `validation` metrics describe the model, `cost` metrics the resources
            that a run uses, and `machine` metrics its monitoring; None if it is unknown.
        words: name of the metric within a sentence, with its unit.
        is_timing: whether the metric depends on the load of the machine.
        is_per_token: whether the metric depends on the amount of text per token.
        given_unit: the unit that a run gives it; empty for that of the catalogue.
    """

    title: str
    unit: str
    log: bool | None = None
    direction: Direction | None = None
    kind: Kind | None = None
    words: str = ""
    is_timing: bool = False
    is_per_token: bool = False
    given_unit: str = ""

    @property
    def axis_label(self) -> str:
        """Title and unit without repeated words, as in `validation loss (nats / token)`."""
        title, unit = (self.title[:1].lower() + self.title[1:]).split(), self.unit.split()
        longest = min(len(title), len(unit))
        shared = next((n for n in range(longest, 0, -1) if title[-n:] == unit[:n]), 0)
        words = [*title, *unit[shared:]] if shared else [*title, f"({self.unit})"]
        return " ".join(words)

    @property
    def lower_is_better(self) -> bool | None:
        """Whether the direction is `lower`; None without a direction."""
        return None if self.direction is None else self.direction == "lower"

    @property
    def measures_machine(self) -> bool:
        """Whether the values differ in an exact repetition of a run."""
        return self.is_timing or self.kind == "machine"


METRICS = {
    "loss": Metric(
        "Loss", "loss", False, "lower", "training", "training loss", is_per_token=True
    ),
    "val_loss": Metric(
        "Validation loss", "loss", False, "lower", "validation", "validation loss",
        is_per_token=True,
    ),
    "learning_rate": Metric("Learning rate", "step size", False, None, "training"),
    "perplexity": Metric(
        "Perplexity", "perplexity (tokens)", None, "lower", "validation",
        "validation perplexity", is_per_token=True,
    ),
    "grad_norm": Metric("Gradient norm", "L2 norm", True, None, "training"),
    "tokens_per_s": Metric(
        "Throughput", "tokens / s", False, "higher", "cost", "tokens per second", is_timing=True
    ),
    "val_bpb": Metric(
        "Validation bits / byte", "bits / byte", False, "lower", "validation",
        "validation bits per byte",
    ),
    "train_s": Metric(
        "Training time", "s", False, "lower", "cost", "training time in seconds", is_timing=True
    ),
    "n_parameters": Metric("Parameters", "trainable numbers", None, "lower", "cost"),
    "wave_ratio": Metric("Wave share", "share r (0 to 1)", False, None, "training"),
    "resonance": Metric("Mean resonance", "gate (0 to 1)", False, None, "training"),
    "coherence": Metric("Coherence penalty", "QFE term (unscaled)", False, None, "training"),
}  # fmt: skip
"""The metrics with a panel of their own, in the order of the panels."""

_WITHOUT_PANEL = {
    "tokens": Metric("Tokens", "tokens", None, "lower", "cost"),
    "steps": Metric("Steps", "optimizer steps", None, "lower", "cost"),
    "flops": Metric("FLOPs", "floating-point operations", None, "lower", "cost"),
    "cpu_s": Metric("Processor time", "s", False, "lower", "cost", is_timing=True),
    "device_s": Metric("Device time", "s", False, "lower", "cost", is_timing=True),
    "bad_steps": Metric("Skipped steps", "steps", False, "lower", "training"),
    "accuracy": Metric("Accuracy", "share (0 to 1)", False, "higher", "training"),
    "steps_at_risk": Metric("Steps at risk", "steps", False, "lower", "machine"),
    "slowdown": Metric("Slow steps", "times the usual seconds", None, "lower", "machine"),
    "checkpoint_compression": Metric("Checkpoint compression", "ratio", None, "higher", "machine"),
}
SYSTEM_PREFIXES = ("system/", "gpu/")
"""How the names of measurements of the machine begin."""

_PREFIXES: dict[str, Metric] = {
    "checkpoint_": Metric("", "", direction="lower", kind="machine"),
    "backup_": Metric("", "", direction="lower", kind="machine"),
    **{prefix: Metric("", "", kind="machine") for prefix in SYSTEM_PREFIXES},
}
_UNIT_SUFFIXES = {
    "_mb_per_s": "MB / s",
    "_percent": "%",
    "_s": "s",
    "_ms": "ms",
    "_us": "µs",
    "_mb": "MB",
    "_gb": "GB",
    "_bpb": "bits / byte",
    "_loss": "loss",
}

LANGUAGE_MODEL_UNITS: Mapping[str, str] = MappingProxyType(
    {"loss": "nats / token", "val_loss": "nats / token"}
)
"""Units of metrics of this package's training, whose names mean other things elsewhere."""
_GPU_SUFFIXES = {"_w": "W", "_c": "°C"}

USE = ("device_s", "cpu_s")
"""Seconds that a run used a device and the processors, which other load changes little."""

DERIVED = ("train_s", "tokens", "n_parameters", "tokens_per_s", "steps", "flops", *USE)
"""Metrics that `Run.value` computes; the others were logged."""


_PREFIXES_OF_KNOWN = ("best_", "val_", "test_")
_SECTIONS = {"train": "", "val": "val_", "valid": "val_", "eval": "val_", "test": "val_"}
_NO_UNITS: Mapping[str, str] = MappingProxyType({})
_NO_DIRECTIONS: Mapping[str, Direction] = MappingProxyType({})


def metric_info(
    name: str,
    units: Mapping[str, str] = _NO_UNITS,
    better: Mapping[str, Direction] = _NO_DIRECTIONS,
) -> Metric:
    """Return the properties of a metric; for an unknown one, a title and the unit of its suffix.

    Args:
        name: of the metric; `train/loss` is a `loss`, and `val/loss` a `val_loss`.
        units: unit by name of metric, also of the one without `best_`, `val_` or `test_`.
        better: direction by name of metric, as for `units`.
    """
    section, slash, rest = name.partition("/")
    usual = f"{_SECTIONS[section]}{rest}" if slash and section in _SECTIONS else name
    info = _known_metric(usual)
    if usual != name:
        info = replace(info, title=name, words="")
    names = [name, usual, *(usual.removeprefix(prefix) for prefix in _PREFIXES_OF_KNOWN)]
    unit = next((units[each] for each in names if each in units), "")
    direction = next((better[each] for each in names if each in better), info.direction)
    if unit:
        shown = f"loss ({unit})" if info.unit == "loss" else unit
        words = f"{info.words or name} ({unit.replace(' / ', ' per ')})"
        return replace(info, unit=shown, words=words, direction=direction, given_unit=unit)
    return info if direction == info.direction else replace(info, direction=direction)


def _known_metric(name: str) -> Metric:
    if (known := METRICS.get(name) or _WITHOUT_PANEL.get(name)) is not None:
        return known
    if (evaluation := parse_evaluation(name)) is not None:
        return _evaluation_info(evaluation)
    suffixes = {**_UNIT_SUFFIXES, **(_GPU_SUFFIXES if name.startswith("gpu/") else {})}
    suffix = next((suffix for suffix in suffixes if name.endswith(suffix)), "")
    unit = suffixes.get(suffix, "value")
    words = name.replace("_", " ").strip()
    if name.startswith(SYSTEM_PREFIXES):
        words = _system_words(name.removesuffix(suffix))
    shown = Metric(words[:1].upper() + words[1:] or "Unnamed", unit)
    if name.startswith("test_"):
        known = METRICS.get(f"val_{name[5:]}") or METRICS.get(name[5:])
        if known is not None:
            words = f"test {known.words.removeprefix('validation ')}"
            return replace(
                shown,
                unit=known.unit,
                log=known.log,
                direction=known.direction,
                kind="validation",
                words=words,
                is_per_token=known.is_per_token,
            )
    for prefix in _PREFIXES_OF_KNOWN:
        known = METRICS.get(rest := name.removeprefix(prefix)) or _WITHOUT_PANEL.get(rest)
        if rest != name and known is not None:
            kind: Kind | None = known.kind if prefix == "best_" else "validation"
            return replace(
                shown, direction=known.direction, kind=kind, is_per_token=known.is_per_token
            )
    known = next((known for prefix, known in _PREFIXES.items() if name.startswith(prefix)), None)
    return shown if known is None else replace(shown, direction=known.direction, kind=known.kind)


def _evaluation_info(evaluation: EvaluationMetric) -> Metric:
    """Return the properties of a score on a text."""
    known = METRICS.get({"bpb": "val_bpb", "loss": "val_loss"}.get(evaluation.number, ""))
    known = known or METRICS.get(evaluation.number) or Metric("", "value")
    what = {"bpb": "bits per byte", "loss": "nats per token"}.get(
        evaluation.number, evaluation.number.replace("_", " ")
    )
    read = "" if evaluation.stride == evaluation.block_size else f", {evaluation.stride} further"
    words = f"{what} of {evaluation.text} in windows of {evaluation.block_size:,} tokens{read}"
    title = words[:1].upper() + words[1:]
    unit = "loss (nats / token)" if evaluation.number == "loss" else known.unit
    return replace(known, title=title, unit=unit, words=words)


def _system_words(name: str) -> str:
    """Return words for a system metric without its unit: `run CPU`, `GPU 0 power`."""
    words = name.removeprefix("system/").replace("/", " ").replace("_", " ").split()
    return " ".join(word.upper() if word in ("cpu", "gpu") else word for word in words)


def machine_metrics() -> list[str]:
    """Return the names of metrics that measure the machine; `*` stands for any suffix."""
    known = {**METRICS, **_WITHOUT_PANEL}
    names = [
        name
        for name, metric in known.items()
        if metric.measures_machine and not name.startswith(tuple(_PREFIXES))
    ]
    return [*names, *(f"{prefix}*" for prefix in _PREFIXES)]
