"""The figures: their data, and the legibility of every word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectral_exp.core.series import FloatArray, Series
from spectral_exp.plots.run.comparison import bar_metrics, comparison_figure
from spectral_exp.plots.run.experiment import Experiment
from spectral_exp.plots.run.interference import interference_figure, readable_tokens
from spectral_exp.plots.run.packets import packet_figure
from spectral_exp.plots.run.tokens import Tokens, Waves
from spectral_exp.plots.run.training import training_figure
from spectral_exp.plots.run.waves import amplitude_figure, frequency_figure, phase_figure
from spectral_exp.plots.series import MAX_POINTS, even_rows
from spectral_exp.plots.theme import DARK, LINE_STYLES, render
from spectral_exp.runs.metric_names import METRICS
from tests.plots.drawn import DPI, assert_readable, drawn


def series(values: object, first: int = 1, every: int = 1) -> Series:
    array = np.asarray(values, dtype=np.float64)
    return Series(first + every * np.arange(array.size, dtype=np.float64), array)


def noisy_loss(n: int, seed: int = 0) -> FloatArray:
    steps = np.arange(1, n + 1)
    return 1.4 + 4.1 * np.exp(-12 * steps / n) + np.random.default_rng(seed).normal(0, 0.06, n)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def panel(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


# --- training dynamics ----------------------------------------------------------------------------


def test_a_million_steps_draw_no_more_points_than_the_panel_has_room_for() -> None:
    with drawn(partial(training_figure, 10**6, series(noisy_loss(10**6)), {})) as figure:
        for line in panel(figure, "Loss").get_lines():
            assert len(np.asarray(line.get_xdata())) <= MAX_POINTS


def run_metrics(n: int) -> dict[str, Series]:
    names = [
        "val_bpb",
        "coherence",
        "tokens_per_s",
        "grad_norm",
        "resonance",
        "perplexity",
        "learning_rate",
        "wave_ratio",
    ]
    metrics = {name: series(np.linspace(1, 2, n // 10), 10, 10) for name in names}
    return {
        "my_own_s": series(np.arange(n // 10) * 1e5, 10, 10),
        **metrics,
        "val_loss": series([3.0, 2.0, 2.5], 100, 100),
    }


def test_training_figure_has_a_labelled_panel_for_everything_tracked() -> None:
    with drawn(partial(training_figure, 300, series(noisy_loss(300)), run_metrics(300))) as figure:
        shown = titles(figure)
        assert shown[0] == "Loss"
        assert shown[1:5] == [
            METRICS[name].title
            for name in ("learning_rate", "perplexity", "grad_norm", "tokens_per_s")
        ]
        assert shown[-1] == "My own s"
        assert METRICS["val_loss"].title not in shown
        assert len(shown) == 1 + 9
        for axes in figure.axes:
            assert axes.get_xlabel().startswith("step")
            assert axes.get_ylabel()
        assert panel(figure, "My own s").get_ylabel() == "s"


def test_loss_panel_overlays_the_validation_and_names_the_best() -> None:
    with drawn(partial(training_figure, 300, series(noisy_loss(300)), run_metrics(300))) as figure:
        legend = panel(figure, "Loss").get_legend()
        assert legend is not None
        names = [text.get_text() for text in legend.get_texts()]
    assert names[0].startswith("training, smoothed over")
    assert names[1:] == ["validation", "best validation: 2 at step 200"]


def test_validation_has_its_own_panel_without_a_training_loss() -> None:
    with drawn(partial(training_figure, 300, None, run_metrics(300))) as figure:
        assert METRICS["val_loss"].title in titles(figure)


def test_gradient_norm_is_logarithmic_and_constants_are_not() -> None:
    metrics = {"grad_norm": series([0.1, 10, 1]), "perplexity": series([7.0, 7.0, 7.0])}
    with drawn(partial(training_figure, 3, None, metrics)) as figure:
        assert panel(figure, "Gradient norm").get_yscale() == "log"
        assert panel(figure, "Perplexity").get_yscale() == "linear"


def test_non_finite_and_far_points_are_marked_and_counted() -> None:
    loss = noisy_loss(500)
    loss[[100, 101]] = np.nan
    loss[200] = np.inf
    loss[300] = 1e6
    with drawn(partial(training_figure, 500, series(loss), {})) as figure:
        axes = panel(figure, "Loss")
        assert "NaN or infinite: 3" in axes.get_xlabel()
        assert "above" in axes.get_xlabel()
        assert axes.get_ylim()[1] < 20
        crosses = next(line for line in axes.get_lines() if line.get_marker() == "x")
        assert set(np.asarray(crosses.get_xdata())) <= {101.0, 102.0, 201.0}


def test_a_plot_without_finite_values_shows_a_notice() -> None:
    with drawn(partial(training_figure, 3, series([np.nan] * 3), {})) as figure:
        assert "no finite value yet" in [text.get_text() for text in figure.axes[0].texts]


AWKWARD_TRAINING: dict[str, Callable[[], Figure]] = {
    "one point": partial(training_figure, 1, series([5.5]), {"learning_rate": series([1e-3])}),
    "two points": partial(
        training_figure,
        2,
        series([5.5, 5.4]),
        {"grad_norm": series([0, 1]), "val_loss": series([5.6], 2)},
    ),
    "constant": partial(training_figure, 50, series([2.0] * 50), {"resonance": series([0.0] * 50)}),
    "nearly constant": partial(
        training_figure, 2, None, {"perplexity": series([7.3890561, 7.3890562])}
    ),
    "not finite": partial(training_figure, 9, series([np.nan] * 9), {"a": series([np.inf] * 9)}),
    "twelve metrics": partial(
        training_figure,
        10**6,
        series(noisy_loss(5000)),
        {f"metric_with_quite_a_long_name_{i}": series([1e-7 * i, 1e9]) for i in range(12)},
    ),
    "everything": partial(
        training_figure, 123_456_789, series(noisy_loss(3000)), run_metrics(3000)
    ),
    "dollars and signs": partial(
        training_figure,
        2,
        None,
        {"$x_{1$": series([1, 2]), "漢字": series([1, 2]), "_": series([-1, 1e-9])},
    ),
}


@pytest.mark.parametrize("draw", AWKWARD_TRAINING.values(), ids=AWKWARD_TRAINING.keys())
def test_training_text_never_overlaps(
    draw: Callable[[], Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_readable(draw, monkeypatch)


# --- waves ----------------------------------------------------------------------------------------


def tokens(vocab_size: int, at_most: int = 4096) -> Tokens:
    ids = even_rows(vocab_size, at_most)
    return Tokens(ids, vocab_size, {int(i): chr(i) for i in ids if i < 256})


def wave_arrays(n: int, n_wave: int, n_harmonic: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    freqs = np.linspace(0.5, 5, n_wave) + rng.normal(0, 0.1, (n, n_wave))
    return (
        freqs,
        rng.uniform(0, 2 * np.pi, (n, n_wave)),
        rng.normal(0, 0.1, (n, n_wave, n_harmonic)),
    )


WAVE_SIZES = [
    (1, 1, 1),
    (50257, 2, 12),
    pytest.param((256, 16, 4), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("size", WAVE_SIZES, ids=str)
@pytest.mark.parametrize("kind", ["frequencies", "phases", "amplitudes", "packets"])
def test_wave_text_never_overlaps(
    kind: str, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab_size, n_wave, n_harmonic = size
    some = tokens(vocab_size, 600)
    freqs, phases, amps = wave_arrays(len(some.ids), n_wave, n_harmonic)
    draws: dict[str, Callable[[], Figure]] = {
        "frequencies": partial(frequency_figure, 1_000_000, some, freqs),
        "phases": partial(phase_figure, 1_000_000, some, phases),
        "amplitudes": partial(amplitude_figure, 1_000_000, some, amps),
        "packets": partial(
            packet_figure, 1_000_000, some, Waves(freqs, phases, amps, np.full(n_wave, 0.1))
        ),
    }
    assert_readable(draws[kind], monkeypatch)


def test_wave_figures_name_axes_with_units() -> None:
    some = tokens(256)
    freqs, phases, amps = wave_arrays(256, 8, 3)
    with drawn(partial(frequency_figure, 1, some, freqs)) as figure:
        assert {"wave w", "frequency f (cycles)"} <= {axes.get_xlabel() for axes in figure.axes}
        assert "Tokens by waves" in titles(figure)
    with drawn(partial(phase_figure, 1, some, phases)) as figure:
        assert [axes.name for axes in figure.axes].count("polar") == 2
        assert "phase φ (radians)" in {axes.get_ylabel() for axes in figure.axes}
    with drawn(partial(amplitude_figure, 1, some, amps)) as figure:
        assert {"harmonic m", "amplitude a"} <= {axes.get_xlabel() for axes in figure.axes}


def test_a_diverged_model_is_still_drawn() -> None:
    some = tokens(9)
    freqs, phases, amps = (np.full_like(part, np.nan) for part in wave_arrays(9, 4, 2))
    for draw in (
        partial(frequency_figure, 1, some, freqs),
        partial(phase_figure, 1, some, phases),
        partial(amplitude_figure, 1, some, amps),
        partial(packet_figure, 1, some, Waves(freqs, phases, amps, None)),
        partial(interference_figure, "broken", np.full((2, 3, 3), np.nan), ["a", "b", "c"]),
    ):
        assert render(draw, DARK, DPI).startswith(b"\x89PNG")


def test_packets_equal_the_direct_sum() -> None:
    freqs, phases, amps = wave_arrays(2, 5, 3)
    rates = np.linspace(-0.2, 0.2, 5)
    tau, positions = np.array([0.0, 0.3, 1.0]), np.array([0.0, 7.0, 2.0])
    expected = np.zeros(3)
    for w in range(5):
        for m in range(3):
            theta = 2 * np.pi * (m + 1) * freqs[1, w] * tau + phases[1, w] + rates[w] * positions
            expected += amps[1, w, m] * np.sin(theta)
    packet = Waves(freqs, phases, amps, rates).packet(1, tau, positions)
    np.testing.assert_allclose(packet.imag, expected, atol=1e-12)
    assert np.all(np.abs(packet) >= np.abs(expected) - 1e-12)


def test_packets_are_labelled_with_their_text() -> None:
    freqs, phases, amps = wave_arrays(2, 3, 1)
    some = Tokens(np.array([10, 70]), 256, {10: "\n", 70: " F"})
    with drawn(partial(packet_figure, 1, some, Waves(freqs, phases, amps, None))) as figure:
        assert [axes.get_ylabel() for axes in figure.axes] == ["\\n\nid 10", "·F\nid 70"]


def causal(n_heads: int, n_tokens: int) -> FloatArray:
    scores = np.random.default_rng(1).normal(0, 2, (n_heads, n_tokens, n_tokens))
    weights = np.where(np.tri(n_tokens) > 0, np.exp(scores), 0.0)
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("n_heads", "long"),
    [
        (1, True),
        pytest.param(4, False, marks=pytest.mark.slow),
        pytest.param(6, True, marks=pytest.mark.slow),
        (12, True),
        (20, False),
    ],
)
@pytest.mark.slow
def test_interference_text_never_overlaps(
    n_heads: int, long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = readable_tokens(n_heads)
    texts = (
        [" interference", "\n\n", "漢字", "$x$", ",", " the"] * n
        if long
        else list("def f(self, x):\n\treturn x" * 2)
    )[:n]
    title = "Interference patterns, layer 12 of 12, step 1,000,000"
    assert_readable(partial(interference_figure, title, causal(n_heads, n), texts), monkeypatch)


def test_interference_has_a_panel_per_head_with_the_sentence_on_both_axes() -> None:
    uniform = np.tri(4) / np.arange(1, 5)[:, None]
    with drawn(
        partial(interference_figure, "t", np.stack([uniform, np.eye(4)]), ["a", " b", "\n", "d"])
    ) as figure:
        first, second = panel(figure, "head 1"), panel(figure, "head 2")
        assert first.get_title(loc="right") == "mixes 2.5 tokens"
        assert second.get_title(loc="right") == "mixes 1.0 tokens"
        for axis in (first.xaxis, first.yaxis):
            assert [text.get_text() for text in axis.get_ticklabels()] == ["a", "·b", "\\n", "d"]
        shown: Any = first.get_images()[0].get_array()
        assert np.array_equal(shown.mask, np.triu(np.ones((4, 4)), 1))


# --- comparison -----------------------------------------------------------------------------------


def experiments(n: int, name: str = "wave_{}", val: bool = True) -> list[Experiment]:
    found = []
    for i in range(n):
        curves = {
            "loss": series(noisy_loss(400, i)),
            "learning_rate": series([1e-3, 1e-4], 10, 300),
        }
        curves |= {"perplexity": series([90.0, 4.0], 10, 300)} | (
            {"val_loss": series([2.0, 1.5], 200, 200)} if val else {}
        )
        found.append(
            Experiment(
                name.format(i), curves, {"val_loss": 1.5 + i, "val_bpb": 2.1, "tokens_per_s": 2e4}
            )
        )
    return found


AWKWARD_COMPARISONS: dict[str, list[Experiment]] = {
    "one": experiments(1),
    "three": experiments(3),
    "twenty with long names": experiments(20, "an_experiment_with_a_very_long_name_{}_and_more"),
    "no curves": [
        Experiment("a", {}, {"x": -1.0}),
        Experiment("$漢_{", {}, {"x": np.nan, "y": 0.0}),
    ],
    "no finals": [
        Experiment("a", {"loss": series([1.0])}),
        Experiment("b", {"perplexity": series([np.nan])}),
    ],
    "nothing": [Experiment("a")],
}


@pytest.mark.parametrize("shown", AWKWARD_COMPARISONS.values(), ids=AWKWARD_COMPARISONS.keys())
def test_comparison_text_never_overlaps(
    shown: list[Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_readable(partial(comparison_figure, shown), monkeypatch)


def test_comparison_has_its_four_parts_and_every_value() -> None:
    with drawn(partial(comparison_figure, experiments(3))) as figure:
        assert titles(figure) == [
            "Loss",
            "Learning rate",
            "Perplexity",
            "Validation loss",
            "Validation bits / byte",
            "Throughput",
        ]
        bars = panel(figure, "Validation loss")
        assert [text.get_text() for text in bars.texts] == ["1.5", "2.5", "3.5"]
        assert bars.get_xlim()[0] == 0
        assert [text.get_text() for text in bars.get_yticklabels()] == [
            "wave_0",
            "wave_1",
            "wave_2",
        ]


def test_experiments_look_different_up_to_four_times_the_colours() -> None:
    n = len(DARK.series) * len(LINE_STYLES)
    with drawn(partial(comparison_figure, experiments(n, val=False))) as figure:
        lines: list[Any] = panel(figure, "Learning rate").get_lines()
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == n


def test_bar_metrics_put_the_usual_ones_first() -> None:
    assert bar_metrics([Experiment("a", {}, {"odd": 1.0, "val_bpb": 1.0, "val_loss": 1.0})]) == [
        "val_loss",
        "val_bpb",
        "odd",
    ]
