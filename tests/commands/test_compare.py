"""The command that compares runs, as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from spectral_exp.commands import compare
from spectral_exp.results.comparison import Comparison
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.marks import update_marks
from tests.conftest import python
from tests.results.made_comparisons import made_comparison
from tests.results.made_runs import make_run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experiments, and a folder without a run."""
    above = tmp_path_factory.mktemp("compare")
    for seed in (1, 2, 3):
        for name, val_bpb in (("classic", 2.5), ("wave", 2.25), ("wave_rgd", 2.75)):
            make_run(above / "outputs", name, seed, val_bpb=val_bpb)
    (above / "file").touch()
    (above / "empty").mkdir()
    (above / "torn").mkdir()
    (above / "torn" / "config.json").write_text("{")
    return above / "outputs"


@pytest.fixture(autouse=True)
def _made_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics are tested elsewhere."""
    monkeypatch.setattr(compare, "compare", made_comparison)


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    code = compare.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def groups(printed: str) -> list[str]:
    """The labels in the first table."""
    table = printed.split("\n\n")[0].splitlines()[2:]
    return [line.split("  ")[1].strip().removesuffix(" (baseline)") for line in table]


def test_everything_by_default(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capsys, outputs)
    assert (code, err) == (0, "")
    assert groups(out) == ["wave", "classic", "wave_rgd"]
    assert out.splitlines()[3].startswith("  classic (baseline) ")


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["--where", "optimizer=adamw"], ["wave", "classic"]),
        (["--reverse"], ["wave_rgd", "classic", "wave"]),
        (["--metric", "train_s,val_bpb", "--sort", "label"], ["classic", "wave", "wave_rgd"]),
        (["--where", "name=wave*", "--where", "optimizer=rgd"], ["wave_rgd"]),
        (["--sort", "val_bpb"], ["wave", "classic", "wave_rgd"]),
        (["--sort", "val_bpb", "--reverse"], ["wave_rgd", "classic", "wave"]),
        (["--sort", "label", "--reverse"], ["wave_rgd", "wave", "classic"]),
        (["--sort", "optimizer"], ["classic", "wave", "wave_rgd"]),
        (["--group-by", "optimizer"], ["adamw", "rgd"]),
        (["--group-by", "embedding,loss"], ["standard / cross_entropy", "wave / cross_entropy"]),
    ],
)
def test_choosing_grouping_and_sorting(
    outputs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], labels: list[str]
) -> None:
    code, out, _ = called(capsys, outputs, *arguments)
    assert (code, groups(out)) == (0, labels)


FORMATS_AND_RUNS = [
    [f"--format={name}", *more] for name in compare.FORMATS for more in ([], ["--runs"])
]


@pytest.mark.parametrize("options", FORMATS_AND_RUNS)
def test_archived_runs_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    for seed in (1, 2):
        make_run(tmp_path, "classic", seed)
    before = called(capsys, tmp_path, *options)
    runs = [make_run(tmp_path, name, 3) for name in ("classic", "wave")]
    everything = called(capsys, tmp_path, *options)
    for run in runs:
        update_marks(run, {"archived": True})
    remark = "2 archived runs are left out; --archived includes them"
    code, out, err = called(capsys, tmp_path, *options)
    assert (code, err) == (0, "")
    if "--format=json" in options:
        content = json.loads(out)
        assert content.pop("remark") == remark
        assert content == json.loads(before[1])
    elif "--format=csv" in options:
        assert out == before[1]
    else:
        assert out.startswith(before[1].rstrip("\n"))
        assert remark in out[len(before[1]) :].replace("-{}", "-")
    assert called(capsys, tmp_path, "--archived", *options) == everything
    # Pins, tags and notes change nothing that is printed.
    for run in runs:
        update_marks(run, {"archived": False, "pinned": True, "tags": ["x"], "note": "y"})
    assert called(capsys, tmp_path, *options) == everything


def test_conditions_on_marks_choose_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (make_run(tmp_path, name) for name in ("classic", "wave"))
    update_marks(one, {"tags": ["good"]})
    update_marks(other, {"tags": ["bad"], "archived": True})
    for condition, labels in {
        "tag=good": ["classic"], "tag!=bad": ["classic"], "archived": ["wave"],
        "archived=true,false": ["classic", "wave"],
    }.items():  # fmt: skip
        _, out, _ = called(capsys, tmp_path, "--where", condition)
        assert groups(out) == labels
    code, _, err = called(capsys, tmp_path, "--where", "tag=bad")
    assert (code, err) == (2, "error: 1 archived run is left out; --archived includes it\n")
    code, _, err = called(capsys, tmp_path, "--where", "tag=new")
    assert (code, err) == (2, "error: none of 2 runs meets tag=new\n")


def test_unreadable_marks_are_a_problem_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (make_run(tmp_path) / "notes.json").write_text('{"note": "\\u001b[2J", "archived": 1}')
    for more in ([], ["--runs"]):
        code, out, _ = called(capsys, tmp_path, *more)
        assert code == 0
        assert "notes.json: note is left out: '\\x1b[2J' is not a text of at most" in out
        assert "notes.json: archived is left out: 1 is not true or false" in out


def test_several_metrics(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = called(
        capsys, outputs, "--metric", "val_bpb,train_s", "--format", "json", "--at", "best"
    )
    assert [(one["metric"], one["at"]) for one in json.loads(out)["comparisons"]] == [
        ("val_bpb", "best"),
        ("train_s", "best"),
    ]


def test_one_line_for_each_run(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, outputs, "--runs", "--sort", "val_bpb", "--reverse")
    assert code == 0
    assert [line.split()[0].partition("_2026")[0] for line in out.splitlines()[2:11]] == [
        *["wave_rgd"] * 3, *["classic"] * 3, *["wave"] * 3,
    ]  # fmt: skip


def test_one_run(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, next(outputs.glob("wave_2*")))
    assert (code, groups(out)) == (0, ["wave"])
    assert "n < 3: no interval" in out


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("t.txt", "val_bpb, final"),
        ("t.md", "**val_bpb"),
        ("t.csv", "metric,at"),
        ("t.json", "{"),
        ("t.tex", "\\begin"),
    ],
)
def test_a_file_has_the_format_of_its_suffix(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, begins: str
) -> None:
    file = tmp_path / name
    assert called(capsys, outputs, "--output", file) == (0, "", "")
    assert file.read_text().startswith(begins)


def test_plots_show_the_groups_of_the_table(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spectral_exp.results.figures", _Figures)
    code, _, err = called(capsys, outputs, "--plots", outputs.parent / "plots")
    assert (code, err) == (
        0,
        f"{outputs.parent / 'plots' / 'val_bpb.png'}\nnot drawn: Nothing to show.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{outputs}/none"], "there is no folder"),
        (["{outputs}/../file"], "is a file"),
        (["{outputs}/../empty"], "there is no run that can be used below"),
        (["{outputs}/../torn"], "config.json is not valid JSON"),
        (["{outputs}", "--where", "optimizer=lion"], "none of 9 runs meets optimizer=lion"),
        (["{outputs}", "--where", "optimizr=rgd"], "did you mean optimizer?"),
        (["{outputs}", "--group-by", "optimizr"], "did you mean optimizer?"),
        (
            ["{outputs}", "--metric", "val_bqb"],
            "no run has the metric val_bqb; did you mean val_bpb?; known are grad_norm",
        ),
        (["{outputs}", "--metric", ","], "--metric"),
        (["{outputs}", "--sort", "val_bqb"], "--sort=val_bqb is not a metric"),
        (["{outputs}", "--at", "last"], "--at=last must be final, best, step:N, tokens=N"),
        (["{outputs}", "--watch", "0"], "--watch=0.0 must be > 0"),
        (["{outputs}", "--output", "{outputs}/none/x.csv"], "a file in an existing folder"),
        (["{outputs}", "--output", "{outputs}"], "a file, not a folder"),
        (["{outputs}", "--runs", "--plots", "p"], "without --runs"),
        (
            ["config-diff", "{outputs}", "{outputs}"],
            "neither readable settings nor readable metrics",
        ),
        (["config-diff", "{outputs}/none", "{outputs}"], "is not a run directory"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    outputs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = called(capsys, *(argument.format(outputs=outputs) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err


def test_differences_between_two_configurations(
    outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classic, wave = (next(outputs.glob(f"{name}_2*000001*")) for name in ("classic", "wave"))
    code, out, _ = called(capsys, "config-diff", classic, wave)
    assert code == 1
    assert "settings: 4 differences\n" in out
    assert "  model.mlp.activation: gelu -> resonance\n" in out
    assert "data: equal\nmodel: equal\ncode: equal\nenvironment: equal\n" in out
    assert called(capsys, "config-diff", classic, classic)[0] == 0


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let children receive SIGINT, which is ignored if the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_watching_sees_runs_grow_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    path = make_run(tmp_path, status=None)
    metrics = RunPaths(path).metrics_file
    command = [
        sys.executable,
        "-m",
        "spectral_exp",
        "compare",
        str(tmp_path),
        "--runs",
        "--watch",
        "0.05",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(compare.__file__).parents[2])}
    with (
        RunLock(path),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as watching,
    ):
        assert watching.stdout is not None
        assert watching.stderr is not None
        # Half a line, as it is while the run writes.
        with metrics.open("ab") as file:
            file.write(b'{"step": 110, "timestamp": "t", "val_b')
            file.flush()
            _wait_for(watching, ["running", "100", "2.5000"])
            file.write(b'pb": 1.25}\n')
        _wait_for(watching, ["running", "110", "1.2500"])
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        assert (watching.wait(), watching.stderr.read()) == (0, "")


def _wait_for(watching: subprocess.Popen[str], words: list[str]) -> None:
    assert watching.stdout is not None
    for line in watching.stdout:
        if set(words) <= set(line.split()):
            return
    raise AssertionError(f"it ended without {words}")


def test_it_is_light(tmp_path: Path) -> None:
    make_run(tmp_path)
    code = (
        "import sys; from spectral_exp.commands import compare\n"
        "compare.main([sys.argv[1], '--runs', '--output', 'o.txt'])\n"
        "print(*sys.modules)"
    )
    done = python("-c", code, str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "numpy" in loaded
    assert not loaded & {"torch", "matplotlib", "hydra", "omegaconf", "pandas", "psutil"}


class _Figures:
    """Drawing, which is tested elsewhere."""

    @staticmethod
    def comparison_figures(
        comparison: Comparison,
        folder: Path,
        *,
        theme: str = "light",
        formats: Sequence[str] = ("png",),
        force: bool = True,
    ) -> list[SimpleNamespace]:
        drawn = SimpleNamespace(paths=[folder / f"{comparison.metric}.png"], caption="All of them.")
        return [drawn, SimpleNamespace(paths=[], caption="Nothing to show.")]
