"""Runs that have been moved, renamed or made by odd command lines are continued by the command that
they print."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from spectral_exp.commands import diagnose
from spectral_exp.config.command_line import CommandLine, quote
from spectral_exp.config.command_line.grammar import (
    format_value,
    parse,
    quote_text_setting,
    text_of,
)
from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.runs.layout import RunPaths
from spectral_exp.train import main
from spectral_exp.training.resume import warn_of_other_bits
from spectral_exp.training.summary import summary
from tests.conftest import NO_PLOTS, TINY, every_in_ci, python

OF_TEXT = tuple(override for override in TINY if not override.startswith("data"))
SETTINGS = (
    "+experiment=classic",
    *OF_TEXT,
    NO_PLOTS,
    "device=cpu",
    "data=text_file",
    "training.eval_interval=12",
)
ODD_NAMES = (
    "it's", 'a "quoted" name', "a b", " a ", "a=b", "a,b", "{a}", "[a]", "(a)", "$HOME", "${HOME}", "$(touch canary)",
    "`touch canary`", "a;b&c|d>e", "#a", "~", "~a", "-a", "--help", "a\\", "\\'", "a\nb", "a\tb", "中文", "😀", "é",
    "1e5", "true", "007", "'a'", '"', "%s", "*", "!", "<more>", "a:b@c", "..a", "a${b}c",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run that was started there by a relative path, with an
    interpolated setting."""
    folder = tmp_path_factory.mktemp("continuing")
    (folder / "text.txt").write_text("wave after wave " * 300)
    before = Path.cwd()
    os.chdir(folder)
    try:
        prompt = "training.sample_prompt=it's = wave"
        interpolated = (
            "optimizer.learning_rate=${schedule.min_ratio}",
            prompt,
            "name=${training.sample_prompt}",
        )
        assert main([*SETTINGS, *interpolated, "data.path=text.txt", "hydra.run.dir=run"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of that folder."""
    shutil.copytree(finished, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    change_record(Path("run"), lambda record: record["host"].update(cwd=str(tmp_path / "here")))
    return tmp_path / "here"


def change_record(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = run / "config.json"
    record = json.loads(file.read_text())
    change(record)
    record["crc32"] = content_crc32(record)
    file.write_text(json.dumps(record))


def record_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "config.json").read_text())
    return content


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def next_commands(text: str) -> list[list[str]]:
    """The words of the commands that a run prints at its end, as bash splits them."""
    block = text.partition("\nNext\n")[2]
    script = (
        block.replace("python -m spectral_exp generate", "python -m generate").replace(
            "python -m", "printf '%s\\0'"
        )
        + "\nprintf '\\0'"
    )
    printed = subprocess.run(
        ["bash", "-ec", script], capture_output=True, check=True
    ).stdout.decode()
    words = printed.removesuffix("\0\0").split("\0")
    second = words.index("spectral_exp.train")
    first = words.index("generate")
    begin, end = min(first, second), max(first, second)
    return [words[begin:end], words[end:]]


def test_interpolated_overrides_are_recorded_as_values(here: Path) -> None:
    overrides = record_of(Path("run"))["overrides"]
    assert "optimizer.learning_rate=0.1" in overrides
    assert r"name='it\'s = wave'" in overrides
    assert not any("${" in override for override in overrides)
    (job,) = CommandLine.parse(["resume=run"]).compose()
    assert (job.config["name"], job.config["optimizer"]["learning_rate"]) == ("it's = wave", 0.1)


def test_a_run_is_continued_from_another_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    # Another text of the same name, which is not that of the run.
    (elsewhere / "text.txt").write_text("another text " * 300)
    monkeypatch.chdir(elsewhere)
    assert diagnose.main(["../run", "--windows", "1"]) == 0
    assert main(["resume=../run", "training.max_steps=13"]) == 0
    record = record_of(here / "run")
    assert record["config"]["data"]["path"] == str(here / "text.txt")
    assert record["attempts"][-1]["cwd"] == str(elsewhere)


def test_moved_text_is_found_at_its_new_place(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").rename("中文 = moved.txt")
    before = contents(Path("run"))
    assert main(["resume=run", "training.max_steps=13"]) == 2
    assert "text.txt must be an existing file" in capsys.readouterr().err
    Path("other.txt").write_text("not that text " * 300)
    assert main(["resume=run", "training.max_steps=13", "data.path=other.txt"]) == 2
    error = capsys.readouterr().err
    assert "was trained on other text" in error
    assert len(error.splitlines()) == 1
    assert contents(Path("run")) == before
    assert main(["resume=run", "training.max_steps=13", "data.path=中文 = moved.txt"]) == 0
    assert record_of(Path("run"))["config"]["data"]["path"] == "中文 = moved.txt"


def test_without_fingerprints_moved_text_is_not_taken_on_trust(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.txt").rename("moved.txt")
    change_record(Path("run"), lambda record: record.update(dataset=None))
    assert main(["resume=run", "training.max_steps=13", "data.path=moved.txt"]) == 2
    assert "data.path: text.txt -> moved.txt" in capsys.readouterr().err


KILLED = """
import os, signal, sys
from spectral_exp import train; from spectral_exp.training import step as steps
step = steps.Stepper.take_step
def deadly(self, number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number)
steps.Stepper.take_step = deadly
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_run_that_records_nothing_goes_on_after_a_kill_before_its_first_checkpoint(
    here: Path,
) -> None:
    command = [*SETTINGS, "data.path=text.txt", "hydra.run.dir=killed", "monitoring/tracking=off"]
    done = python("-c", KILLED, *command, cwd=here)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(Path("killed").glob("checkpoints/*.pt"))
    assert main(command) == 0
    assert Path("killed/checkpoints/checkpoint_step_12.pt").is_file()
    steps = [
        json.loads(line)["step"]
        for line in Path("killed/logs/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_a_folder_with_logs_of_something_else_is_no_such_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("logs/thesis.txt", ".hydra/config.yaml"):
        Path("mine", name).parent.mkdir(parents=True)
        Path("mine", name).write_text("years of work")
    assert (
        main([*SETTINGS, "data.path=text.txt", "hydra.run.dir=mine", "monitoring/tracking=off"])
        == 2
    )
    assert "mine holds files but no run (logs, ...)" in capsys.readouterr().err


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message for record in caplog.records if record.name == "spectral_exp.training.resume"
    ]


def test_other_threads_packages_and_processors_are_named_in_one_warning(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_other_bits(RunPaths("run"), 1)
    assert warnings(caplog) == []

    def change(record: dict[str, Any]) -> None:
        record["packages"]["torch"] = "1.0"
        record["hardware"]["cpu_model"] = "Abacus"

    change_record(Path("run"), change)
    warn_of_other_bits(RunPaths("run"), 2)
    (warning,) = warnings(caplog)
    assert "cpu_model Abacus -> " in warning
    assert "torch 1.0 -> " in warning
    assert "threads 1 -> 2" in warning
    shutil.rmtree("run/checkpoints")
    caplog.clear()
    warn_of_other_bits(RunPaths("run"), 2)
    assert warnings(caplog) == []


@pytest.mark.slow
def test_a_run_continued_with_other_settings_warns(here: Path) -> None:
    assert main(["resume=run", "training.max_steps=13", "threads=2"]) == 0
    assert "is continued with threads 1 -> 2" in Path("run/train.log").read_text()


@pytest.mark.slow
def test_the_printed_command_names_the_users_configuration_files(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("own's files", "more"):
        Path(place, "experiment").mkdir(parents=True)
    Path("own's files/experiment/mine.yaml").write_text(
        "# @package _global_\nname: mine\ndefaults: [extra]\n"
    )
    Path("more/experiment/extra.yaml").write_text(
        "# @package _global_\ntraining:\n  batch_size: 3\n"
    )
    Path("own's files/primary.yaml").write_text("defaults: [config, _self_]\nseed: 5\n")
    search = [
        "--config-dir",
        "own's files",
        "--config-name",
        "primary",
        "hydra.searchpath=[file://more]",
    ]
    command = [
        *search,
        *SETTINGS[1:],
        "+experiment=mine",
        "data.path=text.txt",
        "hydra.run.dir=own",
    ]
    assert main(command) == 0
    *_, words = next_commands(capsys.readouterr().out)
    assert words[1:-2] == ["--config-dir", str(here / "own's files"), *search[2:]]
    assert main(words[1:]) == 0
    capsys.readouterr()
    assert main(["resume=own", "training.max_steps=25"]) == 2
    error = capsys.readouterr().err
    assert (
        "(--config-dir, --config-name, hydra.searchpath), which are not taken from a record"
        in error
    )
    printed = shlex.split(error.rpartition("name them again: ")[2])
    assert main([*printed[3:], "training.max_steps=25"]) == 0
    config = record_of(Path("own"))["config"]
    assert (config["training"]["batch_size"], config["seed"]) == (3, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.job.chdir=true", "hydra.run.dir=new"], "hydra.job.chdir=true must be false"),
        (["-m", "hydra.job.chdir=true", "seed=1,2"], "hydra.job.chdir=true must be false"),
        (["hydra.run.dir='a\\${b}'"], "must not hold ${ in its path"),
        (["--config-dir", "nowhere"], "--config-dir=nowhere must be an existing folder"),
        (["--config-path", "elsewhere"], "add your own files with --config-dir"),
        (["data.pattern=a=b"], "quote it: 'data.pattern='\"'\"'a=b'\"'\"''"),
        (["-m", "data.pattern=中文", "seed=1,2"], "to take the value literally, quote it: "),
    ],
)
def test_impossible_requests_are_refused_before_anything_exists(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(here.rglob("*"))
    assert main([*SETTINGS, "data.path=text.txt", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(here.rglob("*")) == files


def test_printed_commands_work_for_any_name(here: Path) -> None:
    for name in ODD_NAMES:
        folder = Path(name)
        Path("run").rename(folder)
        generate, train = next_commands(summary(folder))
        assert generate[0] == "generate"
        assert (here / generate[1]).resolve() == folder.resolve()
        assert not generate[1].startswith("-")
        given = {o.partition("=")[0]: o for o in CommandLine.parse(train[1:]).overrides}
        assert text_of(given["hydra.run.dir"]) == text_of(given["resume"]) == name
        # The name by itself, as a person types it.
        given = {o.partition("=")[0]: o for o in CommandLine.parse([f"resume={name}"]).overrides}
        assert text_of(given["hydra.run.dir"]) == name
        folder.rename("run")
    assert not Path("canary").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", every_in_ci(3, ['it\'s a b=c,d{e} "q" $HOME\\', "-中文😀#;&|", "new\nline"])
)
def test_printed_commands_can_be_pasted(name: str, here: Path) -> None:
    odd = [
        f"hydra.run.dir={name}",
        f"name={name}",
        f"training.sample_prompt={name.encode('ascii', 'ignore').decode()}",
    ]
    run = python(
        "-m",
        "spectral_exp.train",
        *SETTINGS,
        "data.path=text.txt",
        "tokenizer=byte",
        *odd,
        cwd=here,
    )
    assert run.returncode == 0, run.stderr
    script = run.stdout.partition("\nNext\n")[2].replace(
        "python -m", f"{shlex.quote(sys.executable)} -m"
    )
    pasted = subprocess.run(
        ["bash", "-ec", script], cwd=here, capture_output=True, text=True, check=False
    )
    assert pasted.returncode == 0, pasted.stderr
    assert "resuming after step 12" in pasted.stdout


SPECIAL = st.sampled_from(list("'\"\\${}[](),=:#~ \t\n-&|;<>!*?%中😀"))
TEXT = st.text(
    SPECIAL | st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
)
EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@EXAMPLES
@given(TEXT.filter(lambda text: text != "???"))  # which stands for a missing value
@example("\\\\${a}\\'")
@example("\\\n")
def test_quoted_text_is_read_back_unchanged(text: str) -> None:
    assert text_of(f"name={quote(text)}") == text


@EXAMPLES
@given(
    TEXT.map(lambda text: text.replace("/", "_")).filter(
        lambda text: text.strip().lower() not in ("null", ".", "..")
    )
)
@example("'a'")
@example("a,b")
@example("???")
def test_the_name_of_a_folder_is_taken_as_it_is_typed(here: Path, text: str) -> None:
    folder = here / text
    folder.mkdir()
    try:
        assert (
            parse(quote_text_setting(f"resume={text}", sweeps=False)).value()
            == parse(f"resume={quote(text)}").value()
        )
    finally:
        folder.rmdir()


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | TEXT.filter(lambda text: text != "???"),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.from_regex("[a-z][a-z_.:=-]{0,4}", fullmatch=True), inner, max_size=3),
    max_leaves=6,
)


@EXAMPLES
@given(VALUES)
def test_written_values_are_read_back_unchanged(value: Any) -> None:
    read = OmegaConf.to_container(
        OmegaConf.create({"value": parse(f"x={format_value(value)}").value()}), resolve=True
    )
    assert isinstance(read, dict)
    assert read["value"] == value
    assert type(read["value"]) is type(value)


def test_a_sweep_keeps_its_commas() -> None:
    assert quote_text_setting("name=a,b", sweeps=True) == "name=a,b"
    assert quote_text_setting("name=a,b", sweeps=False) == "name=a,b"
    assert quote_text_setting("resume=a,b", sweeps=False) == "resume='a,b'"
    with pytest.raises(UserError, match="needs --multirun"):
        CommandLine.parse(["name=a,b"]).compose()
