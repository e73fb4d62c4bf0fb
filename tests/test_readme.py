"""The README's commands compose and its loop runs, as printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from spectral_exp.config.command_line import CommandLine
from spectral_exp.config.conf_dir import CONF_DIR
from tests.conftest import ROOT, python

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.partition("  #")[0] for line in README.splitlines() if line.startswith("python -m spectral_exp.train")]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--" not in c and "resume=" not in c])
def test_every_training_command_composes(command: str) -> None:
    jobs = CommandLine.parse(shlex.split(command)[3:]).compose()
    assert len(jobs) == {"seed=1,2,3": 9, "glob(wave*)": 4, "=0,0.3,0.6": 3}.get(
        next((part for part in ("seed=1,2,3", "glob(wave*)", "=0,0.3,0.6") if part in command), ""), 1
    )


def test_the_stand_alone_loop_runs_and_resumes(tmp_path: Path) -> None:
    (loop,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    done = python("-c", loop, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    for name in ("config.json", "results.json", "logs/metrics.jsonl", "checkpoints/checkpoint_step_100.pt"):
        assert (run / name).is_file(), name
    assert list((run / "visualizations").glob("training_dynamics_step_0000100_*.png"))


def test_every_choice_named_in_the_table_exists() -> None:
    for group, choices in re.findall(r"`([a-z/]+)=([a-z_]+(?:\\\|[a-z_]+)+)`", README):
        for choice in choices.split("\\|"):
            assert (CONF_DIR / group / f"{choice}.yaml").is_file(), f"{group}={choice}"


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
