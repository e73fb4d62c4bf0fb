"""The command that lists, marks, archives and deletes runs, as a user calls it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spectral_exp.commands import runs
from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import write_json_atomic
from spectral_exp.runs.delete import delete_run, plan_deletion
from spectral_exp.runs.find import find_runs
from spectral_exp.runs.layout import NOTES_NAME, RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.marks import MAX_NOTE_CHARACTERS, Marks, read_marks, update_marks
from tests.conftest import python
from tests.crash.conftest import mounted, root_user
from tests.results.made_runs import make_run

__all__ = ["root_user"]

Capsys = pytest.CaptureFixture[str]

HOSTILE = "<script>\u202egnp.exe \u200f"


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four runs below the working directory, named `classic_1` and so on."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        for name in ("classic", "wave"):
            made = make_run(
                Path("outputs"), name, seed, status="failed" if seed == 2 else "completed"
            )
            made.rename(f"outputs/{name}_{seed}")
    return Path("outputs")


def called(capsys: Capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was printed as errors."""
    code = runs.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def table(printed: str) -> list[list[str]]:
    return [line.split() for line in printed.split("\n\n")[0].splitlines()[2:]]


# --- list -----------------------------------------------------------------------------------------


def test_a_list_shows_marks_pinned_runs_first_and_no_archived_ones(
    outputs: Path, capsys: Capsys
) -> None:
    update_marks(outputs / "wave_2", {"pinned": True, "add_tags": ["good", "a b"]})
    update_marks(outputs / "classic_1", {"archived": True})
    update_marks(outputs / "classic_2", {"note": "lost\nits disk"})
    code, out, err = called(capsys, "list", outputs)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "3 runs",
        "  run                status     step  mark    tags       note",
        "  outputs/wave_2     failed     100   pinned  a b, good",
        "  outputs/classic_2  failed     100                      lost ...",
        "  outputs/wave_1     completed  100",
        "",
        "remarks:",
        "  1 archived run is left out; --archived includes it",
    ]
    _, out, _ = called(capsys, "list", outputs, "--archived")
    assert [row[0] for row in table(out)][1] == "outputs/classic_1"
    assert "remarks" not in out


def test_a_list_without_marks_has_no_columns_for_them(outputs: Path, capsys: Capsys) -> None:
    _, out, _ = called(capsys, "list", outputs / "wave_1")
    assert out == "1 run\n  run             status     step\n  outputs/wave_1  completed  100\n"


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["tag=good"], ["classic_1", "wave_1"]),
        (["tag=go*,slow", "status=failed"], ["wave_2"]),
        (["tag!=good"], ["classic_2", "wave_2"]),
        (["tag=none"], ["classic_2"]),
        (["note=*second line*"], ["wave_1"]),
        (["note=*, with a comma*"], ["wave_1"]),
        (["note!=none"], ["wave_1"]),
        (["pinned"], ["classic_1"]),
        (["pinned=false", "name=wave"], ["wave_1", "wave_2"]),
        (["archived"], ["archived"]),
        (["archived=false", "pinned"], ["classic_1"]),
    ],
)
def test_conditions_on_marks(
    outputs: Path, capsys: Capsys, conditions: list[str], names: list[str]
) -> None:
    update_marks(outputs / "classic_1", {"add_tags": ["good", "new"], "pinned": True})
    update_marks(outputs / "wave_1", {"add_tags": ["good"], "note": "x, with a comma\nsecond line"})
    update_marks(outputs / "wave_2", {"add_tags": ["slow"]})
    update_marks(
        make_run(outputs, "wave", 3).rename(outputs / "archived"),
        {"archived": True, "tags": ["good"], "pinned": True},
    )
    where = [word for condition in conditions for word in ("--where", condition)]
    _, out, _ = called(capsys, "list", outputs, *where)
    assert [row[0] for row in table(out)] == [f"outputs/{name}" for name in names]


def test_a_note_of_any_length_is_searched_as_a_whole(outputs: Path, capsys: Capsys) -> None:
    update_marks(outputs / "wave_1", {"note": "x" * (MAX_NOTE_CHARACTERS - 6) + "[end]*"})
    _, out, _ = called(capsys, "list", outputs, "--where", "note=*[end]*")
    assert [row[0] for row in table(out)] == ["outputs/wave_1"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("tag<3", "--where=tag<3 must be a condition with = or != after tag"),
        ("pinned=yes", "--where=pinned=yes must be pinned, pinned=true or pinned=false"),
        ("tag", "--where=tag must be name=value"),
    ],
)
def test_conditions_that_cannot_be_understood(
    outputs: Path, capsys: Capsys, condition: str, message: str
) -> None:
    code, _, err = called(capsys, "list", outputs, "--where", condition)
    assert code == 2
    assert message in err


def test_lists_for_programs_hold_everything(outputs: Path, capsys: Capsys) -> None:
    update_marks(
        outputs / "wave_2", {"tags": ["good", "a b"], "note": "=1+1\nmore", "pinned": True}
    )
    update_marks(outputs / "wave_1", {"archived": True})
    _, out, _ = called(capsys, "list", outputs, "--format", "json")
    content = json.loads(out)
    assert content["remark"] == "1 archived run is left out; --archived includes it"
    assert content["runs"][0] == {
        "run_id": "wave_2", "path": "outputs/wave_2", "name": "wave", "seed": 2, "status": "failed",
        "step": 100, "pinned": True, "archived": False, "tags": ["a b", "good"],
        "note": "=1+1\nmore", "problems": "",
    }  # fmt: skip
    _, out, _ = called(capsys, "list", outputs, "--format", "csv")
    first, *_ = csv.DictReader(io.StringIO(out))
    assert (first["tags"], first["note"]) == ("a b,good", r"'=1+1\nmore")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_nothing_in_a_note_reaches_the_terminal_as_it_is(
    outputs: Path, capsys: Capsys, form: str
) -> None:
    update_marks(outputs / "wave_1", {"note": HOSTILE})
    write_json_atomic(outputs / "wave_2" / NOTES_NAME, {"tags": ["\x1b[2J\u202e"], "note": "\x9b"})
    _, out, err = called(capsys, "list", outputs, "--format", form)
    assert (out + err).replace("\n", "").isprintable()
    assert "<script>\\u202egnp.exe" in out
    assert "notes.json" in out


# --- marks ----------------------------------------------------------------------------------------


def test_tags_are_added_and_removed(outputs: Path, capsys: Capsys) -> None:
    both = (outputs / "wave_1", outputs / "wave_2")
    code, out, _ = called(capsys, "tag", *both, "--add", "good,a b", "--add", "new")
    assert code == 0
    assert out == "".join(f"{run}: tags a b, good, new\n" for run in both)
    _, out, _ = called(capsys, "tag", both[0], "--remove", "good,new", "--add", "old")
    assert out == f"{both[0]}: tags a b, old\n"
    assert read_marks(both[1])[0].tags == ("a b", "good", "new")


def test_pin_archive_and_their_opposites(outputs: Path, capsys: Capsys) -> None:
    run = outputs / "wave_1"
    printed = [
        called(capsys, command, run)[1] for command in ("pin", "archive", "unpin", "restore")
    ]
    assert printed == [
        f"{run}: {state}\n" for state in ("pinned", "pinned; archived", "archived", "no marks")
    ]


def test_notes_are_written_printed_and_removed(outputs: Path, capsys: Capsys) -> None:
    run = outputs / "wave_1"
    assert called(capsys, "note", run) == (0, "", "")
    assert (
        called(capsys, "note", run, "better than wave_2")[1] == f"{run}: a note of 18 characters\n"
    )
    assert called(capsys, "note", run)[1] == "better than wave_2\n"
    update_marks(run, {"note": HOSTILE})
    assert called(capsys, "note", run)[1] == "<script>\\u202egnp.exe \\u200f\n"
    called(capsys, "note", run, "")
    assert read_marks(run) == (Marks(), ())


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("one\r\ntwo \u05d0\n".encode(), "one\ntwo \u05d0"),
        (b"", ""),
        (b"x" * MAX_NOTE_CHARACTERS, "x" * MAX_NOTE_CHARACTERS),
        (b"x" * 10_000_000, None),
        (b"x" * (MAX_NOTE_CHARACTERS + 1), None),
        (b"\xff", None),
        (b"\x1b[31mred", None),
    ],
    ids=range(7),
)
def test_a_note_from_standard_input(
    outputs: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, text: bytes, note: str | None
) -> None:
    update_marks(outputs / "wave_1", {"note": "before"})
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    code, _, err = called(capsys, "note", outputs / "wave_1", "-")
    assert code == (2 if note is None else 0)
    assert len(err.splitlines()) == (note is None)
    assert len(err) < 300
    assert read_marks(outputs / "wave_1")[0].note == ("before" if note is None else note)


def test_mistakes_are_one_line_and_change_no_run(outputs: Path, capsys: Capsys) -> None:
    good = outputs / "wave_1"
    for arguments, message in {
        ("pin", good, outputs): "error: outputs is not a run directory; name one below outputs/\n",
        ("archive", good, "nothing"): "error: nothing is not a run directory; name one below ",
        ("tag", good): "error: name tags with --add or --remove\n",
        ("tag", good, "--add", "a*"): "error: tag='a*' must be 1 to 50 characters that begin with",
        ("note", good, "x" * 10_001): "error: note='xxx",
        ("note", outputs): "error: outputs is not a run directory",
        ("list", "nothing"): "error: there is no folder nothing",
        ("note", "a text, and no run " * 30): "error: cannot read a text, and no run",
        ("delete", "x" * 300): "error: cannot read xxx",
    }.items():
        code, _, err = called(capsys, *arguments)
        assert (code, len(err.splitlines())) == (2, 1)
        assert err.startswith(message)
    with pytest.raises(SystemExit) as stopped:
        called(capsys, "delete")
    assert stopped.value.code == 2
    assert not (good / NOTES_NAME).exists()


def test_a_damaged_file_is_named_by_every_command(outputs: Path, capsys: Capsys) -> None:
    file = outputs / "wave_1" / NOTES_NAME
    file.write_text("{")
    for arguments in (("note",), ("pin",), ("archive",)):
        code, _, err = called(capsys, *arguments, outputs / "wave_1")
        assert (code, len(err.splitlines())) == (2, 1)
        assert NOTES_NAME in err
    assert file.read_text() == "{"


# --- delete ---------------------------------------------------------------------------------------


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in files), len(files)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_delete_prints_what_it_frees_and_removes_nothing_else(
    outputs: Path, capsys: Capsys
) -> None:
    run, other = outputs / "wave_1", outputs / "wave_2"
    (run / "link").symlink_to("config.json")
    (run / "dangling").symlink_to("nowhere")
    (run / ".hidden").mkdir()
    (run / ".hidden/file").write_bytes(b"123")
    n_bytes, n_files = sizes(run)
    # A second name in the run frees nothing more, and one outside keeps the bytes.
    os.link(run / "config.json", run / "again.json")
    (run / "kept").write_bytes(b"x" * 1000)
    os.link(run / "kept", "outside")
    rest = contents(other)
    code, out, _ = called(capsys, "delete", run, run / "../wave_1", "--yes")
    assert code == 0
    assert out.splitlines() == [
        f"{run.resolve()}: {n_bytes:,} bytes in {n_files + 4} files",
        f"deleted {run.resolve()}",
    ]
    assert sorted(path.name for path in outputs.iterdir()) == ["classic_1", "classic_2", "wave_2"]
    assert contents(other) == rest
    assert Path("outside").read_bytes() == b"x" * 1000


@pytest.mark.parametrize(("answer", "deleted"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_delete_asks_on_a_terminal(
    outputs: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch, answer: str, deleted: bool
) -> None:
    chosen = [outputs / "wave_1", outputs / "wave_2"]
    n_bytes = sum(sizes(run)[0] for run in chosen)
    controller, terminal = os.openpty()
    os.write(controller, answer.encode())
    with os.fdopen(terminal, "r") as stdin, os.fdopen(controller):
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, _ = called(capsys, "delete", *chosen)
    assert code == 0
    assert f"delete 2 runs and free {n_bytes:,} bytes? [y/N] " in out
    assert [run.exists() for run in chosen] == [not deleted] * 2


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no terminal", "and has no terminal to ask on; add --yes"),
        ("link", "is a link, which is not followed; name the run directory itself"),
        ("link out", "holds a link to something outside, logs/far -> "),
        ("folder elsewhere", "holds a link to something outside, checkpoints -> "),
        ("run inside", "holds another run, "),
        ("other config", "is not a run directory; only runs are deleted"),
        ("sweep", "is not a run directory; only runs are deleted"),
        ("missing", "is not a run directory; only runs are deleted"),
    ],
)
def test_delete_refuses_and_changes_nothing(
    outputs: Path, tmp_path: Path, capsys: Capsys, case: str, message: str
) -> None:
    path = run = outputs / "wave_1"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("mine")
    if case == "link":
        path = tmp_path / "shortcut"
        path.symlink_to(run.resolve())
    elif case == "link out":
        (run / "logs/far").symlink_to(tmp_path / "elsewhere/file")
    elif case == "folder elsewhere":
        (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    elif case == "run inside":
        shutil.copytree(outputs / "wave_2", run / "deep/er/run")
    elif case == "other config":
        path = tmp_path / "model"
        path.mkdir()
        (path / "config.json").write_text('{"hidden_size": 64}')
    elif case in ("sweep", "missing"):
        path = outputs if case == "sweep" else outputs / "nothing"
    before = contents(tmp_path)
    arguments = [] if case == "no terminal" else ["--yes"]
    code, _, err = called(capsys, "delete", outputs / "wave_2", path, *arguments)
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
    assert contents(tmp_path) == before


def test_a_run_that_starts_after_the_question_is_not_deleted(outputs: Path) -> None:
    plan = plan_deletion(outputs / "wave_1")
    with RunLock(outputs / "wave_1"):
        before = contents(outputs)
        with pytest.raises(UserError, match="is in use by process"):
            delete_run(plan)
        assert contents(outputs) == before


def test_a_run_of_another_process_is_not_deleted(outputs: Path, capsys: Capsys) -> None:
    run = outputs / "wave_1"
    hold = (
        "import sys; from spectral_exp.runs.lock import RunLock\n"
        "with RunLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        code, _, err = called(capsys, "delete", outputs / "wave_2", run, "--yes")
        assert (code, f"is in use by process {holder.pid} on " in err) == (2, True)
        assert called(capsys, "pin", run)[0] == 0
        holder.communicate()
    assert (outputs / "wave_2").exists()
    assert called(capsys, "delete", run, "--yes")[0] == 0
    assert not run.exists()


@pytest.mark.parametrize("state", ["killed", "torn", "metrics alone", "damaged notes"])
def test_broken_runs_can_be_deleted(outputs: Path, capsys: Capsys, state: str) -> None:
    run = outputs / "wave_1"
    paths = RunPaths(run)
    if state == "killed":
        paths.lock_file.write_text('{"host": "here", "pid": 1}')
        paths.results_file.unlink()
    elif state == "torn":
        paths.config_file.write_text("{")
    elif state == "metrics alone":
        paths.config_file.unlink()
        paths.results_file.unlink()
    else:
        paths.notes_file.symlink_to("notes.json")
    assert called(capsys, "delete", run, "--yes")[0] == 0
    assert not run.exists()


KILLED_EVERYWHERE = """
import os, shutil, signal, sys
from pathlib import Path
from spectral_exp.runs.delete import delete_run, plan_deletion
from spectral_exp.runs.find import find_runs

outputs, pristine, n, dead = Path(sys.argv[1]), Path(sys.argv[2]), 0, True
files = {path.relative_to(pristine) for path in pristine.rglob("*")}
run = outputs / "run"
gone = whole = 0
while dead:
    n += 1
    shutil.rmtree(outputs)
    shutil.copytree(pristine, run)
    shutil.copytree(pristine, outputs / "other")
    child = os.fork()
    if child == 0:
        left = n
        def hook(event, arguments):
            global left
            if event.startswith(("open", "os.", "shutil.", "tempfile.", "fcntl.")):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        delete_run(plan_deletion(run))
        os._exit(0)
    dead = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = [path.name for path in find_runs([outputs]).runs]
    if run.exists():
        whole += 1
        assert {path.relative_to(run) for path in run.rglob("*")} == files, n
        assert found == ["other", "run"], (n, found)
    else:
        gone += 1
        assert found == ["other"], (n, found)
    # The next deletion removes what is left.
    delete_run(plan_deletion(outputs / "other"))
    assert not list(outputs.glob(".*")), n
assert not run.exists()
print(whole, gone)
"""


def test_a_deletion_killed_at_every_file_operation_leaves_no_half_run(
    outputs: Path, tmp_path: Path
) -> None:
    pristine = (outputs / "wave_1").rename(tmp_path / "pristine")
    done = python("-c", KILLED_EVERYWHERE, str(outputs), str(pristine), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole, gone = map(int, done.stdout.split())
    assert whole > 5
    assert gone > 5


def test_a_file_system_mounted_inside_a_run_is_refused(
    outputs: Path, capsys: Capsys, root_user: None
) -> None:
    with mounted("-t", "tmpfs", "none", at=outputs.resolve() / "wave_1/checkpoints") as disk:
        (disk / "file").write_text("mine")
        code, _, err = called(capsys, "delete", outputs / "wave_1", "--yes")
        assert (code, len(err.splitlines())) == (2, 1)
        assert "holds another file system, " in err
        assert (disk / "file").read_text() == "mine"


def fill(file: Path) -> None:
    """Write to a file until its disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while True:
            opened.write(bytes(1024))


def test_on_a_full_disk_runs_can_be_deleted_and_keep_their_marks(
    outputs: Path, tmp_path: Path, capsys: Capsys, root_user: None
) -> None:
    tmpfs = ("-t", "tmpfs", "-o", "size=256k", "none")
    with mounted(*tmpfs, at=tmp_path / "disk") as disk:
        for name in ("wave_1", "wave_2"):
            shutil.copytree(outputs / name, disk / name)
        before = update_marks(disk / "wave_1", {"tags": ["good"]})
        fill(disk / "full")
        code, _, err = called(capsys, "pin", disk / "wave_1")
        assert (code, len(err.splitlines())) == (2, 1)
        assert "No space left on device" in err
        assert read_marks(disk / "wave_1") == (before, ())
        assert called(capsys, "delete", disk / "wave_2", "--yes")[0] == 0
        assert sorted(path.name for path in disk.iterdir()) == ["full", "wave_1"]
        assert called(capsys, "pin", disk / "wave_1")[0] == 0


def test_files_that_cannot_be_removed_are_named(
    outputs: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("spectral_exp.runs.delete.shutil.rmtree", refuse)
    code, _, err = called(capsys, "delete", outputs / "wave_1", "--yes")
    assert code == 1
    assert "wave_1 is deleted, but its files in " in err
    assert [run.name for run in find_runs([outputs]).runs] == ["classic_1", "classic_2", "wave_2"]
