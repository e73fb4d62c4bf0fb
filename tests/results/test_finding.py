"""Findings: their sentences, their values, and how equal ones are put together."""

from __future__ import annotations

import pytest

from spectral_exp.results.document.model import Number, plain_text
from spectral_exp.results.finding import Measured, finding, measurement, merge_findings
from spectral_exp.results.paper.limits import remark
from tests.results.fakes import fake_run

ONE, OTHER = fake_run(seed=1), fake_run(seed=2)


def test_words_and_numbers_in_their_order() -> None:
    steps = measurement(12_000, "steps", ONE, "last step")
    found = finding(
        "kind",
        "{status} at {steps} of 5",
        "{why}",
        status="{failed}",
        steps=steps,
        why="100 % full",
    )
    assert str(found) == "{failed} at 12,000 of 5: 100 % full"
    assert [piece for piece in found.pieces() if isinstance(piece, Measured)] == [steps]
    assert str(found.about("classic")) == "classic: {failed} at 12,000 of 5: 100 % full"


def test_only_values_with_a_source_are_numbers_of_a_paper() -> None:
    found = finding(
        "kind",
        "val_bpb {value} is low: 70 billion at 0.66",
        value=measurement(0.1, "val_bpb", ONE, show=".4f"),
    )
    text = remark(found)
    assert plain_text(text) == "val_bpb 0.1000 is low: 70 billion at 0.66."
    assert [(run.shown, run.value) for run in text if isinstance(run, Number)] == [("0.1000", 0.1)]
    assert plain_text(remark(finding("kind", "code not recorded"))) == "Code not recorded."
    assert plain_text(remark(found.about("wave_1"))).startswith("wave_1: val_bpb")
    assert plain_text(
        remark(finding("k", "one {n} steps", n=measurement(10_000, "steps", ONE)), capital=False)
    ) == ("one 10\u202f000 steps.")


@pytest.mark.parametrize("exact", [(1.00001, 1.00001), (1.00001, 1.00002)])
def test_findings_are_put_together_if_their_exact_values_agree(exact: tuple[float, float]) -> None:
    pairs = [
        (run.run_id, finding("kind", "at {x}", x=measurement(value, "val_bpb", run, show=".2f")))
        for run, value in zip((ONE, OTHER), exact, strict=True)
    ]
    found = merge_findings(pairs, everyone="all 2 runs", n_all=2)
    if exact[0] == exact[1]:
        assert [str(one) for one in found] == ["all 2 runs: at 1.00"]
        (value,) = found[0].values.values()
        assert isinstance(value, Measured)
        assert value.source.runs == (ONE.run_id, OTHER.run_id)
    else:
        assert [str(one) for one in found] == [f"{run.run_id}: at 1.00" for run in (ONE, OTHER)]
