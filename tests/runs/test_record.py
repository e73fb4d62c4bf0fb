"""From any record, readers get the types that they rely on, and a finding for every omission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.runs.record import (
    ConfigRecord,
    ResultsRecord,
    known_settings,
    read_config,
    read_intact_config,
    read_results,
)
from spectral_exp.runs.schema import Findings, conform

texts = st.sampled_from(["", "x", "NaN", "0123abcd", "completed"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = (
    leaves
    | st.lists(leaves, max_size=2)
    | st.dictionaries(st.sampled_from("abc"), leaves, max_size=2)
)


def records(kind: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Records with the names of a type and any values."""
    names = list(kind.__annotations__)
    inner = [
        "hash",
        "from_step",
        "overrides",
        "steps",
        "train_s",
        "val_bytes",
        "untracked",
        "blocked_s",
        "step",
        "cwd",
    ]
    sections = (
        values
        | st.dictionaries(st.sampled_from(inner), values, max_size=4)
        | st.lists(values, max_size=2)
    )
    return st.dictionaries(st.sampled_from(names), sections, max_size=4)


@pytest.mark.parametrize("kind", [ConfigRecord, ResultsRecord])
def test_kept_facts_have_their_types(kind: Any) -> None:
    @settings(max_examples=60)
    @given(records(kind))
    def check(content: dict[str, Any]) -> None:
        kept = conform(kind, content, findings := Findings("x.json"))
        assert isinstance(kept, dict)
        again = Findings("x.json")
        assert repr(conform(kind, kept, again)) == repr(kept)
        assert again.all() == ()
        if kept.keys() != content.keys():
            assert findings.all()

    check()


def write(file: Path, content: dict[str, Any]) -> Path:
    file.write_text(json.dumps(content))
    return file


def test_a_wrong_type_is_left_out_and_named(tmp_path: Path) -> None:
    content = {
        "git": {"hash": "--upload-pack=x", "dirty": True},
        "dataset": [1],
        "attempts": [{"from_step": 0}],
    }
    record, findings = read_config(write(tmp_path / "config.json", content))
    assert record == {"git": {"dirty": True}}
    assert findings == (
        "config.json: git.hash is left out: '--upload-pack=x' is not a commit",
        "config.json: dataset is left out: list is not an object",
        "config.json: attempts[0] is left out: dict is not an object with overrides",
    )


def test_results_have_their_numbers_back(tmp_path: Path) -> None:
    content = {
        "final_metrics": {"loss": "Infinity", "val_bpb": "high"},
        "status": "done",
        "error": "NaN",
    }
    results, findings = read_results(write(tmp_path / "results.json", content))
    assert results == {"final_metrics": {"loss": float("inf")}, "error": "NaN"}
    assert len(findings) == 2


def test_many_findings_are_counted(tmp_path: Path) -> None:
    content = {"packages": {f"p{i}": i for i in range(50)}}
    _, findings = read_config(write(tmp_path / "config.json", content))
    assert len(findings) == 6
    assert findings[-1] == "config.json: 45 more are left out"


def test_a_run_is_repeated_from_a_whole_record_alone(tmp_path: Path) -> None:
    content: dict[str, Any] = {"config": {"seed": 1}, "overrides": "seed=1"}
    content["crc32"] = content_crc32(content)
    with pytest.raises(
        UserError, match=r"is damaged: config\.json: overrides is left out: 'seed=1' is not a list"
    ):
        read_intact_config(write(tmp_path / "config.json", content))
    content["overrides"] = ["seed=1"]
    with pytest.raises(
        UserError, match=r"config\.json was changed or damaged since it was written"
    ):
        read_intact_config(write(tmp_path / "config.json", content))
    content["crc32"] = content_crc32(content)
    assert read_intact_config(write(tmp_path / "config.json", content))["overrides"] == ["seed=1"]


def test_settings_that_are_computed_with_have_their_type() -> None:
    wrong = {
        "training.max_steps": "12",
        "model.block_size.x": 1,
        "data.\x1b": 2,
        "loss._target_": 3,
        "seed": 10**100,
    }
    kept, findings = known_settings(wrong, "config.json")
    assert kept == {r"data.\x1b": 2}
    assert len(findings) == 4
