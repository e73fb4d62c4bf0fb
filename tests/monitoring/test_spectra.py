"""The logger of spectra writes whole lines at its interval, and never stops its caller."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spectral_exp.core.errors import SettingError
from spectral_exp.monitoring import SpectraLogger
from spectral_exp.runs.spectra import read_spectra


def steps(run: Path) -> list[int]:
    found = read_spectra(run)
    return found[0].steps.tolist() if found else []


def test_lines_are_due_at_the_interval_and_after_the_last_step(tmp_path: Path) -> None:
    logger = SpectraLogger(tmp_path, 4, max_steps=10)
    assert [step for step in range(13) if logger.should_observe(step)] == [4, 8, 10, 12]
    assert not any(map(SpectraLogger(tmp_path, 1, enabled=False).should_observe, range(5)))
    assert [step for step in range(5) if SpectraLogger(tmp_path, 2).should_observe(step)] == [2, 4]


def test_a_loop_of_ones_own_records_weights_and_gradients(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    logger = SpectraLogger(tmp_path / "logs", 2)
    for step in range(1, 6):
        model(torch.ones(2, 4)).square().sum().backward()
        if logger.should_observe(step):
            assert logger.observe(step, nn.DataParallel(model)) == {}
        model.zero_grad()
    logger.observe(7, model)
    logger.close()
    found = {spectrum.name: spectrum for spectrum in read_spectra(tmp_path)}
    assert found["weights/weight"].steps.tolist() == [2, 4, 7]
    assert found["gradients/weight"].steps.tolist() == [2, 4]
    assert (found["weights/weight"].counts.sum(axis=1) == 12).all()


def test_a_disabled_logger_changes_nothing(tmp_path: Path) -> None:
    logger = SpectraLogger(tmp_path / "logs", 1, enabled=False)
    logger.observe(1, nn.Linear(2, 2))
    assert logger.cut_back(0) == 0
    logger.sync()
    logger.close()
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_matrices_writes_no_line(tmp_path: Path) -> None:
    SpectraLogger(tmp_path / "logs", 1, sample_ids=[1, 2]).observe(1, nn.LayerNorm(3))
    assert list(tmp_path.iterdir()) == []


class Broken(nn.Linear):
    """A model that cannot return its attention."""

    def attention_weights(self, ids: torch.Tensor, layer: int) -> torch.Tensor:
        raise IndexError("no such layer")


def test_what_cannot_be_counted_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = SpectraLogger(tmp_path / "logs", 1, sample_ids=[1, 2])
    for step in (1, 2):
        logger.observe(step, Broken(2, 2))
    (record,) = caplog.records
    assert "attention_entropy is left out at step 1" in record.getMessage()
    assert {spectrum.name for spectrum in read_spectra(tmp_path)} == {"weights/weight"}
    assert steps(tmp_path) == [1, 2]


def test_a_model_that_cannot_be_grouped_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = nn.Linear(2, 2)
    model.base_freqs = torch.ones(2, 2)
    model.component_parameters = lambda: 1 / 0
    logger = SpectraLogger(tmp_path / "logs", 1)
    for step in (1, 2):
        logger.observe(step, model)
    (record,) = caplog.records
    assert "part of the model is left out at step 1" in record.getMessage()
    assert [(s.name, s.steps.tolist()) for s in read_spectra(tmp_path)] == [("frequencies", [1, 2])]


def test_lines_wait_until_the_disk_takes_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("in the way")
    logger = SpectraLogger(tmp_path / "logs", 1)
    for step in (1, 2, 3):
        logger.observe(step, nn.Linear(2, 2))
    (warning,) = caplog.records
    assert "cannot write" in warning.getMessage()
    assert "spectra.jsonl" in warning.getMessage()
    (tmp_path / "logs").unlink()
    with caplog.at_level(logging.WARNING):
        logger.observe(4, nn.Linear(2, 2))
    assert "is being written again" in caplog.text
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_a_line_that_a_kill_has_torn_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = SpectraLogger(tmp_path / "logs", 1)
    for step in (1, 2):
        first.observe(step, nn.Linear(2, 2))
    first.close()
    file = tmp_path / "logs/spectra.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    SpectraLogger(tmp_path / "logs", 1).observe(2, nn.Linear(2, 2))
    assert "removed an unfinished last line" in caplog.text
    assert steps(tmp_path) == [1, 2]
    assert file.read_bytes().count(b"\n") == 2


def test_later_and_damaged_lines_are_moved_on_resume(tmp_path: Path) -> None:
    logger = SpectraLogger(tmp_path / "logs", 1)
    for step in (1, 2, 3, 4):
        logger.observe(step, nn.Linear(2, 2))
    file = tmp_path / "logs/spectra.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"{damaged\n", *lines[1:]]))
    assert logger.cut_back(2) == 3
    assert file.read_bytes() == lines[0] + lines[1]
    cut = tmp_path / "logs/spectra.cut.jsonl"
    assert cut.read_bytes() == b"{damaged\n" + lines[2] + lines[3]
    logger.observe(3, nn.Linear(2, 2))
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "interval=0 must be a whole number >= 1"),
        ({"interval": True}, "interval=True must be a whole number >= 1"),
        ({"layer": 1.5}, "layer=1.5 must be a whole number"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SpectraLogger(tmp_path, **settings)
