"""The figures of a comparison: their data, their captions, and the legibility of every word."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_exp.core.errors import SettingError
from spectral_exp.core.series import FloatArray, Series
from spectral_exp.plots.theme import DARK, LIGHT
from spectral_exp.results.comparison import Comparison, Difference, GroupSummary, Interval
from spectral_exp.results.figures import best_groups, comparison_figures, comparison_plots
from spectral_exp.results.figures.curves import OVERLAID, collect_curves, curves
from spectral_exp.results.figures.plot import Plot, save
from spectral_exp.results.figures.rows import difference_rows, differences, interval_rows, intervals
from spectral_exp.results.figures.scatter import (
    pareto,
    pareto_points,
    rate_lines,
    scaling,
    size_lines,
)
from spectral_exp.results.finding import finding
from spectral_exp.results.group import Group
from spectral_exp.runs.run import Run
from tests.plots.drawn import assert_readable, drawn


@dataclass(frozen=True)
class MadeRun(Run):
    """A run whose series are given."""

    data: Mapping[str, Series] = field(default_factory=dict)
    step_s: float = 0.1
    parameters: int = 1000

    @property
    def n_parameters(self) -> int | None:
        return self.parameters

    @property
    def tokens_per_step(self) -> int | None:
        return 768

    def series(self, metric: str) -> Series:
        return self.data.get(metric, Series(np.empty(0), np.empty(0)))

    def value(self, metric: str, at: str = "final") -> float | None:
        return self.data["loss"].steps[-1] * self.step_s if metric == "train_s" else None

    def train_time_s(self, steps: FloatArray) -> FloatArray:
        return np.asarray(steps * self.step_s)


def made_run(
    name: str, seed: int, end: float, *, steps: int = 200, settings: Any = None, **more: Any
) -> MadeRun:
    noise = np.random.default_rng(seed)
    logged = np.arange(10, steps + 1, 10).astype(np.float64)
    loss = end + 3 * np.exp(-logged / 30)
    data = {
        "loss": Series(logged, loss + 0.05 * noise.normal(size=logged.size)),
        "val_bpb": Series(logged[4::5], loss[4::5]),
    }
    run_id = f"{name}_{seed}"
    return MadeRun(
        Path(run_id), run_id, name, seed, "completed", settings=settings or {}, data=data, **more
    )


def summary(
    label: str,
    values: Sequence[float],
    *,
    key: Mapping[str, Any] | None = None,
    name: str = "",
    **run: Any,
) -> GroupSummary:
    """A group with a run for each value, by seed from 1 on."""
    runs = [made_run(name or label, seed, value, **run) for seed, value in enumerate(values, 1)]
    interval = Interval(min(values), max(values)) if len(values) >= 3 else None
    mean = float(np.mean(values)) if values else None
    seeds = [each.seed for each in runs]
    group = Group(label, key or {"name": label}, runs, [0] * len(runs))
    return GroupSummary(group, list(values), seeds, [], mean, mean, mean, interval, [])


def difference(
    a: GroupSummary, b: GroupSummary, kind: str = "baseline", **changes: Any
) -> Difference:
    n = min(len(a.values), len(b.values))
    mean = b.mean - a.mean if a.mean is not None and b.mean is not None else None
    interval = Interval(mean - 0.01, mean + 0.01) if n >= 3 and mean is not None else None
    known: dict[str, Any] = {
        "part": None, "paired": True, "n": n, "mean": mean, "interval": interval, "probability_of_improvement": 0.9,
        "p_value": 0.01, "p_holm": 0.02, "separated": interval is not None, "matches": {}, "warnings": (),
    }  # fmt: skip
    if changes.get("paired", True):
        known["pairs"] = [y - x for x, y in zip(a.values, b.values, strict=False)]
    return Difference(a, b, kind, **{**known, **changes})


def comparison(
    summaries: Sequence[GroupSummary], *, lower_is_better: bool = True, **changes: Any
) -> Comparison:
    """Held against the first group."""
    against = [difference(summaries[0], other) for other in summaries[1:]]
    known = {
        "baseline": summaries[0].group.label if summaries else None,
        "differences": against,
        "notes": (),
    }
    return Comparison("val_bpb", "final", lower_is_better, summaries, **{**known, **changes})


def three() -> Comparison:
    return comparison(
        [
            summary("classic", [2.7, 2.72, 2.71]),
            summary("wave", [2.6, 2.61, 2.62, 2.6]),
            summary("new", [2.5]),
        ]
    )


def many(n: int = 14) -> Comparison:
    label = "an experiment with a long name, learning_rate={}"
    groups = [
        summary(label.format(i), [2.5 + i / 20 + j / 100 for j in range(1 + i % 4)])
        for i in range(n)
    ]
    pairs = [difference(a, b, "ablation", part="optimizer") for a, b in pairwise(groups[:8])]
    found = comparison([*groups, summary("diverged", [50.0, 60.0, 55.0])])
    return Comparison(**{**vars(found), "differences": [*found.differences, *pairs]})


# --- intervals ------------------------------------------------------------------------------------


def test_rows_are_sorted_from_the_best_and_few_runs_have_dots_alone() -> None:
    rows = interval_rows(three())
    assert [row.label for row in rows] == ["new", "wave", "classic (baseline)"]
    new, wave, classic = rows
    assert (new.dots, new.mean, new.interval, new.note) == ([2.5], None, None, "n = 1, no interval")
    assert (wave.interval, wave.note, wave.filled, wave.muted) == (
        (2.6, 2.62),
        "n = 4",
        True,
        False,
    )
    assert (classic.filled, classic.muted) == (False, True)
    upwards = interval_rows(comparison(three().summaries, lower_is_better=False))
    assert [row.label for row in upwards] == [row.label for row in reversed(rows)]


def test_points_that_are_not_separated_are_hollow() -> None:
    a, b = three().summaries[:2]
    found = interval_rows(comparison([a, b], differences=[difference(a, b, separated=False)]))
    assert [row.filled for row in found] == [False, False]


def test_captions_name_the_metric_and_the_number_of_runs() -> None:
    assert (
        intervals(three()).caption
        == "Final validation bits / byte (lower is better), n = 1 to 4 runs; dots: single runs;"
        " diamonds and lines: mean and its 95 % bootstrap interval; filled: separated from"
        " classic (paired difference, Holm-corrected p < 0.05); dashed: mean of classic; no"
        " interval for new (n < 3)."
    )
    assert "arrows: values outside of the axis" in intervals(many()).caption


# --- differences ----------------------------------------------------------------------------------


def test_captions_say_why_there_is_no_interval() -> None:
    classic, wave, new = three().summaries
    equal = replace(classic, interval=None)
    assert (
        "no interval for classic (all values are equal)" in intervals(comparison([equal])).caption
    )
    caption = intervals(comparison([equal, new])).caption
    assert "no interval for classic and new (n < 3 or all values are equal)" in caption
    assert len(wave.values) >= 3
    unknown = difference(classic, wave, interval=None, p_value=None, p_holm=None, separated=None)
    found = comparison([classic, wave], differences=[unknown])
    assert "without an interval: all values are equal" in differences(found, "baseline").caption


def test_captions_call_a_speed_the_median_that_it_is() -> None:
    speeds = Comparison("tokens_per_s", "final", False, three().summaries, None, [], [])
    assert intervals(speeds).caption.startswith(
        "Throughput, median over each run (higher is better), n = "
    )


def test_dots_of_a_difference_are_pairs_of_equal_seed() -> None:
    a, b = summary("a", [1.0, 2.0, 3.0]), summary("b", [1.5, 2.25])
    assert difference_rows(three(), [difference(a, b)])[0].dots == [0.5, 0.25]
    unpaired = difference_rows(three(), [difference(a, b, paired=False)])[0]
    assert (unpaired.dots, unpaired.mean) == ((), difference(a, b).mean)


def test_ablations_stand_below_the_exchanged_part() -> None:
    plain, other = (
        summary(name, [2.0, 2.1, 2.2], name=name, parts={"optimizer": optimizer})
        for name, optimizer in (("wave", "adamw"), ("wave_rgd", "rgd"))
    )
    pairs = [
        difference(
            plain, other, "ablation", part="optimizer", warnings=[finding("steps", "steps differ")]
        )
    ]
    pairs.append(difference(other, plain, "ablation", part="loss", separated=False))
    rows = difference_rows(three(), pairs)
    assert [(row.label, row.heading) for row in rows] == [
        ("loss", True),
        ("wave_rgd → wave", False),
        ("optimizer: adamw → rgd", True),
        ("wave → wave_rgd *", False),
    ]
    assert [row.filled for row in rows if not row.heading] == [False, True]
    caption = differences(comparison([plain, other], differences=pairs)).caption
    assert "n = 3 pairs each" in caption
    assert "Holm-corrected over 1 comparison," in caption
    assert "* the two groups do not match" in caption


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_better_side_is_named(lower_is_better: bool) -> None:
    plot = differences(comparison(three().summaries, lower_is_better=lower_is_better), "baseline")
    assert plot.draw is not None
    with drawn(plot.draw, LIGHT) as figure:
        sides = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts[-2:]}
    assert sides == (
        {"◂ better": 0, "worse ▸": 1} if lower_is_better else {"◂ worse": 0, "better ▸": 1}
    )


# --- curves ---------------------------------------------------------------------------------------


def test_curves_hold_mean_and_range_by_step_token_and_second() -> None:
    by_step, by_token = (
        collect_curves(three(), "val_bpb", "step"),
        collect_curves(three(), "val_bpb", "tokens"),
    )
    by_second = collect_curves(three(), "val_bpb", "train_s")
    classic = by_step.curves[0]
    assert classic.x.tolist() == [50, 100, 150, 200]
    assert classic.mean[-1] == pytest.approx(2.71 + 3 * np.exp(-200 / 30))
    np.testing.assert_allclose(classic.high - classic.low, 0.02)
    assert by_token.curves[0].x.tolist() == [each * 768 for each in classic.x]
    np.testing.assert_allclose(by_second.curves[0].x, classic.x / 10)
    assert (by_step.x_label, by_token.x_label, by_second.x_label) == (
        "optimizer step", "training tokens", "training time (s)",
    )  # fmt: skip
    assert by_step.y_label == "validation bits / byte"


def test_long_times_are_in_hours() -> None:
    found = collect_curves(comparison([summary("slow", [2.0], step_s=60.0)]), "loss", "train_s")
    assert found.x_label == "training time (h)"
    assert found.curves[0].x[-1] == pytest.approx(200 / 60)


def test_outlying_single_runs_are_mentioned() -> None:
    group = summary("uneven", [2.0, 2.1])
    longer = made_run("uneven", 3, 2.2, steps=400)
    uneven = Group("uneven", {}, [*group.group.runs, longer], [0, 0, 0])
    found = comparison([GroupSummary(**{**vars(group), "group": uneven})])
    curve = collect_curves(found, "val_bpb", "step").curves[0]
    assert (curve.x[-1], curve.n_runs) == (200, 3)
    assert [part.steps[-1] for part in curve.rest] == [400]
    assert "thin lines: single runs" in curves(found).caption
    assert "thin lines" not in curves(three()).caption


def test_few_groups_share_a_panel_and_many_have_one_each() -> None:
    few, lot = curves(three()), curves(many(), "loss")
    assert few.draw is not None
    assert lot.draw is not None
    with drawn(few.draw, LIGHT) as figure:
        (axes,) = figure.axes
        assert [text.get_text() for text in axes.texts] == ["classic", "wave", "new"]
    assert len(many().summaries) > OVERLAID
    assert "grey: the other groups" in lot.caption
    assert "smoothed" in lot.caption


# --- scaling and trade-offs -----------------------------------------------------------------------


def rates() -> Comparison:
    groups = []
    for name, values in {
        "wave": (1e-3, 2e-3, 5e-4),
        "classic": (1e-3, 2e-3),
        "alone": (1e-3,),
    }.items():
        for rate in values:
            settings = {"optimizer.learning_rate": rate, "name": name}
            groups.append(
                summary(
                    f"{name}, {rate}", [2.0 + rate, 2.1], key=settings, name=name, settings=settings
                )
            )
    return comparison(groups)


def test_lines_are_groups_that_differ_in_their_rate_alone() -> None:
    lines = rate_lines(rates())
    assert [(line.label, line.x) for line in lines] == [
        ("wave", [5e-4, 1e-3, 2e-3]),
        ("classic", [1e-3, 2e-3]),
    ]
    assert [group.group.label for group in lines[0].groups] == [
        "wave, 0.0005",
        "wave, 0.001",
        "wave, 0.002",
    ]
    assert size_lines(rates()) == []


def test_lines_by_size_are_over_parameters() -> None:
    groups = [
        summary(
            f"wave, {size}",
            [3 - size / 4],
            key={"model.n_embd": size, "loss": "ce"},
            name="wave",
            parameters=size,
        )
        for size in (2, 1)
    ]
    other = summary("other loss", [2.0], key={"model.n_embd": 1, "loss": "qfe"}, parameters=1)
    (line,) = size_lines(comparison([*groups, other]))
    assert (line.label, line.x) == ("wave", [1, 2])


def test_the_front_holds_the_points_that_none_beats_in_both() -> None:
    seconds = {
        "fast": (3.0, 0.1),
        "good": (2.0, 0.3),
        "worse and slower": (3.1, 0.2),
        "twin of fast": (3.0, 0.1),
    }
    groups = [
        summary(name, [value, value], step_s=step_s) for name, (value, step_s) in seconds.items()
    ]
    points = pareto_points(comparison(groups))
    assert {point.label: point.best for point in points} == {
        "good": True, "fast": True, "twin of fast": True, "worse and slower": False,
    }  # fmt: skip
    best = points[0]
    assert (best.label, round(best.x, 9), best.y, best.rank) == ("good", 60.0, 2.0, 1)
    upwards = pareto_points(comparison(groups, lower_is_better=False))
    assert {point.label for point in upwards if point.best} == {
        "fast",
        "twin of fast",
        "worse and slower",
    }


# --- files ----------------------------------------------------------------------------------------

READABLE: dict[str, Plot] = {
    "intervals": intervals(many()),
    "differences": differences(many()),
    "overlaid curves": curves(comparison(many().summaries[-OVERLAID:]), "loss", "tokens"),
    "curves side by side": curves(many(8)),
    "rates": scaling(rates(), "learning_rate"),
    "trade-off": pareto(many()),
}


@pytest.mark.parametrize("plot", READABLE.values(), ids=READABLE.keys())
def test_text_never_overlaps(plot: Plot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plot.draw is not None
    assert_readable(plot.draw, monkeypatch, LIGHT)


def test_files_carry_name_format_and_caption(tmp_path: Path) -> None:
    found = save(intervals(three(), theme="dark"), tmp_path / "new", ("png", "pdf"), dpi=40)
    assert [path.name for path in found.paths] == ["intervals_val_bpb.png", "intervals_val_bpb.pdf"]
    png = found.paths[0].read_bytes()
    assert int.from_bytes(png[16:20], "big") == DARK.width * 40
    assert found.caption.encode() in png


def test_without_groups_every_figure_has_a_reason_for_its_absence(tmp_path: Path) -> None:
    found = comparison_figures(comparison([]), tmp_path)
    assert len({figure.name for figure in found}) == len(found) == 12
    assert all(figure.paths == () and figure.caption.endswith(".") for figure in found)
    assert list(tmp_path.iterdir()) == []


def test_runs_without_a_finite_value_give_no_figure() -> None:
    group = summary("broken", [np.nan, np.nan])
    broken = GroupSummary(
        **{**vars(group), "values": [], "seeds": [], "mean": None, "interval": None}
    )
    broken = GroupSummary(
        **{
            **vars(broken),
            "left_out": [
                (run.run_id, finding("non-finite", "not finite")) for run in group.group.runs
            ],
        }
    )
    assert [
        plot.name for _, plot in comparison_plots(comparison([broken])) if plot.draw is not None
    ] == []


def test_one_group_gives_the_figures_that_need_no_comparison() -> None:
    drawn_ones = {
        plot.name for _, plot in comparison_plots(comparison([summary("only", [2.0])])) if plot.draw
    }
    assert drawn_ones == {"intervals_val_bpb"} | {
        f"curves_{metric}_by_{by}"
        for metric in ("val_bpb", "loss")
        for by in ("step", "tokens", "train_s")
    }


@pytest.mark.parametrize("metric", ["val_bpb", "ablation/train_s"])
def test_figures_have_topics_under_any_name_of_the_metric(metric: str) -> None:
    of_metric = replace(comparison([summary("only", [2.0])]), metric=metric)
    found = comparison_plots(of_metric, metrics=[metric], axes=("step", "train_s"))
    topics = [(topic, plot.name.replace(metric.replace("/", "-"), "M")) for topic, plot in found]
    assert topics == [
        ("values", "intervals_M"),
        ("differences", "baseline_differences_M"),
        ("ablations", "ablation_differences_M"),
        ("values", "curves_M_by_step"),
        ("cost", "curves_M_by_train_s"),
        ("values", "scaling_M_by_learning_rate"),
        ("values", "scaling_M_by_size"),
        ("cost", "pareto_M_by_train_s"),
    ]


def test_of_very_many_groups_the_best_and_the_baseline_are_drawn() -> None:
    groups = [summary(f"group {i}", [3.0 - i / 100]) for i in range(30)]
    found = best_groups(comparison(groups), 24)
    labels = [each.group.label for each in found.summaries]
    assert labels == ["group 0", *(f"group {i}" for i in range(7, 30))]
    everything = [plot for _, plot in comparison_plots(comparison(groups))]
    assert all(
        plot.caption.endswith("Of 30 groups the best 24, with the baseline, are drawn.")
        for plot in everything
    )
    assert (
        len(difference_rows(found, found.differences)) == 29
    )  # Holm's correction still knows of them all
    upwards = best_groups(comparison(groups, lower_is_better=False), 3)
    assert [each.group.label for each in upwards.summaries] == ["group 0", "group 1", "group 2"]
    few = three()
    assert best_groups(few) is few


def test_unknown_themes_and_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="theme=pink must be light or dark"):
        intervals(three(), theme="pink")
    formats: Any = ["gif"]
    with pytest.raises(SettingError, match="formats=gif must be png, svg or pdf"):
        comparison_figures(three(), tmp_path, formats=formats)


def test_results_load_no_matplotlib_and_figures_no_torch_or_pyplot() -> None:
    code = (
        "import sys; from spectral_exp.results import aggregate, comparison, group;"
        "print('matplotlib' in sys.modules); import spectral_exp.results.figures;"
        "unwanted = ('torch', 'hydra', 'matplotlib.pyplot', 'spectral_exp.monitoring');"
        "print([name for name in unwanted if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["False", "[]"]
