"""Tags, note, pin and archive of a run: kept whole by any number of processes at any moment."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.core.json_files import json_bytes, write_json_atomic
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.runs import index, marks, metrics_summary
from spectral_exp.runs.layout import NOTES_NAME
from spectral_exp.runs.load import load_run
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.marks import NO_MARKS, Marks, read_marks, update_marks
from tests.conftest import python
from tests.results.made_runs import make_run, rest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for tests that replace its notes."""
    return make_run(tmp_path_factory.mktemp("shared"))


def test_a_run_without_notes_has_no_marks(run: Path) -> None:
    assert read_marks(run) == (NO_MARKS, ())
    assert load_run(run).marks == NO_MARKS


def test_changes_are_partial_and_kept(run: Path) -> None:
    before = set(run.iterdir())
    assert update_marks(run, {"add_tags": ["good", "a b"]}) == Marks(("a b", "good"))
    assert update_marks(run, {"note": "first\r\nsecond\n"}).note == "first\nsecond"
    assert update_marks(run, {"pinned": True, "archived": True}).is_archived
    changed = update_marks(run, {"add_tags": ["new"], "remove_tags": ["good", "never there"]})
    assert changed == Marks(("a b", "new"), "first\nsecond", True, True)
    assert read_marks(run) == (changed, ())
    assert load_run(run).marks == changed
    assert update_marks(run, {"tags": ("only",), "note": "", "pinned": False}) == Marks(
        ("only",), is_archived=True
    )
    assert set(run.iterdir()) == before | {run / NOTES_NAME}


def test_a_change_that_changes_nothing_writes_nothing(run: Path) -> None:
    assert update_marks(run, {"archived": False, "note": " ", "tags": []}) == NO_MARKS
    assert not (run / NOTES_NAME).exists()
    update_marks(run, {"add_tags": ["good"]})
    inode = (run / NOTES_NAME).stat().st_ino
    update_marks(run, {"add_tags": ["good"], "pinned": False})
    assert (run / NOTES_NAME).stat().st_ino == inode


def test_a_run_in_progress_can_be_marked(run: Path) -> None:
    with RunLock(run) as lock:
        update_marks(run, {"pinned": True})
        lock.check()
    assert read_marks(run)[0].is_pinned


def test_a_letter_with_an_accent_makes_one_tag(run: Path) -> None:
    update_marks(run, {"add_tags": ["gu\u0308t"]})
    assert update_marks(run, {"add_tags": ["g\xfct"]}).tags == ("g\xfct",)


def test_keys_of_other_programs_stay(run: Path) -> None:
    write_json_atomic(run / NOTES_NAME, {"colour": {"red": 1}, "note": "x"})
    update_marks(run, {"archived": True})
    assert json.loads((run / NOTES_NAME).read_text()) == {
        "colour": {"red": 1}, "note": "x", "tags": [], "pinned": False, "archived": True,
    }  # fmt: skip


TAG_RULE = "must be 1 to 50 characters that begin with a letter, digit or underscore"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({"add_tags": [tag]}, f"tag={tag!r} {TAG_RULE}")
            for tag in ("", "a,b", "a*", "-bad", "+x", "=1", "[x]", " x", "x ", "a  b", "a\nb", 1, None)
        ),
        ({"add_tags": ["x" * 51]}, TAG_RULE),
        *(({"tags": [f"a{sign}b"]}, TAG_RULE) for sign in ("\u202e", "\x1b[31m", "\u200b", "\udc80", "\0", "\xa0")),
        ({"remove_tags": ["a,b"]}, TAG_RULE),
        ({"tags": "good"}, "tags='good' must be a list of tags"),
        ({"tags": None}, "tags=None must be a list of tags"),
        ({"tags": [f"t{i}" for i in range(51)]}, "tags=51 tags must be at most 50 tags"),
        ({"note": "x" * 10_001}, "must be a text of at most 10,000 characters"),
        ({"note": "\x1b[2J"}, r"note='\x1b[2J' must be a text"),
        ({"note": "\ud800"}, "must be a text"),
        ({"note": None}, "note=None must be a text"),
        ({"note": ["x"]}, "note=['x'] must be a text"),
        ({"pinned": 1}, "pinned=1 must be true or false"),
        ({"archived": "yes"}, "archived='yes' must be true or false"),
        ({"path": "../x"}, "changes=path must be among tags, add_tags, remove_tags, note, "),
    ],
)  # fmt: skip
def test_wrong_changes_are_refused_in_one_line(
    shared_run: Path, change: dict[str, Any], message: str
) -> None:
    (shared_run / NOTES_NAME).unlink(missing_ok=True)
    update_marks(shared_run, {"add_tags": ["before"]})
    with pytest.raises(SettingError) as raised:
        update_marks(shared_run, {"pinned": True, **change})
    assert message in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 300
    assert read_marks(shared_run) == (Marks(("before",)), ())


def test_only_runs_are_marked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "none"):
        with pytest.raises(UserError, match="is not a run directory"):
            update_marks(path, {"pinned": True})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- damaged and hostile files --------------------------------------------------------------------

GOOD = b'{"tags": ["good"], "note": "text", "pinned": true, "archived": true}'


@pytest.mark.parametrize(
    ("content", "expected", "problem"),
    [
        (b"", NO_MARKS, "notes.json is not valid JSON"),
        (GOOD[:-1], NO_MARKS, "notes.json is not valid JSON"),
        (b"[]", NO_MARKS, "notes.json holds a JSON list"),
        (b"\xff{}", NO_MARKS, "is not UTF-8"),
        (b"[" * 100_000, NO_MARKS, "is nested more than"),
        (b'{"note": "a", "note": "b"}', NO_MARKS, "has the key note twice"),
        (b'{"note": "' + b"x" * 10_000_000 + b'"}', NO_MARKS, "it holds more than 262,144 bytes"),
        (b'{"note": "' + b"x" * 10_001 + b'"}', NO_MARKS, "note is left out"),
        (GOOD.replace(b"text", b"\\u001b[2J"), Marks(("good",), "", True, True), "note is left out"),
        (GOOD.replace(b"text", b"\\ud800"), Marks(("good",), "", True, True), "note is left out"),
        (GOOD.replace(b'"text"', b"[1]"), Marks(("good",), "", True, True), "note is left out"),
        (GOOD.replace(b"good", b"a,b"), Marks((), "text", True, True), "tags[0] is left out"),
        (GOOD.replace(b"good", b"<\\u202e>"), Marks((), "text", True, True), "tags[0] is left out"),
        (GOOD.replace(b'["good"]', b'"good"'), Marks((), "text", True, True), "tags is left out"),
        (GOOD.replace(b'["good"]', b"[[]]"), Marks((), "text", True, True), "tags[0] is left out"),
        (GOOD.replace(b"[", b'["t", ' + b"".join(b'"t%d", ' % i for i in range(60))), Marks((), "text", True, True), "at most 50 tags"),
        (GOOD.replace(b"true,", b"1,"), Marks(("good",), "text", False, True), "pinned is left out"),
        (GOOD.replace(b"true}", b"null}"), Marks(("good",), "text", True), "archived is left out"),
    ],
    ids=range(18),
)  # fmt: skip
def test_a_damaged_file_is_a_problem_of_the_run_and_stays(
    shared_run: Path, content: bytes, expected: Marks, problem: str
) -> None:
    file = shared_run / NOTES_NAME
    file.write_bytes(content)
    found, problems = read_marks(shared_run)
    assert found == expected
    assert problem in problems[0]
    assert load_run(shared_run).problems == problems
    with pytest.raises(UserError, match=r"notes\.json .*; correct or remove it, then try again"):
        update_marks(shared_run, {"pinned": False})
    assert file.read_bytes() == content


@pytest.mark.parametrize("kind", ["link", "FIFO", "folder"])
def test_no_link_is_followed_and_no_pipe_is_waited_for(
    run: Path, tmp_path: Path, kind: str
) -> None:
    file, outside = run / NOTES_NAME, tmp_path / "outside.json"
    outside.write_bytes(GOOD)
    if kind == "link":
        file.symlink_to(outside)
    elif kind == "FIFO":
        os.mkfifo(file)
    else:
        file.mkdir()
    found, problems = read_marks(run)
    assert (found, len(problems)) == (NO_MARKS, 1)
    assert problems[0].startswith("notes.json cannot be read: ")
    with pytest.raises(UserError, match="correct or remove it"):
        update_marks(run, {"pinned": True})
    assert outside.read_bytes() == GOOD


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["good", "a,b", "\x1b"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["tags", "note", "pinned", "archived", "x"]), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from(["tags", "note", "pinned", "archived", "x"]), JSON)
    | st.binary(max_size=40)
)
def test_any_content_gives_valid_marks(shared_run: Path, content: Any) -> None:
    file = shared_run / NOTES_NAME
    file.write_bytes(content if isinstance(content, bytes) else json_bytes(content))
    found, problems = read_marks(shared_run)
    try:
        update_marks(shared_run, {"add_tags": ["own"]})
    except UserError:
        assert problems or len(found.tags) == 50
    else:
        assert not problems
        assert read_marks(shared_run)[0].tags == tuple(sorted({*found.tags, "own"}))
    # What was read could also have been written.
    file.unlink()
    valid = {"tags": found.tags, "note": found.note, "pinned": found.is_pinned}
    assert update_marks(shared_run, {**valid, "archived": found.is_archived}) == found


# --- several processes, and processes that die ----------------------------------------------------

EDIT = """
import sys
from pathlib import Path
from spectral_exp.runs.marks import update_marks
name = sys.argv[2]
print("ready", flush=True)
sys.stdin.read()
for i in range(10):
    update_marks(Path(sys.argv[1]), {"add_tags": [f"{name}{i}"]})
    update_marks(Path(sys.argv[1]), {"remove_tags": [f"{name}{i - 1}"]} if i % 2 else {})
"""


def test_processes_that_edit_together_lose_nothing(run: Path) -> None:
    editors = [
        subprocess.Popen(
            [sys.executable, "-c", EDIT, str(run), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for name in "abc"
    ]  # fmt: skip
    for editor in editors:
        assert editor.stdout is not None
        assert editor.stdout.readline() == b"ready\n"
    for editor in editors:
        editor.communicate(timeout=120)
        assert editor.returncode == 0
    odd = range(1, 10, 2)
    assert set(read_marks(run)[0].tags) == {f"{name}{i}" for name in "abc" for i in odd}
    assert not list(run.glob(".*"))


def test_a_change_by_a_program_without_a_lock_is_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an editor makes it, or a machine that shares the folder over a network."""

    def json_bytes_late(content: Any) -> bytes:
        monkeypatch.setattr(marks, "json_bytes", json_bytes)
        write_json_atomic(run / NOTES_NAME, {"note": "from elsewhere"})
        return json_bytes(content)

    monkeypatch.setattr(marks, "json_bytes", json_bytes_late)
    assert update_marks(run, {"add_tags": ["good"]}) == Marks(("good",), "from elsewhere")
    assert {path.name for path in run.iterdir()} >= {NOTES_NAME}
    assert not list(run.glob(".*"))


def test_a_lock_that_is_never_released_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_LOCK_TIMEOUT_S", 0.0)
    descriptor = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is changing the marks of"):
            update_marks(run, {"pinned": True})
    finally:
        os.close(descriptor)
    assert update_marks(run, {"pinned": True}).is_pinned


KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
from spectral_exp.runs.marks import Marks, read_marks, update_marks

run, n, dead = Path(sys.argv[1]), 0, True
while dead:
    n += 1
    update_marks(run, {"tags": ["old"], "note": "old"})
    child = os.fork()
    if child == 0:
        left = n
        def hook(event, arguments):
            global left
            if event.startswith(("open", "os.", "fcntl.")):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        update_marks(run, {"tags": ["new"], "note": "new"})
        os._exit(0)
    dead = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    found = read_marks(run)
    assert found in ((Marks(("old",), "old"), ()), (Marks(("new",), "new"), ())), (n, found)
assert found[0].note == "new"
update_marks(run, {"pinned": True})
print(n, *run.glob(".*"))
"""


def test_an_editor_killed_at_every_file_operation_leaves_old_or_new_marks(run: Path) -> None:
    done = python("-c", KILLED_EVERYWHERE, str(run), cwd=run)
    assert done.returncode == 0, done.stderr
    n, *leftovers = done.stdout.split()
    assert int(n) > 8
    assert not leftovers


AS_NOBODY = """
import os, sys
from spectral_exp.commands.runs import main
if os.getuid() == 0:
    os.setgroups([])
    os.setuid(65534)
print(main(["pin", "."]), main(["note", "."]), flush=True)
print(main(["pin", "hidden"]), main(["note", "hidden"]), main(["delete", "hidden"]))
"""


def test_a_folder_that_is_not_writable_or_not_readable_is_one_line(run: Path) -> None:
    (run / "hidden").mkdir(mode=0o700)
    run.chmod(0o555)
    done = python("-c", AS_NOBODY, cwd=run)
    run.chmod(0o755)
    refused = "error: cannot change the marks of .: Permission denied; check its permissions and its disk\n"
    if os.getuid() == 0:
        assert done.stdout == "2 0\n2 2 2\n"
        assert done.stderr == refused + 3 * "error: cannot read hidden: Permission denied\n"
    else:
        assert done.stderr.startswith(refused)


# --- beside the results ---------------------------------------------------------------------------


def test_a_change_is_seen_through_the_index_and_reads_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRAL_EXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "_MIN_AGE_NS", -(10**12))
    path = make_run(tmp_path / "runs")
    rest(path)
    ResultsAggregator([tmp_path / "runs"])
    monkeypatch.delattr(metrics_summary, "read_metrics")
    changes: list[dict[str, Any]] = [{"add_tags": ["good"]}, {"pinned": True}, {"tags": []}]
    for change in changes:
        expected = update_marks(path, change)
        (found,) = ResultsAggregator([tmp_path / "runs"]).runs
        assert found.marks == expected


def test_marks_are_read_and_changed_without_large_libraries(tmp_path: Path) -> None:
    code = (
        "import sys, spectral_exp.runs.marks; print({'torch', 'numpy', 'hydra'} & {*sys.modules})"
    )
    assert python("-c", code, cwd=tmp_path).stdout == "set()\n"
