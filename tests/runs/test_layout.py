from __future__ import annotations

import json
import math
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core import files, git, json_files
from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.core.regular_file import open_run_file
from spectral_exp.runs import ids, layout
from spectral_exp.runs.ids import create_experiment_directory, generate_experiment_id
from spectral_exp.runs.layout import RunPaths

ID = re.compile(r"(?P<name>.+)_(?P<time>\d{8}_\d{6})_(?P<hash>[0-9a-z]{8})")


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files, and so for claims, of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ids, "_claimed_here", set())
    return tmp_path


# --- ids ------------------------------------------------------------------------------------------


def test_id_has_name_time_and_commit() -> None:
    match = ID.fullmatch(generate_experiment_id("wave_rgd"))
    assert match
    assert match["name"] == "wave_rgd"
    datetime.strptime(match["time"], "%Y%m%d_%H%M%S")
    assert match["hash"] == git.git_hash()


def test_hash_is_that_of_the_checkout() -> None:
    printed = git.run_git("rev-parse", "HEAD", directory=Path(__file__).parent)
    if printed is None:
        pytest.skip("the tests do not lie in a git repository")
    assert git.git_hash() == printed.decode()[:8]


def test_no_repository_gives_the_stand_in(tmp_path: Path) -> None:
    assert git._git_hash(tmp_path) == git.NO_GIT_HASH
    assert len(git.NO_GIT_HASH) == 8


def test_many_ids_of_one_second_differ(claims: Path) -> None:
    ids = [generate_experiment_id("x") for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(ID.fullmatch(experiment_id) for experiment_id in ids)


def test_ids_of_processes_started_together_differ() -> None:
    code = (
        "from spectral_exp.runs.ids import generate_experiment_id as new; print(*[new('together')"
        " for _ in range(5)])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ids = " ".join(process.communicate(timeout=60)[0] for process in processes).split()
    assert len(ids) == len(set(ids)) == 20


def test_ids_differ_without_a_folder_for_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/nowhere")
    assert len({generate_experiment_id("x") for _ in range(5)}) == 5


def test_ids_with_a_folder_are_passed_over(claims: Path, tmp_path: Path) -> None:
    taken = [generate_experiment_id("x") for _ in range(9)]  # of this second and the next
    for experiment_id in taken:
        (tmp_path / "runs" / experiment_id).mkdir(parents=True)
    for claim in claims.glob("spectral_exp-*/*"):
        claim.unlink()
    ids._claimed_here.clear()
    assert generate_experiment_id("x", parent=tmp_path / "runs") not in taken


def test_old_claims_are_removed(claims: Path) -> None:
    generate_experiment_id("old")
    [old] = claims.glob("spectral_exp-*/*")
    os.utime(old, (0, 0))
    generate_experiment_id("new")
    assert [claim.name.partition("_")[0] for claim in claims.glob("spectral_exp-*/*")] == ["new"]


def test_names_become_fit_for_file_systems(claims: Path) -> None:
    assert generate_experiment_id("../a b/c:d*").startswith("a-b-c-d_")
    assert generate_experiment_id("größe").startswith("größe_")


@pytest.mark.parametrize("name", ["", "///", "..", "x" * 161])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match="name="):
        generate_experiment_id(name)


# --- layout ---------------------------------------------------------------------------------------


def test_directory_is_made_and_found_again(tmp_path: Path) -> None:
    dirs = create_experiment_directory(tmp_path / "experiments", "exp_1")
    (dirs["logs"] / "kept").touch()
    assert create_experiment_directory(tmp_path / "experiments", "exp_1") == dirs
    assert set(dirs) == {"root", "checkpoints", "logs", "visualizations"}
    assert all(folder.is_dir() for folder in dirs.values())
    assert (dirs["root"] / "logs" / "kept").exists()
    paths = RunPaths(dirs["root"])
    assert (paths.checkpoints, paths.logs, paths.visualizations) == tuple(list(dirs.values())[1:])


@pytest.mark.parametrize("experiment_id", ["", "..", "a/b", "/etc"])
def test_id_must_be_a_folder_name(tmp_path: Path, experiment_id: str) -> None:
    with pytest.raises(SettingError, match="experiment_id"):
        create_experiment_directory(tmp_path, experiment_id)


def test_an_unwritable_base_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot create the run directory") as caught:
        create_experiment_directory(tmp_path / "file", "exp")
    assert "\n" not in str(caught.value)


def test_checkpoint_names_and_steps_agree(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert paths.checkpoint_steps() == []
    paths.checkpoints.mkdir()
    for step in (3000, 200, 10):
        paths.checkpoint_file(step).touch()
    for other in (
        "checkpoint_latest.pt",
        "checkpoint_step_5.pt.corrupt",
        "checkpoint_step_007.pt",
        "x.pt",
    ):
        (paths.checkpoints / other).touch()
    assert paths.checkpoint_steps() == [10, 200, 3000]


# --- durable files --------------------------------------------------------------------------------


def test_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail() -> None:
        with files.atomic_writer(path) as file:
            file.write(b"new")
            raise ValueError("halfway")

    with pytest.raises(ValueError, match="halfway"):
        write_and_fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    json_files.write_json_atomic(tmp_path / "written", {})
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_symlink_is_replaced_and_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    for name in ("one", "two"):
        (tmp_path / name).touch()
        files.replace_symlink(link, tmp_path / name)
        assert link.is_symlink()
        assert link.readlink() == Path(name)
        assert files.follow(link) == tmp_path / name
    (tmp_path / "two").unlink()
    assert files.follow(link) is None
    assert files.follow(tmp_path / "missing") is None


def test_pointer_file_replaces_a_refused_symlink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    (tmp_path / "one").touch()
    files.replace_symlink(tmp_path / "link", tmp_path / "one")
    assert not (tmp_path / "link").is_symlink()
    assert files.follow(tmp_path / "link") == tmp_path / "one"


@pytest.mark.parametrize("content", [b"", b"\n", b"link\n", b"\x00\xff", b"../../etc/passwd\n"])
def test_broken_pointer_files_point_nowhere(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "link").write_bytes(content)
    assert files.follow(tmp_path / "link") is None


def test_only_temporary_files_are_removed(tmp_path: Path) -> None:
    for name in (".a.pt.12-abcd.tmp", "b.tmp", ".hidden"):
        (tmp_path / name).touch()
    files.remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "b.tmp"]


# --- JSON -----------------------------------------------------------------------------------------


def test_json_holds_no_literals_outside_the_standard(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    content = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf],
        "numpy": np.float32(0.5),
        "array": np.arange(3),
        "torch": torch.tensor(2.0, requires_grad=True),
        "path": tmp_path,
        "time": datetime(2024, 12, 9, 14, 30),
        "tuple": (1, True, None),
        7: "key",
    }
    json_files.write_json_atomic(path, content)

    def refuse(literal: str) -> None:
        raise AssertionError(literal)

    json.loads(path.read_text(), parse_constant=refuse)
    assert json_files.read_json(path) == {
        "nan": "NaN",
        "inf": ["Infinity", "-Infinity"],
        "numpy": 0.5,
        "array": [0, 1, 2],
        "torch": 2.0,
        "path": str(tmp_path),
        "time": "2024-12-09T14:30:00",
        "tuple": [1, True, None],
        "7": "key",
    }


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_plain_json_comes_back_as_it_was(content: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        json_files.write_json_atomic(path, content)
        assert json_files.read_json(path) == content


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read"), ("{", "not valid JSON"), ("[]", "list")]
)
def test_unusable_json_is_an_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        json_files.read_json(tmp_path / "x.json")


# --- files that are not what they seem ------------------------------------------------------------


def test_files_of_a_run_are_opened_without_following_links(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link").symlink_to(victim)
    os.mkfifo(tmp_path / "pipe")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=r"it is a link|Is a FIFO|No such device"):
            open_run_file(tmp_path / name, flags)
    assert victim.read_text() == "precious"
    before = os.umask(0o027)
    try:
        os.close(open_run_file(tmp_path / "file", flags))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_links_that_lead_out_of_a_run_are_found(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = tmp_path / "run"
    for folder in ("logs", ".hydra"):
        (run / folder).mkdir(parents=True)
    assert layout.links_inside(run) == []
    for name in (
        "checkpoints",
        "visualizations",
        "tokenizer",
        "train.log",
        "logs/metrics.jsonl",
        ".hydra/config.yaml",
    ):
        (run / name).symlink_to(elsewhere)
    found = [path.relative_to(run).as_posix() for path in layout.links_inside(run)]
    assert found == [".hydra/config.yaml", "logs/metrics.jsonl", "tokenizer", "train.log"]
    assert layout.links_inside(tmp_path / "missing") == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_no_file_takes_the_place_of_a_pipe_or_a_folder(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "taken")
    kind = stat.S_IFMT((tmp_path / "taken").stat().st_mode)
    with (
        pytest.raises(OSError, match="it is no regular file"),
        files.atomic_writer(tmp_path / "taken") as file,
    ):
        file.write(b"content")
    assert stat.S_IFMT((tmp_path / "taken").stat().st_mode) == kind
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
