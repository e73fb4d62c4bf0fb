"""The benches as real processes on tiny sizes. How long anything takes decides no test."""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.bench import (
    checkpoint,
    gating,
    measure,
    metrics_log,
    nanogpt,
    peers,
    plots,
    results,
    stacks,
)
from spectral_exp.bench.__main__ import BENCHES
from spectral_exp.bench.measure import Figures, Line, Section, Spread, Target
from spectral_exp.core.errors import RunError
from spectral_exp.losses import QFE
from spectral_exp.models.wave import WaveEmbedding
from spectral_exp.optim.rgd import RGD
from spectral_exp.runs.layout import METRICS_NAME
from tests.conftest import python

FACTS = {
    "schema",
    "created",
    "quick",
    "git_hash",
    "platform",
    "hardware",
    "load_average",
    "file_system",
    "versions",
    "benches",
    "seconds",
    "seconds_of",
    "missing",
    "lines",
}
ENTRIES: dict[str, Any] = {
    "bench": str, "section": str, "contender": str, "figure": str, "unit": str, "median": float | int,
    "q1": float | int, "q3": float | int, "n": int, "target": dict | None, "met": bool | None, "note": str,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _small_heap() -> Iterator[None]:
    """Benches collect garbage before each measurement; here they skip the objects of other tests."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _patient_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other while spinning take forever on a machine that runs other
    tests meanwhile."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "spectral_exp.bench", *arguments, cwd=cwd)


def measured(name: str, *arguments: str, cwd: Path) -> tuple[dict[str, Any], str]:
    """Run a quick bench, check the form of its JSON file, and return file and output."""
    done = bench(name, "--quick", *arguments, "--json", "figures.json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in cwd.iterdir()] == ["figures.json"]
    found = json.loads((cwd / "figures.json").read_text())
    assert set(found) == FACTS
    assert found["schema"] == 1
    assert found["quick"] is True
    assert found["hardware"]["cpu_count"] >= 1
    assert found["versions"]["torch"]
    for line in found["lines"]:
        assert line.keys() == ENTRIES.keys()
        assert all(isinstance(line[key], kind) for key, kind in ENTRIES.items()), line
        assert line["q1"] <= line["median"] <= line["q3"]
        assert (line["met"] is None) == (line["target"] is None)
        if line["target"]:
            strict = line["target"]["relation"] == "<"
            assert line["met"] is Target(line["target"]["value"], strict).is_met(line["median"])
        assert line["figure"] in done.stdout
        assert line["contender"] in done.stdout
    judged = [line["met"] for line in found["lines"] if line["met"] is not None]
    assert f"{sum(judged)} of {len(judged)} targets met" in done.stdout
    return found, done.stdout


@pytest.mark.slow
def test_saving_and_loading(tmp_path: Path) -> None:
    options = measure.Options(tmp_path, quick=True, sizes_mb=(1,), rounds=1)
    with peers.process_group():
        saving, around = checkpoint._saving(options, 1)
    loading = checkpoint._loading(options, 1)
    everyone = [
        checkpoint.SYNCHRONOUS,
        checkpoint.BACKGROUND,
        checkpoint.TORCH_SAVE,
        *checkpoint_peers_here(),
    ]
    for figure in ("blocked, first save", "blocked", "blocked / memory copy", "until durable"):
        assert [line.contender for line in saving.lines if line.figure == figure] == everyone
    judged = {(line.contender, line.figure): line.target for line in saving.lines if line.target}
    assert judged == {
        (checkpoint.BACKGROUND, "blocked / memory copy"): Target(1.2),
        (checkpoint.BACKGROUND, "overlapped: blocked / memory copy"): Target(0.1),
        (checkpoint.SYNCHRONOUS, "until durable / plain write + fsync"): Target(1.2),
        (checkpoint.BACKGROUND, "until durable / plain write + fsync"): Target(1.2),
    }
    in_background = [checkpoint.BACKGROUND, *checkpoint_peers_here()]
    assert [line.contender for line in around.lines] == 6 * in_background
    assert [line.target for line in loading.lines] == [None, None, Target(1.3)]
    # What contenders wrote is their newest save alone.
    assert len(list(tmp_path.rglob("checkpoint_step_*.pt"))) == 3


def checkpoint_peers_here() -> list[str]:
    return list(peers.checkpoint_peers()[0])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_checkpoint(tmp_path: Path) -> None:
    found, printed = measured("checkpoint", "--size", "1", "--rounds", "2", cwd=tmp_path)
    assert found["benches"] == ["checkpoint"]
    figures = {(line["contender"], line["figure"]): line for line in found["lines"]}
    everyone = {checkpoint.SYNCHRONOUS, checkpoint.BACKGROUND, checkpoint.TORCH_SAVE, peers.DCP}
    assert everyone <= {contender for contender, figure in figures if figure == "blocked"}
    assert everyone <= {
        contender for contender, figure in figures if figure == "blocked / memory copy"
    }
    assert everyone <= {
        contender for contender, figure in figures if figure.startswith("until durable / plain")
    }
    ours = {figure for contender, figure in figures if contender == checkpoint.BACKGROUND}
    assert {
        "overlapped: blocked / memory copy",
        "a step meanwhile / undisturbed, 2 threads",
    } <= ours
    assert figures[checkpoint.BACKGROUND, "blocked, first save"]["n"] == 1
    assert figures[checkpoint.BACKGROUND, "blocked"]["n"] == 2
    assert figures["ours, verified", "load / torch.load"]["target"] == {
        "relation": "<=",
        "value": 1.3,
    }
    assert figures["ours, array", "added to a load"]["target"] == {"relation": "<", "value": 20}
    assert all(line["median"] > 0 for line in found["lines"] if line["unit"] in ("x", "s"))
    if importlib.util.find_spec("lightning") is None:
        (reason,) = found["missing"]
        assert reason == f"{peers.LIGHTNING}: not installed: pip install 'spectral-exp[bench]'"
        assert reason in printed


@pytest.mark.slow
def test_logging(tmp_path: Path) -> None:
    found, _ = measured("logging", "--rounds", "2", cwd=tmp_path)
    lost = {line["contender"]: line for line in found["lines"] if line["figure"] == "entries lost"}
    assert lost[metrics_log.OURS]["median"] == 0
    assert lost[metrics_log.OURS]["met"] is True
    assert lost[metrics_log.JSON_LINE]["target"] is None
    figures = {line["figure"] for line in found["lines"] if line["contender"] == metrics_log.OURS}
    assert {
        "an entry: median",
        "an entry: p99",
        "an entry / bare write",
        "an entry / a JSON line",
    } <= figures
    assert (peers.TENSORBOARD in lost) == peers.has_tensorboard()


@pytest.mark.slow
def test_results(tmp_path: Path) -> None:
    found, _ = measured("results", "--runs", "3", "--rounds", "1", cwd=tmp_path)
    ours = {line["figure"]: line for line in found["lines"] if line["contender"] == results.OURS}
    for name, module in ((results.POLARS, "polars"), (results.DUCKDB, "duckdb")):
        assert (f"reading all / {name}" in ours) == (importlib.util.find_spec(module) is not None)
        assert any(name in reason for reason in found["missing"]) == (
            importlib.util.find_spec(module) is None
        )
    again = {
        line["contender"]: line["target"]["value"]
        for line in found["lines"]
        if line["figure"] == "again"
    }
    assert again == {"one line for each run": 1, "groups, compared": 1}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_plots(tmp_path: Path) -> None:
    found, _ = measured("plots", "--rounds", "1", cwd=tmp_path)
    assert found["benches"] == ["plots"]
    figures = {(line["contender"], line["figure"]): line for line in found["lines"]}
    for contender in (plots.IN_PROCESS, plots.IN_CHILD):
        blocked, drawn = figures[contender, "blocked"], figures[contender, "until drawn"]
        assert 0 < blocked["median"] < 1e3 * drawn["median"] + 1e-6
        assert (blocked["target"] is None) == (contender == plots.IN_PROCESS)
    for experiment in ("wave_rgd", "classic"):
        assert 500 < figures[experiment, "written"]["median"] < 3000
        assert 0 < figures[experiment, "share of 1,000 steps"]["median"] < 1
    assert {"blocked, training plots of 1,000,000 losses", "time lost to a set, 1 thread"} <= {
        figure for _, figure in figures
    }


@pytest.mark.slow
def test_model(tmp_path: Path) -> None:
    found, _ = measured("model", cwd=tmp_path)
    figures = {(line["contender"], line["figure"]): line for line in found["lines"]}
    for stack in stacks.STACKS[1:]:
        assert figures[stack, f"a step / {stacks.CLASSIC}"]["unit"] == "x"
        assert figures[stack, f"peak / {stacks.CLASSIC}"]["n"] == 1
    assert figures["our classic", "time per token / bare nanoGPT loop"]["target"]["value"] == 1


@pytest.mark.slow
def test_optimizer(tmp_path: Path) -> None:
    found, _ = measured("optimizer", "--rounds", "2", cwd=tmp_path)
    targets = {line["figure"]: line["target"]["value"] for line in found["lines"] if line["target"]}
    assert targets == {"a step / fused AdamW": 12, "a step / fused AdamW + 3 FFTs": 0.9}


@pytest.mark.slow
def test_gating(tmp_path: Path) -> None:
    found, _ = measured("gating", cwd=tmp_path)
    figures = {(line["contender"], line["figure"]): line for line in found["lines"]}
    for k in gating.INTERVALS:
        assert figures[f"gate_every={k}", "loss"]["n"] == 2
    paired = [
        line for (_, figure), line in figures.items() if figure == "loss - gate_every=1, same seed"
    ]
    assert [line["contender"] for line in paired] == ["gate_every=2", "gate_every=4"]
    # So few steps leave the seeds far apart, and the intervals of one seed close together.
    losses = [figures["gate_every=1", "loss"][quartile] for quartile in ("q1", "q3")]
    assert 0 < max(abs(line["median"]) for line in paired) < losses[1] - losses[0]


def test_the_intervals_begin_alike_and_a_seed_decides_the_rest() -> None:
    sizes = stacks.Sizes(16, n_embd=32, n_layer=1, n_head=2, block_size=8)
    models = [stacks.build(stacks.WAVE_RGD, sizes, seed)[0].state_dict() for seed in (1, 1, 2)]
    weights = [torch.cat([value.flatten() for value in model.values()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_in_all_rounds_end_sooner(tmp_path: Path) -> None:
    alone, among_others = (
        measure.Options(tmp_path, False, (1,), None, brief=brief) for brief in (False, True)
    )
    assert alone.budget_s(10) == 10
    assert among_others.budget_s(10) < 10


@pytest.mark.slow
def test_attention(tmp_path: Path) -> None:
    found, _ = measured("attention", "--rounds", "2", cwd=tmp_path)
    layers = {line["contender"] for line in found["lines"] if line["figure"] == "a layer"}
    assert layers == {
        "dot_product",
        "rotary",
        "interference",
        "phasor",
        "pure_wave",
        "pure_wave_linear",
    }
    (constant,) = [line for line in found["lines"] if line["target"]]
    assert (constant["median"], constant["met"]) == (1, True)


def test_the_stacks_have_the_parts_of_their_names() -> None:
    sizes = stacks.Sizes(16, n_embd=32, n_layer=1, n_head=2, block_size=8)
    for stack in stacks.STACKS:
        step = stacks.TrainingStep(stack, sizes, 16)
        before = [p.detach().clone() for p in step.model.parameters()]
        step()
        assert all(p.grad is None for p in step.model.parameters())
        assert not any(
            torch.equal(p, b) for p, b in zip(step.model.parameters(), before, strict=True)
        )
        assert isinstance(step.optimizer, RGD) is ("RGD" in stack)
        assert isinstance(step.loss, QFE) is ("QFE" in stack)
        assert isinstance(step.model.embedding, WaveEmbedding) is stack.startswith("wave")


def test_our_classic_is_the_model_of_the_bare_loop() -> None:
    ours, bare = nanogpt.OurTraining(False), nanogpt.NanoGPTTraining(False)
    renamed = {
        "embedding.table": "tokens", "embedding.positions": "positions", "attention_norm": "norm_1",
        "mlp_norm": "norm_2", "attention.project": "attention", "attention.output": "projection",
        "mlp.hidden": "wide", "mlp.output": "narrow", "blocks": "layers",
    }  # fmt: skip
    weights = {}
    for name, value in ours.model.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        weights[name] = value
    bare.model.load_state_dict(weights)
    x, y = torch.randint(65, (2, 12, 64), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bare.model(x, y), ours.loss(ours.model(x), y)[0])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_threads(tmp_path: Path) -> None:
    found, _ = measured("threads", "--quick", "--rounds", "1", cwd=tmp_path)
    assert [line["section"] for line in found["lines"] if line["figure"] == "a step"] == [
        *["steps of a small model, as the machine is"] * 3,
        *["steps of a small model, beside a busy process"] * 3,
    ]


@pytest.mark.slow
def test_startup(tmp_path: Path) -> None:
    found, _ = measured("startup", "--rounds", "1", cwd=tmp_path)
    assert {line["contender"] for line in found["lines"]} == {
        "import torch",
        "--help",
        "command to first step",
    }
    assert [line["target"]["value"] for line in found["lines"] if line["target"]] == [0.8, 1.5]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_companion(tmp_path: Path) -> None:
    found, _ = measured("companion", "--rounds", "1", cwd=tmp_path)
    medians = {(line["contender"], line["figure"]): line["median"] for line in found["lines"]}
    assert len(medians) == 3
    assert min(medians.values()) > 0
    assert [line["target"]["value"] for line in found["lines"] if line["target"]] == [1.02]


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.distributed
def test_distributed(tmp_path: Path) -> None:
    found, _ = measured("distributed", "--rounds", "2", cwd=tmp_path)
    medians = {(line["contender"], line["figure"]): line["median"] for line in found["lines"]}
    assert len(medians) == 9
    ours, bare = (medians[name, "a step"] for name in ("ours, 2 processes", "bare DDP loop"))
    assert ours > 0
    assert bare > 0
    assert [line["target"]["value"] for line in found["lines"] if line["target"]] == [1.08, 0.3]


@pytest.mark.slow
def test_loop(tmp_path: Path) -> None:
    found, _ = measured("loop", cwd=tmp_path)
    figures = [(line["contender"], line["figure"]) for line in found["lines"]]
    assert figures.count(("bare loop", "limit: a step")) == 2
    assert [line["target"]["value"] for line in found["lines"] if line["target"]] == [40, 1]
    for unit, n_activities in {"step": 4, "save": 6}.items():
        section = f"activities of a {unit}"
        where = {
            line["figure"]: line["median"] for line in found["lines"] if line["section"] == section
        }
        total = where.pop("their sum")
        assert len(where) == n_activities
        assert min(where.values()) > 0
        assert total == pytest.approx(sum(where.values()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "invalid choice: 'speed'"),
        (["--size", "0"], "error: --size=0 must be from 1 to 1000000 (MB)"),
        (["--size", "x"], "invalid int value: 'x'"),
        (["--rounds", "0"], "error: --rounds=0 must be from 1 to 1000000"),
        (["--dir", "nowhere"], "error: --dir=nowhere must be an existing folder"),
        (["--json", "nowhere/figures.json"], "must be a file in an existing folder"),
        (["--json", "."], "must be a file, not a folder"),
        (
            ["checkpoint", "--size", "1000000"],
            "there must be 6 times as much room on the disk of --dir",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_is_done(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_help_names_every_bench(tmp_path: Path) -> None:
    done = bench("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in BENCHES)


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["checkpoint", "all"])
def test_a_disk_that_refuses_fails_the_bench_in_one_line(bench: str, tmp_path: Path) -> None:
    # Files of 100 kB at most: less than the state.
    limited = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    )
    limited += "runpy.run_module('spectral_exp.bench', run_name='__main__', alter_sys=True)"
    done = python("-c", limited, bench, "--quick", "--size", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["checkpoint", "all"])
def test_a_stopped_bench_leaves_nothing_behind(bench: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp.bench", bench, "--quick", "--size", "5"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.rglob("*.pt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    finally:
        process.kill()
        process.wait()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peak memory is measured on Linux only"
)
def test_memory_of_a_background_save_is_one_copy(tmp_path: Path) -> None:
    found = measure.child(
        "spectral_exp.bench.checkpoint", checkpoint.BACKGROUND, "50", str(tmp_path)
    )
    assert found["state_mb"] == pytest.approx(50, rel=0.1)
    assert 0.9 * found["state_mb"] < found["peak_mb"] < found["state_mb"] + checkpoint.SLACK_MB


def test_lost_entries_are_found(tmp_path: Path) -> None:
    (tmp_path / METRICS_NAME).write_text(
        '{"step": 1, "loss": 1.5}\n{"step": 3, "loss": 1.5}\n{"step": 4, "lo'
    )
    assert metrics_log._steps_on_disk(metrics_log.OURS, tmp_path) == {1, 3}


# --- common machinery -----------------------------------------------------------------------------


def test_contenders_take_turns_in_rotated_order() -> None:
    order: list[str] = []

    def contender(name: str) -> Figures:
        order.append(name)
        return {"s": float(len(order))}

    rounds = measure.interleave(
        {name: functools.partial(contender, name) for name in "abc"}, 3, budget_s=60
    )
    assert "".join(order) == "abcbcacab"
    assert rounds[1] == {"b": {"s": 4.0}, "c": {"s": 5.0}, "a": {"s": 6.0}}


def test_rounds_end_when_the_budget_is_spent_but_not_before_the_least() -> None:
    def slow() -> Figures:
        time.sleep(0.02)
        return {"s": 1.0}

    assert len(measure.interleave({"slow": slow}, 50, budget_s=0.01)) == 3
    assert len(measure.interleave({"slow": slow}, 50, budget_s=0.01, min_rounds=1)) == 1
    assert len(measure.interleave({"slow": slow}, 4, budget_s=60)) == 4


def test_ratios_are_taken_within_rounds() -> None:
    # The machine gets slower from round to round; b always takes twice as long as a.
    rounds = [{"a": {"s": speed}, "b": {"s": 2 * speed}} for speed in (1.0, 10.0, 100.0)]
    assert measure.ratio(rounds, "b", "a", "s") == Spread(2.0, 2.0, 2.0, 3)
    assert measure.difference(rounds, "b", "a", "s").median == 10.0
    # 5/1, 1/1, 1/4: the ratio of the medians would be 1 as well, that of the sums another.
    rounds = [{"a": {"s": a}, "b": {"s": b}} for a, b in ((1.0, 5.0), (4.0, 1.0), (2.0, 3.0))]
    assert measure.ratio(rounds, "b", "a", "s").median == 1.5


def test_spread() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_targets_at_their_border() -> None:
    assert Target(1.2).is_met(1.2)
    assert not Target(1.2).is_met(1.2000001)
    assert not Target(20, strict=True).is_met(20)
    assert Target(20, strict=True).is_met(19.9)
    assert (str(Target(1.2)), str(Target(20, strict=True)), str(Target(0))) == (
        "<= 1.2",
        "< 20",
        "<= 0",
    )


def test_the_table_marks_missed_targets() -> None:
    lines = [
        Line("ours", "blocked", "ms", Spread(12.34, 11.0, 13.0, 5), Target(10)),
        Line("ours", "first", "ms", Spread.of([1234.5]), Target(2000), "a note"),
        Line("theirs", "blocked", "ms", Spread.of([0.0001])),
    ]
    text = measure.format_table(
        "example", Section("a title", lines, ["x: not installed"])
    ).splitlines()
    assert text[0] == "example: a title"
    assert text[2].split() == [
        "blocked",
        "ours",
        "12.3",
        "ms",
        "11",
        "..",
        "13",
        "5",
        "<=",
        "10",
        "MISSED",
    ]
    assert text[3].split() == ["first", "ours", "1234", "ms", "1", "<=", "2000", "met", "a", "note"]
    assert text[4].split() == ["blocked", "theirs", "0.0001", "ms", "1"]
    assert text[5] == "  x: not installed"
    assert [line.is_met for line in lines] == [False, True, None]


@pytest.mark.slow
def test_a_failing_child_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nobody 1 .* ended with 1: .*KeyError: 'nobody'"):
        measure.child("spectral_exp.bench.checkpoint", "nobody", "1", str(tmp_path))


def test_file_system_is_known(tmp_path: Path) -> None:
    found = measure.file_system(tmp_path)
    assert set(found) == {"type", "device", "free_gb"}
    assert found["free_gb"] > 0
