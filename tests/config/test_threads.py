from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from spectral_exp.config.threads import DEFAULTS, VARIABLES, set_waiting_of_threads
from tests.conftest import python

PRINT = """
import os, runpy, sys
try:
    runpy.run_module("%s", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
print({name: os.environ.get(name) for name in %r}, "torch" in sys.modules)
"""


@pytest.mark.parametrize("name", [*VARIABLES, None])
def test_threads_sleep_sooner_unless_the_user_has_decided(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    if name is not None:
        monkeypatch.setenv(name, "1")
    else:  # restores the variables that are set below
        for variable in DEFAULTS:
            monkeypatch.setenv(variable, "")
            del os.environ[variable]
    assert set_waiting_of_threads() is (name is None)


def test_nothing_is_set_after_torch_has_been_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert torch.__name__ in sys.modules
    assert not set_waiting_of_threads()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words", "is_set"),
    [
        ("spectral_exp.train", ["--help"], True),
        ("spectral_exp", ["generate", "--help"], True),
        ("spectral_exp", ["bench", "--help"], False),
    ],
)
def test_commands_set_it_before_torch_is_loaded(
    module: str, words: list[str], is_set: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    done = python("-c", PRINT % (module, VARIABLES), *words, cwd=tmp_path)
    expected = {name: DEFAULTS.get(name) if is_set else None for name in VARIABLES}
    assert done.stdout.endswith(f"{expected} False\n"), done.stderr
