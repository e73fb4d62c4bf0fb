"""A run whose record names its parts as an earlier version did is used like any other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.commands import compare, diagnose, generate, reproduce, verify_resume
from spectral_exp.config.parts import ROLES
from spectral_exp.config.roles import NotAPartError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.monitoring.checkpoint.file import read_sidecar, write_checkpoint
from spectral_exp.results import aggregate
from spectral_exp.runs.renamed import RENAMED, former_defaults, update_names
from spectral_exp.train import main
from spectral_exp.verification import replay
from tests.conftest import NO_PLOTS, TINY

OLD_NAMES = {new: old for old, new in RENAMED.items()}
OLD_DEFAULTS = ("optimizer.betas=[0.9,0.999]", "optimizer.weight_decay=0.01")
"""What the configuration of RGD said before; a run that had them says so in no override."""

SETTINGS = (
    "+experiment=wave_rgd_qfe",
    *TINY,
    NO_PLOTS,
    "device=cpu",
    "model.dropout=0.1",
    "optimizer._target_=spectral_exp.optim.build_rgd",
    "monitoring.checkpoint.keep_last_n=9",
    *OLD_DEFAULTS,
)


def in_old_names(value: Any) -> Any:
    """A record, or a part of one, with the name that each part had before it was renamed."""
    if isinstance(value, dict):
        return {key: in_old_names(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_old_names(item) for item in value]
    if isinstance(value, str):
        return re.sub(
            r"spectral_exp(\.\w+)+", lambda match: OLD_NAMES.get(match[0], match[0]), value
        )
    return value


def make_old(run: Path) -> None:
    """Give a run the record of an earlier version, with correct checksums."""
    record = in_old_names(json.loads((run / "config.json").read_text()))
    record["overrides"] = [text for text in record["overrides"] if text not in OLD_DEFAULTS]
    record["crc32"] = content_crc32(record)
    (run / "config.json").write_text(json.dumps(record))
    for path in (run / "checkpoints").glob("checkpoint_step_*.pt"):
        facts = read_sidecar(path)
        assert facts is not None
        state = torch.load(path, weights_only=True)
        state["config"] = in_old_names(state["config"])
        write_checkpoint(
            path, state, facts={name: facts.get(name) for name in ("serial", "best_step")}
        )
    for file in (run / ".hydra").glob("*.yaml"):
        lines = in_old_names(file.read_text()).splitlines(keepends=True)
        kept = [line for line in lines if line.strip(" -'\n") not in OLD_DEFAULTS]
        file.write_text("".join(kept))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and the same as an earlier version wrote it."""
    folder = tmp_path_factory.mktemp("old")
    new, old = folder / "new", folder / "old"
    assert main([*SETTINGS, f"hydra.run.dir={new}"]) == 0
    shutil.copytree(new, old, symlinks=True)
    make_old(old)
    return new, old


@pytest.fixture
def runs(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both that a test may change."""
    for run in finished:
        shutil.copytree(run, tmp_path / run.name, symlinks=True)
    return tmp_path / "new", tmp_path / "old"


def newest_state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints/checkpoint_latest.pt", weights_only=True)
    return state


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key])]
    return (
        [leaf for item in value for leaf in leaves(item)]
        if isinstance(value, list | tuple)
        else [value]
    )


def of_training(line: str) -> dict[str, Any]:
    machine = ("timestamp", "tokens_per_s", "steps_at_risk", "checkpoint_")
    return {name: value for name, value in json.loads(line).items() if not name.startswith(machine)}


def test_every_old_name_leads_to_a_part_of_the_same_kind() -> None:
    for old, new in RENAMED.items():
        fitting = []
        for role in ROLES.values():
            try:
                fitting.append(role.find(new))
            except NotAPartError:
                continue
        assert fitting, (old, new)
        assert new not in RENAMED
        assert update_names({"part": {"_target_": old}}) == {"part": {"_target_": new}}


def test_only_recorded_defaults_of_rgd_are_former_ones() -> None:
    node = {"_target_": "spectral_exp.optim.rgd.rgd", "betas": [0.9, 0.999], "weight_decay": 0.1}
    assert former_defaults({"optimizer": node}) == {"optimizer.betas": [0.9, 0.999]}
    assert former_defaults({"optimizer": {**node, "_target_": "torch.optim.AdamW"}}) == {}
    assert former_defaults({}) == former_defaults({"optimizer": None}) == {}


def test_the_old_run_names_other_parts_everywhere(finished: tuple[Path, Path]) -> None:
    for file in ("config.json", ".hydra/overrides.yaml"):
        new, old = ((run / file).read_text() for run in finished)
        assert "spectral_exp.optim.build_rgd" in new
        assert "spectral_exp.optim.build_rgd" not in old
        assert "spectral_exp.optim.rgd.rgd" in old
    saved = newest_state(finished[1])["config"]
    assert saved["training"]["_target_"] == "spectral_exp.runner.TrainingSettings"


def test_an_old_run_continues_bit_for_bit(runs: tuple[Path, Path]) -> None:
    new, old = runs
    for run in runs:
        assert main([f"resume={run}", "training.max_steps=15"]) == 0
    one, other = newest_state(new), newest_state(old)
    assert one["step"] == other["step"] == 15
    assert update_names(other["config"])["optimizer"] == one["config"]["optimizer"]
    for part in (
        "model_state_dict",
        "optimizer_state_dict",
        "loss_state_dict",
        "rng_state",
        "loss_history",
    ):
        for a, b in zip(leaves(one[part]), leaves(other[part]), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    metrics = [(run / "logs/metrics.jsonl").read_text().splitlines() for run in runs]
    assert [of_training(line) for line in metrics[0]] == [of_training(line) for line in metrics[1]]


def test_an_old_run_belongs_to_the_group_of_a_new_one(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    found = aggregate.ResultsAggregator([tmp_path], index=False)
    assert len(found.runs) == 2
    assert len({run.config_hash for run in found.runs}) == 1
    assert found.differing() == []
    (group,) = found.groups()
    assert len(group.runs) == 2
    assert compare.main([str(tmp_path), "--no-index"]) == 0


def test_an_old_run_is_verified(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(replay, "_run_in_process", call)
    assert verify_resume.main([str(runs[1]), "--steps", "4"]) == 0
    assert "identical" in capsys.readouterr().out
    certificate = json.loads((runs[1] / "resume_certificate.json").read_text())
    assert certificate["differences"]["settings"] == []


def test_an_old_run_writes_text_and_is_diagnosed(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = []
    for run in runs:
        assert generate.main([str(run), "--tokens", "4", "--seed", "1"]) == 0
        assert diagnose.main([str(run), "--windows", "1", "--json"]) == 0
        printed.append(capsys.readouterr().out.replace(str(run), "RUN"))
    assert printed[0].replace("new", "old") == printed[1].replace("new", "old")


@pytest.mark.slow
def test_an_old_run_is_reproduced(runs: tuple[Path, Path]) -> None:
    old = runs[1]
    assert reproduce.main([str(old), "--current-code"]) == 0
    report = json.loads((old.parent / "old_reproduced/reproduction.json").read_text())
    assert report["verdict"] == "identical"
    assert report["differences"]["settings"] == []
