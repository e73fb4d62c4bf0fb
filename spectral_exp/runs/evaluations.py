"""The scores of a trained model on texts, in `evaluations.jsonl`, and their names as metrics.

`bpb@val:256` is the number `bpb` of the newest evaluation on the text `val` with windows of 256
tokens without overlap; with `bpb@val:256/64` each window is 64 tokens further. The text is a part
of the run's own, or the path of another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypedDict

from spectral_exp.core.foreign_text import printable
from spectral_exp.core.regular_file import read_regular
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.schema import Between, Count, Findings, Matching, conform

SCORES = ("bpb", "loss", "perplexity")
"""The numbers of an evaluation that are compared."""

_NUMBERS = (*SCORES, "standard_error_bpb", "windows", "tokens", "bytes", "step")
_MAX_BYTES = 64 << 20
_FORM = re.compile(
    rf"({'|'.join(_NUMBERS)})@(.+):(\d{{1,15}})(?:/(\d{{1,15}}))?", re.ASCII | re.DOTALL
)


# What the name of a metric can hold.
_Text = Annotated[str, Matching(r"(?s:.+)", "a text that is not empty")]
_Length = Annotated[int, Between(1, 10**15 - 1)]


class _Required(TypedDict):
    step: Count
    text: _Text
    block_size: _Length
    stride: _Length
    loss: float
    bpb: float


class Evaluation(_Required, total=False):
    """A line of `evaluations.jsonl`: a text, how it was read, and the scores."""

    time: str
    run: str
    text_sha256: str
    precision: str
    standard_error_bpb: float | None
    perplexity: float
    windows: Count
    tokens: Count
    bytes: Count


@dataclass(frozen=True, order=True)
class EvaluationMetric:
    """A number of the evaluations on one text in one way.

    Attributes:
        text: `val`, `test`, `train`, or a path.
        block_size: tokens of a window.
        stride: tokens by which each window advances.
        number: its name in the record.
    """

    text: str
    block_size: int
    stride: int
    number: str = SCORES[0]

    @property
    def name(self) -> str:
        """The name of the metric."""
        return f"{self.number}@{self.condition}"

    @property
    def condition(self) -> str:
        """Text, window and stride, as in the name."""
        step = "" if self.stride == self.block_size else f"/{self.stride}"
        return f"{self.text}:{self.block_size}{step}"

    def newest(self, evaluations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """Return the last record of this text, read in this way, or None."""
        wanted = (self.text, self.block_size, self.stride)
        found = (
            one
            for one in reversed(evaluations)
            if (printable(one["text"]), one["block_size"], one["stride"]) == wanted
        )
        return next(found, None)


@lru_cache(maxsize=1024)
def parse_evaluation(metric: str) -> EvaluationMetric | None:
    """Return the evaluation that a metric's name means, or None for another metric."""
    match = _FORM.fullmatch(metric) if "@" in metric else None
    if match is None:
        return None
    block_size = int(match[3])
    return EvaluationMetric(match[2], block_size, int(match[4] or block_size), match[1])


def evaluation_conditions(evaluations: Sequence[Mapping[str, Any]]) -> list[EvaluationMetric]:
    """Return the texts and windows of some evaluations, each once, in order."""
    return sorted({_condition(one) for one in evaluations})


def _condition(evaluation: Mapping[str, Any]) -> EvaluationMetric:
    sizes = evaluation["block_size"], evaluation["stride"]
    return EvaluationMetric(printable(evaluation["text"]), *sizes)


def score_names(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the scores of the newest evaluations as metrics, ordered by text and window."""
    newest = {_condition(one): one for one in evaluations}
    return [
        replace(condition, number=number).name
        for condition, one in sorted(newest.items(), key=lambda pair: pair[0])
        for number in SCORES
        if one.get(number) is not None
    ]


def read_evaluations(run: Path, problems: list[str]) -> list[dict[str, Any]]:
    """Return the evaluations of a run, oldest first, and add what cannot be read to `problems`."""
    file = RunPaths(run).evaluations_file
    try:
        content = read_regular(file, _MAX_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{file.name} cannot be read: {error.strerror}")
        return []
    found, n_unreadable = [], 0
    for line in filter(None, content.split(b"\n")):
        try:
            entry = conform(Evaluation, json.loads(line), Findings(file.name))
        except (ValueError, RecursionError):
            entry = None
        if entry is None:
            n_unreadable += 1
        else:
            found.append(entry)
    if n_unreadable:
        problems.append(f"{n_unreadable} line(s) of {file.name} cannot be read")
    return found
