from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.core.git import git_hash
from spectral_exp.core.redact import REDACTED, redact
from spectral_exp.monitoring import ConfigTracker
from spectral_exp.monitoring.tracking import environment
from spectral_exp.monitoring.tracking.model_summary import summarize_model


def saved(
    tracker: ConfigTracker, config: dict[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    tracker.save_config(config or {}, **options)
    return tracker.load_config()


# --- config.json ----------------------------------------------------------------------------------


def test_config_records_command_and_machine(tmp_path: Path) -> None:
    tracker = ConfigTracker(tmp_path / "wave_20241209_143022_a3f2b1c4")
    config = {
        "learning_rate": 0.001,
        "model": OmegaConf.create({"n": 2, "twice": "${n}"}),
        "path": tmp_path,
    }
    content = saved(
        tracker,
        config,
        model=nn.Linear(2, 3),
        dataset_info={"fingerprint": "abc", "bytes": np.int64(7)},
        overrides=["seed=1"],
        command=["python", "-m", "spectral_exp.train"],
        attempts=[{"start_step": 0}],
    )
    assert content["experiment_id"] == "wave_20241209_143022_a3f2b1c4"
    assert content["git_hash"] == git_hash()
    assert content["config"] == {
        "learning_rate": 0.001,
        "model": {"n": 2, "twice": 2},
        "path": str(tmp_path),
    }
    assert content["model"] == {
        "type": "Linear",
        "num_parameters": 9,
        "num_trainable_parameters": 9,
        "parameters_by_component": {"weight": 6, "bias": 3},
    }
    assert content["dataset"] == {"fingerprint": "abc", "bytes": 7}
    assert (content["overrides"], content["attempts"]) == (["seed=1"], [{"start_step": 0}])
    assert content["command"] == ["python", "-m", "spectral_exp.train"]
    assert content["host"]["cwd"] == str(Path.cwd())
    assert content["packages"]["python"] == platform.python_version()
    assert content["packages"]["torch"] == torch.__version__


def test_hardware_is_this_machine() -> None:
    hardware = environment.hardware_facts()
    assert hardware["cpu_count"] == os.cpu_count()
    assert hardware["memory_gb"] == pytest.approx(psutil.virtual_memory().total / 1e9, abs=0.01)
    assert hardware["gpu_available"] == (
        torch.cuda.is_available() or torch.backends.mps.is_available()
    )
    assert (hardware["gpu_model"] is None) != hardware["gpu_available"]
    assert hardware["cuda_version"] == torch.version.cuda


def test_command_of_this_process_is_the_default(tmp_path: Path) -> None:
    assert saved(ConfigTracker(tmp_path))["command"] == sys.orig_argv


def test_standard_sections_cannot_be_replaced(tmp_path: Path) -> None:
    tracker = ConfigTracker(tmp_path)
    with pytest.raises(SettingError, match="hardware"):
        tracker.save_config({}, hardware={})
    with pytest.raises(SettingError, match="git_hash"):
        tracker.save_results({}, git_hash="x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        ConfigTracker(tmp_path).load_config()


def test_an_unwritable_run_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        ConfigTracker(tmp_path / "file").save_config({})


def test_disabled_tracker_writes_nothing(tmp_path: Path) -> None:
    tracker = ConfigTracker(tmp_path, enabled=False)
    assert tracker.save_config({}) == tmp_path / "config.json"
    assert tracker.save_results({}) == tmp_path / "results.json"
    assert list(tmp_path.iterdir()) == []


# --- results.json ---------------------------------------------------------------------------------


def test_results_hold_metrics_and_sections(tmp_path: Path) -> None:
    path = ConfigTracker(tmp_path).save_results(
        {"val_loss": torch.tensor(1.5), "perplexity": math.inf},
        best_checkpoint=tmp_path / "checkpoint_best.pt",
        generation_samples=["a text"],
        status="completed",
        totals={"tokens": 1000, "time_s": 2.0},
    )
    content = json.loads(path.read_text())
    assert content["final_metrics"] == {"val_loss": 1.5, "perplexity": "Infinity"}
    assert content["best_checkpoint"] == str(tmp_path / "checkpoint_best.pt")
    assert (content["generation_samples"], content["status"]) == (["a text"], "completed")
    assert content["totals"] == {"tokens": 1000, "time_s": 2.0}


def test_refused_results_are_logged_with_the_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.ERROR):
        ConfigTracker(tmp_path / "file").save_results({"val_loss": 1.25})
    assert "1.25" in caplog.text


# --- model ----------------------------------------------------------------------------------------


class TellingModel(nn.Module):
    """Has every method and attribute that the summary looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.n_embd, self.n_layer = 4, 2
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.LayerNorm(4).requires_grad_(False)

    def flops_per_token(self) -> int:
        return 240


def test_summary_counts_shared_parameters_once() -> None:
    assert summarize_model(nn.DataParallel(TellingModel())) == {
        "type": "TellingModel",
        "num_parameters": 48,
        "num_trainable_parameters": 40,
        "d_model": 4,
        "num_layers": 2,
        "parameters_by_component": {"embedding": 40, "norm": 8},
        "flops_per_token": 240,
    }


def test_summary_asks_the_model_for_its_components() -> None:
    model = nn.Linear(2, 2)
    model.parameters_by_component = lambda: {"all": 6}  # type: ignore[assignment]
    model.config = type("Config", (), {"hidden_size": 2})()
    summary = summarize_model(model)
    assert summary["parameters_by_component"] == {"all": 6}
    assert summary["d_model"] == 2


# --- git ------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed file."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "file.txt").write_text("one\n")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    return root


def test_clean_repository(repository: Path) -> None:
    facts, diff = environment.git_facts(repository)
    printed = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, check=True
    )
    assert facts["hash"] == printed.stdout.decode().strip()
    assert (facts["dirty"], facts["untracked"], facts["diff_truncated"], diff) == (
        False,
        [],
        False,
        b"",
    )


def test_patch_recreates_the_changed_files(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "abcdefgh12345")
    (repository / "file.txt").write_bytes(b"two \xff abcdefgh12345\n")
    (repository / "new.txt").touch()
    facts, diff = environment.git_facts(repository)
    assert (facts["dirty"], facts["untracked"], facts["untracked_total"]) == (True, ["new.txt"], 1)
    subprocess.run(["git", "-C", str(repository), "checkout", "-q", "."], check=True)
    subprocess.run(["git", "-C", str(repository), "apply"], input=diff, check=True)
    assert (repository / "file.txt").read_bytes() == f"two ?? {REDACTED}\n".encode().replace(
        b"??", b"\xff"
    )


def test_no_repository_is_no_error(tmp_path: Path) -> None:
    facts, diff = environment.git_facts(tmp_path)
    assert (facts["hash"], facts["dirty"], diff) == (None, None, b"")


def test_repository_without_commits(tmp_path: Path) -> None:
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    (tmp_path / "file").touch()
    subprocess.run(["git", "-C", str(tmp_path), "add", "file"], check=True)
    facts, diff = environment.git_facts(tmp_path)
    assert (facts["hash"], facts["dirty"], diff) == (None, True, b"")


def test_patch_lies_beside_the_config(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRAL_EXP_CODE", str(repository))
    (repository / "file.txt").write_text("two\nlogged in with Zq8hunter2XY\n")
    git = saved(ConfigTracker(tmp_path / "run"), config={"api_key": "Zq8hunter2XY"})["git"]
    assert git["diff_file"] == "git_diff.patch"
    patch = (tmp_path / "run" / "git_diff.patch").read_text()
    assert f"+two\n+logged in with {REDACTED}\n" in patch


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_do_not_reach_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_PASSWORD", "correct-horse-battery")
    monkeypatch.setenv("SHORT_SECRET", "xyz7")
    config = {
        "hub": {"token": "hf_0123456789", "max_tokens": 100},
        "innocent": "correct-horse-battery",
        "inside": "s3://user/correct-horse-battery/x",
        "short": "xyz7",
        "near": "xyz77",
        "url": "https://me:letmein99@example.org/x",
        "list": ["correct-horse-battery"],
    }
    ConfigTracker(tmp_path).save_config(
        config,
        overrides=["hub.token=hf_0123456789", "+a.api_key=hf_0123456789", "seed=1"],
        command=["train", "--password", "hf_0123456789", "--token=hf_0123456789", "seed=1"],
        notes={"client_secret": "hf_0123456789"},
    )
    text = (tmp_path / "config.json").read_text()
    for secret in ("hf_0123456789", "correct-horse-battery", "letmein99"):
        assert secret not in text
    content = json.loads(text)
    assert content["config"]["hub"] == {"token": REDACTED, "max_tokens": 100}
    assert content["config"]["inside"] == f"s3://user/{REDACTED}/x"
    assert (content["config"]["short"], content["config"]["near"]) == (REDACTED, "xyz77")
    assert content["config"]["url"] == f"https://{REDACTED}@example.org/x"
    assert content["overrides"] == [f"hub.token={REDACTED}", f"+a.api_key={REDACTED}", "seed=1"]
    assert content["command"] == ["train", "--password", REDACTED, f"--token={REDACTED}", "seed=1"]


def test_redaction_leaves_other_values_alone() -> None:
    value = {"a": [1, 2.5, None, True, "text=x"], "token": None, "tokens": 3, "password": False}
    assert redact(value) == value
