"""Temporary files of killed writers are removed; those of living writers stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spectral_exp.core.files import atomic_writer, fsync_directory, remove_abandoned_files
from spectral_exp.runs.output_file import write_output

_WRITER = """
import sys
from pathlib import Path
from spectral_exp.core.files import atomic_writer
with atomic_writer(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def start_writer(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _WRITER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


def end(process: subprocess.Popen[bytes], *, kill: bool) -> int:
    if kill:
        process.kill()
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("name", ["weights.safetensors", "a[b]*?.json"])
def test_the_next_command_removes_leftovers_of_a_killed_one(name: str, tmp_path: Path) -> None:
    target, other = tmp_path / name, tmp_path / f"{name}.more"
    killed, living, of_another = (start_writer(path) for path in (target, target, other))
    end(killed, kill=True)
    end(of_another, kill=True)
    assert len(list(tmp_path.iterdir())) == 3
    write_output(target, b"whole")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert [f"{living.pid}-" in part for part in left[:2]].count(True) == 1
    assert [f"{of_another.pid}-" in part for part in left[:2]].count(True) == 1
    assert left[2:] == [name]
    assert target.read_bytes() == b"whole"
    assert end(living, kill=False) == 0
    assert target.read_bytes() == b"half"


def test_only_temporary_files_of_the_target_are_removed(tmp_path: Path) -> None:
    target = tmp_path / "table"
    elsewhere = tmp_path / "precious"
    kept = [".table.tmp", ".table.1-abcd.tmp", "table.1-abcdef01.tmp", ".tables.1-abcdef01.tmp"]
    for name in (*kept, ".table.1-abcdef01.tmp", "precious"):
        (tmp_path / name).touch()
    (tmp_path / ".table.2-abcdef02.tmp").symlink_to(elsewhere)
    remove_abandoned_files(target)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, "precious", ".table.2-abcdef02.tmp"}


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_writer(path) as file:
            file.write(b"new")
            raise ValueError("the disk went away")

    with pytest.raises(ValueError, match="went away"):
        fail()
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_cannot_be_synchronized(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fsync_directory(tmp_path / "missing")
