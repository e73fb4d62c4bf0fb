"""Comparisons as tables in every format."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from spectral_exp.results import tables
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import Comparison
from spectral_exp.results.document.latex import escape_latex
from spectral_exp.results.number_texts import decimals, number_text
from spectral_exp.results.table_formats import WIDTH
from tests.results.made_comparisons import made_comparison
from tests.results.made_runs import make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> ResultsAggregator:
    folder = tmp_path_factory.mktemp("runs")
    for seed, noise in ((1, 0.0), (2, 0.001), (3, 0.002)):
        make_run(folder, "classic", seed, val_bpb=2.5 + noise)
        make_run(folder, "wave", seed, val_bpb=2.25 + noise)
        make_run(
            folder,
            "wave_qfe",
            seed,
            val_bpb=2.4375 + noise,
            status="completed" if seed < 3 else "failed",
        )
    (folder / "torn_20260101_000000_abcd1234").mkdir()
    (folder / "torn_20260101_000000_abcd1234" / "config.json").write_text("{")
    return ResultsAggregator([folder], index=False)


@pytest.fixture(scope="module")
def comparison(runs: ResultsAggregator) -> Comparison:
    return made_comparison(runs.groups())


def test_for_a_terminal(comparison: Comparison, runs: ResultsAggregator) -> None:
    text = tables.render_comparisons([comparison], "table", runs.left_out)
    first = """\
val_bpb, final value of each run, lower is better
  group               n    mean     95 % interval  median
  classic (baseline)  3  2.5010  [2.4910, 2.5210]  2.5010
  wave                3  2.2510  [2.2410, 2.2710]  2.2510
  wave_qfe            2  2.4380                 -  2.4380

val_bpb minus that of classic
  group      n  difference       95 % interval  P(better)  p (Holm)  verdict
  wave       3     -0.2500  [-0.3000, -0.2000]       0.25    <0.001  better
  wave_qfe  2*     -0.0630                   -       0.25         -  no interval
"""
    assert text.startswith(first)
    assert "  all: wall-clock differs: 1.0 s against 2.0 s\n" in text
    assert "  all: the same: parameters, steps; different: wall-clock; unknown: hardware\n" in text
    assert "  wave_qfe: n < 3: no interval\n" in text
    assert "  wave_qfe_20260101_000003_abcd1234: failed\n" in text
    assert "n*: not paired by seed" in text
    left_out, _ = runs.left_out[0]
    unwrapped = " ".join(text.split())
    assert f"folders left out: {left_out}: config.json is not valid JSON" in unwrapped
    # A path is never broken, however long the folder of the tests is.
    lines = [line.replace(str(left_out), "FOLDER") for line in text.splitlines()]
    assert all(len(line) <= WIDTH for line in lines)


def test_markdown_has_bold_only_for_separated_values(comparison: Comparison) -> None:
    text = tables.render_comparisons([comparison], "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row for row in rows if "**" in row] == [
        "| wave | 3 | **-0.2500** | \\[-0.3000, -0.2000\\] | 0.25 | \\<0.001 | **better** |"
    ]
    assert "| wave_qfe | 2\\* | -0.0630 | - | 0.25 | - | no interval |" in rows
    assert "- a note with 100 % and \\<angles> & a_name" in text
    # Every row of a table has as many cells as its head.
    for block in text.split("\n\n"):
        cells = {
            line.replace("\\|", "").count("|")
            for line in block.splitlines()
            if line.startswith("|")
        }
        assert len(cells) <= 1


def test_latex_is_escaped(comparison: Comparison) -> None:
    text = tables.render_comparisons([comparison], "latex")
    assert r"wave\_qfe & 2* & $-$0.0630 & - & 0.25 & - & no interval \\" in text
    assert (
        r"wave & 3 & \textbf{$-$0.2500} & [$-$0.3000, $-$0.2000] & 0.25 & \textless{}0.001 &"
        r" \textbf{better} \\" in text
    )
    assert r"\item a note with 100 \% and \textless{}angles\textgreater{} \& a\_name" in text
    assert (
        text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}") == 2
    )
    assert (
        escape_latex("a\\b{c}~^|#$")
        == r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\textbar{}\#\$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(comparison: Comparison, tmp_path: Path) -> None:
    body = tables.render_comparisons([comparison], "latex")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{body}\\end{{document}}\n")
    subprocess.run(
        ["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL
    )
    assert (tmp_path / "t.pdf").read_bytes().startswith(b"%PDF")


def test_json_has_every_digit(comparison: Comparison, runs: ResultsAggregator) -> None:
    content = json.loads(tables.render_comparisons([comparison], "json", runs.left_out))
    (one,) = content["comparisons"]
    assert [group["values"] for group in one["groups"]] == [
        list(s.values) for s in comparison.summaries
    ]
    assert one["groups"][1]["runs"][0]["run_id"] == "wave_20260101_000001_abcd1234"
    assert [d["mean"] for d in one["differences"]] == [d.mean for d in comparison.differences]
    assert one["differences"][0]["better"] is True
    assert one["differences"][1]["interval"] is None
    assert content["left_out"][0]["reason"].startswith("config.json is not valid JSON")


def test_csv_has_a_row_for_each_group_and_difference(comparison: Comparison) -> None:
    rows = list(
        csv.DictReader(io.StringIO(tables.render_comparisons([comparison, comparison], "csv")))
    )
    assert [row["row"] for row in rows] == 2 * [*["group"] * 3, *["baseline"] * 2]
    assert float(rows[3]["mean"]) == comparison.differences[0].mean
    assert (rows[2]["low"], rows[4]["p_holm"]) == ("", "")
    assert "wave_qfe_20260101_000003_abcd1234 does not count: failed" in rows[2]["notes"]


@pytest.mark.parametrize("form", ["table", "markdown", "latex", "csv", "json"])
def test_the_same_runs_give_the_same_text(runs: ResultsAggregator, form: str) -> None:
    twice = [
        tables.render_comparisons([made_comparison(runs.groups())], form, runs.left_out)
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert twice[0].endswith("\n")


def test_problems_of_runs_that_do_not_count_are_listed_too(tmp_path: Path) -> None:
    path = make_run(tmp_path)
    (path / "results.json").write_text("{")
    text = tables.render_comparisons(
        [made_comparison(ResultsAggregator([tmp_path], index=False).groups())], "table"
    )
    assert f"problems:\n  {path.name}: results.json is not valid JSON" in text


def test_runs_line_by_line(runs: ResultsAggregator) -> None:
    text = tables.render_runs(runs.runs, ["val_bpb", "tokens"], "final", "table", runs.left_out)
    lines = text.splitlines()
    assert lines[1].split() == ["run", "status", "seed", "steps", "val_bpb", "tokens", "train_s"]
    assert lines[2].split() == [
        "classic_20260101_000001_abcd1234",
        "completed",
        "1",
        "100",
        "2.5000",
        "76800",
        "7.7",
    ]
    rows = list(
        csv.DictReader(io.StringIO(tables.render_runs(runs.runs, ["val_bpb"], "best", "csv")))
    )
    assert [float(row["val_bpb"]) for row in rows] == [
        run.value("val_bpb", "best") for run in runs.runs
    ]
    assert (
        json.loads(tables.render_runs(runs.runs, ["val_bpb"], "final", "json"))["runs"][8]["status"]
        == "failed"
    )


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ([2.5, 2.25], 4),
        ([123.4], 2),
        ([827_776.0], 0),
        ([0.001], 7),
        ([0.0], 1),
        ([float("nan")], 4),
        ([], 4),
    ],
)
def test_digits(values: list[float], digits: int) -> None:
    assert decimals(values) == digits


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert number_text(-0.00001, 4, signed=True) == "0.0000"
    assert number_text(0.0001, 4, signed=True) == "+0.0001"
    assert number_text(float("nan"), 4) == "nan"
    assert number_text(None, 4) == "-"
