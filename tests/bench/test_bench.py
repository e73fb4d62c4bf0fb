from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectral_exp.bench.measure import Figure, Report, figure, take_turns
from tests.conftest import python


def test_contenders_take_turns() -> None:
    calls: list[str] = []

    def contender(name: str) -> dict[str, float]:
        calls.append(name)
        return {"n": float(len(calls))}

    values = take_turns({name: lambda name=name: contender(name) for name in "abc"}, rounds=3, warm_up=1)  # type: ignore[misc]
    assert "".join(calls) == "cab" + "abc" + "bca" + "cab"
    assert values["a: n"] == [4, 9, 11]


def test_ratios_are_taken_within_rounds() -> None:
    found = figure({"a": [1.0, 20.0, 3.0], "b": [1.0, 10.0, 1.0]}, "a", "ms", "b", target=2.5)
    assert (found.median, found.ratio, found.met) == (3.0, 2.0, True)
    assert Figure("x", "ms", 5.0, 0.0, target=4.0).met is False
    assert Figure("x", "ms", 5.0, 0.0).met is None
    assert "NOT MET" in Report("r", [Figure("x", "ms", 5.0, 0.0, target=4.0)]).table()


def test_checkpoint_bench_runs(tmp_path: Path) -> None:
    done = python("-m", "spectral_exp.bench", "checkpoint", "--quick", "--json", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out.json").read_text())
    (report,) = content["reports"]
    assert {"memory copy: ms", "ours: blocked ms", "ours: durable ms", "ours: ms"} <= {
        f["name"] for f in report["figures"]
    }
    assert all(f["median"] != 0 for f in report["figures"])
    assert content["hardware"]["cpu_count"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["wave"], "invalid choice"),
        (["--threads", "0"], "--threads=0 must be >= 1"),
        (["--dir", "no"], "make it first"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, options: list[str], message: str) -> None:
    done = python("-m", "spectral_exp.bench", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
