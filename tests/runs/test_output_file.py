"""Files that commands write at a place of the user's choice: no file of a run is lost, and no other
one without --force."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from spectral_exp import train
from spectral_exp.bench.__main__ import main as bench
from spectral_exp.commands import checkpoints, compare, paper, report, reproduce, verify_resume
from spectral_exp.core.errors import SettingError
from spectral_exp.plots.theme import LIGHT
from spectral_exp.results.figures.plot import Plot, save
from spectral_exp.runs.output_file import refuse_loss, run_around, write_output
from tests.conftest import NO_PLOTS, TINY

FORCE = "--force"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("outputs") / "run"
    assert train.main([*TINY, NO_PLOTS, "device=cpu", f"hydra.run.dir={run}"]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy in the working directory, on a machine without earlier outputs."""
    shutil.copytree(finished, tmp_path / "here/run", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Path("run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Commands that write one file, which an option names.
COMMANDS: dict[str, Callable[..., int]] = {
    "compare": lambda file, *more: compare.main(
        ["run", "--format", "json", "--output", file, *more]
    ),
    "export": lambda file, *more: checkpoints.main(["export", "run", "--output", file, *more]),
    "verify_resume": lambda file, *more: verify_resume.main(["run", "--output", file, *more]),
    "bench": lambda file, *more: bench(["startup", "--json", file, *more]),
}
# Commands that write a folder.
FOLDERS: dict[str, Callable[..., int]] = {
    "report": lambda folder, *more: report.main(
        ["run", "--formats", "md", "--output", folder, *more]
    ),
    "paper": lambda folder, *more: paper.main(
        ["run", "--formats", "md", "--output", folder, *more]
    ),
    "reproduce": lambda folder, *more: reproduce.main(
        ["run", "--current-code", "--output", folder]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_of_a_run_is_overwritten(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other").mkdir()
    Path("link").symlink_to("run/logs", target_is_directory=True)
    (run / "notes.md").write_text("mine")
    before = contents(Path())
    own = [str(path) for path in run.rglob("*") if path.is_file()]
    later = [
        "run/results.json",
        "run/logs/new.csv",
        "run/checkpoints/x",
        "run/.hydra/x",
        "link/x",
        "other/config.json",
    ]
    for file in [*own, *later, "run/../run/train.log", "run", "run/logs"]:
        for force in ((), (FORCE,)):
            assert COMMANDS[command](file, *force) == 2, file
            error = capsys.readouterr().err
            assert len(error.splitlines()) == 1, error
            assert f"={file} must be " in error
    assert contents(Path()) == before


@pytest.mark.parametrize("command", FOLDERS)
def test_no_folder_of_a_run_is_written_into(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(Path())
    for folder in ("run/logs", "run/checkpoints", "run/tokenizer"):
        assert FOLDERS[command](folder, FORCE) == 2, folder
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert contents(Path()) == before


def test_a_file_of_the_users_is_overwritten_only_with_force(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        name
        for name in ("compare", "export")
        if name != "export" or importlib.util.find_spec("safetensors")
    ]
    for command in names:
        file = Path(f"{command}.json")
        write = COMMANDS[command]
        assert write(str(file)) == write(str(file)) == 0  # over its own
        written = file.stat().st_size
        file.write_text("edited since")
        capsys.readouterr()
        assert write(str(file)) == 2
        assert "overwrite it with --force" in capsys.readouterr().err
        assert file.read_text() == "edited since"
        assert write(str(file), FORCE) == 0
        assert file.stat().st_size == written
        file.unlink()
        file.symlink_to("run/results.json")
        before = (run / "results.json").read_bytes()
        assert write(str(file)) == 2
        assert write(str(file), FORCE) == 0
        assert not file.is_symlink()
        assert (run / "results.json").read_bytes() == before


def test_plots_overwrite_no_file_of_the_users(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("plots").mkdir()
    first = Path("plots/intervals_val_bpb.png")
    first.write_text("mine")
    assert compare.main(["run", "--plots", "plots"]) == 2
    assert (
        f"--plots={first} must be a new file, or one written by this command"
        in capsys.readouterr().err
    )
    assert first.read_text() == "mine"
    assert compare.main(["run", "--plots", "run/visualizations", FORCE]) == 2
    plot = Plot("a", "An empty figure.", LIGHT, Figure)
    for _ in range(2):
        save(plot, "plots", force=False)
    Path("plots/a.png").write_text("mine")
    with pytest.raises(SettingError, match="--force"):
        save(plot, "plots", force=False)
    save(plot, "plots")
    assert Path("plots/a.png").read_bytes().startswith(b"\x89PNG")


def test_a_command_may_overwrite_its_own_default_output(run: Path) -> None:
    (run / "weights_step_8.safetensors").write_text("from another machine")
    write_output(run / "weights_step_8.safetensors", b"new", is_default=True)
    assert (run / "weights_step_8.safetensors").read_bytes() == b"new"
    write_output(run / "table.md", b"new")
    write_output(run / "table.md", b"newer")
    for name in ("results_.json/../train.log", "notes.json"):
        with pytest.raises(SettingError, match="a file that training in"):
            write_output(run / name, b"", is_default=True)


def test_without_a_home_every_file_that_exists_needs_force(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("file/state").absolute()))
    Path("file").write_text("")
    write_output(Path("table.md"), b"new")
    with pytest.raises(SettingError, match="--force"):
        write_output(Path("table.md"), b"newer")
    write_output(Path("table.md"), b"newer", force=True)


def test_a_project_with_folders_of_such_names_is_no_run(tmp_path: Path) -> None:
    for name in ("logs", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "logs/table.md").write_text("mine")
    assert run_around(tmp_path / "logs") is None
    refuse_loss(tmp_path / "logs/table.md", force=True)
