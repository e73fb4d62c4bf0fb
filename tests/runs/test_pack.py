"""Archives of records for publication: what they hold, and what they do not."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.commands import compare, paper, report, runs
from spectral_exp.core.json_files import content_crc32, read_json, write_json_atomic
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.runs.anonymous import Anonymizer
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import load_run
from spectral_exp.runs.lock import RunLock
from spectral_exp.runs.marks import read_marks, update_marks
from tests.results.made_runs import make_run

Capsys = pytest.CaptureFixture[str]

PRIVATE = ("/home/alice", "alice", "bigbox", "4711", "secret_plan", "alice@lab.example", "/data/")
"""What must not stand in an archive."""

RECORD: dict[str, Any] = {
    "command": ["/home/alice/venv/bin/python", "-m", "spectral_exp.train", "outputs=/data/o"],
    "host": {
        "hostname": "bigbox.lab.example", "platform": "Linux-6.1-bigbox", "pid": 4711,
        "cwd": "/home/alice/work",
    },
    "overrides": [
        "data.path=/data/texts one/kjv.txt", "outputs='/data/my o'", "alerts=[mail:alice]",
        "hydra.launcher.partition=alice", "+monitoring.companion={mirrors:[wandb:alice/x]}", "~model.mlp", "model/attention=rotary",
    ],
    "git": {
        "repository": "/home/alice/work", "hash": "abcd1234" * 5, "dirty": True,
        "untracked": ["secret_plan.py"], "diff_file": "git_diff.patch",
    },
    "attempts": [
        {
            "timestamp": "2026-01-01T00:00:00", "git_hash": "abcd1234", "host": "bigbox",
            "pid": 4711, "from_step": 0, "cwd": "/home/alice/work", "hosts": ["bigbox"],
            "overrides": ["data.path=/data/texts one/kjv.txt"],
        }
    ],
    "packages": {"python": "3.11.7", "torch": "2.13.0", "secret_plan": "1.0"},
    "own": {"by": "alice"},
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "data.path": "/data/texts one/kjv.txt",
    "outputs": "/home/alice",
    "alerts": ["mail:alice@lab.example"],
    "monitoring.companion": {"mirrors": ["https://bigbox/x"]},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with everything that tells of a machine, in a sweep and beside it."""
    folder = tmp_path_factory.mktemp("private") / "study"
    sweep = folder / "sweep"
    for seed in (1, 2, 3):
        for name, bpb in (("classic", 2.5), ("wave_rgd", 2.4)):
            own = bpb + 0.01 * seed * len(name)
            made = make_run(sweep, name, seed, val_bpb=own, settings=SETTINGS, record=RECORD)
            (made / "git_diff.patch").write_text(f"+++ {name}")
            (made / "train.log").write_text("bigbox")
            _evaluate(made, own)
    other = {**SETTINGS, "data.path": "/data/other/kjv.txt"}
    odd = make_run(folder, "classic", 4, status="failed", settings=other, record=RECORD)
    _change(RunPaths(odd).results_file, error="no '/home/alice/a b.txt' on bigbox (4 files/s)")
    sample = {"step": 7, "prompt": "#!", "text": "/usr/bin/env", "image": "/home/alice/x.png"}
    _change(RunPaths(odd).results_file, generation_samples=[sample])
    update_marks(odd, {"note": "ask alice@lab.example, or see /home/alice/x.", "tags": ["odd"]})
    with RunPaths(odd).metrics_file.open("ab") as file:
        file.write(b'/home/alice\n{"step": 110, "loss": "NaN", "by": "alice", "n": 1e999}\n{"alice')
    jobs = {"0" * 8: {"folder": made.name, "overrides": ["data.path=/data/x.txt"]}}
    content = {"format": 1, "command": ["-m"], "jobs": jobs, "sources": "x", "known": {"a": "b"}}
    write_json_atomic(sweep / "sweep.json", {**content, "crc32": content_crc32(content)})
    return folder


def _change(file: Path, **entries: Any) -> None:
    write_json_atomic(file, {**read_json(file), **entries})


def _evaluate(run: Path, bpb: float) -> None:
    line = {
        "time": "2026-01-01T00:00:00", "host": "bigbox", "step": 100, "text": "/data/own.txt",
        "block_size": 256, "stride": 256, "loss": bpb * 0.7, "bpb": bpb, "text_sha256": "ab" * 32,
    }  # fmt: skip
    RunPaths(run).evaluations_file.write_text(json.dumps(line) + "\n/home/alice\n")


def pack(capsys: Capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was printed as notes."""
    code = runs.main(["pack", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def extracted(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


def without_paths(value: Any) -> Any:
    """A comparison without the paths of runs, and the hashes of settings, in which paths count."""
    if isinstance(value, Mapping):
        left_out = ("path", "config_hash")
        return {key: without_paths(item) for key, item in value.items() if key not in left_out}
    return [without_paths(item) for item in value] if isinstance(value, list) else value


def compared(capsys: Capsys, folder: Path, *options: str) -> Any:
    code = compare.main([str(folder), "--format", "json", "--no-index", *options])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.dumps(without_paths(json.loads(out)))


def shortened(text: str) -> str:
    for path, name in (
        ("/data/other/kjv.txt", "1/kjv.txt"),
        ("/data/texts one/kjv.txt", "2/kjv.txt"),
        ("/data/own.txt", "own.txt"),
        ("/home/alice/a b.txt' on bigbox", "a b.txt' on <redacted>"),
    ):
        text = text.replace(path, name)
    return text


@pytest.mark.parametrize("options", [[], ["--no-metrics"]], ids=["metrics", "summary"])
def test_an_extracted_archive_gives_the_numbers_and_names_nobody(
    study: Path, options: list[str], tmp_path: Path, capsys: Capsys
) -> None:
    archive = tmp_path / "study.tar.xz"
    code, out, err = pack(capsys, study, "--output", archive, *options)
    assert code == 0
    assert "7 runs, " in out
    assert "command lines (8)" in out
    assert "left out" not in err
    copy = extracted(archive, tmp_path / "copy")
    assert copy.name == "study"
    for file in [path for path in copy.rglob("*") if path.is_file()]:
        assert not [word for word in PRIVATE if word.encode() in file.read_bytes()], file

    for more in ([], ["--metric", "val_loss,tokens_per_s,train_s"], ["--at", "best"], ["--runs"]):
        assert compared(capsys, copy, *more) == shortened(compared(capsys, study, *more))
    name = "bpb@/data/own.txt:256"
    assert compared(capsys, copy, "--metric", shortened(name)) == shortened(
        compared(capsys, study, "--metric", name)
    )

    original, again = (ResultsAggregator([folder], index=False) for folder in (study, copy))
    for one, other in zip(original.runs, again.runs, strict=True):
        assert (one.run_id, one.status, one.last_step) == (
            other.run_id,
            other.status,
            other.last_step,
        )
        assert one.logged_speeds == other.logged_speeds
        assert one.problems == other.problems
        assert [*one.metrics] == [*other.metrics]
        for metric in one.metrics:
            assert one.metrics[metric].as_list() == pytest.approx(
                other.metrics[metric].as_list(), rel=0, nan_ok=True
            )
            if not options:
                assert one.series(metric).values.tolist() == pytest.approx(
                    other.series(metric).values.tolist(), rel=0, nan_ok=True
                )
    odd = next(run for run in again.runs if run.seed == 4)
    assert odd.results["generation_samples"] == [
        {"step": 7, "prompt": "#!", "text": "/usr/bin/env"}
    ]
    marks, problems = read_marks(odd.path)
    assert marks.tags == ("odd",)
    assert not problems
    assert marks.note == "ask <redacted>, or see x."
    again_packed = tmp_path / "again.tar.xz"
    assert pack(capsys, copy, "--output", again_packed, *options)[0] == 0
    assert again_packed.read_bytes() == archive.read_bytes()


def test_the_same_runs_make_the_same_bytes_wherever_they_lie(
    study: Path, tmp_path: Path, capsys: Capsys
) -> None:
    shutil.copytree(study, tmp_path / "elsewhere" / "study", copy_function=shutil.copyfile)
    first, second = tmp_path / "a.tar.xz", tmp_path / "b.tar.xz"
    assert pack(capsys, study / "sweep", study, "--output", first)[0] == 0
    moved = tmp_path / "elsewhere" / "study"
    assert pack(capsys, moved, moved / "sweep", "--output", second)[0] == 0
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as file:
        members = file.getmembers()
    assert [(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members] == [
        (0, 0, 0, "", 0o644)
    ] * len(members)


def test_without_metrics_a_budget_is_refused(study: Path, tmp_path: Path, capsys: Capsys) -> None:
    archive = tmp_path / "study.tar.xz"
    assert pack(capsys, study / "sweep", "--output", archive, "--no-metrics")[0] == 0
    copy = extracted(archive, tmp_path / "copy")
    for main, options in (
        (compare.main, ["--at", "step:50"]),
        (compare.main, ["--at", "seconds=1", "--runs"]),
        (paper.main, ["--at", "step:50", "--output", str(tmp_path / "paper")]),
    ):
        assert main([str(copy), *options]) == 2
        assert "must be final or best: 6 of 6 runs" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_without_metrics_holds_the_same_table(
    study: Path, tmp_path: Path, capsys: Capsys
) -> None:
    archive = tmp_path / "study.tar.xz"
    assert pack(capsys, study / "sweep", "--output", archive, "--no-metrics")[0] == 0
    copy = extracted(archive, tmp_path / "copy")
    name = next(path.name for path in copy.iterdir() if path.is_dir())
    texts: list[str] = []
    for folder in (study / "sweep", copy):
        made = tmp_path / f"report_{len(texts)}"
        command = [str(folder / name), "--output", str(made), "--formats", "md"]
        assert report.main(command) == 0
        texts.append((made / "report.md").read_text())
    tables = [[line for line in text.splitlines() if line.startswith("| `val_")] for text in texts]
    assert tables[0] == tables[1] != []


def test_links_fifos_giants_and_foreign_folders_are_left_out(
    tmp_path: Path, capsys: Capsys
) -> None:
    folder = tmp_path / "runs"
    private = make_run(tmp_path / "elsewhere", "classic", 9)
    linked, logs, fifo, giant = (make_run(folder, "classic", seed) for seed in (1, 2, 3, 4))
    for run, name in ((linked, "results.json"), (logs, "logs")):
        shutil.rmtree(run / name) if name == "logs" else (run / name).unlink()
        (run / name).symlink_to(private / name)
    RunPaths(fifo).results_file.unlink()
    os.mkfifo(RunPaths(fifo).evaluations_file)
    os.truncate(RunPaths(giant).results_file, 33 << 20)
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"name": "alice"}')
    damaged = RunPaths(make_run(folder, "classic", 5)).config_file
    damaged.write_text(damaged.read_text().replace("Test CPU", "Other CPU"))

    archive = tmp_path / "runs.tar.xz"
    code, out, err = pack(capsys, folder, "--output", archive)
    assert code == 0
    assert "5 runs, 11 files, " in out
    for path, reason in (
        (RunPaths(linked).results_file, "it is a link"),
        (RunPaths(logs).metrics_file, "it is a link"),
        (RunPaths(fifo).evaluations_file, "Is a FIFO"),
        (RunPaths(giant).results_file, "holds more than"),
        (folder / "foreign", "not the record of a run"),
    ):
        assert any(str(path) in line and reason in line for line in err.splitlines()), (path, err)
    copy = extracted(archive, tmp_path / "copy")
    names = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert names == sorted(
        [f"{run.name}/config.json" for run in (linked, logs, fifo, giant, damaged.parent)]
        + [f"{run.name}/logs/metrics.jsonl" for run in (linked, fifo, giant, damaged.parent)]
        + [f"{run.name}/results.json" for run in (logs, damaged.parent)]
    )
    (problem,) = load_run(copy / damaged.parent.name).problems
    assert "changed or damaged" in problem


def test_running_runs_other_files_and_folders_without_runs_are_refused(
    tmp_path: Path, capsys: Capsys
) -> None:
    run = make_run(tmp_path / "runs", "classic", 1, status=None)
    archive = tmp_path / "runs.tar.xz"
    with RunLock(run):
        code, _, err = pack(capsys, run, "--output", archive)
        assert code == 2
        assert "is in progress; wait for its end, or add --running" in err
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]
        assert pack(capsys, run, "--output", archive, "--running")[0] == 0
    copy = extracted(archive, tmp_path / "copy")
    assert copy.name == run.name
    assert load_run(copy).last_step == 100

    archive.write_bytes(b"mine")
    code, _, err = pack(capsys, run, "--output", archive)
    assert code == 2
    assert "overwrite it with --force" in err
    assert archive.read_bytes() == b"mine"
    assert pack(capsys, run, "--output", archive, "--force")[0] == 0
    code, _, err = pack(capsys, run, "--output", tmp_path / "runs.zip")
    assert code == 2
    assert "must be a file that ends with .tar.xz" in err
    (tmp_path / "empty").mkdir()
    code, _, err = pack(capsys, tmp_path / "empty", "--output", tmp_path / "e.tar.xz")
    assert code == 2
    assert "there is no run to pack" in err
    assert not (tmp_path / "e.tar.xz").exists()


def test_names_that_are_also_words_of_settings_stay_and_are_reported(
    tmp_path: Path, capsys: Capsys
) -> None:
    record = {"command": ["/home/adam/python"]}
    run = make_run(tmp_path / "runs", "adam", 1, settings={"own": "adam"}, record=record)
    code, _, err = pack(capsys, run, "--output", tmp_path / "runs.tar.xz")
    assert code == 0
    assert "note: adam may name a machine or a person" in err
    copy = extracted(tmp_path / "runs.tar.xz", tmp_path / "copy")
    assert load_run(copy).settings["own"] == "adam"


# --- texts ----------------------------------------------------------------------------------------

_PART = st.text("ab. ~é", min_size=1, max_size=3).filter(str.strip)
_VALUE = st.one_of(
    st.lists(_PART, min_size=1, max_size=3).map("/".join),
    st.lists(_PART, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts)),
    st.lists(_PART, min_size=1, max_size=3).map(lambda parts: "C:\\" + "\\".join(parts)),
)


@settings(max_examples=12)
@given(st.lists(_VALUE, unique=True, max_size=6))
def test_different_values_of_a_setting_stay_different(values: list[str]) -> None:
    anonymizer = Anonymizer()
    anonymizer.learn_values(set(values))
    made = [anonymizer.value(value) for value in values]
    assert len(set(made)) == len(values)
    assert made == [anonymizer.value(value) for value in values]
    assert not any(text.startswith(("/", "C:")) for text in made)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("texts/kjv.txt", "texts/kjv.txt"),
        ("https://example.org/a/b.txt", "https://example.org/a/b.txt"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("file:///srv/a.txt", "a.txt"),
        ("~/texts/a.txt", "a.txt"),
        (r"D:\texts\a.txt", "a.txt"),
        (r"\\server\share\a.txt", "a.txt"),
        ("**/*.py", "**/*.py"),
        ("1 / 2, and/or 3/s", "1 / 2, and/or 3/s"),
        ("read /srv/x/a.txt, then '/srv/b c.txt'.", "read a.txt, then 'b c.txt'."),
        ("/home/alice", "path"),
        ("/", "path"),
    ],
)
def test_absolute_paths_become_their_last_part(text: str, made: str) -> None:
    assert Anonymizer().value(text) == made
