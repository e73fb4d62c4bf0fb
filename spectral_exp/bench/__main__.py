"""Measure what saving, logging, starting and training cost: `python -m spectral_exp.bench all --json figures.json`."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spectral_exp.bench import measure
from spectral_exp.core import json_files
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import RunError, UserError, require
from spectral_exp.core.git import git_hash
from spectral_exp.core.timestamps import timestamp
from spectral_exp.runs.output_file import refuse_loss, write_output

# Name on the command line -> the module, whose `run(options)` yields sections, and what it measures.
BENCHES = {
    "checkpoint": (
        "spectral_exp.bench.checkpoint",
        "blocked time, time until durable, memory, loading",
    ),
    "logging": ("spectral_exp.bench.metrics_log", "an entry of six metrics, and what a kill loses"),
    "plots": (
        "spectral_exp.bench.plots",
        "what a set of plots blocks, when it is drawn, steps meanwhile",
    ),
    "model": (
        "spectral_exp.bench.model",
        "a training step and its memory over classic; classic over a bare loop",
    ),
    "optimizer": (
        "spectral_exp.bench.optimizer",
        "an RGD step over fused AdamW and over its transforms",
    ),
    "attention": (
        "spectral_exp.bench.attention",
        "each attention layer over fused dot-product attention",
    ),
    "loop": ("spectral_exp.bench.loop", "what our loop adds to a step of a bare PyTorch loop"),
    "results": (
        "spectral_exp.bench.results",
        "reading many runs, first and again, over polars and DuckDB",
    ),
    "startup": ("spectral_exp.bench.startup", "--help, and the command to the first training step"),
    "gating": (
        "spectral_exp.bench.gating",
        "what gate_every does to the loss, paired by seed; not part of all",
    ),
}
NOT_IN_ALL = ("gating",)

SCHEMA = 1
"""Version of the JSON file; changes with the meaning of its entries."""

SIZES_MB = (100, 1000)
SIZES_MB_IN_ALL = (100,)
QUICK_SIZES_MB = (20,)

_MOST = 1_000_000

N_RUNS = 100
QUICK_N_RUNS = 5


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    what = "\n".join(f"  {name:<12} {help_}" for name, (_, help_) in BENCHES.items())
    parser = Parser(
        "python -m spectral_exp.bench",
        description="Measure our figures beside physical limits and the peers' that are installed.",
        epilog=f"benches:\n{what}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bench",
        nargs="?",
        default="all",
        choices=[*BENCHES, "all"],
        help="(default: all, in short)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures to this file too"
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite a file that this command has not written"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rounds of small cases: a look, not a figure"
    )
    parser.add_argument(
        "--size", type=int, action="append", metavar="MB", help="size of the state to save, repeatable (default: "
        f"{' and '.join(map(str, SIZES_MB))}; {SIZES_MB_IN_ALL[0]} for all, {QUICK_SIZES_MB[0]} with --quick)",
    )  # fmt: skip
    parser.add_argument(
        "--runs",
        type=int,
        help=f"runs to read (default: {N_RUNS}; {QUICK_N_RUNS} with --quick)",
        metavar="N",
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each measurement (default: as many as suit it)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(), help="folder to write below (default: this one)"
    )
    parser.add_argument(
        "--part", action="store_true", help=argparse.SUPPRESS
    )  # one of all, for the process of all
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the benches; returns 0 whether targets were met or not, 1 if a bench could not write or read."""
    try:
        _run(options)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(str(error)) from error
    return 0


def _run(options: argparse.Namespace) -> None:
    everything = options.bench == "all"
    names = [name for name in BENCHES if name not in NOT_IN_ALL] if everything else [options.bench]
    brief = everything or options.part
    usual = QUICK_SIZES_MB if options.quick else SIZES_MB_IN_ALL if brief else SIZES_MB
    sizes = tuple(sorted(set(options.size or usual)))
    for size in sizes:
        require(1 <= size <= _MOST, "--size", size, f"from 1 to {_MOST} (MB)")
    rounds = options.rounds
    require(rounds is None or 1 <= rounds <= _MOST, "--rounds", rounds, f"from 1 to {_MOST}")
    n_runs = options.runs if options.runs is not None else QUICK_N_RUNS if options.quick else N_RUNS
    require(1 <= n_runs <= _MOST, "--runs", n_runs, f"from 1 to {_MOST}")
    require(options.dir.is_dir(), "--dir", options.dir, "an existing folder")
    if options.json is not None:
        require(
            options.json.parent.is_dir(), "--json", options.json, "a file in an existing folder"
        )
        refuse_loss(options.json, "--json", force=options.force)
    if "checkpoint" in names:
        _check_room(options.dir, max(sizes))
    try:
        temporary = tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir.resolve())
    except OSError as error:
        raise UserError(
            f"cannot write below --dir={options.dir}: {error.strerror}; choose another folder"
        ) from error

    started = time.perf_counter()
    with temporary as folder:
        facts = _facts(options)
        if not options.part:
            print(_told(facts), flush=True)
        if everything:
            found = [_in_a_process(name, options, Path(folder)) for name in names]
        else:
            settings = measure.Options(
                Path(folder) / options.bench, options.quick, sizes, options.rounds, n_runs, brief
            )
            settings.folder.mkdir()
            found = [_measured(options.bench, settings)]
    seconds = time.perf_counter() - started
    lines = [line for each in found for line in each["lines"]]
    seconds_of = {name: each["seconds"] for name, each in zip(names, found, strict=True)}
    if not options.part:
        each_took = ", ".join(f"{name} {spent:.0f}" for name, spent in seconds_of.items())
        print(f"\n{_verdict(lines)}; {seconds:.0f} s" + (f" ({each_took})" if everything else ""))
    if options.json is not None:
        figures = {
            **facts,
            "benches": names,
            "seconds": seconds,
            "seconds_of": seconds_of,
            "missing": list(dict.fromkeys(reason for each in found for reason in each["missing"])),
            "lines": lines,
        }
        write_output(options.json, json_files.json_bytes(figures), "--json", force=options.force)


def _measured(name: str, settings: measure.Options) -> dict[str, Any]:
    """Measure one bench, print its tables as they come, and return its lines."""
    before = time.perf_counter()
    lines: list[dict[str, Any]] = []
    missing: list[str] = []
    for section in importlib.import_module(BENCHES[name][0]).run(settings):
        print(f"\n{measure.table(name, section)}", flush=True)
        lines += measure.as_json(name, section)
        missing += section.missing
    return {"lines": lines, "missing": missing, "seconds": time.perf_counter() - before}


def _in_a_process(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The same in a process of its own, because peers leave threads behind that have computed with OpenMP.

    From then on OpenMP lets all threads sleep sooner, and many small operations take half as long again.
    """
    result = folder / f"{name}.json"
    command = [
        sys.executable,
        "-m",
        "spectral_exp.bench",
        name,
        "--part",
        "--json",
        str(result),
        "--dir",
        str(folder),
    ]
    command += ["--quick"] * options.quick
    command += [f"--size={size}" for size in options.size or []]
    command += [
        f"--{key}={value}"
        for key in ("rounds", "runs")
        if (value := getattr(options, key)) is not None
    ]
    process = subprocess.Popen(command, env=measure.environment())
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code != 0:  # it has said why
        raise SystemExit(code)
    found = json_files.read_json(result)
    return {key: found[key] for key in ("lines", "missing", "seconds")}


def _check_room(folder: Path, size_mb: int) -> None:
    """Raise UserError unless disk and memory hold the copies that contenders make of a state."""
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
    """What the figures depend on."""
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


def _told(facts: dict[str, Any]) -> str:
    hardware, disk = facts["hardware"], facts["file_system"]
    installed = ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items() if version
    )
    load = facts["load_average"]
    busy = (
        f"\nthe machine is busy (load {load:.1f}): figures will be worse, and spread"
        if load and load > 0.5
        else ""
    )
    return (
        f"{hardware['cpu_model']}, {hardware['cpus_usable']} usable cores, {hardware['memory_gb']} GB, "
        f"{hardware['torch_threads']} torch threads unless told otherwise\n"
        f"files on {disk['type']} ({disk['device']}), {disk['free_gb']} GB free\n{installed}{busy}"
    )


def _verdict(lines: list[dict[str, Any]]) -> str:
    with_target = [line for line in lines if line["met"] is not None]
    missed = [line for line in with_target if not line["met"]]
    told = f"{len(with_target) - len(missed)} of {len(with_target)} targets met"
    for line in missed:
        told += f"\n  missed: {line['section']}: {line['figure']}, {line['contender']}"
    return told


main = command(build_parser, run)

if __name__ == "__main__":
    sys.exit(main())
