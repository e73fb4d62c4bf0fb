"""Nothing is left behind: no process, no temporary folder, no entry in a repository."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from spectral_exp.core.scratch import scratch_folder
from tests.conftest import NO_PLOTS, TINY, every_in_ci, train
from tests.core.test_child_process import is_gone
from tests.s3_server import eventually

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a child looks now and then"
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


_HOLD = """
import signal, sys
from pathlib import Path
from spectral_exp.core.scratch import scratch_folder
place = Path(sys.argv[1]) if sys.argv[1:] else None
with scratch_folder("test", place) as folder:
    (folder / "content").write_text("half")
    print(flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("hidden", ["", "."], ids=["in the system's folder", "in another folder"])
def test_only_leftovers_of_killed_processes_are_removed(hidden: str, temporary: Path) -> None:
    place = temporary if hidden else None
    (temporary / f"{hidden}spectral_exp_test_being_made").mkdir()  # has no lock yet
    (temporary / f"{hidden}spectral_exp_other_purpose").mkdir()
    foreign = {path.name for path in temporary.iterdir()}
    owner = subprocess.Popen(
        [sys.executable, "-c", _HOLD, *filter(None, [place])], stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    assert owner.stdout.read(1) == b"\n"
    with scratch_folder("test", place) as mine:
        names = {path.name for path in temporary.iterdir()} - foreign
        assert len(names) == 2  # its owner lives
        owner.kill()
        owner.communicate()
        with scratch_folder("test", place) as other:
            assert {path.name for path in temporary.iterdir()} - foreign == {mine.name, other.name}
    assert {path.name for path in temporary.iterdir()} == foreign


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = train("+experiment=classic", *TINY, NO_PLOTS, "hydra.run.dir=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", every_in_ci(3, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
)
@pytest.mark.parametrize("command", ["verify_resume", "reproduce"])
def test_a_command_that_is_stopped_leaves_nothing(
    command: str, number: signal.Signals, run: Path, temporary: Path, tmp_path: Path
) -> None:
    options = (
        ["--steps", "6"]
        if command == "verify_resume"
        else ["--current-code", "--output", str(tmp_path / "new")]
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "spectral_exp", command, str(run), *options],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def children() -> list[psutil.Process]:
        """The processes that do the steps: those of this interpreter."""
        found = []
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # one of the short ones, just gone
                words = " ".join(child.cmdline())
                found += [child] if re.search("(replay|train) import main", words) else []
        return found

    try:
        eventually(children)
        descendants = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number, printed
        assert printed.splitlines()[-1:] == ["interrupted: nothing was compared"], printed
    for child in descendants:
        eventually(lambda pid=child.pid: is_gone(pid), 30.0)  # type: ignore[misc]
    if number == signal.SIGKILL:
        with scratch_folder(command):
            pass
    assert [
        path.name for path in temporary.iterdir() if path.name.startswith("spectral_exp_")
    ] == []
