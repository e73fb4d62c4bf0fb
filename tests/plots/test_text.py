"""Numbers and names in figures are short, and say all they must."""

from __future__ import annotations

import numpy as np
import pytest

from spectral_exp.plots.series_styles import short_labels, style_series
from spectral_exp.plots.text import ShortNumbers, printable, short_number, token_text
from spectral_exp.plots.theme import LIGHT
from spectral_exp.runs.metric_names import LANGUAGE_MODEL_UNITS, metric_info


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 0.25, 0.5], ["0", "0.25", "0.50"]),
        ([0, 500, 1000], ["0", "500", "1000"]),
        ([0, 20_000, 40_000], ["0", "20k", "40k"]),
        ([0, 500_000, 1_000_000], ["0", "0.5M", "1.0M"]),
        ([1e-4, 2e-4, 3e-4], ["1e-4", "2e-4", "3e-4"]),
        ([-0.1, 0.0, 0.1], ["\N{MINUS SIGN}0.1", "0", "0.1"]),
        ([7.38905, 7.3890505], ["7.3890500", "7.3890505"]),
        ([5.0], ["5"]),
        ([], []),
    ],
)
def test_ticks_have_just_the_digits_they_need(ticks: list[float], labels: list[str]) -> None:
    assert ShortNumbers().format_ticks(ticks) == labels


def test_numbers_are_short() -> None:
    numbers = [1.23456, 56123.0, 3e-5, 0.0, np.nan, np.inf, -np.inf, 1234.0]
    assert [short_number(n) for n in numbers] == [
        "1.23",
        "56.1k",
        "3e-5",
        "0",
        "NaN",
        "∞",
        "-∞",
        "1234",
    ]


def test_token_texts_show_everything() -> None:
    assert [token_text(t) for t in [" a", "\n", "\t", "", "\x00", "␣b", "$"]] == [
        "·a",
        "\\n",
        "\\t",
        "∅",
        "\\x00",
        "·b",
        "$",
    ]
    assert token_text("漢") == "\\u6f22"
    assert printable("abcdefghij", 5) == "ab…ij"
    assert printable("\ud800") == "\\ud800"


def test_unknown_metrics_get_a_name_and_the_unit_of_their_suffix() -> None:
    assert (
        metric_info("checkpoint_blocked_ms").title,
        metric_info("checkpoint_blocked_ms").unit,
    ) == (
        "Checkpoint blocked ms",
        "ms",
    )
    assert metric_info("_").title


def test_labels_lose_their_time_stamp_only_if_they_stay_distinct() -> None:
    ids = ["wave_20241209_143022_a3f2b1c4", "classic_20241209_143022_a3f2b1c4"]
    assert short_labels(ids) == ["wave", "classic"]
    seeds = ["wave_20241209_143022_a3f2b1c4", "wave_20241209_143023_a3f2b1c4"]
    assert len(set(short_labels(seeds))) == 2


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("val_bpb", "validation bits / byte"),
        ("val_loss", "validation loss (nats / token)"),
        ("loss", "loss (nats / token)"),
        ("grad_norm", "gradient norm (L2 norm)"),
        ("train_s", "training time (s)"),
        ("my_own", "my own (value)"),
    ],
)
def test_axes_show_title_and_unit_once(name: str, label: str) -> None:
    assert metric_info(name, LANGUAGE_MODEL_UNITS).axis_label == label


def test_each_keeps_its_look_in_whichever_company() -> None:
    names = [f"experiment {i}" for i in range(20)]
    everyone = style_series(names, LIGHT)
    assert len({(style.color, style.marker) for style in everyone}) == 20
    assert style_series([names[3], names[17]], LIGHT, ranks=[3, 17]) == [everyone[3], everyone[17]]
