"""The manager: when it plots, which files come out, and that nothing it meets can disturb
training."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from array import array
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.core.series import Series
from spectral_exp.monitoring.visualization.manager import TextSample, VisualizationManager
from spectral_exp.monitoring.wrappers import unwrap
from spectral_exp.plots.run.histories import loss_series, metric_series, training_drawing
from spectral_exp.plots.run.internals import model_drawings
from spectral_exp.plots.run.runs import experiment, label_sources
from spectral_exp.plots.run.training import training_figure
from spectral_exp.plots.theme import DARK, LIGHT_SCREEN, render, use_theme

V, W, M, H = 20, 4, 2, 3
WAVE_PLOTS = [
    "frequency_distributions",
    "phase_distributions",
    "harmonic_amplitudes",
    "wave_packets",
]
SAMPLE = TextSample([3, 1, 4, 1, 5], ["a", " ", "\n", " ", "$x$"])


class TinyEmbedding(nn.Module):
    def __init__(self, vocab_size: int = V) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.base_freqs = nn.Parameter(torch.rand(vocab_size, W, generator=generator) * 5)
        self.phases = nn.Parameter(torch.rand(vocab_size, W, generator=generator) * 6)
        self.harmonic_amps = nn.Parameter(torch.randn(vocab_size, W, M, generator=generator))
        self.position_rates = nn.Parameter(torch.full((W,), 0.1))


class TinyModel(nn.Module):
    """Mixing weights that are noisy in training mode, as under dropout."""

    n_layer = 2
    block_size = 8

    def __init__(self, embedding: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding = embedding or TinyEmbedding()
        self.frozen = nn.Dropout(0.5).eval()
        self.scores = nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[int, bool, int]] = []

    def attention_weights(self, ids: Tensor, layer: int) -> Tensor:
        self.asked.append((layer, torch.is_grad_enabled(), ids.shape[1]))
        self.embedding.eval()
        torch.rand(3)
        scores = self.scores + torch.rand(H, ids.shape[1], ids.shape[1])
        return (scores + self.training).tril().softmax(-1)


def manager(folder: Path, **settings: Any) -> VisualizationManager:
    return VisualizationManager(folder, **{"viz_interval": 10, "dpi": 40, **settings})


def names(paths: list[Path]) -> list[str]:
    return [path.name.partition("_step_")[0] for path in paths]


# --- settings and intervals -----------------------------------------------------------------------


def test_plots_are_due_at_every_interval(tmp_path: Path) -> None:
    viz = manager(tmp_path, viz_interval=100)
    assert [step for step in range(401) if viz.should_visualize(step)] == [100, 200, 300, 400]
    assert VisualizationManager(str(tmp_path)).viz_interval == 1000


def test_disabled_does_nothing(tmp_path: Path) -> None:
    viz = manager(tmp_path / "viz", enabled=False)
    assert not viz.should_visualize(10)
    assert viz.generate_training_plots(10, [1.0], {}) == []
    assert viz.generate_model_plots(10, TinyModel(), sample=SAMPLE) == []
    assert viz.generate_comparison_plots([tmp_path]) == []
    assert not (tmp_path / "viz").exists()


@pytest.mark.parametrize(
    "settings",
    [{"viz_interval": 0}, {"viz_interval": 2.5}, {"dpi": 10}, {"dpi": True}, {"layer": 1.5}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        manager(tmp_path, **settings)


def test_missing_matplotlib_is_reported_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        manager(tmp_path)
    manager(tmp_path, enabled=False)


def test_importing_loads_neither_matplotlib_nor_torch() -> None:
    code = (
        "import sys; from spectral_exp.monitoring.visualization.manager import VisualizationManager"
        " as V; V('unused');print([m for m in ('matplotlib', 'torch', 'hydra') if m in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plotting_loads_no_pyplot_and_leaves_no_settings(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy();"
        "from spectral_exp.monitoring.visualization.manager import VisualizationManager as V;"
        f"assert V({str(tmp_path)!r}, dpi=40).generate_training_plots(1, [1.0], {{}});"
        "print('matplotlib.pyplot' in sys.modules, matplotlib.rcParams.copy() == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


# --- files ----------------------------------------------------------------------------------------


def test_files_are_png_named_by_plot_step_and_time(tmp_path: Path) -> None:
    paths = manager(tmp_path / "new" / "viz").generate_training_plots(
        20, [3.0, 2.0], {"learning_rate": [0.1, 0.2]}
    )
    assert len(paths) == 1
    assert re.fullmatch(r"training_dynamics_step_0000020_\d{8}_\d{6}\.png", paths[0].name)
    content = paths[0].read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    assert int.from_bytes(content[16:20], "big") == 12 * 40
    assert list(paths[0].parent.iterdir()) == paths


def test_every_file_is_kept_and_sorts_by_step(tmp_path: Path) -> None:
    viz = manager(tmp_path)
    paths = [viz.generate_training_plots(step, [1.0], {})[0] for step in (10, 20, 100, 100, 100)]
    assert len(set(paths)) == 5
    assert all(path.exists() for path in paths)
    assert [path.name.split("_")[3] for path in sorted(paths)] == ["0000010", "0000020"] + [
        "0000100"
    ] * 3


def test_nothing_to_draw_writes_nothing(tmp_path: Path) -> None:
    viz = manager(tmp_path)
    assert viz.generate_training_plots(10, [], {"perplexity": []}) == []
    assert viz.generate_comparison_plots({}) == []
    assert viz.failures == 0
    assert list(tmp_path.iterdir()) == []


def test_threads_may_draw_at_the_same_time(tmp_path: Path) -> None:
    before = matplotlib.rcParams.copy()
    managers = [manager(tmp_path / str(i)) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        paths = list(
            pool.map(lambda viz: viz.generate_training_plots(3, [3.0, 2.0, 1.0], {}), managers)
        )
    assert len({path.read_bytes() for (path,) in paths}) == 1
    assert matplotlib.rcParams.copy() == before


# --- histories ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "history",
    [
        [3.0, 2.0, np.inf],
        np.array([3, 2, np.inf], np.float32),
        array("d", [3, 2, np.inf]),
        torch.tensor([3, 2, torch.inf], requires_grad=True),
        torch.tensor([3, 2, torch.inf]).bfloat16(),
        [torch.tensor(3.0, requires_grad=True), torch.tensor(2.0), torch.tensor(torch.inf)],
    ],
    ids=lambda history: type(history).__name__,
)
def test_loss_histories_of_any_kind_end_at_the_step(history: Any) -> None:
    series = loss_series(history, 10)
    assert series is not None
    np.testing.assert_array_equal(series.steps, [8, 9, 10])
    np.testing.assert_array_equal(series.values, [3, 2, np.inf])


def refuse_nothing_else(name: str, error: Exception) -> None:
    assert name == "metric words", error


def test_plain_metrics_are_spread_over_the_steps_and_pairs_keep_theirs() -> None:
    given = {
        "plain": [1.0, 2.0],
        "pair": ([5, 10], [1.0, np.nan]),
        "unsorted": ([2, 1], [20.0, 10.0]),
        "words": ["a"],
    }
    found = metric_series(
        given | {"empty": [], "arrays": [array("d", [7]), array("d", [8])]},
        100,
        refuse_nothing_else,
    )
    assert list(found) == ["plain", "pair", "unsorted", "arrays"]
    assert found["plain"].steps.tolist() == [50, 100]
    assert found["pair"].steps.tolist() == [5, 10]
    assert found["unsorted"].values.tolist() == [10, 20]
    assert found["arrays"].steps.tolist() == [7]


def test_a_history_can_grow_after_it_was_plotted(tmp_path: Path) -> None:
    history = array("d", [1.0, 2.0])
    viz = manager(tmp_path)
    assert len(viz.generate_training_plots(2, history, {})) == 1
    history.append(3.0)  # an array that lends its memory to a view refuses to grow


ODD_METRICS: dict[str, Any] = {
    "lengths differ": ([1, 2, 3], [1, 2]),
    "words": ["a", "b"],
    "word": "a",
    "none": None,
    "nested": [[1.0, 2.0], [3.0]],
    "matrix": np.ones((3, 2)),
    "tensor": torch.ones(3, 2),
    "meta": torch.ones(3, device="meta"),
    "complex": np.array([1j, 2j, 3j]),
    "mapping": {1: 2.0},
    "object": object(),
}
UNUSUAL_METRICS: dict[str, Any] = {
    "only NaN": [np.nan] * 3,
    "gaps": [1.0, None, 3.0],
    "huge": [1e308, -1e308, 1e308],
    "tiny": [5e-324, 1.0, 2.0],
    "infinite steps": ([1, np.inf, np.nan], [1.0, 2.0, 3.0]),
    "one tensor": [torch.tensor(1.0, requires_grad=True), torch.tensor([2.0]), 3.0],
    "decimals": [Decimal("0.5"), Fraction(1, 2), np.longdouble(1)],
    "long": [10**300, 1, 2],
    "truth": [True, False, True],
    "column": np.ones((3, 1)),
    "scalar": 3.0,
    "$x_{1$ \\frac_": [1, 2, 3],
    "line\nend \u200f \U0001f600 \x1b[31m": [1, 2, 3],
    "name " * 60: [1, 2, 3],
}


@pytest.mark.slow
def test_an_odd_metric_costs_its_panel_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    viz = manager(tmp_path)
    for step in (3, 4):
        assert (
            len(
                viz.generate_training_plots(
                    step, [3.0, 2.0, 1.0], {**ODD_METRICS, **UNUSUAL_METRICS}
                )
            )
            == 1
        )
    assert viz.failures == 0
    found = [re.match("metric (.*) is left out", message) for message in caplog.messages]
    assert [match[1] for match in found if match] == list(ODD_METRICS)
    assert all(found)


@settings(max_examples=12, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=6),
        st.one_of(
            st.lists(
                st.one_of(st.floats(), st.integers(), st.none(), st.text(max_size=2)), max_size=5
            ),
            st.tuples(st.lists(st.floats(), max_size=4), st.lists(st.floats(), max_size=4)),
            st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2).map(
                sorted
            ),
        ),
        max_size=3,
    )
)
def test_whatever_is_tracked_the_figure_is_drawn(metrics: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        viz = manager(Path(folder))
        assert len(viz.generate_training_plots(3, [3.0, 2.0, 1.0], metrics)) == 1
        assert viz.failures == 0


@pytest.mark.parametrize(
    ("step", "files"), [(7.0, 1), (np.int64(7), 1), (True, 0), (7.5, 0), ("7", 0), (None, 1)]
)
def test_no_step_raises(tmp_path: Path, step: Any, files: int) -> None:
    viz = manager(tmp_path)
    embedding = TinyEmbedding()
    del embedding.base_freqs, embedding.phases
    assert len(viz.generate_training_plots(step, [1.0], {})) == files
    assert len(viz.generate_model_plots(step, embedding)) == files
    assert viz.failures == 2 * (1 - files)


@pytest.mark.parametrize(
    ("history", "metrics"), [("abc", {"a": [1.0]}), ([1.0], [1.0]), (object(), {"a": [1.0]})]
)
def test_an_odd_history_leaves_the_rest(tmp_path: Path, history: Any, metrics: Any) -> None:
    viz = manager(tmp_path)
    assert len(viz.generate_training_plots(1, history, metrics)) == 1
    assert (
        len(viz.generate_comparison_plots({"a": {"loss_history": history, "metrics": metrics}}))
        == 1
    )
    assert viz.failures == 0


def test_a_hundred_metrics_make_a_figure_of_bounded_size(tmp_path: Path) -> None:
    metrics = {f"metric_{number}": [1.0, 2.0] for number in range(100)} | {"grad_norm": [1.0, 2.0]}
    drawing: Any = training_drawing(2, [1.0, 2.0], metrics, refuse_nothing_else)
    with use_theme(DARK):
        figure = drawing()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == ["Loss", "Gradient norm", "Metric 0"]
    assert len(titles) == 25
    assert figure.get_figheight() < 30
    assert "77 more metrics are in metrics.jsonl" in [text.get_text() for text in figure.texts]


# --- models ---------------------------------------------------------------------------------------


def test_a_wave_model_gives_every_plot(tmp_path: Path) -> None:
    paths = manager(tmp_path).generate_model_plots(
        10, TinyModel(), sample=SAMPLE, token_labels=lambda token: f"<{token}>"
    )
    assert names(paths) == [*WAVE_PLOTS, "interference_patterns"]


def test_the_model_is_left_exactly_as_it_was(tmp_path: Path) -> None:
    model = TinyModel().train()
    model.frozen.eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert len(manager(tmp_path).generate_model_plots(10, model, sample=SAMPLE)) == 5
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert model.asked == [(1, False, len(SAMPLE.ids))]


def test_the_sample_is_cut_to_the_block(tmp_path: Path) -> None:
    model = TinyModel(nn.Identity())
    sample = TextSample(list(range(12)), [str(i) for i in range(12)])
    manager(tmp_path, layer=0).generate_model_plots(10, model, sample=sample)
    assert model.asked == [(0, False, 8)]


def test_wrapped_models_are_looked_into() -> None:
    model = TinyModel()
    compiled: Any = torch.compile(nn.DataParallel(model), backend="eager")
    assert unwrap(compiled) is model
    assert unwrap(model) is model


@pytest.mark.parametrize(
    ("missing", "plots"),
    [
        ("base_freqs", ["phase_distributions", "harmonic_amplitudes"]),
        ("phases", ["frequency_distributions", "harmonic_amplitudes", "wave_packets"]),
        ("harmonic_amps", ["frequency_distributions", "phase_distributions", "wave_packets"]),
        ("position_rates", WAVE_PLOTS),
    ],
)
def test_partial_wave_attributes_give_the_plots_they_allow(missing: str, plots: list[str]) -> None:
    embedding = TinyEmbedding()
    delattr(embedding, missing)
    drawings = model_drawings(10, nn.Sequential(embedding), -1, None, None)
    assert list(drawings) == plots
    assert render(drawings[plots[-1]](), DARK, 40)


def test_models_without_waves_are_skipped_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(2, 2)
    model.phases = 3  # type: ignore[assignment]
    with caplog.at_level(logging.INFO):
        viz = manager(tmp_path / "viz")
        assert viz.generate_model_plots(10, model, sample=SAMPLE) == []
    assert caplog.records == []
    assert viz.failures == 0
    assert not (tmp_path / "viz").exists()


def test_attention_of_other_models_is_not_called_interference(tmp_path: Path) -> None:
    assert names(
        manager(tmp_path).generate_model_plots(10, TinyModel(nn.Identity()), sample=SAMPLE)
    ) == ["attention_patterns"]


def test_large_vocabularies_are_sampled_and_infinities_drawn() -> None:
    embedding = TinyEmbedding(50257)
    with torch.no_grad():
        embedding.phases[0] = torch.inf
    drawings = model_drawings(10, embedding, -1, None, None)
    drawing: Any = drawings["phase_distributions"]()
    _, _, tokens, phases = drawing.args
    assert phases.shape == (4096, W)
    heat_map = drawing().axes[0].images[0].get_array()
    assert [bool(row.mask.all()) for row in heat_map] == [True] + [False] * 255
    assert (tokens.ids[0], tokens.ids[-1], tokens.vocab_size) == (0, 50256, 50257)


def test_packets_show_the_samples_visible_tokens_with_their_labels() -> None:
    drawing: Any = model_drawings(10, TinyEmbedding(), -1, SAMPLE, None)["wave_packets"]()
    _, tokens, _, _, amps, _ = drawing.args
    assert tokens.ids.tolist() == [3, 5, 1, 4]
    assert tokens.texts == {3: "a", 5: "$x$", 1: " ", 4: "\n"}
    assert amps.shape == (4, W, M)


def test_a_sample_needs_a_label_for_each_token() -> None:
    with pytest.raises(ValueError, match="one label per token"):
        TextSample([1, 2], ["a"])


# --- failures -------------------------------------------------------------------------------------


class BrokenModel(TinyModel):
    def attention_weights(self, ids: Tensor, layer: int) -> Tensor:
        raise RuntimeError("no weights today")


@pytest.mark.slow
def test_a_broken_model_is_warned_of_once_and_the_other_plots_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    viz, model = manager(tmp_path), BrokenModel().train()
    with caplog.at_level(logging.WARNING):
        for step in (10, 20):
            assert names(viz.generate_model_plots(step, model, sample=SAMPLE)) == WAVE_PLOTS
    assert viz.failures == 2
    (record,) = caplog.records
    assert "interference_patterns" in record.message
    assert "no weights today" in record.message
    assert record.exc_info is not None
    assert model.training


def test_something_that_is_no_model_is_only_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    not_a_model: Any = "not a model"
    assert manager(tmp_path).generate_model_plots(10, not_a_model) == []
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_an_unusable_folder_is_warned_of_once_for_all_plots_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "viz"
    folder.write_text("a file in the way")
    viz = manager(folder)
    with caplog.at_level(logging.WARNING):
        assert viz.generate_training_plots(10, [1.0], {}) == []
        assert viz.generate_model_plots(10, TinyModel(), sample=SAMPLE) == []
    assert viz.failures == 6
    (record,) = caplog.records
    assert "choose another viz_dir" in record.message
    assert record.exc_info is None
    folder.unlink()
    assert len(viz.generate_training_plots(20, [1.0], {})) == 1


def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    viz = manager(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert viz.generate_training_plots(10, [1.0], {}) == []
        assert viz.generate_comparison_plots({"a": {"loss_history": [1.0]}}) == []
    assert list(tmp_path.iterdir()) == []
    (record,) = caplog.records
    assert "free some disk space" in record.message
    assert len(viz.generate_training_plots(20, [1.0], {})) == 1


# --- comparison -----------------------------------------------------------------------------------


def write_run(root: Path, lines: list[str], results: dict[str, Any] | None = None) -> Path:
    (root / "logs").mkdir(parents=True)
    (root / "logs" / "metrics.jsonl").write_text("\n".join(lines))
    if results is not None:
        (root / "results.json").write_text(json.dumps(results))
    return root


def test_run_directories_are_read_even_torn_and_repeated(tmp_path: Path) -> None:
    rows = [
        {"step": 10, "timestamp": "2024-12-09T14:30:00", "loss": 2.0},
        {"step": 20, "loss": "NaN", "val_loss": 3},
        {"step": 10, "loss": 2.5},
        {"step": 30, "loss": "-Infinity", "text": "words", "flag": True},
    ]
    lines = [*map(json.dumps, rows), "[1]", '{"step": 40, "lo']
    finals = {
        "final_metrics": {
            "step": 30,
            "val_loss": 1.5,
            "note": "text",
            "worst": "Infinity",
            "ok": True,
        }
    }
    found = experiment("a", write_run(tmp_path / "run", lines, finals), refuse_nothing_else)
    assert set(found.series) == {"loss", "val_loss"}
    assert found.series["loss"].steps.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(found.series["loss"].values, [2.5, np.nan, -np.inf])
    assert found.final == {"val_loss": 1.5, "worst": np.inf}


def test_mappings_and_run_directories_are_compared(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ['{"step": 1, "loss": 2.0}'])
    memory = {
        "loss_history": [3.0, 2.0],
        "metrics": {"learning_rate": [1e-3]},
        "final_metrics": {"val_loss": 2.0},
    }
    viz = manager(tmp_path / "viz")
    (path,) = viz.generate_comparison_plots({"in memory": memory, "on disk": run})
    assert re.fullmatch(r"comparison_\d{8}_\d{6}\.png", path.name)
    assert len(viz.generate_comparison_plots([run])) == 1
    assert viz.failures == 0
    assert experiment("x", memory, refuse_nothing_else).series["learning_rate"].steps.tolist() == [
        2
    ]


def test_unreadable_runs_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "good", ['{"step": 1, "loss": 2.0}'])
    torn = write_run(tmp_path / "torn", ['{"step": 1, "loss": 2.0}'])
    (torn / "results.json").write_text("{")
    viz = manager(tmp_path / "viz")
    assert len(viz.generate_comparison_plots([run, torn, tmp_path / "missing"])) == 1
    assert viz.failures == 2
    assert "missing" in caplog.text
    assert "torn" in caplog.text


def test_runs_of_the_same_name_get_distinct_labels(tmp_path: Path) -> None:
    labels = [
        label
        for label, _ in label_sources(
            [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
        )
    ]
    assert labels == [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), "c"]


def test_the_light_theme_and_the_name_of_the_run_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []

    def keep(draw: Any, theme: Any, dpi: int, subject: str = "") -> bytes:
        def draw_and_keep() -> Any:
            figure = draw()
            facecolors.add(figure.get_facecolor())
            return figure

        titles.append(subject)
        return render(draw_and_keep, theme, dpi, subject)

    facecolors: set[Any] = set()
    monkeypatch.setattr("spectral_exp.plots.theme.render", keep)
    folder = tmp_path / "wave_1" / "visualizations"
    light = VisualizationManager(folder, dpi=40, theme="light")
    (file,) = light.generate_training_plots(2, [3.0, 2.0], {"x": [1.0, 2.0]})
    assert titles == ["wave_1"]
    assert facecolors == {matplotlib.colors.to_rgba(LIGHT_SCREEN.background)}
    pixels = matplotlib.image.imread(file)
    assert (pixels[0, 0, :3] == 1).all()
    VisualizationManager(tmp_path / "plots", dpi=40).generate_training_plots(2, [3.0, 2.0], {})
    assert titles == ["wave_1", ""]
    with pytest.raises(SettingError, match="theme=blue must be dark or light"):
        VisualizationManager(folder, theme="blue")


def test_a_subject_follows_the_title() -> None:
    figures = []

    def draw() -> Any:
        figures.append(training_figure(2, Series(np.arange(2.0), np.arange(2.0)), {}))
        return figures[0]

    render(draw, DARK, 40, "wave_1")
    assert figures[0].get_suptitle() == "Training dynamics at step 2  wave_1"


@pytest.mark.parametrize("has_loss", [True, False])
def test_a_metric_with_one_value_has_no_panel_beside_others(has_loss: bool) -> None:
    pair, one = Series(np.arange(2.0), np.ones(2)), Series(np.ones(1), np.ones(1))
    loss = pair if has_loss else None
    with use_theme(DARK):
        panels = training_figure(1, loss, {"a": pair, "b": one, "c": pair}).axes
        alone = training_figure(1, loss, {"a": one, "b": one}).axes
    assert len(panels) == has_loss + 2
    assert len(alone) == (1 if has_loss else 2)
