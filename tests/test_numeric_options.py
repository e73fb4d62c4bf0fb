"""Whatever is given for a number, a command or setting answers with its result or with one line."""

from __future__ import annotations

import ast
import copy
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import spectral_exp
from spectral_exp import demo_monitoring, train
from spectral_exp.bench.__main__ import main as bench
from spectral_exp.commands import (
    checkpoints,
    compare,
    dashboard,
    diagnose,
    evaluate,
    generate,
    reproduce,
    submit,
    verify_resume,
)
from spectral_exp.config.build import check
from spectral_exp.config.trained import load_trained
from spectral_exp.core.errors import Interrupted
from spectral_exp.models.generation import sample
from spectral_exp.verification import replay
from tests.conftest import NO_PLOTS, TINY, compose, first_in_ci

PACKAGE = Path(spectral_exp.__file__).parent
VALUES = (
    "nan", "-nan", "inf", "-inf", "Infinity", "1e-320", "-1e-320", "5e-324", "1e-30", "1e308", "1e400", "-1", "0", "-0",
    "0.0", "0.5", "1e9", "99999999999", "1" + "0" * 30, "9" * 5000, "", " ", "x", "1,5", "\u0661", "0x10", "1_0",
    "\x1b[2J", "\ud800",
)  # fmt: skip

# Every option that takes a number: a call that ends soon if the number is accepted.
OPTIONS: dict[tuple[str, str], Callable[[list[str]], int]] = {
    ("commands/generate", "--temperature"): lambda given: generate.main(
        ["run", "--tokens", "2", *given]
    ),
    ("commands/generate", "--top-k"): lambda given: generate.main(["run", "--tokens", "2", *given]),
    ("commands/generate", "--top-p"): lambda given: generate.main(["run", "--tokens", "2", *given]),
    ("commands/generate", "--seed"): lambda given: generate.main(["run", "--tokens", "2", *given]),
    ("commands/generate", "--tokens"): lambda given: generate.main(
        ["run", "--checkpoint", "7", *given]
    ),
    ("commands/diagnose", "--windows"): lambda given: diagnose.main(["run", *given]),
    ("commands/evaluate", "--block-size"): lambda given: evaluate.main(
        ["run", "--no-record", "--windows", "1", *given]
    ),
    ("commands/evaluate", "--stride"): lambda given: evaluate.main(
        ["run", "--no-record", "--windows", "1", *given]
    ),
    ("commands/evaluate", "--windows"): lambda given: evaluate.main(["run", "--no-record", *given]),
    ("commands/verify_resume", "--steps"): lambda given: verify_resume.main(
        ["run", "--from", "9", *given]
    ),
    ("commands/verify_resume", "--from"): lambda given: verify_resume.main(["run", *given]),
    ("commands/reproduce", "--steps"): lambda given: reproduce.main(
        ["run", "--output", "run", *given]
    ),
    ("commands/checkpoints", "--keep-last"): lambda given: checkpoints.main(
        ["prune", "run", "--dry-run", *given]
    ),
    ("commands/checkpoints", "--keep-every"): lambda given: checkpoints.main(
        ["prune", "run", "--dry-run", *given]
    ),
    ("commands/options", "--margin"): lambda given: compare.main(["run", *given]),
    ("commands/compare", "--watch"): lambda given: compare.main(["run", *given]),
    # Nobody has this address, so the server cannot start.
    ("commands/dashboard", "--port"): lambda given: dashboard.main(
        ["run", "--no-open", "--host", "203.0.113.1", *given]
    ),
    ("demo_monitoring", "--steps"): lambda given: demo_monitoring.main(
        ["--dir", "run/config.json", *given]
    ),
    ("bench/__main__", "--size"): lambda given: bench(["startup", "--dir", "none", *given]),
    ("bench/__main__", "--runs"): lambda given: bench(["results", "--dir", "none", *given]),
    ("bench/__main__", "--rounds"): lambda given: bench(["startup", "--dir", "none", *given]),
}
# A job that is refused once its options are read.
OPTIONS |= {
    ("commands/submit", option): lambda given, system=system: submit.main(  # type: ignore[misc]
        [system, "--dry-run", *given, "+experiment=none"]
    )
    for system, options in {
        "ray": ("--gpus", "--memory-gb"),
        "slurm": (
            "--nodes", "--tasks-per-node", "--give-up-after", "--cpus", "--workers", "--save-time",
        ),
    }.items()
    for option in options
}  # fmt: skip
# Those whose text holds a number.
TEXTS: dict[tuple[str, str], Callable[[list[str]], int]] = {
    ("commands/generate", "--checkpoint"): lambda given: generate.main(
        ["run", "--tokens", "2", *given]
    ),
    ("commands/diagnose", "--checkpoint"): lambda given: diagnose.main(
        ["run", "--windows", "1", *given]
    ),
    ("commands/evaluate", "--checkpoint"): lambda given: evaluate.main(
        ["run", "--no-record", "--windows", "1", *given]
    ),
    ("commands/checkpoints", "--checkpoint"): lambda given: checkpoints.main(
        ["export", "run", *given]
    ),
    ("commands/compare", "--at"): lambda given: compare.main(
        ["run", "--at", f"step:{given[0].partition('=')[2]}"]
    ),
    ("commands/compare", "--where"): lambda given: compare.main(
        ["run", "--where", f"learning_rate<={given[0].partition('=')[2]}"]
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    overrides = (
        *TINY,
        NO_PLOTS,
        "+experiment=classic",
        "device=cpu",
        f"hydra.run.dir={folder / 'run'}",
    )
    assert train.main(list(overrides)) == 0
    return folder


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)

    def called(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    def ctrl_c(seconds: float) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(replay, "_run_in_process", called)
    monkeypatch.setattr(compare, "time", SimpleNamespace(sleep=ctrl_c))


def test_all_options_are_tried() -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "add_argument" in text else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                kinds = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if kinds.get("type") in ("int", "float"):
                    assert isinstance(node.args[0], ast.Constant)
                    found.add(
                        (file.relative_to(PACKAGE).with_suffix("").as_posix(), node.args[0].value)
                    )
    assert found == set(OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "option"), [*OPTIONS, *TEXTS])
def test_no_number_brings_a_traceback(
    command: str, option: str, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {**OPTIONS, **TEXTS}[command, option]
    for value in VALUES:
        try:
            code = call([f"{option}={value}"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        error = capsys.readouterr().err
        assert code in (0, 2), (value, error)
        assert len(error.splitlines()) == (1 if code else 0), (value, error)
        assert error.startswith("error: ") or not code
        assert len(error) < 1500 or (command, option) in TEXTS
        assert "\x1b" not in error


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The settings below a node that take a value."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif path[-1] not in ("_target_", "_partial_"):
        yield path


EXTREMES: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, -1, 0, -0.0, 1e-320, 1e308, 10**30, 10**400, 2**63, 2**31, 0.5, "", "x", None, True,
    [], {},
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("part", first_in_ci(10, 2))
def test_no_value_of_a_setting_brings_a_traceback(part: int) -> None:
    experiment = ("wave_rgd_qfe", "phasor")[part % 2]
    config = compose(*TINY, f"+experiment={experiment}", "device=cpu")
    pairs = [(path, value) for path in leaves(config) for value in EXTREMES]
    for path, value in pairs[part // 2 :: 5]:
        try_setting(config, path, value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("optimizer.learning_rate", 10**400), ("data.n_tokens", 2**63), ("data.n_tokens", 1e308), ("data.n_tokens", 2**40),
     ("model.block_size", 1e308), ("outputs", "x" * 5000), ("training.max_steps", 10**400)],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_values_beyond_all_bounds_are_refused_in_one_line(setting: str, value: object) -> None:
    config = compose(*TINY, "+experiment=classic", "device=cpu")
    problems = try_setting(config, tuple(setting.split(".")), value)
    assert problems or setting == "training.max_steps"


def try_setting(config: dict[str, Any], path: tuple[str, ...], value: object) -> list[str]:
    changed = copy.deepcopy(config)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    problems = check(changed, None)
    assert all(problems)
    assert all(len(line) < 2000 for problem in problems for line in problem.splitlines())
    return problems


@settings(max_examples=100, deadline=None)
@example(1e-320, 5e-324)
@example(1e-38, None)
@example(1e-29, 1.0)
@given(
    st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    st.none() | st.floats(min_value=0, max_value=1, exclude_min=True),
)
def test_every_temperature_draws_a_token(temperature: float, top_p: float | None) -> None:
    logits = torch.tensor([[3.0, -1e4, 2.5, 1e4], [0.0, 0.0, -0.0, 0.0]])
    drawn = sample(logits, temperature, top_p=top_p, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (2,)
    assert ((drawn >= 0) & (drawn < 4)).all()
    if temperature < 1:
        assert drawn[0] == 3


def test_weights_that_are_not_finite_are_reported(
    here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        trained = load_trained(*arguments, **options)
        with torch.no_grad():
            next(trained.model.parameters()).fill_(math.nan)
        return trained

    monkeypatch.setattr(generate, "load_trained", broken)
    assert generate.main(["run"]) == 2
    assert "are not finite" in capsys.readouterr().err
