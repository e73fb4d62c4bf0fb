"""The tables of docs/science.md are what its commands print for the published records."""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from spectral_exp.__main__ import main
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "science.md").read_text(encoding="utf-8")
ARCHIVE = ROOT / "docs" / "science" / "runs.tar.xz"
_COMMAND = re.compile(r"^spectral-exp (compare outputs/runs/.*)$", re.MULTILINE)
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def tables_of_commands() -> dict[str, list[str]]:
    """Return the tables of the page below each command that reads the published records."""
    commands = list(_COMMAND.finditer(PAGE))
    ends = [
        *(command.start() for command in commands[1:]),
        PAGE.index("## Without a strong baseline"),
    ]
    return {
        command[1]: _TABLE.findall(PAGE[command.end() : end])
        for command, end in zip(commands, ends, strict=True)
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published records in `outputs`."""
    folder = tmp_path_factory.mktemp("science")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "outputs", filter="data")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", tables_of_commands())
def test_tables_are_printed_by_their_command(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SPECTRAL_EXP_CACHE", str(folder / "cache"))
    with redirect_stdout(StringIO()) as output:
        assert main([*shlex.split(command), "--format", "markdown"]) == 0
    tables = tables_of_commands()[command]
    assert tables
    for table in tables:
        header, rule, *rows = table.splitlines()
        assert f"{header}\n{rule}\n" in output.getvalue()
        assert set(rows) <= set(output.getvalue().splitlines())


@pytest.mark.slow
def test_texts_have_the_checksums_of_the_records(folder: Path) -> None:
    listed = {(path, sha256) for sha256, path in re.findall(r"^(\w{64})  (\S+)$", PAGE, re.M)}
    records = [json.loads(file.read_text()) for file in folder.glob("outputs/runs/*/*/config.json")]
    trained = {(r["config"]["data"]["path"], r["dataset"]["corpus_sha256"]) for r in records}
    assert listed == trained
