"""A record may name any file of this machine: no command uses one that is not the text of the
run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectral_exp import train
from spectral_exp.commands import diagnose, evaluate, generate, reproduce, verify_resume
from spectral_exp.config import trust
from spectral_exp.config.command_line import CommandLine
from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.data import Byte, KnownText, TextFile, prepare
from spectral_exp.verification import replay, reproduction
from spectral_exp.verification.recorded_packages import OwnPlaces
from tests.conftest import NO_PLOTS, TINY

TEXT = "wave after wave " * 300 + "\n"
SECRET = "hunter2-canary "
SETTINGS = (
    *(override for override in TINY if not override.startswith("data")),
    "+experiment=classic", NO_PLOTS, "device=cpu", "data=text_file",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a text there."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main([*SETTINGS, "data.path=text.txt", "hydra.run.dir=run"]) == 0
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of that folder below the home folder, which holds secrets."""
    shutil.copytree(finished, tmp_path / "here", symlinks=True)
    (tmp_path / "private").mkdir()
    same_size = (SECRET * len(TEXT))[: len(TEXT)]
    for name, content in {"same_size": same_size, "longer": SECRET * 400}.items():
        (tmp_path / "private" / name).write_text(content)
    (tmp_path / "private/latin1").write_bytes(same_size[:-1].encode() + b"\xff")
    (tmp_path / "text_link").symlink_to(tmp_path / "private/same_size")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").mkdir()
    for name, value in {"HOME": tmp_path, "SPECTRAL_EXP_CACHE": tmp_path / "cache"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path / "here")

    def called(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(replay, "_run_in_process", called)
    return tmp_path


def change_record(change: Callable[[dict[str, Any]], None]) -> None:
    """Change `config.json` and give it a right checksum, as its author could."""
    file = Path("run/config.json")
    record = json.loads(file.read_text())
    change(record)
    record["crc32"] = content_crc32(record)
    file.write_text(json.dumps(record))


def name_file(key: str, path: str) -> None:
    """Let the record name a file, wherever it does so."""

    def change(record: dict[str, Any]) -> None:
        group = key.partition(".")[0]
        if group == "tokenizer":
            record["config"]["tokenizer"] = {"_target_": "spectral_exp.data.Gpt2"}
        record["config"][group]["path"] = path
        for part in (record, *record["attempts"]):
            part["overrides"] = [o for o in part["overrides"] if not o.startswith(key)]
            part["overrides"] += ["tokenizer=gpt2"] if group == "tokenizer" else []
            part["overrides"].append(f"{key}={path}")

    change_record(change)


def contents(folder: Path) -> dict[str, bytes]:
    """Every regular file below a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


COMMANDS: dict[str, Callable[[], int]] = {
    "diagnose": lambda: diagnose.main(["run", "--windows", "1"]),
    "evaluate": lambda: evaluate.main(["run", "--no-record"]),
    "verify_resume": lambda: verify_resume.main(["run", "--steps", "2"]),
    "reproduce": lambda: reproduce.main(["run", "--current-code"]),
    "resume": lambda: train.main(["resume=run", "training.max_steps=13"]),
}
PATHS = (
    "{home}/private/same_size", "{home}/private/longer", "{home}/private/latin1", "~/private/same_size",
    "../private/same_size", "{home}/private", "{home}/text_link", "{home}/fifo", "{home}/empty", "{home}/missing",
    "/proc/self/environ", "/proc", "/dev/zero", "/dev/stdin", "run", "run/config.json",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_uses_a_file_that_is_not_the_text_of_the_run(
    command: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pristine = Path("run/config.json").read_bytes()
    for key in trust.PATH_SETTINGS:
        for path in PATHS[
            :: 3 if command == "resume" else 1
        ]:  # which composes its configuration each time
            Path("run/config.json").write_bytes(pristine)
            name_file(key, path.format(home=here))
            before = contents(here)
            capfd.readouterr()
            assert COMMANDS[command]() == 2, (key, path)
            printed = "".join(capfd.readouterr())
            lines = [
                line for line in printed.splitlines() if not line.startswith(("note:", "INFO"))
            ]
            assert len(lines) == 1, (key, path, printed)
            assert lines[0].startswith("error: ")
            assert "canary" not in printed
            assert contents(here) == before, (key, path)


def test_writing_text_needs_no_file_that_a_record_names(here: Path) -> None:
    for key in trust.PATH_SETTINGS:
        name_file(key, f"{here}/fifo")
    assert generate.main(["run", "--tokens", "2"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_without_fingerprints_no_recorded_path_is_read(
    command: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change_record(lambda record: record.update(dataset=None))
    capfd.readouterr()
    assert COMMANDS[command]() == 2
    error = capfd.readouterr().err
    assert "fingerprint" in error
    assert "data.path=" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "override",
    ["data.path=../private/same_size", "++data.path=../private/same_size", " data.path=../private/same_size",
     "data={_target_:spectral_exp.data.TextFile,path:../private/same_size}", "data.pattern='*'"],
)  # fmt: skip
def test_recorded_overrides_name_no_other_file_than_the_record(
    override: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the settings in the record say of the text is true, and the overrides beside them say
    otherwise."""
    Path("texts").mkdir()
    Path("text.txt").rename("texts/text.txt")
    shutil.copy("../private/same_size", "texts/other.md")

    def change(record: dict[str, Any]) -> None:
        record["config"]["data"] |= {"path": "texts", "pattern": "*.txt"}
        for part in (record, *record["attempts"]):
            part["overrides"] = [o for o in part["overrides"] if not o.startswith("data.path")]
            part["overrides"] += ["data.path=texts", "data.pattern='*.txt'", override]

    change_record(change)
    before = contents(here)
    capfd.readouterr()
    assert train.main(["resume=run", "training.max_steps=13"]) == 2
    assert "error: " in capfd.readouterr().err
    assert contents(here) == before
    record = json.loads(Path("run/config.json").read_text())
    try:
        overrides = reproduction._overrides(Path("run"), record, Path("again"), OwnPlaces())
    except UserError as error:
        assert "is not trusted with that" in str(error)  # noqa: PT017 either it is refused, or it does not count
        return
    (job,) = CommandLine.parse(overrides).compose()
    assert job.config["data"] == record["config"]["data"]


@pytest.mark.parametrize("n_files", [1, 3])
def test_known_text_is_known_by_its_size_before_it_is_read(n_files: int, tmp_path: Path) -> None:
    for number in range(n_files):
        (tmp_path / f"{number}.txt").write_text("without a line end " * 50)
    corpus = TextFile(str(tmp_path) if n_files > 1 else str(tmp_path / "0.txt"))
    size = len(corpus.read(tmp_path))
    assert corpus.may_hold(size)
    assert not corpus.may_hold(size + 1)
    assert not corpus.may_hold(size - n_files - 1)
    known = prepare(corpus, Byte(), block_size=4, cache_dir=tmp_path / ".cache").fingerprints
    text = KnownText("run", known)
    assert (
        len(text.read(corpus, tmp_path))
        == size
        == int(known["train_bytes"]) + int(known["val_bytes"])
    )
    for changed in ({"train_bytes": 1}, {"corpus_sha256": "0" * 64}):
        with pytest.raises(UserError, match=r"^run was trained on other text than data\.path="):
            KnownText("run", {**known, **changed}).read(corpus, tmp_path)
    with pytest.raises(UserError, match=r"^run was trained with another tokenizer"):
        prepare(corpus, Byte(), block_size=5, cache_dir=tmp_path / ".other",
                known=KnownText("run", {**known, "tokenizer": "0"}))  # fmt: skip
    assert not list((tmp_path / ".other").rglob("*.bin"))
