"""The table of a paper on what each part contributes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.results import figures
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.attribution import attribute
from spectral_exp.results.attribution_tables import attribution_table
from spectral_exp.results.comparison import compare
from spectral_exp.results.document.model import Number, Strong, Table, plain_text
from spectral_exp.results.paper import Choices, PaperGenerator, verify
from tests.results.made_runs import make_run

LAST = "attention=rotary embedding_norm=true"


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds of two attentions, with and without a normalization of the embedding."""
    monkeypatch.setattr(figures, "comparison_plots", lambda comparison, **options: [])
    folder = tmp_path / "outputs"
    for seed in (1, 2, 3):
        for name, gain in (("classic", 0.0), ("classic_rotary", 0.1)):
            for normed in (False, True):
                own = 0.004 * ((seed * 7 + 5 * normed + len(name)) % 3)
                make_run(
                    folder, name, seed, val_bpb=2.5 - gain - 0.2 * normed + own,
                    settings={"name": "study", "model.embedding_norm": normed},
                )  # fmt: skip
    return folder


def contributions(outputs: Path, attribute: str | None = None) -> list[Table]:
    paper = PaperGenerator([outputs], Choices(metric="val_bpb", attribute=attribute)).paper()
    blocks = paper.document.blocks
    return [one for one in blocks if isinstance(one, Table) and one.key == "tab:contributions"]


def test_a_whole_grid_is_attributed_as_by_compare(outputs: Path, tmp_path: Path) -> None:
    (table,) = contributions(outputs)
    groups = ResultsAggregator([outputs]).groups()
    attribution = attribute(compare(groups, "val_bpb"))
    assert attribution.candidate == LAST
    names = [[cell.text for cell in row[:3]] for row in attribution_table(attribution).rows]
    assert [[plain_text(cell) for cell in row[:3]] for row in table.rows] == names
    for row, effect in zip(table.rows, attribution.effects, strict=True):
        (mean,) = row[4][0].runs if isinstance(row[4][0], Strong) else row[4]
        assert isinstance(mean, Number)
        assert mean.value == effect.mean
        assert len(mean.source.runs) == (12 if effect.given is None else 6)
    written = PaperGenerator([outputs], Choices(metric="val_bpb", attribute=LAST))
    written.write(tmp_path / "paper", ["md"])
    assert verify(tmp_path / "paper").exit_code == 0


def test_an_incomplete_grid_is_attributed_only_if_its_group_is_named(outputs: Path) -> None:
    for run in (
        ResultsAggregator([outputs]).where(["attention=rotary", "embedding_norm=false"]).runs
    ):
        shutil.rmtree(run.path)
    assert contributions(outputs) == []
    (table,) = contributions(outputs, attribute=LAST)
    assert [plain_text(row[2]) for row in table.rows][-2:] == [
        "model.embedding_norm",
        "nothing else",
    ]
    with pytest.raises(UserError, match="attribute=none must be the label of another group"):
        contributions(outputs, attribute="none")
