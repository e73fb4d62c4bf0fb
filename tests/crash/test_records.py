"""Records as an enemy or a broken disk would write them: every command answers with its result or
with one line."""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.commands import (
    checkpoints,
    compare,
    diagnose,
    generate,
    paper,
    report,
    reproduce,
    verify_resume,
)
from spectral_exp.config.command_line import CommandLine
from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.results.paper.folder import Folder
from spectral_exp.verification import replay, reproduction
from tests.conftest import NO_PLOTS, TINY, first_in_ci, train

EVIL = (
    "\x1b]8;;http://x\x07\x1b[2J\x9b31m\u202e\u2066|`*_[a](http://b)<script>&\\end{verbatim}\\input{x}${{x}}$#\"'\n\r\t"
    "=1+1\ud800\u200b\x00"
)
HUGE = "a" * 100_000


def nested(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 3, 10**19, -(10**19), 10**30, 0.5, 5e-324, 1e308, -1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "NaN",
        "-Infinity",
        "9" * 400,
        "2026-01-01",
        EVIL,
        HUGE,
        "../../x",
        "--help",
    ),
    *(
        [],
        {},
        [EVIL],
        {EVIL: EVIL},
        [[1]],
        {"a": {"b": None}},
        [None],
        nested(20),
        nested(100),
        {"step": EVIL},
    ),
)
RAW: tuple[bytes, ...] = (
    *(
        b"",
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b"\xff\xff",
        b"{",
        b"\x00" * 100,
    ),
    *(
        b'{"config": {}, "config": {}}',
        b'{"a": ' + b"9" * 400 + b"}",
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ),
    *(
        b'{"config": "' + b"a" * 10_000_000 + b'"}',
        b'{"attempts": [1]}',
        b'{"config": {"training": {}}}',
    ),
)
LINES: tuple[bytes, ...] = (
    *(
        b'{"step": 13, "loss": NaN}',
        b'{"step": 13, "loss": 1e308}',
        b'{"step": 14, "loss": -1e308, "val_bpb": 1e308}',
    ),
    *(
        b'{"step": 13, "val_bpb": ' + b"9" * 400 + b"}",
        b'{"step": 13, "val_bpb": "Infinity"}',
        b'{"step": NaN}',
    ),
    *(
        b'{"step": 1e3, "loss": 1}',
        b'{"step": -5, "loss": 1}',
        b'{"step": 9007199254740991, "loss": 1}',
        b"\x00" * 5000,
    ),
    *(
        b'{"step": 13, ' + json.dumps(EVIL).encode() + b": 1.5}",
        b'{"step": ' * 5000,
        b'{"step": "x", "loss": 1}',
        b"[1]",
    ),
    *(
        b'{"step": 13, "loss": ' + json.dumps(EVIL).encode() + b"}",
        b'{"step": 13, "a": ' + b"[" * 5000,
        b"\xff\xfe",
    ),
    *(
        b'{"step": 13, "step": 14, "loss": 2}',
        b'{"step": true, "loss": 1}',
        b'{"step": 12, "val_bpb": 1e-320}',
    ),
    *(
        b'{"step": 99999999999999999999, "loss": 1}',
        b'{"step": 13, "timestamp": {}, "loss": [], "val_bpb": {"a": 1}}',
    ),
)
FILES = (
    "config.json",
    "results.json",
    "checkpoints/checkpoint_step_12.pt.json",
    "tokenizer/tokenizer_kind.json",
)


@dataclass(frozen=True)
class Change:
    """A file of a run, and its replaced content."""

    file: str
    what: str
    make: Callable[[], bytes]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, and one that differs from it in its seed alone."""
    folder = tmp_path_factory.mktemp("records")
    done = train(*TINY, NO_PLOTS, "seed=1", "hydra.run.dir=runs/r1", cwd=folder)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "runs/r1", folder / "runs/r2", symlinks=True)
    other = folder / "runs/r2/config.json"
    other.write_bytes(written(replaced(json.loads(other.read_text()), ("config", "seed"), 2)))
    return folder / "runs"


# --- changes --------------------------------------------------------------------------------------


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value, of lists the first two items."""
    yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))
    elif isinstance(node, list):
        for i, value in enumerate(node[:2]):
            yield from places(value, (*path, i))


def replaced(node: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of `node` with another value at `path`."""
    if not path:
        return value
    whole = at = copy.deepcopy(node)
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return whole


def written(content: Any) -> bytes:
    """JSON with a right checksum, as somebody would write who means harm."""
    if isinstance(content, dict) and "crc32" in content and "config" in content:
        with contextlib.suppress(RecursionError, TypeError):
            content = {**content, "crc32": content_crc32(content)}
    return json.dumps(content).encode()


def changes(run: Path) -> list[Change]:
    """Every value of every record replaced by every value of `VALUES`, whole files, and lines of
    metrics."""
    found = []
    for file in FILES:
        content = json.loads((run / file).read_text())
        for path in places(content):
            if path[:1] == ("packages",) and len(path) > 1 and path[1] not in ("python", "torch"):
                continue
            for value in VALUES:
                made = functools.partial(changed, content, path, value)
                found.append(Change(file, f"{'.'.join(map(str, path))} = {value!r:.40}", made))
        found += [raw_change(file, raw) for raw in RAW]
    metrics = (run / "logs/metrics.jsonl").read_bytes()
    found += [
        raw_change("logs/metrics.jsonl", raw)
        for raw in (*RAW, *(metrics + line + b"\n" for line in LINES))
    ]
    return [*found, *(raw_change("run.lock", raw) for raw in (*RAW, *map(written, owners())))]


def changed(content: Any, path: tuple[str | int, ...], value: Any) -> bytes:
    return written(replaced(content, path, value))


def raw_change(file: str, content: bytes) -> Change:
    return Change(file, f"{content[-60:]!r}", lambda: content)


def owners() -> Iterator[Any]:
    """Owners of a lock."""
    for value in VALUES:
        yield {"host": value, "pid": 1, "since": "2026-01-01"}
        yield {"host": "elsewhere", "pid": value, "since": "2026-01-01"}
        yield {"host": "elsewhere", "pid": 1, "since": value}


# --- commands -------------------------------------------------------------------------------------


def resume_check(arguments: list[str]) -> int:
    """What the training command does with `resume=` before it trains."""
    from spectral_exp.runs.layout import RunPaths
    from spectral_exp.training.resume import (
        find_record,
        list_attempts,
        move_damaged_record,
        resume_problems,
    )

    try:
        for job in CommandLine.parse(arguments).compose():
            assert job.run_dir is not None
            if problems := resume_problems(job.config, job.run_dir, []):
                raise UserError("\nerror: ".join(problems))
            paths = RunPaths(job.run_dir)
            list_attempts(paths, [])
            move_damaged_record(paths)
            find_record(paths)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


Command = Callable[[Path, Path], int]
"""Called with the changed run, which lies beside the intact one, and a folder for outputs."""

FAST: dict[str, Command] = {
    "compare": lambda run, out: compare.main([str(run.parent), "--no-index"]),
    "compare --runs": lambda run, out: compare.main(
        [str(run.parent), "--no-index", "--runs", "--metric=loss,val_bpb"]
    ),
    "compare markdown": lambda run, out: compare.main(
        [str(run.parent), "--no-index", "--format=markdown"]
    ),
    "compare csv": lambda run, out: compare.main(
        [str(run.parent), "--no-index", "--runs", "--format=csv"]
    ),
    "compare json": lambda run, out: compare.main([str(run.parent), "--no-index", "--format=json"]),
    "compare latex": lambda run, out: compare.main(
        [str(run.parent), "--no-index", "--format=latex", "--at=best"]
    ),
    "config-diff": lambda run, out: compare.main(
        ["config-diff", str(run), str(run.with_name("r2"))]
    ),
    "reproduce": lambda run, out: reproduce.main(
        [str(run), "--current-code", f"--output={out / 'again'}"]
    ),
    "verify_resume": lambda run, out: verify_resume.main(
        [str(run), "--steps=3", f"--output={out / 'c.json'}"]
    ),
    "generate": lambda run, out: generate.main([str(run), "--tokens=1", "--device=cpu"]),
    "checkpoints list": lambda run, out: checkpoints.main(["list", str(run)]),
    "checkpoints verify": lambda run, out: checkpoints.main(["verify", str(run)]),
}
SLOW: dict[str, Command] = {
    "diagnose": lambda run, out: diagnose.main([str(run), "--windows=1", "--device=cpu"]),
    "compare --plots": lambda run, out: compare.main(
        [str(run.parent), "--no-index", f"--plots={out / 'plots'}"]
    ),
    "report": lambda run, out: report.main(
        [str(run), "--formats=md,html", f"--output={out / 'report'}"]
    ),
    "paper": lambda run, out: paper.main(
        [str(run.parent), "--formats=md,tex,html", f"--output={out / 'paper'}"]
    ),
    "resume": lambda run, out: resume_check([f"resume={run}"]),
}
COMMANDS = {**FAST, **SLOW}
# Outputs are made of what the records say. Line breaks and tabs between the parts are ours.
UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@pytest.fixture
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """`reproduce` and `verify_resume` go as far as they would train."""

    def trained(*_: Any) -> Any:
        raise UserError("this would train")

    monkeypatch.setattr(reproduction, "_train", trained)
    monkeypatch.setattr(replay, "replay_twice", trained)


def answer(command: Command, run: Path, out: Path) -> tuple[int, str]:
    """Exit code and all that a command prints and writes into `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = command(run, out)
    files = [file for file in out.rglob("*") if file.suffix in {".md", ".tex", ".html", ".json"}]
    return code, "\n".join(
        [printed.getvalue(), *(file.read_text(encoding="utf-8") for file in files)]
    )


def try_change(change: Change, names: list[str], runs: Path, place: Path) -> list[str]:
    """Problems with the answers of commands to a changed run, a line each."""
    run = place / "outputs" / "r1"
    if not run.exists():
        shutil.copytree(runs, run.parent, symlinks=True)
    file = run / change.file
    before = file.read_bytes() if file.exists() else None
    problems = []
    for name in names:
        file.write_bytes(change.make())
        said = f"{name} with {change.file}: {change.what}"
        try:
            code, text = answer(COMMANDS[name], run, place / "out")
        except Exception as error:
            problems.append(f"{said}: {type(error).__name__}: {error!r:.300}")
            continue
        if code not in (0, 1, 2):
            problems.append(f"{said}: exit code {code}")
        if match := UNPRINTABLE.search(text):
            problems.append(
                f"{said}: prints {match[0]!r} in {text[max(0, match.start() - 80) : match.end()]!r}"
            )
        if "Traceback" in text:
            problems.append(f"{said}: prints a traceback")
        for aside in run.glob("*.corrupt"):
            aside.unlink()
    if before is None:
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(before)
    return problems


@pytest.mark.usefixtures("_no_training")
def test_commands_answer_to_any_record(runs: Path, tmp_path: Path) -> None:
    chance = random.Random(20)
    problems = []
    for change in chance.sample(changes(runs / "r1"), 30):
        problems += try_change(change, chance.sample(list(FAST), 3), runs, tmp_path)
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize("part", first_in_ci(len(FAST), 1))
def test_every_value_of_every_record(part: int, runs: Path, tmp_path: Path) -> None:
    problems = []
    names = list(FAST)
    for i, change in enumerate(changes(runs / "r1")[part :: len(FAST)]):
        problems += try_change(change, [names[i % len(names)]], runs, tmp_path)
    assert not problems, "\n".join(problems)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize("name", SLOW)
def test_slower_commands_answer_to_any_record(name: str, runs: Path, tmp_path: Path) -> None:
    problems = []
    for change in random.Random(name).sample(changes(runs / "r1"), 6):
        problems += try_change(change, [name], runs, tmp_path)
    assert not problems, "\n".join(problems)


# --- what is no file ------------------------------------------------------------------------------

RECORDS = (
    "config.json",
    "results.json",
    "logs/metrics.jsonl",
    "run.lock",
    "git_diff.patch",
    "logs",
    "checkpoints",
)


def put(kind: str, place: Path) -> None:
    """Something else in the place of a file or folder."""
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "sparse":
        with place.open("wb") as file:
            file.truncate(10 << 30)
    else:
        place.symlink_to(
            {"loop": str(place), "kernel": "/proc/kmsg", "device": "/dev/zero", "proc": "/proc"}[
                kind
            ]
        )


def compare_folder(outputs: Path, options: list[str], *_: Path) -> int:
    return compare.main([str(outputs), "--no-index", *options])


@pytest.mark.parametrize("kind", ["FIFO", "folder", "sparse", "loop", "kernel", "device", "proc"])
def test_one_run_does_not_take_down_the_others(kind: str, runs: Path, tmp_path: Path) -> None:
    for file in RECORDS:
        outputs = tmp_path / file.replace("/", "-") / "outputs"
        shutil.copytree(runs, outputs, symlinks=True)
        put(kind, outputs / "r1" / file)
        for options in (["--runs"], ["--where=seed=2"]):
            command = functools.partial(compare_folder, outputs, options)
            code, text = answer(command, outputs, tmp_path / "o")
            assert code == 0, text
            assert "r2" in text or "custom" in text
            assert "Traceback" not in text


def test_links_to_everything_end(runs: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(runs, outputs, symlinks=True)
    for name, target in (
        ("self", "self"),
        ("up", ".."),
        ("proc", "/proc"),
        ("sys", "/sys"),
        ("a", "b"),
        ("b", "a"),
    ):
        (outputs / name).symlink_to(target)
    code, text = answer(
        lambda run, out: compare.main([str(run), "--no-index", "--runs"]), outputs, tmp_path / "o"
    )
    assert code == 0
    assert "r1" in text
    assert "r2" in text
    assert "belongs to the kernel" in " ".join(text.split())


# --- text -----------------------------------------------------------------------------------------


def named(runs: Path, place: Path, name: str) -> Path:
    """The runs; the first has another name."""
    shutil.copytree(runs, place, symlinks=True)
    file = place / "r1/config.json"
    content = replaced(json.loads(file.read_text()), ("config", "name"), name)
    file.write_bytes(written(replaced(content, ("config", "model", "n_embd"), 17)))
    return place


def table(form: str, outputs: Path) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert compare.main([str(outputs), "--no-index", f"--format={form}"]) == 0
    return printed.getvalue()


@pytest.mark.parametrize(
    "name", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\x1b=1"]
)
def test_no_spreadsheet_computes_a_name(name: str, runs: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(table("csv", named(runs, tmp_path / "outputs", name)))))
    cells = [cell for row in rows for cell in row.values()]
    assert not [
        cell
        for cell in cells
        if cell[:1] in tuple("=+@\t\r") or (cell[:1] == "-" and not is_number(cell))
    ]
    assert any(is_number(row["mean"]) for row in rows)


def is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return math.isfinite(float(text))
    return False


def test_names_are_no_markup(runs: Path, tmp_path: Path) -> None:
    name = "a|b`c[d](http://e)<script>\\end{table}$x$\x1b[31m\u202e\ud800"
    outputs = named(runs, tmp_path / "outputs", name)
    for form in ("table", "markdown", "csv", "json", "latex"):
        assert not UNPRINTABLE.search(table(form, outputs)), form
    json.loads(table("json", outputs))
    markdown = table("markdown", outputs)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    bars = [len(re.findall(r"(?<!\\)\|", row)) for row in rows[:4]]
    assert bars == bars[:1] * 4
    assert not re.search(r"(?<!\\)(<script|\[d\]|`)", markdown)
    latex = table("latex", outputs)
    assert "end{table}$x$" not in latex
    assert r"\textbackslash{}end\{table\}\$x\$" in latex


def test_the_report_of_a_diverged_run_lies_in_it(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "r1", tmp_path / "above/r1", symlinks=True)
    run = tmp_path / "above/r1"
    lines = [json.loads(line) for line in (run / "logs/metrics.jsonl").read_text().splitlines()]
    spoilt = [
        {**line, "loss": "NaN", "val_loss": "Infinity", "tokens_per_s": 1e308} for line in lines
    ]
    (run / "logs/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in spoilt))
    results = json.loads((run / "results.json").read_text())
    results |= {
        "status": "failed",
        "error": "diverged\x1b[2J",
        "final_metrics": {"step": 12, "val_bpb": "NaN"},
    }
    results["totals"] |= {"tokens_per_s": "NaN", "train_s": "Infinity"}
    (run / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(printed := io.StringIO()):
        assert report.main([str(tmp_path / "above"), "--formats=md"]) == 0
    assert str(run / "report/report.md") in printed.getvalue()
    text = (run / "report/report.md").read_text()
    assert r"diverged\x1b[2J" in text
    assert not list((tmp_path / "above").glob("report"))


def test_a_record_of_a_paper_removes_its_own_files_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    digest = hashlib.sha256(b"mine").hexdigest()
    paper_folder = tmp_path / "paper"
    paper_folder.mkdir()
    names = ["../victim.txt", str(victim), "figures/../../victim.txt", "old.md"]
    (paper_folder / "old.md").write_text("mine")
    (paper_folder / "provenance.json").write_text(
        json.dumps({"files": dict.fromkeys(names, digest)})
    )
    Folder(paper_folder).write({"paper.md": b"new"}, {})
    assert victim.read_text() == "mine"
    assert not (paper_folder / "old.md").exists()
    (paper_folder / "figures").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is a link"):
        Folder(paper_folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [x, x]\nb: [*a, *a]\n", "it is not a list of texts"),
        ("[" * 50_000, "it is not a list of texts"),
        ("- a\n- *a\n", "it is not a list of texts"),
        ("{a: 1}", "it is not a list of texts"),
        ("- 1\n", "its overrides are not a list of texts"),
        ("\udc80", "cannot be read"),
    ],
    ids=["references", "deep", "reference", "mapping", "number", "not UTF-8"],
)
def test_overrides_of_hydra_stand_in_only_if_they_are_texts(
    text: str, reason: str, runs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "r1"
    shutil.copytree(runs / "r1", run, symlinks=True)
    (run / "config.json").write_text("{")
    (run / ".hydra/overrides.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=reason):
        CommandLine.parse([f"resume={run}"])
