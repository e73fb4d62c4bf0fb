"""Measure the cost of saving, logging, starting and training: `spectral-exp bench all`."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectral_exp.bench import measure
from spectral_exp.core import json_files
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import RunError, explain_os_error, require
from spectral_exp.core.git import git_hash
from spectral_exp.core.timestamps import timestamp
from spectral_exp.runs.output_file import refuse_loss, write_output

# Module in this folder and help line of each bench.
BENCHES = {
    "checkpoint": ("checkpoint", "saving and loading: blocked time, time until durable, memory"),
    "logging": ("metrics_log", "time of an entry of six metrics, and entries lost by a kill"),
    "plots": ("plots", "blocked time of plots and spectra, time until drawn, steps meanwhile"),
    "model": ("model", "step time and memory relative to classic; classic relative to a bare loop"),
    "optimizer": ("optimizer", "an RGD step relative to fused AdamW and to its transforms"),
    "attention": ("attention", "each attention layer relative to fused dot-product attention"),
    "loop": ("loop", "overhead of the training loop over a bare PyTorch loop"),
    "results": ("results", "reading many runs, first and again, relative to polars and DuckDB"),
    "sweep": (
        "sweep",
        "looking over a finished sweep of 1,000 jobs, and starting a further job; not part of all",
    ),
    "startup": ("startup", "time of --help, and until the first training step"),
    "distributed": (
        "distributed",
        "a step on two processes relative to a bare DDP loop, and their start",
    ),
    "threads": (
        "threads",
        "steps on two threads by how they wait, also beside a busy process; not part of all",
    ),
    "companion": (
        "companion",
        "a step beside a companion process relative to a step alone; not part of all",
    ),
    "gating": ("gating", "effect of gate_every on the loss, paired by seed; not part of all"),
    "dashboard": ("dashboard", "the dashboard in Chromium beside other tools; not part of all"),
}
NOT_IN_ALL = ("companion", "gating", "dashboard", "sweep", "threads")

SCHEMA = 1
"""Version of the JSON file, increased when the meaning of an entry changes."""

SIZES_MB = (100, 1000)
SIZES_MB_IN_ALL = (100,)
QUICK_SIZES_MB = (20,)

_MAX_OPTION = 1_000_000

N_RUNS = 100
QUICK_N_RUNS = 5


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    benches = "\n".join(f"  {name:<12} {text}" for name, (_, text) in BENCHES.items())
    parser = Parser(
        "spectral-exp bench",
        description="Measure speed against physical limits and installed tools.",
        epilog=f"benches:\n{benches}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bench",
        nargs="?",
        default="all",
        choices=[*BENCHES, "all"],
        help="bench to run (default: all, with fewer rounds)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all figures to this file"
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite a file that this command has not written"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds of small cases, for a rough estimate"
    )
    parser.add_argument(
        "--size",
        type=int,
        action="append",
        metavar="MB",
        help="size of the state to save, repeatable (default: "
        f"{' and '.join(map(str, SIZES_MB))}; {SIZES_MB_IN_ALL[0]} for all, "
        f"{QUICK_SIZES_MB[0]} with --quick)",
    )
    parser.add_argument(
        "--runs",
        type=int,
        help=f"runs to read (default: {N_RUNS}; {QUICK_N_RUNS} with --quick)",
        metavar="N",
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each measurement (default: depends on the bench)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(), help="folder for temporary files (default: .)"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(sys.executable),
        metavar="PYTHON",
        help="interpreter that has other dashboards installed (default: this one)",
    )
    # Set by `all` for the process of each bench.
    parser.add_argument("--part", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the benches and return 0, also if a target is missed.

    Raises:
        RunError: a bench cannot read or write its files.
    """
    try:
        _run(options)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(str(error)) from error
    return 0


def _run(options: argparse.Namespace) -> None:
    is_all = options.bench == "all"
    names = [name for name in BENCHES if name not in NOT_IN_ALL] if is_all else [options.bench]
    brief = is_all or options.part
    default_sizes = QUICK_SIZES_MB if options.quick else SIZES_MB_IN_ALL if brief else SIZES_MB
    sizes = tuple(sorted(set(options.size or default_sizes)))
    n_runs = options.runs if options.runs is not None else QUICK_N_RUNS if options.quick else N_RUNS
    _check(options, names, sizes, n_runs)
    with explain_os_error(f"write below --dir={options.dir}", "choose another folder"):
        temporary = tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir.resolve())

    started = time.perf_counter()
    with temporary as folder:
        facts = _facts(options)
        if not options.part:
            print(_format_facts(facts), flush=True)
        if is_all:
            parts = [_run_in_process(name, options, Path(folder)) for name in names]
        else:
            settings = measure.Options(
                Path(folder) / options.bench,
                options.quick,
                sizes,
                options.rounds,
                n_runs,
                options.peers,
                brief,
            )
            settings.folder.mkdir()
            parts = [_run_bench(options.bench, settings)]
    seconds = time.perf_counter() - started
    lines = [line for part in parts for line in part["lines"]]
    seconds_of = {name: part["seconds"] for name, part in zip(names, parts, strict=True)}
    if not options.part:
        shares = ", ".join(f"{name} {spent:.0f}" for name, spent in seconds_of.items())
        print(f"\n{_format_verdict(lines)}; {seconds:.0f} s" + (f" ({shares})" if is_all else ""))
    if options.json is not None:
        figures = {
            **facts,
            "benches": names,
            "seconds": seconds,
            "seconds_of": seconds_of,
            "missing": list(dict.fromkeys(reason for part in parts for reason in part["missing"])),
            "lines": lines,
        }
        write_output(options.json, json_files.json_bytes(figures), "--json", force=options.force)


def _check(
    options: argparse.Namespace, names: Sequence[str], sizes: Sequence[int], n_runs: int
) -> None:
    """Raise SettingError for options that no bench can run with."""
    for size in sizes:
        require(1 <= size <= _MAX_OPTION, "--size", size, f"from 1 to {_MAX_OPTION} (MB)")
    rounds = options.rounds
    require(
        rounds is None or 1 <= rounds <= _MAX_OPTION, "--rounds", rounds, f"from 1 to {_MAX_OPTION}"
    )
    require(1 <= n_runs <= _MAX_OPTION, "--runs", n_runs, f"from 1 to {_MAX_OPTION}")
    require(os.access(options.peers, os.X_OK), "--peers", options.peers, "a Python interpreter")
    require(options.dir.is_dir(), "--dir", options.dir, "an existing folder")
    if options.json is not None:
        has_folder = options.json.parent.is_dir()
        require(has_folder, "--json", options.json, "a file in an existing folder")
        refuse_loss(options.json, "--json", force=options.force)
    if "checkpoint" in names:
        _require_space(options.dir, max(sizes))


def _run_bench(name: str, settings: measure.Options) -> dict[str, Any]:
    """Run one bench, print each table when it is complete, and return the figures."""
    before = time.perf_counter()
    lines: list[dict[str, Any]] = []
    missing: list[str] = []
    for section in importlib.import_module(f"spectral_exp.bench.{BENCHES[name][0]}").run(settings):
        print(f"\n{measure.format_table(name, section)}", flush=True)
        lines += measure.as_json(name, section)
        missing += section.missing
    return {"lines": lines, "missing": missing, "seconds": time.perf_counter() - before}


def _run_in_process(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one bench in a separate process and return its figures.

    Some tools leave OpenMP threads behind. OpenMP then puts idle threads to sleep sooner, which
    makes many small operations 1.5 times as slow.
    """
    result = folder / f"{name}.json"
    command = [sys.executable, "-m", "spectral_exp.bench", name, "--part"]
    command += [f"--json={result}", f"--dir={folder}", *["--quick"] * options.quick]
    command += [f"--size={size}" for size in options.size or []]
    for key, value in {"rounds": options.rounds, "runs": options.runs}.items():
        if value is not None:
            command.append(f"--{key}={value}")
    process = subprocess.Popen(command, env=measure.environment())
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code != 0:  # the process has printed the reason
        raise SystemExit(code)
    figures = json_files.read_json(result)
    return {key: figures[key] for key in ("lines", "missing", "seconds")}


def _require_space(folder: Path, size_mb: int) -> None:
    """Raise SettingError if disk or memory cannot hold the contenders' copies of a state."""
    import psutil

    disk_mb = psutil.disk_usage(str(folder)).free / 1e6
    allowed = (
        f"less: there must be 6 times as much room on the disk of --dir, which has {disk_mb:.0f} MB"
    )
    require(disk_mb >= 6 * size_mb, "--size", size_mb, allowed)
    memory_mb = psutil.virtual_memory().available / 1e6
    allowed = f"less: contenders need 9 times as much memory, and {memory_mb:.0f} MB are available"
    require(memory_mb >= 9 * size_mb, "--size", size_mb, allowed)


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    """Return the facts on which the figures depend."""
    from spectral_exp.monitoring.tracking.environment import hardware_facts

    return {
        "schema": SCHEMA,
        "created": timestamp(),
        "quick": options.quick,
        "git_hash": git_hash(),
        "platform": platform.platform(),
        "hardware": hardware_facts(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "file_system": measure.file_system(options.dir),
        "versions": measure.versions(),
    }


def _format_facts(facts: dict[str, Any]) -> str:
    hardware, disk = facts["hardware"], facts["file_system"]
    installed = ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items() if version
    )
    load = facts["load_average"]
    busy = ""
    if load and load > 0.5:
        busy = f"\nthe machine is busy (load {load:.1f}): figures will be worse and vary more"
    return (
        f"{hardware['cpu_model']}, {hardware['cpus_usable']} usable cores, "
        f"{hardware['memory_gb']} GB, {hardware['torch_threads']} torch threads by default\n"
        f"files on {disk['type']} ({disk['device']}), {disk['free_gb']} GB free\n{installed}{busy}"
    )


def _format_verdict(lines: list[dict[str, Any]]) -> str:
    with_target = [line for line in lines if line["met"] is not None]
    missed = [line for line in with_target if not line["met"]]
    text = f"{len(with_target) - len(missed)} of {len(with_target)} targets met"
    for line in missed:
        text += f"\n  missed: {line['section']}: {line['figure']}, {line['contender']}"
    return text


main = command(build_parser, run)

if __name__ == "__main__":
    sys.exit(main())
