"""How metrics are called, and in which unit and scale they are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricStyle:
    """Heading and axis text of a metric; `log`: always, never, or (None) where it spans more than a factor of 30."""

    title: str
    unit: str
    log: bool | None = None

    @property
    def axis_label(self) -> str:
        """Title and unit together, what both say once: `validation loss (nats / token)`."""
        title, unit = (self.title[:1].lower() + self.title[1:]).split(), self.unit.split()
        shared = next((n for n in range(min(len(title), len(unit)), 0, -1) if title[-n:] == unit[:n]), 0)
        words = [*title, *unit[shared:]] if shared else [*title, f"({self.unit})"]
        return " ".join(words)


METRICS = {
    "loss": MetricStyle("Loss", "loss (nats / token)", False),
    "val_loss": MetricStyle("Validation loss", "loss (nats / token)", False),
    "learning_rate": MetricStyle("Learning rate", "step size", False),
    "perplexity": MetricStyle("Perplexity", "perplexity (tokens)"),
    "grad_norm": MetricStyle("Gradient norm", "L2 norm", True),
    "tokens_per_s": MetricStyle("Throughput", "tokens / s", False),
    "val_bpb": MetricStyle("Validation bits / byte", "bits / byte", False),
    "train_s": MetricStyle("Training time", "s", False),
    "n_parameters": MetricStyle("Parameters", "trainable numbers"),
    "wave_ratio": MetricStyle("Wave share", "share r (0 to 1)", False),
    "resonance": MetricStyle("Mean resonance", "gate (0 to 1)", False),
    "coherence": MetricStyle("Coherence penalty", "QFE term (unscaled)", False),
}
"""The runner's own metrics, in the order in which their panels appear."""

_UNIT_SUFFIXES = {
    "_s": "s",
    "_ms": "ms",
    "_us": "µs",
    "_mb": "MB",
    "_gb": "GB",
    "_bpb": "bits / byte",
    "_loss": "nats / token",
}


def metric_style(name: str) -> MetricStyle:
    """The style of metric `name`; for one not known, its own name and the unit its suffix tells."""
    if name in METRICS:
        return METRICS[name]
    unit = next((unit for suffix, unit in _UNIT_SUFFIXES.items() if name.endswith(suffix)), "value")
    words = name.replace("_", " ").strip()
    return MetricStyle(words[:1].upper() + words[1:] or "Unnamed", unit)
