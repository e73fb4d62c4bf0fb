"""A shell completes commands, options, groups and the options of groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spectral_exp.config.completion import complete_override
from spectral_exp.config.conf_dir import CONF_DIR
from tests.conftest import ROOT

IFS = "\n"


def completions(line: str, folder: Path) -> list[str]:
    """The answer to a shell, in the way in which argcomplete's function for bash asks."""
    answer = folder / "answer"
    question = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": IFS,
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run(
        [sys.executable, "-m", "spectral_exp"],
        env={**os.environ, **question},
        cwd=folder,
        check=True,
    )
    return [word.strip() for word in answer.read_text().split(IFS) if word]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("spectral-exp ver", ["verify_resume"]),
        ("spectral-exp checkpoints pr", ["prune"]),
        ("spectral-exp train +experiment=wave_r", ["wave_rgd", "wave_rgd_qfe"]),
        ("spectral-exp train seed=1 model/att", ["model/attention="]),
        ("spectral-exp train --multi", ["--multirun"]),
    ],
)
def test_a_shell_is_answered(tmp_path: Path, line: str, expected: list[str]) -> None:
    pytest.importorskip("argcomplete")
    assert completions(line, tmp_path) == expected


def test_every_group_is_completed_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = complete_override("")
    for key in keys:
        if key not in ("resume=", "init_from="):
            names = [path.stem for path in (CONF_DIR / key.strip("+=")).glob("*.yaml")]
            assert complete_override(key) == [f"{key}{name}" for name in sorted(names)] != []
    assert {"+experiment=", "+recipe=", "model=", "model/size=", "monitoring/backup="} <= set(keys)
    assert complete_override("optimizer=adamw,r") == ["optimizer=adamw,rgd"]
    assert complete_override("nosuch/group=") == complete_override("nosuch") == []
    (tmp_path / "outputs/run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert complete_override("resume=outputs/r") == ["resume=outputs/run/"]


def test_completion_loads_nothing_slow() -> None:
    code = "import sys, spectral_exp.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "hydra", "omegaconf", "numpy"} & set(loaded)
