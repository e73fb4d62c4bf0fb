"""Time to read many runs, first and again, relative to polars and DuckDB.

Every contender runs in a separate process and returns the last and the lowest `val_bpb` of each
run, which must agree. `ResultsAggregator` also reads settings and results, and summarizes every
other metric. Imports are excluded, except for the whole command. The files are in the page cache.
polars reads all lines for columns (`infer_schema_length=None`), since a metric that first appears
late would be missing otherwise; its time with given columns is reported too.

`python -m spectral_exp.bench.results CONTENDER FOLDER` reads the runs once and prints the figures.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target
from spectral_exp.bench.peers import REMEDY
from spectral_exp.core.errors import RunError, require
from spectral_exp.core.json_files import content_crc32
from spectral_exp.runs.layout import RunPaths

OURS = "ours"
POLARS = "polars"
POLARS_WITH_COLUMNS = "polars, columns given"
DUCKDB = "DuckDB"

TIMES_PEER = Target(2.4)
AGAIN_S = Target(1.0, strict=True)

_N_LINES = 10_000
_QUICK_N_LINES = 1000
_EVAL_EVERY = 50
_N_SERIES = 8  # distinct files; further runs are copies
_LINE_BYTES = 220
_MAX_S = 600.0
_COLUMNS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "steps_at_risk",
    "val_loss",
    "perplexity",
    "val_bpb",
)


def run(options: Options) -> Iterator[Section]:
    """Measure reading all runs, then the command with its index."""
    n_lines = _QUICK_N_LINES if options.quick else _N_LINES
    folder = options.new_folder("runs")
    _require_space(folder, options.n_runs, n_lines)
    measure.log_progress(f"writing {options.n_runs} runs of {n_lines} lines")
    _write_runs(folder, options.n_runs, n_lines)
    yield _first(options, folder)
    yield _again(options, folder)


def _first(options: Options, folder: Path) -> Section:
    names = [name for name, (module, _) in _CONTENDERS.items() if importlib.util.find_spec(module)]
    missing = [f"{name}: not installed: {REMEDY}" for name in _CONTENDERS if name not in names]
    answers: dict[str, Any] = {}
    measure.log_progress(f"reading the runs by {', '.join(names)}")
    measurements = {name: functools.partial(_read_runs, name, folder, answers) for name in names}
    measure.interleave(measurements, 1, budget_s=0)
    rounds = measure.interleave(
        measurements, options.rounds or (2 if options.quick else 5), budget_s=120
    )
    if any(answer != answers[OURS] for answer in answers.values()):
        raise RunError("the contenders read different values from the same runs")
    lines = [Line(name, "reading all", "s", measure.spread(rounds, name, "s")) for name in names]
    targets = {POLARS: TIMES_PEER, DUCKDB: TIMES_PEER}
    lines += [
        Line(
            OURS,
            f"reading all / {name}",
            "x",
            measure.ratio(rounds, OURS, name, "s"),
            targets.get(name),
        )
        for name in names[1:]
    ]
    return Section(f"{options.n_runs} runs, without an index", lines, missing)


def _again(options: Options, folder: Path) -> Section:
    """Measure the whole command on files that are unchanged since its last run."""
    measure.log_progress("repeating the command")
    cache = options.new_folder("cache")
    # The index trusts only files that have not changed for some seconds.
    time.sleep(3)
    commands = {"one line for each run": ("--runs",), "groups, compared": ()}
    measurements: dict[str, Callable[[], Figures]] = {
        name: functools.partial(_run_command, folder, cache, arguments)
        for name, arguments in commands.items()
    }
    before = {name: work()["s"] for name, work in measurements.items()}
    rounds = measure.interleave(
        measurements, options.rounds or (2 if options.quick else 7), budget_s=60
    )
    first = next(iter(commands))
    return Section(
        f"the command on {options.n_runs} runs",
        [
            Line(first, "the first time", "s", measure.Spread.of([before[first]])),
            *(
                Line(name, "again", "s", measure.spread(rounds, name, "s"), AGAIN_S)
                for name in commands
            ),
        ],
    )


def _run_command(folder: Path, cache: Path, arguments: tuple[str, ...]) -> Figures:
    command = [sys.executable, "-m", "spectral_exp", "compare", str(folder), *arguments]
    env = measure.environment(SPECTRAL_EXP_CACHE=str(cache.resolve()))
    run_command = functools.partial(measure.run_process, command, env, timeout_s=_MAX_S)
    return {"s": measure.time_call(run_command)}


def _read_runs(contender: str, folder: Path, answers: dict[str, Any]) -> Figures:
    result = measure.child(__name__, contender, str(folder))
    answers[contender] = result["answer"]
    return {"s": result["s"]}


# --- runs -----------------------------------------------------------------------------------------


def _require_space(folder: Path, n_runs: int, n_lines: int) -> None:
    import psutil

    needed_mb = 2 * n_runs * n_lines * _LINE_BYTES / 1e6
    free_mb = psutil.disk_usage(str(folder)).free / 1e6
    allowed = (
        f"less: {needed_mb:.0f} MB are needed on the disk of --dir, which has {free_mb:.0f} MB"
    )
    require(needed_mb <= free_mb, "--runs", n_runs, allowed)


def _write_runs(folder: Path, n_runs: int, n_lines: int) -> None:
    """Write experiments of five runs each in the format of training, with random numbers."""
    series = [_metrics(number, n_lines) for number in range(min(n_runs, _N_SERIES))]
    for number in range(n_runs):
        seed = number % 5
        paths = RunPaths(folder / f"experiment_{number // 5}_20260101_{number:06d}_abcd1234")
        paths.logs.mkdir(parents=True)
        content, last = series[number % len(series)]
        paths.metrics_file.write_bytes(content)
        results = {
            "status": "completed",
            "final_metrics": last,
            "totals": {
                "steps": 10 * n_lines,
                "tokens": 7680 * n_lines,
                "train_s": 0.7 * n_lines,
                "tokens_per_s": 11000.0,
            },
            "generation_samples": [{"step": 10 * n_lines, "prompt": "def ", "text": "x" * 128}],
        }
        paths.results_file.write_text(json.dumps(results, indent=2), encoding="utf-8")
        paths.config_file.write_text(
            json.dumps(_record(number // 5, seed), indent=2), encoding="utf-8"
        )


def _metrics(number: int, n_lines: int) -> tuple[bytes, dict[str, float]]:
    """Return the content of a metrics file, and the last validation in it."""
    draw = random.Random(number)
    lines, validation = [], {}
    for line in range(1, n_lines + 1):
        entry: dict[str, Any] = {
            "step": 10 * line,
            "timestamp": f"2026-01-01T{line // 3600:02d}:00:{line % 60:02d}.123",
            "loss": 2 + draw.random(),
            "learning_rate": 1e-3 * math.exp(-line / n_lines),
            "grad_norm": draw.random(),
            "tokens_per_s": 11000 + 1000 * draw.random(),
            "steps_at_risk": line % 100 * 10,
        }
        if line % _EVAL_EVERY == 0 or line == n_lines:
            loss = 2 + draw.random()
            validation = {
                "val_loss": loss,
                "perplexity": math.exp(loss),
                "val_bpb": loss / math.log(2),
            }
            entry |= validation
        lines.append(json.dumps(entry))
    return ("\n".join(lines) + "\n").encode(), validation


def _record(experiment: int, seed: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": f"experiment_{experiment}",
        "seed": seed,
        "model": {
            "_target_": "spectral_exp.models.GPT",
            "attention": {"_target_": "spectral_exp.models.RotaryAttention", "_partial_": True},
            **{f"setting_{i}": i for i in range(20)},
            "block_size": 64,
        },
        "optimizer": {
            "_target_": "spectral_exp.optim.build_adamw",
            "learning_rate": 1e-3 * (1 + experiment),
        },
        "training": {"batch_size": 12, **{f"setting_{i}": i for i in range(20)}},
        "monitoring": {f"component_{i}": {f"setting_{j}": j for j in range(8)} for i in range(5)},
    }
    content: dict[str, Any] = {
        "config": config,
        "dataset": {"train_sha256": "a" * 64, "val_sha256": "b" * 64, "tokenizer": "c" * 64},
        "model": {"num_parameters": 827_776, "num_trainable_parameters": 827_776},
        "packages": {f"package-{i}": f"{i}.0" for i in range(120)},
    }
    return {**content, "crc32": content_crc32(content)}


# --- contenders -----------------------------------------------------------------------------------

Answer = list[list[float]]
"""The last and the lowest val_bpb of each run, in the order of the paths."""


def _files(folder: Path) -> list[str]:
    return sorted(str(RunPaths(path).metrics_file) for path in folder.iterdir())


def _read_by_ours(folder: Path) -> Answer:
    from spectral_exp.core.allocator import keep_freed_memory
    from spectral_exp.results.aggregate import ResultsAggregator

    keep_freed_memory()  # as the command does
    runs = sorted(ResultsAggregator([folder], index=False).runs, key=lambda run: run.path)
    return [[run.metrics["val_bpb"].final, run.metrics["val_bpb"].lowest] for run in runs]


def _read_by_polars(folder: Path, *, columns_given: bool = False) -> Answer:
    import polars as pl

    types = {"step": pl.Int64(), "timestamp": pl.String(), **dict.fromkeys(_COLUMNS, pl.Float64())}
    schema = types if columns_given else None
    table = pl.scan_ndjson(
        _files(folder), schema=schema, infer_schema_length=None, include_file_paths="file"
    ).collect()
    value = pl.col("val_bpb").drop_nulls()
    rows = (
        table.group_by("file")
        .agg(value.last().alias("last"), value.min().alias("lowest"))
        .sort("file")
        .rows()
    )
    return [[last, lowest] for _, last, lowest in rows]


def _read_by_duckdb(folder: Path) -> Answer:
    import duckdb

    query = (
        "SELECT arg_max(val_bpb, step), min(val_bpb) "
        "FROM read_json($files, format = 'newline_delimited', filename = true, sample_size = -1) "
        "WHERE val_bpb IS NOT NULL GROUP BY filename ORDER BY filename"
    )
    return [list(row) for row in duckdb.execute(query, {"files": _files(folder)}).fetchall()]


_CONTENDERS: dict[str, tuple[str, Callable[[Path], Answer]]] = {
    OURS: ("spectral_exp.results.aggregate", _read_by_ours),
    POLARS: ("polars", _read_by_polars),
    POLARS_WITH_COLUMNS: ("polars", functools.partial(_read_by_polars, columns_given=True)),
    DUCKDB: ("duckdb", _read_by_duckdb),
}
"""The module to import before the measurement, and the reader."""


def _measure(contender: str, folder: Path) -> dict[str, Any]:
    module, read = _CONTENDERS[contender]
    importlib.import_module(module)
    start = time.perf_counter()
    answer = read(folder)
    return {"s": time.perf_counter() - start, "answer": answer}


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]))))
