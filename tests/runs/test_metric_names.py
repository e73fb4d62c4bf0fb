"""The catalogue of metrics."""

from __future__ import annotations

import pytest

from spectral_exp.runs.metric_names import (
    DERIVED,
    LANGUAGE_MODEL_UNITS,
    METRICS,
    machine_metrics,
    metric_info,
)


@pytest.mark.parametrize(
    ("name", "direction", "kind"),
    [
        ("loss", "lower", "training"),
        ("val_bpb", "lower", "validation"),
        ("val_loss", "lower", "validation"),
        ("best_val_loss", "lower", "validation"),
        ("val_perplexity", "lower", "validation"),
        ("accuracy", "higher", "training"),
        ("val_accuracy", "higher", "validation"),
        ("test_accuracy", "higher", "validation"),
        ("test_bpb", "lower", "validation"),
        ("tokens_per_s", "higher", "cost"),
        ("train_s", "lower", "cost"),
        ("learning_rate", None, "training"),
        ("checkpoint_blocked_ms", "lower", "machine"),
        ("checkpoint_compression", "higher", "machine"),
        ("backup_steps_behind", "lower", "machine"),
        ("steps_at_risk", "lower", "machine"),
        ("reward", None, None),
        ("my_s", None, None),
        ("best_", None, None),
        ("", None, None),
    ],
)
def test_direction_and_kind(name: str, direction: str | None, kind: str | None) -> None:
    metric = metric_info(name)
    assert (metric.direction, metric.kind) == (direction, kind)


def test_every_metric_has_a_title_and_a_unit() -> None:
    for name in (*METRICS, *DERIVED, "own", "_", "checkpoint_x_ms"):
        assert metric_info(name).title
        assert metric_info(name).unit
    assert all(metric.kind is not None for metric in METRICS.values())


def test_metrics_that_measure_the_machine() -> None:
    names = [
        "tokens_per_s",
        "train_s",
        "steps_at_risk",
        "checkpoint_size_mb",
        "backup_steps_behind",
    ]
    assert [name for name in [*METRICS, *names] if metric_info(name).measures_machine] == [
        "tokens_per_s",
        "train_s",
        *names,
    ]
    timed = ["tokens_per_s", "train_s", "cpu_s", "device_s"]
    listed = [*timed, "steps_at_risk", "slowdown", "checkpoint_*", "backup_*"]
    assert machine_metrics() == [*listed, "system/*", "gpu/*"]


@pytest.mark.parametrize(
    ("name", "unit", "direction", "kind"),
    [
        ("train/loss", "loss", "lower", "training"),
        ("val/loss", "loss", "lower", "validation"),
        ("eval/accuracy", "value", "higher", "validation"),
        ("critic/loss", "value", None, None),
        ("val/", "value", None, None),
    ],
)
def test_metrics_of_a_section(
    name: str, unit: str, direction: str | None, kind: str | None
) -> None:
    metric = metric_info(name)
    assert (metric.unit, metric.direction, metric.kind) == (unit, direction, kind)
    assert metric.title.lower() == name


def test_units_and_directions_may_be_given() -> None:
    metric = metric_info("val_loss", {"loss": "MSE"}, {"psnr": "higher"})
    assert metric.axis_label == "validation loss (MSE)"
    assert metric.words == "validation loss (MSE)"
    assert metric_info("psnr", {"psnr": "dB"}, {"psnr": "higher"}).lower_is_better is False
    assert metric_info("best_psnr", {}, {"psnr": "higher"}).direction == "higher"


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("test_loss", "loss (nats / token)"),
        ("best_val_loss", "loss (nats / token)"),
        ("test_bpb", "bits / byte"),
        ("loss@val:256/64", "loss (nats / token)"),
        ("bpb@test:256", "bits / byte"),
    ],
)
def test_losses_of_language_models_have_their_unit(name: str, unit: str) -> None:
    assert metric_info(name, LANGUAGE_MODEL_UNITS).unit == unit


def test_system_metrics_have_titles_and_units() -> None:
    names = ("system/run_cpu_percent", "system/disk_read_mb_per_s", "gpu/0/power_w", "gpu/1/x_c")
    assert [(metric_info(name).title, metric_info(name).unit) for name in names] == [
        ("Run CPU", "%"),
        ("Disk read", "MB / s"),
        ("GPU 0 power", "W"),
        ("GPU 1 x", "°C"),
    ]
    assert metric_info("val_c").unit == "value"
