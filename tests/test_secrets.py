"""A real run with secrets on its command line and in its environment leaves none of them in its
folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spectral_exp.core.git import CODE_VARIABLE
from tests.conftest import NO_PLOTS, TINY

ENVIRONMENT = {
    "DB_PASS": "Env1secretDbPass",
    "PGPASSWORD": "Env2secretPg",
    "OPENAI_KEY": "Env3secretOpenai",
    "AWS_SECRET_ACCESS_KEY": "Env4secret/Aws+x",
    "HF_TOKEN": "Env5secretHub",
}
PROMPT = (
    "Env1secretDbPass Env4secret%2FAws%2Bx https://me:Cmd1secret@host/x?sig=Cmd2secret {api_key:"
    " Cmd3secret} Authorization: Bearer Cmd4secret -- ghp_Cmd5secretCmd5secretCmd5secretCmd5"
)
OPTIONS = (
    f"training.sample_prompt='{PROMPT}'",
    "+hydra.job.env_set.MY_TOKEN=Cmd6secretX",
    '+hydra.job.env_set.EXTRA=\'{"password": "Cmd7secret"}\'',
)

LEAK = re.compile(rb"(Cmd|Env)\dsecret")


def train(*overrides: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spectral_exp.train", *overrides]
    # The code is not under test: its patch would hold the secrets of this file.
    environment = {**os.environ, **ENVIRONMENT, CODE_VARIABLE: str(cwd)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_secret(tmp_path: Path) -> None:
    done = train("+experiment=wave", *TINY, NO_PLOTS, *OPTIONS, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = {
        path.relative_to(tmp_path).as_posix(): path
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    expected = (
        "config.json",
        "results.json",
        "train.log",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
    )
    assert {f"run/{name}" for name in expected} <= files.keys()
    assert [name for name, path in files.items() if LEAK.search(path.read_bytes())] == []
    assert "training.sample_prompt=" in files["run/.hydra/overrides.yaml"].read_text()

    again = train("resume=run", cwd=tmp_path)
    assert again.returncode == 2
    assert "training.sample_prompt is a secret" in again.stderr


@pytest.mark.slow
def test_another_secret_in_its_place_is_no_other_experiment(tmp_path: Path) -> None:
    assert (
        train(
            "+experiment=wave", *TINY, NO_PLOTS, *OPTIONS, "hydra.run.dir=run", cwd=tmp_path
        ).returncode
        == 0
    )
    other = train(
        "resume=run", OPTIONS[0].replace("Cmd1", "Cmd8"), "training.max_steps=14", cwd=tmp_path
    )
    assert other.returncode == 0, other.stderr
    assert not any(LEAK.search(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
