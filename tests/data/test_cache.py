from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.core.files import temporary_path
from spectral_exp.data.cache import (
    META,
    build_entry,
    cache_errors,
    digest,
    load_entry,
    read_json,
    write_file,
)


def fill(draft: Path) -> dict[str, Any]:
    (draft / "a.bin").write_bytes(bytes(range(100)))
    (draft / "sub").mkdir()
    (draft / "sub" / "b.txt").write_text("b")
    return {"x": 0.1, "name": "é"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_entry_comes_back_as_built(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "entry"
    assert load_entry(folder) is None
    assert build_entry(folder, fill) == {"x": 0.1, "name": "é"} == load_entry(folder)
    assert names(folder.parent) == ["entry"]
    assert names(folder) == ["a.bin", META, "sub"]


def flip(folder: Path) -> None:
    data = bytearray((folder / "a.bin").read_bytes())
    data[50] ^= 1
    (folder / "a.bin").write_bytes(bytes(data))


def truncate(folder: Path) -> None:
    os.truncate(folder / "a.bin", 99)


def truncate_without_a_trace_in_the_time(folder: Path) -> None:
    stat = (folder / "a.bin").stat()
    os.truncate(folder / "a.bin", 99)
    os.utime(folder / "a.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))


def lose_a_file(folder: Path) -> None:
    (folder / "sub" / "b.txt").unlink()


def lose_meta(folder: Path) -> None:
    (folder / META).unlink()


def tear_meta(folder: Path) -> None:
    os.truncate(folder / META, 40)


def change_a_value(folder: Path) -> None:
    (folder / META).write_text((folder / META).read_text().replace("0.1", "0.2"))


def other_json(folder: Path) -> None:
    (folder / META).write_text("[1, 2]")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("garbage")


DAMAGES = [
    flip,
    truncate,
    truncate_without_a_trace_in_the_time,
    lose_a_file,
    lose_meta,
    tear_meta,
    change_a_value,
    other_json,
    empty,
    become_a_file,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_found_and_built_again(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "entry"
    build_entry(folder, fill)
    damage(folder)
    assert load_entry(folder) is None
    assert "damaged" in caplog.text
    build_entry(folder, fill)
    assert load_entry(folder) == {"x": 0.1, "name": "é"}
    assert (folder / "a.bin").read_bytes() == bytes(range(100))
    assert names(tmp_path) == ["entry"]


def test_a_copy_with_other_times_is_accepted(tmp_path: Path) -> None:
    build_entry(tmp_path / "entry", fill)
    shutil.copytree(tmp_path / "entry", tmp_path / "copy", copy_function=shutil.copyfile)
    assert load_entry(tmp_path / "copy") == {"x": 0.1, "name": "é"}


def test_an_untouched_entry_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_entry(tmp_path / "entry", fill)

    def unexpected(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("spectral_exp.data.cache.file_sha256", unexpected)
    assert load_entry(tmp_path / "entry") is not None


def test_a_loser_takes_the_winners_entry(tmp_path: Path) -> None:
    folder = tmp_path / "entry"

    def slow(draft: Path) -> dict[str, Any]:
        build_entry(folder, fill)  # another builder finishes first
        return {"x": "loser"}

    assert build_entry(folder, slow) == {"x": 0.1, "name": "é"}
    assert names(tmp_path) == ["entry"]


def test_a_failing_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(draft: Path) -> dict[str, Any]:
        (draft / "half").write_text("half")
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        build_entry(tmp_path / "entry", fail)
    assert names(tmp_path) == []


def test_old_drafts_of_killed_processes_are_removed_and_young_ones_kept(tmp_path: Path) -> None:
    old, young = temporary_path(tmp_path / "one"), temporary_path(tmp_path / "two")
    for draft in (old, young):
        draft.mkdir()
        (draft / "part").write_text("x")
    os.utime(old, (0, 0))
    build_entry(tmp_path / "entry", fill)
    assert not old.exists()
    assert young.exists()


def test_write_file_replaces_whole_files_and_leaves_no_draft(tmp_path: Path) -> None:
    for data in (b"one", b"second"):
        write_file(tmp_path / "new" / "file", data)
        assert (tmp_path / "new" / "file").read_bytes() == data
    assert names(tmp_path / "new") == ["file"]


def test_read_json_takes_anything(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    assert read_json(file) is None
    file.write_bytes(b"\xff{")
    assert read_json(file) is None
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert (
        digest({"a": 1, "b": [2, "é"]})
        == digest({"b": [2, "é"], "a": 1})
        != digest({"a": 1, "b": [2, "e"]})
    )


def test_an_unusable_folder_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"Not a directory.*SPECTRAL_EXP_CACHE"),
        cache_errors(tmp_path),
    ):
        build_entry(tmp_path / "file" / "sub" / "entry", fill)


_RACE = """
import json, sys
from pathlib import Path
from spectral_exp.data.cache import build_entry
def fill(draft):
    (draft / "a.bin").write_bytes(bytes(100_000))
    print("ready", flush=True)
    sys.stdin.readline()
    return {"builder": sys.argv[2]}
print(json.dumps(build_entry(Path(sys.argv[1]), fill)), flush=True)
"""


@pytest.mark.parametrize("torn", [False, True])
def test_processes_building_at_once_end_with_the_same_whole_entry(
    tmp_path: Path, torn: bool
) -> None:
    folder = tmp_path / "entry"
    if torn:
        build_entry(folder, fill)
        tear_meta(folder)
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, str(folder), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(3)
    ]
    for builder in builders:  # all have filled their drafts before the first may go on
        assert builder.stdout is not None
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        assert builder.stdin is not None
        builder.stdin.write("\n")
        builder.stdin.flush()
    results = [json.loads(builder.communicate(timeout=60)[0]) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    final = load_entry(folder)
    assert final in results
    assert names(tmp_path) == ["entry"]
    if not torn:
        assert results == [final] * 3
