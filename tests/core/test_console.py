"""Commands whose output loses its reader, or cannot be written."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from spectral_exp.__main__ import COMMANDS
from spectral_exp.core import console
from spectral_exp.core.errors import SettingError
from tests.conftest import ROOT, python
from tests.results.made_runs import make_run

# The training command has protections of its own: a run goes on without a reader of its output.
MODULES = {name: module for name, (module, _) in COMMANDS.items() if name != "train"}

# One process imports the commands; each then ends in a fork of it, at the real exit of the
# interpreter.
_SCRIPT = """
import importlib, json, os, sys, tempfile
found = []
for name, arguments, lost in json.loads(sys.argv[1]):
    module = importlib.import_module(name)
    read, write = os.pipe()
    os.close(read)
    with tempfile.TemporaryFile() as errors:
        sys.stdout.flush()
        if not (child := os.fork()):
            os.dup2(errors.fileno(), 2)
            for descriptor in lost:
                os.dup2(write, descriptor)
            sys.exit(module.main(arguments))
        os.close(write)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        found.append((status, errors.read().decode()))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_command_ends_silently_without_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(
        "PYTHONUNBUFFERED", raising=False
    )  # argparse ignores that it cannot write --help
    for seed in range(3):
        run = make_run(tmp_path, seed=seed)
    (run / "checkpoints").mkdir()
    calls = [
        ("compare", [str(tmp_path)], [1]),
        ("compare", [str(tmp_path), "--watch"], [1]),
        ("checkpoints", ["list", str(run)], [1]),
        ("compare", [str(tmp_path / "none")], [2]),
        ("paper", [str(tmp_path / "none")], [1, 2]),
    ]
    # Not the demo: loading torch and ending a process that has it take seconds.
    calls += [(name, ["--help"], [1]) for name in MODULES if name != "demo"]
    given = [(MODULES[name], arguments, lost) for name, arguments, lost in calls]
    done = python("-c", _SCRIPT, json.dumps(given), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    named = {
        f"{name} {' '.join(arguments)}": tuple(end)
        for (name, arguments, _), end in zip(calls, found, strict=True)
    }
    assert named == dict.fromkeys(named, (console.READER_GONE, ""))


def test_what_the_encoding_of_the_output_lacks_is_escaped() -> None:
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import argparse\n"
            "from spectral_exp.core.console import command\n"
            "raise SystemExit(command(argparse.ArgumentParser, lambda _: print('a\\ufffd') or 0)())",
        ],
        capture_output=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\\ufffd\n", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("text", ["x", "x" * 100_000], ids=["buffered", "written at once"])
def test_what_a_command_cannot_print_is_an_error_in_a_line(text: str) -> None:
    code = (
        "import argparse, sys\n"
        "from spectral_exp.core.console import command\n"
        f"raise SystemExit(command(argparse.ArgumentParser, lambda _: sys.stdout.write({text!r}))())"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode == 0, done.stderr) == (
        False,
        "error: cannot write to <stdout>: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("setting", "allowed", "message"),
    [
        ("top_k", ">= 1 or null", "--top-k=0 must be >= 1"),
        ("top_p", "> 0 and <= 1, or null", "--top-p=0 must be > 0 and <= 1"),
        ("folder", "a folder or null", "folder=0 must be a folder or null"),
        ("training.seed", ">= 1 or null", "training.seed=0 must be >= 1 or null"),
    ],
)
def test_a_wrong_value_of_a_flag_is_reported_as_it_was_typed(
    setting: str, allowed: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_parser() -> argparse.ArgumentParser:
        parser = console.Parser("made")
        parser.add_argument("folder")
        parser.add_argument("--top-k")
        parser.add_subparsers().add_parser("draw").add_argument("--top-p")
        return parser

    def run(options: argparse.Namespace) -> int:
        raise SettingError(setting, 0, allowed)

    assert console.command(build_parser, run)(["x", "draw"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_an_error_in_a_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "spectral_exp", "checkpoints", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "error: cannot write to <stdout>: No space left on device\n",
    )


def test_a_broken_pipe_that_is_not_the_output_is_no_silent_end() -> None:
    def call() -> int:
        read, write = os.pipe()
        os.close(read)
        try:
            return os.write(write, b"to a helper that has died")
        finally:
            os.close(write)

    with pytest.raises(BrokenPipeError):
        console.exit_code(call)


def test_a_command_that_has_failed_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    script = (
        "import os, sys; from spectral_exp.core.console import exit_code\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "sys.exit(exit_code(lambda: print('buffered') or 3))"
    )
    done = python("-c", script, cwd=ROOT)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("hidden", [False, True], ids=["as it is", "as another error"])
def test_a_signal_ends_a_command_in_order(
    number: signal.Signals, hidden: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(options: argparse.Namespace) -> int:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt as error:
                if hidden:
                    raise ImportError("initialization failed") from error
                raise
        return 0

    main = console.command(argparse.ArgumentParser, run)
    # Under nohup the suite itself starts with SIGHUP ignored, which commands leave so.
    before = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    found = signal.signal(number, before)
    try:
        assert main([]) == 128 + number
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, found)
    assert capsys.readouterr().err == f"stopped by {number.name}\n"
    assert not list(tmp_path.iterdir())
