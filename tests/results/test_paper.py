"""Papers and reports from run directories: their contents, their repetition, and the detection of
tampering."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from spectral_exp.commands import paper as paper_command
from spectral_exp.commands import report as report_command
from spectral_exp.core.json_files import read_json, write_json_atomic
from spectral_exp.monitoring import SpectraLogger
from spectral_exp.plots.theme import LIGHT, new_figure
from spectral_exp.results import figures
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.figures.plot import Plot
from spectral_exp.results.paper import Choices, PaperGenerator
from spectral_exp.results.paper.run_spectra import run_spectra
from spectral_exp.results.paper.run_system import run_system
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.marks import update_marks
from tests.results.made_runs import make_run
from tests.results.test_paper_text import check_latex

pytest.importorskip("latex2mathml")

BPB = {"classic": 2.72, "classic_rotary": 2.59, "wave_qfe": 2.74}
SPREAD = (0.0, 0.011, -0.009, 0.004)


def make_runs(folder: Path, seeds: int = 4) -> Path:
    for name, bpb in BPB.items():
        for seed in range(1, seeds + 1):
            # Noise of its own for each run, so that differences have a spread.
            noise = SPREAD[seed - 1] + 0.006 * ((seed * len(name)) % 3)
            make_run(folder, name, seed, val_bpb=bpb + noise)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_figure() -> Iterator[None]:
    """Figures have tests of their own: one without words, which cost the most, is enough here."""

    def draw() -> Figure:
        figure = new_figure(LIGHT, 1.0)
        figure.set_layout_engine("none")
        figure.add_axes((0, 0, 1, 1), xticks=[], yticks=[]).plot([1, 2])
        return figure

    with pytest.MonkeyPatch.context() as patch:
        plot = Plot("intervals", "A mean of 3 and more.", LIGHT, draw)
        patch.setattr(figures, "comparison_plots", lambda comparison, **options: [("values", plot)])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `outputs` (runs) and `paper` (all formats)."""
    folder = tmp_path_factory.mktemp("made")
    make_runs(folder / "outputs")
    formats = "md,html,tex,pdf" if has_typst() else "md,html,tex"
    assert run(folder / "outputs", "--output", folder / "paper", "--formats", formats) == 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt; without the PDF, which takes the longest to check."""
    shutil.copytree(made, tmp_path / "made")
    record = read_json(tmp_path / "made/paper/provenance.json")
    record["formats"] = [name for name in record["formats"] if name != "pdf"]
    record["files"].pop("paper.pdf", None)
    write_json_atomic(tmp_path / "made/paper/provenance.json", record)
    return tmp_path / "made"


def has_typst() -> bool:
    try:
        import typst  # noqa: F401
    except ImportError:
        return False
    return True


def run(*arguments: object) -> int:
    return paper_command.main([str(argument) for argument in arguments])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def numbers(folder: Path) -> list[dict[str, Any]]:
    found = read_json(folder / "provenance.json")["numbers"]
    assert isinstance(found, list)
    return found


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "paper", tmp_path / "paper")
    latex = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    for command in (latex, ["bibtex", "paper"], latex, latex):
        subprocess.run(command, cwd=tmp_path / "paper", check=True, stdout=subprocess.DEVNULL)
    log = (tmp_path / "paper/paper.log").read_text(errors="replace")
    assert not re.search("undefined|multiply|LaTeX Error", log), log


# --- contents -------------------------------------------------------------------------------------


def test_the_abstract_claims_only_separated_differences(made: Path) -> None:
    text = (made / "paper/paper.md").read_text()
    abstract = text[text.index("## Abstract") : text.index("## 1 Introduction")]
    assert "Better than it, and separated from it, is: `classic_rotary` (\u22120.1" in abstract
    assert "wave_qfe" in abstract
    assert re.search(r"Not separated: `wave_qfe`|Worse, and separated, is: `wave_qfe`", abstract)


def test_with_two_seeds_nothing_is_claimed(tmp_path: Path) -> None:
    make_runs(tmp_path / "outputs", seeds=2)
    assert run(tmp_path / "outputs", "--output", tmp_path / "paper", "--formats", "md") == 0
    text = (tmp_path / "paper/paper.md").read_text()
    assert "an interval needs: nothing is claimed." in text
    assert "**+" not in text, "bold means separated"
    assert "**\u2212" not in text


def test_the_method_describes_the_components_in_use_alone(made: Path) -> None:
    text = (made / "paper/paper.md").read_text()
    for used in (
        "*Rotary*",
        "*Interference*",
        "*Wave packets*",
        "*AdamW*",
        "*Quantum field entanglement*",
    ):
        assert used in text
    for unused in ("*Phasor*", "*Pure wave*", "*Resonant gradient descent*"):
        assert unused not in text
    assert "Charikar" not in text, "cited only where a vocabulary is projected"


def test_a_seed_that_was_run_twice_is_commanded_once(tmp_path: Path) -> None:
    for seed in (1, 1, 2, 3):
        make_run(tmp_path / "outputs", "classic", seed)
    assert run(tmp_path / "outputs", "--output", tmp_path / "paper", "--formats", "md") == 0
    assert "seed=1,2,3\n" in (tmp_path / "paper/paper.md").read_text()


def test_every_number_has_a_source_and_is_in_every_format(made: Path) -> None:
    entries = numbers(made / "paper")
    page, tex = (made / "paper/paper.html").read_text(), (made / "paper/paper.tex").read_text()
    assert len(entries) > 100
    assert [entry["id"] for entry in entries] == [f"n{i}" for i in range(1, len(entries) + 1)]
    for entry in entries:
        assert entry["runs"], entry
        assert entry["config_hashes"], entry
        assert f'id="{entry["id"]}"' in page
        assert f"\\measured{{{entry['id']}}}" in tex
    mean = next(entry for entry in entries if entry["where"] == "Table 4, classic: mean")
    assert (mean["metric"], mean["at"], mean["steps"]) == ("val_bpb", "final", [100])
    runs = {item["number"]: item for item in read_json(made / "paper/provenance.json")["runs"]}
    values = [final_value(made / "paper" / runs[number]["path"]) for number in mean["runs"]]
    assert mean["value"] == pytest.approx(sum(values) / len(values), abs=1e-12)
    tooltip = re.search(rf'id="{mean["id"]}" href="#p\d+" title="([^"]*)"', page)
    assert tooltip
    assert runs[mean["runs"][0]]["run_id"] in tooltip[1]


def final_value(root: Path) -> float:
    return float(read_json(RunPaths(root).results_file)["final_metrics"]["val_bpb"])


def test_the_html_needs_nothing_else(made: Path) -> None:
    page = (made / "paper/paper.html").read_text()
    assert "<svg" in page
    assert "<math" in page
    assert not re.search(r"<script|<link|<img|src=|@import|url\(http", page)
    targets = re.findall(r'(?<!xlink:)href="#([^"]+)"', page)
    assert set(targets) <= set(re.findall(r'id="([^"]+)"', page))


def test_the_latex_is_balanced_and_finds_its_files(made: Path) -> None:
    text = (made / "paper/paper.tex").read_text()
    check_latex(text)
    for name in re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", text):
        assert (made / "paper" / name).read_bytes().startswith(b"%PDF")
    works = (made / "paper/references.bib").read_text()
    cited = {key for group in re.findall(r"\\cite\{([^}]*)\}", text) for key in group.split(",")}
    assert cited == set(re.findall(r"@\w+\{(\w+),", works))


def test_the_same_runs_give_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "outputs", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    assert (
        run("outputs", "--formats", ",".join(read_json(made / "paper/provenance.json")["formats"]))
        == 0
    )
    first = {
        path.relative_to(made): path.read_bytes()
        for path in sorted((made / "paper").rglob("*"))
        if path.is_file()
    }
    for name, content in first.items():
        assert (tmp_path / name).read_bytes() == content, name


def test_unfinished_and_broken_runs_are_named(tmp_path: Path) -> None:
    make_runs(tmp_path / "outputs", seeds=3)
    killed = make_run(tmp_path / "outputs", "classic", 7, status=None)
    broken = make_run(tmp_path / "outputs", "classic", 8)
    RunPaths(broken).config_file.write_text("{")
    assert run(tmp_path / "outputs", "--output", tmp_path / "paper", "--formats", "md") == 0
    text = (tmp_path / "paper/paper.md").read_text()
    assert f"`{killed.name}` does not count: unfinished" in text
    assert broken.name in text


# --- the author -----------------------------------------------------------------------------------


def test_notes_are_merged_and_survive_regeneration(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = copy / "my.md"
    notes.write_text(
        "## discussion\nThe mean of {{mean classic}} is *ours* [@welch1947].\n\n##"
        " conclusion\nDone.\n"
    )
    arguments = (copy / "outputs", "--output", copy / "paper", "--formats", "md,tex")
    assert run(*arguments, "--notes", notes) == 0
    assert run(*arguments) == 0
    text = (copy / "paper/paper.md").read_text()
    mean = next(
        entry["shown"]
        for entry in numbers(copy / "paper")
        if entry["where"] == "Table 4, classic: mean"
    )
    assert f"The mean of {mean} is *ours* [" in text
    assert "Conclusion\n\nDone." in text
    assert "Generalization of" in text, "a work cited by the author alone"
    notes.unlink()
    assert run(*arguments) == 0
    assert "Done." in (copy / "paper/paper.md").read_text()
    assert run(*arguments, "--notes", "none") == 0
    assert "Done." not in (copy / "paper/paper.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("[#tab:mean]", "did you mean tab:means?"),
        ("[@welch1974]", "did you mean welch1947?"),
        ("$\\alhpa$", "did you mean alpha?"),
        ("{{mean clasic}}", "did you mean mean classic?"),
    ],
)
def test_mistakes_in_the_authors_text_write_nothing(
    made: Path, tmp_path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.md").write_text(f"## discussion\n{words}\n")
    arguments = (
        "--output",
        tmp_path / "paper",
        "--formats",
        "md",
        "--notes",
        tmp_path / "notes.md",
    )
    assert run(made / "outputs", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "paper").exists()


def test_nothing_of_the_authors_is_lost(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (copy / "outputs", "--output", copy / "paper", "--formats", "md")
    (copy / "paper/letter.md").write_text("mine")
    edit(copy / "paper/paper.md", "Holm's correction", "the correction of Holm")
    assert run(*arguments) == 2
    assert "paper.md in" in capsys.readouterr().err
    assert "the correction of Holm" in (copy / "paper/paper.md").read_text()
    assert run(*arguments, "--force") == 0
    assert "the correction of Holm" not in (copy / "paper/paper.md").read_text()
    assert (copy / "paper/letter.md").read_text() == "mine"
    assert not (copy / "paper/paper.html").exists(), (
        "a file of ours that is no longer part of the paper"
    )
    (copy / "other").mkdir()
    (copy / "other/paper.md").write_text("mine")
    assert run(copy / "outputs", "--output", copy / "other", "--formats", "md") == 2
    assert "was not written by this command" in capsys.readouterr().err
    assert [path.name for path in (copy / "other").iterdir()] == ["paper.md"]


def test_a_write_that_was_cut_off_can_be_done_again(copy: Path) -> None:
    record = read_json(copy / "paper/provenance.json")
    edit(copy / "paper/paper.md", "Holm", "Bonferroni")
    # As if killed after the new record went in and before the files did.
    old = {name: digest for name, digest in record["files"].items() if name != "paper.md"}
    write_json_atomic(
        copy / "paper/provenance.json", {**record, "replaces": {**old, "paper.md": sha(copy)}}
    )
    assert run(copy / "outputs", "--output", copy / "paper", "--formats", "md") == 0
    assert run(copy / "paper", "--verify") == 0
    assert "replaces" not in read_json(copy / "paper/provenance.json")


def sha(copy: Path) -> str:
    import hashlib

    return hashlib.sha256((copy / "paper/paper.md").read_bytes()).hexdigest()


def test_without_typst_the_other_formats_are_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "typst", None)
    assert run(made / "outputs", "--output", tmp_path / "paper", "--formats", "md,pdf") == 0
    assert "pip install 'spectral-exp[paper]'" in capsys.readouterr().err
    assert (tmp_path / "paper/paper.md").exists()
    assert not (tmp_path / "paper/paper.pdf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere"),
        (["outputs", "--metric", "val_bbp"], "did you mean val_bpb?"),
        (["outputs", "--baseline", "clasic"], "did you mean classic?"),
        (["outputs", "--formats", "docx"], "formats=docx must be among md, html, pdf, tex"),
        (["outputs", "--where", "name=none"], "there is no run that meets name=none"),
        (["outputs", "--notes", "absent.md"], "cannot read the notes absent.md"),
        (["outputs", "--verify"], "holds no provenance.json"),
        (["outputs", "--runs", "outputs"], "without --verify"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(made)
    assert run(*arguments, *(["--output", "new"] if "--verify" not in arguments else [])) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (made / "new").exists()


# --- verification ---------------------------------------------------------------------------------


def test_an_unchanged_paper_holds(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made / "paper", "--verify") == 0
    assert (
        f"{len(numbers(made / 'paper')):,} numbers recomputed from the runs, all equal"
        in capsys.readouterr().out
    )


def test_it_holds_after_a_move_together_and_apart(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = copy.rename(copy.with_name("moved"))
    monkeypatch.chdir(moved / "paper")
    assert run(".", "--verify") == 0
    (moved / "outputs").rename(moved / "archive")
    assert run(".", "--verify") == 1
    assert "name its folder with --runs" in capsys.readouterr().out
    assert run(".", "--verify", "--runs", moved / "archive") == 0


def test_a_changed_run_is_found_with_the_numbers_it_changes(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = sorted((copy / "outputs").glob("classic_2*"))[0]
    results = read_json(RunPaths(changed).results_file)
    results["final_metrics"]["val_bpb"] += 0.05
    write_json_atomic(RunPaths(changed).results_file, results)
    assert run(copy / "paper", "--verify") == 1
    printed = capsys.readouterr().out
    assert f"run {changed.name} has changed since: results.json" in printed
    assert re.search(
        r"Table 4, classic: mean: 2\.\d+ on record, 2\.\d+ from the runs|and \d+ more", printed
    )


def test_a_vanished_run_is_named_with_its_numbers(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = sorted((copy / "outputs").glob("wave_*"))[1]
    shutil.rmtree(gone)
    assert run(copy / "paper", "--verify") == 1
    printed = capsys.readouterr().out
    assert f"run {gone.name} has vanished" in printed
    assert f"numbers rest on {gone.name}" in printed


@pytest.mark.parametrize("name", ["paper.md", "paper.html", "paper.tex"])
def test_an_edited_number_is_named(
    copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = next(
        entry for entry in numbers(copy / "paper") if entry["where"] == "Table 4, classic: mean"
    )
    path = copy / "paper" / name
    text = path.read_text()
    at = text.index(
        entry["shown"],
        text.index(f'id="{entry["id"]}"') if name.endswith("html") else text.index("Results"),
    )
    if name == "paper.md":
        at = text.index(entry["shown"], text.index("| Configuration | n | mean |"))
    path.write_text(text[:at] + "2.0001" + text[at + len(entry["shown"]) :])
    assert run(copy / "paper", "--verify") == 1
    printed = capsys.readouterr().out
    if name == "paper.tex":
        assert f"{name}, line" in printed
    else:
        assert f"Table 4, classic: mean: should be {entry['shown']}; found 2.0001" in printed


def test_an_edited_number_is_found_and_an_edited_word_is_noted(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "paper/paper.md"
    edit(path, "nothing about which differences", "little about which differences")
    assert run(copy / "paper", "--verify") == 0
    assert "paper.md was edited in 1 place, no number among them" in capsys.readouterr().out
    path.write_text(path.read_text() + "\nWe beat it by 22 %.\n")
    assert run(copy / "paper", "--verify") == 1
    assert "stands there that no run gave; found 22" in capsys.readouterr().out


def test_a_forged_record_does_not_help(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = copy / "paper/provenance.json"
    content = json.loads(record.read_text())
    entry = next(
        entry for entry in content["numbers"] if entry["where"] == "Table 4, classic: mean"
    )
    entry["value"], entry["shown"] = 2.0, "2.0000"
    write_json_atomic(record, content)
    assert run(copy / "paper", "--verify") == 1
    assert "Table 4, classic: mean: 2.0000 on record" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["figures/intervals.svg", "paper.pdf"])
def test_a_replaced_drawing_or_pdf_is_found(
    made: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = made / "paper" / name
    if not path.exists():
        pytest.skip("typst is not installed")
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b"0", b"1", 1))
        assert run(made / "paper", "--verify") == 1
        assert f"{name} is not what the runs give" in capsys.readouterr().out
    finally:
        path.write_bytes(before)


def test_an_edited_file_of_other_code_cannot_be_recognized(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = copy / "paper/provenance.json"
    content = json.loads(record.read_text())
    content["made_by"]["writer"] = "0"
    write_json_atomic(record, content)
    assert run(copy / "paper", "--verify") == 0
    edit(copy / "paper/paper.md", "Abstract", "Summary")
    assert run(copy / "paper", "--verify") == 2
    assert (
        "not verified: paper.md was edited, and was written by other code"
        in capsys.readouterr().out
    )


# --- one run --------------------------------------------------------------------------------------


def test_the_report_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_run(tmp_path / "outputs", "wave", 3)
    assert report_command.main([str(root), "--formats", "md,html"]) == 0
    text = (root / "report/report.md").read_text()
    for words in (
        "| `val_bpb` | 2.5 | 100 |",
        "resume=outputs/",
        "Training text is",
        "*Interference*",
        "drew none",
    ):
        assert words in text
    assert "Inside" not in text
    edit(root / "report/report.md", "drew none", "drew nothing")
    assert run(root / "report", "--verify") == 0
    assert "report.md was edited in 1 place" in capsys.readouterr().out


def test_a_report_shows_the_spectra(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_run(tmp_path / "outputs", "wave", 3)
    logger = SpectraLogger(root / "logs", 10)
    for step in (10, 20):
        logger.observe(step, torch.nn.Linear(3, 3))
    logger.close()
    assert report_command.main([str(root), "--formats", "md"]) == 0
    assert "Inside the model over the steps" in (root / "report/report.md").read_text()
    assert (root / "report/figures/spectra.png").read_bytes().startswith(b"\x89PNG")
    logger.spectra_file.unlink()
    logger.spectra_file.mkdir()
    (run,) = ResultsAggregator([root]).runs
    assert run_spectra(run) is None
    assert "Is a directory; the report lacks the spectra" in caplog.text


def test_a_report_shows_the_machine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_run(tmp_path / "outputs", "wave", 3)
    file = RunPaths(root).system_file
    line = '{"step": 1, "timestamp": "2026-01-01T0%d:00:00+00:00", "system/cpu_percent": 50, %s}\n'
    names = '"gpu/0/power_w": 300, "gpu/%s/power_w": 1, "gpu/memory_mb": 1' % ("\\u001b" * 999)
    file.write_text("".join(line % (hour, names) for hour in range(3)))
    assert report_command.main([str(root), "--formats", "md"]) == 0
    assert "The machine over the time of the run" in (root / "report/report.md").read_text()
    assert (root / "report/figures/system.png").read_bytes().startswith(b"\x89PNG")
    file.unlink()
    file.mkdir()
    (run,) = ResultsAggregator([root]).runs
    assert run_system(run) is None
    assert "Is a directory; the report lacks the system metrics" in caplog.text


@pytest.mark.parametrize("missing", ["results", "metrics", "both"])
def test_the_report_of_a_run_that_has_hardly_begun(tmp_path: Path, missing: str) -> None:
    root = make_run(
        tmp_path / "outputs", "wave", 3, status=None if missing != "metrics" else "completed"
    )
    if missing != "results":
        RunPaths(root).metrics_file.unlink()
    assert (
        report_command.main([str(root), "--output", str(tmp_path / "out"), "--formats", "md"]) == 0
    )
    text = (tmp_path / "out/report.md").read_text()
    assert "There is no data for this section: " in text


def test_archived_runs_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = make_runs(tmp_path / "outputs")
    first, second = sorted(outputs.glob("classic_2*"))[:2]
    for path in (first, second):
        update_marks(path, {"archived": True, "tags": ["bad"]})
    write = (outputs, "--output", tmp_path / "paper", "--formats", "md")
    assert run(*write) == 0
    assert "2 archived runs are left out; --archived includes them" in capsys.readouterr().err
    text = (tmp_path / "paper/paper.md").read_text()
    assert f"Archived runs are left out: `{first.name}` and `{second.name}`." in text
    record = read_json(tmp_path / "paper/provenance.json")
    assert len(record["runs"]) == 10
    assert [first.name, "archived"] in record["left_out"]
    # Marks may change later, and even break: the paper holds.
    update_marks(first, {"archived": False})
    for path in outputs.iterdir():
        update_marks(path, {"archived": path != second, "note": "new"})
    (next(outputs.glob("wave*")) / "notes.json").write_text('{"tags": 12345}')
    assert run("--verify", tmp_path / "paper") == 0
    assert run(*write, "--archived") == 0
    assert "rchived" not in (tmp_path / "paper/paper.md").read_text() + capsys.readouterr().err
    assert run(*write, "--where", "tag=bad", "--archived") == 0
    assert "Only runs with `tag=bad` were taken" in (tmp_path / "paper/paper.md").read_text()
    assert run("--verify", tmp_path / "paper") == 0
    assert run(*write, "--where", "tag=good") == 2
    assert "there is no run that meets tag=good" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_ignores_marks(made: Path, tmp_path: Path) -> None:
    path = shutil.copytree(next((made / "outputs").iterdir()), tmp_path / "run")
    write = [str(path), "--output", str(tmp_path / "out"), "--formats", "md"]
    assert report_command.main(write) == 0
    (path / "notes.json").write_text('{"archived": true, "note": 1, "tags": ["a,b"]}')
    assert run("--verify", tmp_path / "out") == 0


def test_a_report_is_of_one_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_command.main([str(made / "outputs"), "--output", str(made / "none")]) == 2
    assert "holds 12 runs; name the directory of one" in capsys.readouterr().err


def test_the_example_of_the_class(made: Path, tmp_path: Path) -> None:
    choices = Choices(baseline="classic", where=("status=completed",))
    written = PaperGenerator([made / "outputs"], choices).write(tmp_path / "paper", formats=("md",))
    assert not written.missing
    assert {path.name for path in written.files} >= {"paper.md", "provenance.json"}
    assert (
        "Only runs with `status=completed` were taken" in (tmp_path / "paper/paper.md").read_text()
    )
