"""Every number of the page is the one that `compare` prints for the same question."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectral_exp.commands import compare as compare_command
from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.dashboard import groups as groups_module
from spectral_exp.monitoring import ConfigTracker, MetricsLogger, open_experiment
from spectral_exp.runs.layout import RunPaths
from tests.dashboard.served import Dashboard, log_values, owned
from tests.results.made_runs import make_run

BPB = {"classic": 2.5, "wave": 2.46, "phasor": 2.49}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experiments of four seeds, one with two learning rates, and runs that do not count."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(3)
    for name, bpb in BPB.items():
        for seed in range(1, 5):
            make_run(folder, name, seed, val_bpb=bpb + 0.01 * rng.standard_normal())
    for seed in (1, 2):
        settings = {"optimizer.learning_rate": 3e-3}
        make_run(folder, "wave", seed + 10, val_bpb=2.6, settings=settings)
    make_run(folder, "wave", 5, status="failed")
    make_run(folder, "phasor", 6, status=None)
    return folder


@pytest.fixture(scope="module")
def dashboard(folder: Path) -> Dashboard:
    return Dashboard(folder)


def printed(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> str:
    """What `spectral-exp compare` prints."""
    assert compare_command.main([str(folder), "--no-index", *options]) == 0
    return capsys.readouterr().out


def test_many_groups_are_named_before_they_are_compared(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dashboard.json("/api/groups")
    assert dashboard.json("/api/groups", quick="1") == whole
    monkeypatch.setattr(groups_module, "_MAX_COMPARED_AT_ONCE", 3)
    outline = dashboard.json("/api/groups", quick="1")
    assert (whole["is_outline"], outline["is_outline"]) == (False, True)
    for name in ("id", "label", "n", "status", "settings", "color"):
        values = [{row["id"]: row[name] for row in found["rows"]} for found in (whole, outline)]
        assert values[0] == values[1]
    assert all(row["value"]["value"] is None for row in outline["rows"])
    assert dashboard.json("/api/groups") == whole


@pytest.mark.parametrize(
    ("logged", "metric", "unit"),
    [
        ({"loss": 0.5}, "loss", "loss (mean squared error)"),
        ({"loss": 0.5, "val_loss": 0.6}, "val_loss", "loss (mean squared error)"),
        ({"loss": 0.5, "val/accuracy": 0.9}, "val/accuracy", "value"),
        ({"generator/loss": 0.5}, "generator/loss", "value"),
        ({"psnr": 30.0, "learning_rate": 0.1}, "psnr", "dB"),
    ],
)
def test_own_loops_are_compared_in_a_metric_that_they_have(
    logged: dict[str, float], metric: str, unit: str, tmp_path: Path
) -> None:
    for seed in (1, 2):
        dirs = open_experiment(tmp_path, "mine", {"seed": seed})
        tracker = ConfigTracker(dirs["root"])
        tracker.save_config({"seed": seed}, units={"loss": "mean squared error", "psnr": "dB"})
        with MetricsLogger(dirs["logs"], log_interval=1) as metrics:
            for step in (1, 2):
                metrics.log_metrics(step, logged)
        tracker.save_results(logged)
    answer = Dashboard(tmp_path).json("/api/groups")
    assert (answer["metric"]["name"], answer["metric"]["unit"]) == (metric, unit)
    assert answer["problem"] is None
    assert [row["n"] for row in answer["rows"]] == [2]
    assert metric in answer["command"]


VIEWS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"metric": "val_loss", "at": "best"}, ["--metric", "val_loss", "--at", "best"]),
    ({"metric": "loss", "at": "step:55"}, ["--metric", "loss", "--at", "step:55"]),
    ({"metric": "tokens_per_s"}, ["--metric", "tokens_per_s"]),
    (
        {"where": ["name=wave,phasor", "seed<4"]},
        ["--where", "name=wave,phasor", "--where", "seed<4"],
    ),
    ({"group_by": "optimizer"}, ["--group-by", "optimizer"]),
    ({"baseline": "phasor"}, ["--baseline", "phasor"]),
]


@pytest.mark.parametrize(("view", "options"), VIEWS)
def test_the_table_of_groups_is_the_comparison(
    dashboard: Dashboard,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    view: dict[str, Any],
    options: list[str],
) -> None:
    answer = dashboard.json("/api/groups", **view)
    (expected,) = json.loads(printed(capsys, folder, *options, "--format", "json"))["comparisons"]
    text = printed(capsys, folder, *options)
    assert (answer["baseline"], answer["notes"]) == (expected["baseline"], expected["notes"])
    rows = {row["label"]: row for row in answer["rows"]}
    assert list(rows) == [group["label"] for group in expected["groups"]]
    groups = {group["label"]: group for group in expected["groups"]}
    assert rows.keys() == groups.keys()
    to_baseline = {d["b"]: d for d in expected["differences"] if d["kind"] == "baseline"}
    for label, row in rows.items():
        group, value = groups[label], row["value"]
        bounds = [value["low"], value["high"]] if group["interval"] else None
        assert (value["value"], bounds) == (group["mean"], group["interval"])
        assert (row["n_used"], row["n"]) == (group["n"], len(group["runs"]))
        assert sorted(value["source"]["runs"]) == sorted(
            run["run_id"]
            for run in group["runs"]
            if run["run_id"] not in {one["run_id"] for one in group["left_out"]}
        )
        assert f" {value['text']} " in text.replace("\n", " ")
        assert value["interval_text"] in text
        check_difference(row["difference"], to_baseline.get(label), text)
    ablations = [one for row in answer["rows"] for one in row["ablations"]]
    assert len(ablations) == len(expected["differences"]) - len(to_baseline)


def check_difference(found: Any, expected: Any, text: str) -> None:
    if expected is None:
        assert found is None
        return
    names = ("separated", "better", "paired", "n", "p_value", "p_holm")
    assert [found[name] for name in names] == [expected[name] for name in names]
    bounds = [found["low"], found["high"]] if expected["interval"] else None
    assert (found["value"], bounds) == (expected["mean"], expected["interval"])
    chance = found["probability_of_improvement"]
    assert chance["value"] == expected["probability_of_improvement"]
    for shown in (found["text"], found["interval_text"], found["verdict"], found["p_text"]):
        assert shown in text


@pytest.mark.parametrize("form", ["csv", "json", "markdown", "latex", "table"])
def test_a_comparison_can_be_taken_along(
    dashboard: Dashboard, folder: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    found = dashboard.get("/api/groups", format=form).text
    assert found == printed(capsys, folder, "--format", form)


def test_the_command_prints_the_same_comparison(dashboard: Dashboard, folder: Path) -> None:
    view = {"where": "name=wave*,classic", "metric": "val_loss", "baseline": "classic"}
    command = dashboard.json("/api/groups", **view)["command"]
    assert command == (
        f"spectral-exp compare {folder} --where 'name=wave*,classic' --metric val_loss "
        "--baseline classic"
    )


def ids(dashboard: Dashboard) -> dict[str, str]:
    return {row["label"]: row["id"] for row in dashboard.json("/api/groups")["rows"]}


def test_ids_of_groups_do_not_depend_on_the_view(dashboard: Dashboard) -> None:
    of_all = {row["id"] for row in dashboard.json("/api/groups")["rows"]}
    for view in ({"metric": "loss"}, {"at": "best"}, {"where": "name=wave"}):
        assert {row["id"] for row in dashboard.json("/api/groups", **view)["rows"]} <= of_all


def test_chosen_groups_are_compared_alone(
    dashboard: Dashboard, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ids(dashboard)
    chosen = ",".join((known["classic"], known["phasor"]))
    answer = dashboard.json("/api/compare", groups=chosen)
    text = printed(capsys, folder, "--where", "name=classic,phasor")
    for table in answer["tables"]:
        assert table["title"] in text
        for row in table["rows"]:
            words = " ".join(cell["text"] for cell in row)
            assert words in " ".join(text.split())
    assert dashboard.client.get("/api/compare?groups=nothing").status_code == 400


def test_the_difference_over_steps_is_that_of_each_step(
    dashboard: Dashboard, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ids(dashboard)
    chosen = {"a": known["classic"], "b": known["phasor"], "metric": "val_bpb"}
    answer = dashboard.json("/api/difference", **chosen)
    assert answer["steps"] == [50, 100]
    for place, step in enumerate(answer["steps"]):
        options = ("--at", f"step:{step}", "--baseline", "classic")
        text = printed(
            capsys, folder, "--where", "name=classic,phasor", *options, "--format", "json"
        )
        (expected,) = json.loads(text)["comparisons"][0]["differences"][:1]
        for name in ("mean", "n", "separated", "p_value", "paired"):
            assert answer[name][place] == expected[name]
        assert [answer["low"][place], answer["high"][place]] == expected["interval"]


def test_a_band_has_the_intervals_of_a_comparison(
    dashboard: Dashboard, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ids(dashboard)
    header, (band,) = dashboard.frame("/api/band", groups=known["classic"], metric="val_bpb")
    assert (list(band["x"]), list(band["n"])) == ([50, 100], [4, 4])
    options = ("--where", "name=classic", "--at", "step:50", "--format", "json")
    (group,) = json.loads(printed(capsys, folder, *options))["comparisons"][0]["groups"]
    assert band["mean"][0] == pytest.approx(group["mean"], rel=1e-14)
    assert [band["low"][0], band["high"][0]] == pytest.approx(group["interval"], rel=1e-13)
    assert (header["series"][0]["n_runs"], header["series"][0]["label"]) == (4, "classic")
    _, (ranges,) = dashboard.frame(
        "/api/band", groups=known["classic"], metric="val_bpb", band="range"
    )
    assert [ranges["low"][0], ranges["high"][0]] == [min(group["values"]), max(group["values"])]


def test_a_spike_of_one_seed_is_in_curve_and_band(tmp_path: Path) -> None:
    values = np.linspace(3.0, 2.0, 30_000)
    for seed in range(3):
        run = make_run(tmp_path, "classic", seed, status=None)
        spiked = values.copy()
        if seed == 1:
            spiked[[17_283, 100, 101]] = [99.0, np.nan, np.inf]
        log_values(run, list(spiked))
    dashboard = Dashboard(tmp_path)
    (group,) = ids(dashboard).values()
    for kind in ("interval", "range"):
        _, (band,) = dashboard.frame("/api/band", groups=group, metric="loss", bins=100, band=kind)
        assert (len(band["x"]), np.nanmax(band["max"])) == (100, 99.0)
        assert (band["nan"].sum(), band["posinf"].sum()) == (1, 1)
    keys = [row["key"] for row in dashboard.rows().values()]
    header, curves = dashboard.frame("/api/curves", runs=",".join(keys), metric="loss", bins=100)
    assert max(np.nanmax(curve["max"]) for curve in curves) == 99.0
    assert sum(series["nan"] for series in header["series"]) == 1
    for low, high in ((17_284, 17_284), (17_000, 17_284), (17_284, 30_000)):
        _, curves = dashboard.frame(
            "/api/curves", runs=",".join(keys), metric="loss", bins=10, lo=low, hi=high
        )
        assert max(np.nanmax(curve["y" if "y" in curve else "max"]) for curve in curves) == 99.0


def test_a_window_knows_its_neighbours(tmp_path: Path) -> None:
    run = make_run(tmp_path, status=None)
    log_values(run, [5.0, math.nan, 4.0, 3.0, math.nan, 2.0])
    dashboard = Dashboard(tmp_path)
    header, (curve,) = dashboard.frame(
        "/api/curves", runs=dashboard.key(run), metric="loss", lo=3, hi=4
    )
    (series,) = header["series"]
    assert (list(curve["x"]), list(curve["y"])) == ([3, 4], [4, 3])
    assert (series["before"], series["after"]) == ([1, 5], [6, 2])
    assert (header["extent"], header["window"]) == ([1, 6], [3, 4])


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("step", [10, 20, 30]),
        ("relative", [0.1, 0.2, 0.3]),
        ("tokens", [7680, 15360, 23040]),
        ("train_s", [0.768, 1.536, 2.304]),
        ("wall_s", [10, 20, 30]),
        ("learning_rate", [1e-3, 1e-3, 1e-3]),
    ],
)
def test_axes(dashboard: Dashboard, axis: str, expected: list[float]) -> None:
    key = next(row["key"] for row in dashboard.rows().values() if row["name"] == "classic")
    _, (curve,) = dashboard.frame("/api/curves", runs=key, metric="loss", x=axis)
    assert list(curve["x"][:3]) == pytest.approx(expected)
    assert len(curve["x"]) == 10


def test_curves_as_csv_hold_every_point(tmp_path: Path) -> None:
    run = make_run(tmp_path, status=None)
    values = [1 / 3, math.inf, *np.linspace(0, 1, 45_000)]
    log_values(run, values)
    dashboard = Dashboard(tmp_path)
    text = dashboard.get("/api/curves.csv", runs=dashboard.key(run), metric="loss").text
    header, *lines = text.splitlines()
    assert header == '"run_id","step","loss"'
    assert [float(line.rpartition(",")[2]) for line in lines] == values
    assert lines[0] == f'"{run.name}",1.0,{1 / 3!r}'


def test_the_page_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "wave", 3, record={"overrides": ["+experiment=wave", "seed=3"]})
    dashboard = Dashboard(tmp_path)
    details = dashboard.json(f"/api/run/{dashboard.key(run)}")
    settings = {one["name"]: one for one in details["settings"]}
    assert (settings["seed"]["value"], settings["seed"]["overridden"]) == ("3", True)
    assert not settings["model.n_embd"]["overridden"]
    assert not details["has_defaults"]
    metrics = {one["name"]: one for one in details["metrics"]}
    assert (metrics["val_bpb"]["last"], metrics["val_bpb"]["last_step"]) == ("2.5000", 100)
    assert details["data"]["vocab_size"] == 256
    assert {"label": "training", "value": 7.68, "text": "7.7 s"} in details["cost"]


def test_changed_settings_have_their_defaults(tmp_path: Path) -> None:
    changed = {"seed": {"default": 1337}, "name": {"default": None}, "model.n_embd": {}}
    run = make_run(tmp_path, "wave", 3, record={"changed_settings": {**changed, "gone": {}}})
    dashboard = Dashboard(tmp_path)
    details = dashboard.json(f"/api/run/{dashboard.key(run)}")
    assert details["has_defaults"]
    found = {one["name"]: one["default"] for one in details["settings"] if one["changed"]}
    assert found == {"seed": "1337", "name": "null", "model.n_embd": None}


@pytest.mark.parametrize(
    "damaged", [5, [], {"seed": 5}, {"seed": {"default": {"a": [1, {"\x1b": "\u202e"}]}}}]
)
def test_damaged_changed_settings_are_left_out(tmp_path: Path, damaged: Any) -> None:
    run = make_run(tmp_path, record={"changed_settings": damaged})
    dashboard = Dashboard(tmp_path)
    details = dashboard.json(f"/api/run/{dashboard.key(run)}")
    assert all(printable_lines(text) == text for text in texts_in(details))


def test_hostile_records_are_plain_text(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>\x1b[31m\u202e\ud800"
    run = make_run(tmp_path, record={"overrides": [name], "host": {"hostname": name}})
    config = RunPaths(run).config_file
    content = json.loads(config.read_text())
    content["config"]["name"] = name
    config.write_text(json.dumps(content))
    line = {"step": 200, name: 1.0, "loss": 2.0}
    with RunPaths(run).metrics_file.open("a") as file:
        file.write(json.dumps(line) + "\n")
    results = json.loads(RunPaths(run).results_file.read_text())
    results["generation_samples"] = [{"step": 1, "text": name}, 5, {"step": "x", "text": None}]
    RunPaths(run).results_file.write_text(json.dumps(results))
    dashboard = Dashboard(tmp_path)
    key = dashboard.key(run)
    for path in ("/api/runs", "/api/groups", f"/api/run/{key}", "/api/complete"):
        found = list(texts_in(dashboard.json(path)))
        assert found
        assert all(printable_lines(text) == text for text in found)
    _, (curve,) = dashboard.frame("/api/curves", runs=key, metric="loss")
    assert curve["y"][-1] == 2.0


def texts_in(value: Any) -> Iterator[str]:
    """All texts of a JSON answer."""
    if isinstance(value, str):
        yield value
    for item in value if isinstance(value, list) else ():
        yield from texts_in(item)
    for name, item in value.items() if isinstance(value, dict) else ():
        yield name
        yield from texts_in(item)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/curves", 400),
        ("/api/curves?metric=loss&runs=unknown", 404),
        ("/api/curves?metric=loss&lo=nan", 400),
        ("/api/curves?metric=loss&lo=2&hi=1", 400),
        ("/api/curves?metric=loss&bins=0", 400),
        ("/api/curves?metric=loss&bins=1e9", 400),
        ("/api/curves?metric=loss&bins=٣", 400),
        ("/api/groups?where=nonsense", 400),
        ("/api/groups?where=unknown=1", 400),
        ("/api/groups?at=step:0", 400),
        ("/api/groups?baseline=nobody", 200),
        ("/api/groups?metric=unknown", 200),
        ("/api/groups?format=exe", 400),
        ("/api/difference?a=x&b=y&metric=loss", 400),
        ("/api/changes?since=-1", 400),
        ("/api/changes?watch=unknown", 200),
        ("/api/run/unknown", 404),
        ("/api/diff?a=unknown&b=unknown", 404),
        ("/api/figure/x.exe", 400),
        ("/api/complete?text=" + "x" * 5000, 400),
    ],
)
def test_wrong_questions_get_a_sentence(dashboard: Dashboard, path: str, status: int) -> None:
    answer = dashboard.client.get(path)
    assert answer.status_code == status, answer.text
    if status != 200:
        sentence = answer.json()["error"]
        assert "\n" not in sentence
        assert "Traceback" not in sentence


def test_conditions_are_completed(dashboard: Dashboard) -> None:
    names = dashboard.json("/api/complete", text="optim")["items"]
    assert names[0] == {"text": "optimizer", "runs": None}
    values = dashboard.json("/api/complete", text="name=wave,")["items"]
    assert {"text": "name=wave,phasor", "runs": 5} in values
    assert dashboard.json("/api/complete", text="unknown=")["items"] == []


def test_diff_is_that_of_config_diff(
    dashboard: Dashboard, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(dashboard.rows().values())
    one = next(row for row in rows if row["name"] == "classic")
    other = next(row for row in rows if row["name"] == "phasor")
    answer = dashboard.json("/api/diff", a=one["key"], b=other["key"])
    assert compare_command.main(["config-diff", one["path"], other["path"]]) == 1
    lines = capsys.readouterr().out.splitlines()
    expected = []
    for section in answer["sections"]:
        n = len(section["lines"])
        count = "equal" if not n else f"{n} difference{'s' if n > 1 else ''}"
        expected += [f"{section['title']}: {count}", *(f"  {line}" for line in section["lines"])]
    assert lines == expected


def test_a_running_seed_does_not_count_and_is_shown(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_run(tmp_path, "classic", seed)
    live = make_run(tmp_path, "classic", 4, status=None)
    with owned(live):
        (row,) = Dashboard(tmp_path).json("/api/groups")["rows"]
    assert (row["n"], row["n_used"], row["status"]) == (4, 3, {"completed": 3, "running": 1})
    (shown,) = [run for run in row["runs"] if not run["used"]]
    assert shown["id"] == live.name
    assert shown["value"]["text"] == "2.5000"
    assert shown["reason"] == "running at step 100 of 100"


def test_a_browser_keeps_the_files_of_the_page(dashboard: Dashboard) -> None:
    first = dashboard.get("/style.css")
    headers = {**dashboard.client.headers, "if-none-match": first.headers["etag"]}
    again = dashboard.client.get("/style.css", headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"]
    changed = {**headers, "if-none-match": '"0"'}
    assert dashboard.client.get("/style.css", headers=changed).content == first.content


def test_figures_are_drawn_in_a_helper(dashboard: Dashboard) -> None:
    answer = dashboard.json("/api/compare", figures=1)
    names = {figure["name"] for figure in answer["figures"] if not figure["is_empty"]}
    assert {"intervals_val_bpb", "differences_val_bpb_baseline"} & names
    svg = dashboard.get("/api/figure/intervals_val_bpb.svg", theme="dark")
    assert svg.headers["content-type"] == "image/svg+xml"
    assert svg.content.startswith(b"<?xml")
    pdf = dashboard.get("/api/figure/intervals_val_bpb.pdf", download=1)
    assert pdf.content.startswith(b"%PDF")
    assert dashboard.client.get("/api/figure/unknown.svg").status_code == 400
    dashboard.site.drawer.end()


def test_the_server_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys\n"
        "import spectral_exp.commands.dashboard, spectral_exp.dashboard.app\n"
        "import spectral_exp.dashboard.serving, spectral_exp.dashboard.guard\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    loaded = set(process.stdout.split())
    assert {"spectral_exp", "starlette", "uvicorn"} <= loaded
    assert not loaded & {"torch", "matplotlib", "hydra", "omegaconf", "pandas", "scipy"}


def test_a_new_score_of_a_run_is_shown(tmp_path: Path) -> None:
    """Also beside damaged lines; of very many the newest are."""
    run = make_run(tmp_path, "classic", 1)
    dashboard = Dashboard(tmp_path)
    key = dashboard.key(run)
    assert dashboard.json(f"/api/run/{key}")["evaluations"] == {"total": 0, "shown": []}
    seq = dashboard.json("/api/runs")["seq"]
    score = {"step": 7, "text": "val", "block_size": 64, "stride": 64, "loss": 1.0, "bpb": 1.5}
    lines = [json.dumps({**score, "step": step}) for step in range(300)]
    (run / "evaluations.jsonl").write_text("\n".join(["{", "[]", *lines]) + "\n")
    dashboard.refresh()
    assert [row["key"] for row in dashboard.json("/api/changes", since=seq)["runs"]] == [key]
    found = dashboard.json(f"/api/run/{key}")
    assert found["evaluations"]["total"] == 300
    assert [one["step"] for one in found["evaluations"]["shown"]] == [*range(299, 99, -1)]
    assert found["evaluations"]["shown"][0] == {
        "text": "val",
        "part": "validation",
        "step": 299,
        "block_size": 64,
        "stride": 64,
        "windows": None,
        "tokens": None,
        "saved_s": None,
        "standard_error_bpb": "-",
        "bpb": "1.5000",
        "loss": "1.0000",
        "perplexity": "-",
    }
    assert any("evaluations.jsonl" in problem for problem in found["problems"])
    table = dashboard.json("/api/groups", metric="bpb@val:64")
    assert [row["value"]["text"] for row in table["rows"]] == ["1.5000"]
    listed = {one["name"]: one["curve"] for one in table["metrics"] if "@" in one["name"]}
    assert listed == {"bpb@val:64": False, "loss@val:64": False}
