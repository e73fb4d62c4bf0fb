"""The bench of the dashboard in a real browser. How long anything takes decides no test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectral_exp.bench.dashboard_peers import SPIKE, spike_step, values
from spectral_exp.bench.dashboard_servers import CHROMIUM, PEERS
from tests.conftest import python


def test_the_spike_is_one_step_of_the_first_run() -> None:
    losses = [metrics["loss"] for _, metrics in values(0, 1000)]
    assert losses.index(SPIKE) + 1 == spike_step(1000)
    assert losses.count(SPIKE) == 1
    assert max(loss for loss in losses if loss != SPIKE) < SPIKE / 2
    assert SPIKE not in [metrics["loss"] for _, metrics in values(1, 1000)]


def test_peers_must_be_an_interpreter(tmp_path: Path) -> None:
    done = python("-m", "spectral_exp", "bench", "dashboard", "--peers", "missing", cwd=tmp_path)
    assert done.returncode == 2
    assert "--peers=missing must be a Python interpreter" in done.stderr


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"there is no {CHROMIUM}")
def test_the_dashboard_is_measured_without_other_tools(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Those that are missing or fail are named."""
    peers = tmp_path_factory.mktemp("peers") / "python"
    peers.write_text('#!/bin/sh\n[ "$1" = -c ] && echo \'["aim"]\' || exit 3\n')
    peers.chmod(0o755)
    options = ["--quick", "--runs=3", "--rounds=1", f"--dir={tmp_path}", "--json=figures.json"]
    command = ["bench", "dashboard", f"--peers={peers}", *options]
    done = python("-m", "spectral_exp", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "figures.json").read_text())
    lines = [line for line in written["lines"] if line["contender"] == "ours"]
    found = {line["figure"]: line["median"] for line in lines}
    assert found["the spike reaches the page"] == 1
    assert found["first runs"] > 0
    assert found["line written until its step is shown"] > 0
    assert found["zoom until drawn in full"] >= found["zoom until the next frame"] > 0
    assert found["redrawing 12 charts of 30 groups, main thread"] > 0
    assert found["export of 20 runs with 9 metrics"] > 0
    measured = {line["contender"] for line in written["lines"]}
    missing = {reason.partition(":")[0] for reason in written["missing"]}
    assert measured == {"ours"}
    assert missing == set(PEERS)
    assert any(reason.startswith("aim: not measured: ") for reason in written["missing"])
    assert any(reason.startswith("mlflow: not installed") for reason in written["missing"])
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
