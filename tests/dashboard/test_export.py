"""A view as one file: everything is in it, and nothing else may be loaded."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.commands import dashboard as command
from spectral_exp.dashboard.addresses import address
from spectral_exp.dashboard.answers import round_numbers
from spectral_exp.dashboard.export import Route
from spectral_exp.dashboard.page_script import join_modules
from tests.dashboard.served import Dashboard, columns_of, log_values, split_frame
from tests.results.made_runs import make_run


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Dashboard:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("classic", "wave", "phasor"):
        for seed in (1, 2, 3):
            make_run(folder, name, seed, val_bpb=2.5 + 0.01 * seed)
    return Dashboard(folder)


def saved_in(page: str) -> Any:
    """Return what a file holds beside the page."""
    found = re.search(r'<script type="application/json" id="saved">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def embedded_in(page: str) -> dict[str, bytes]:
    """Return the answers in a file by their addresses."""
    answers: dict[str, dict[str, str]] = saved_in(page)["answers"]
    return {
        name: base64.b64decode(one["png"])
        if "png" in one
        else gzip.decompress(base64.b64decode(one["gzip"]))
        for name, one in answers.items()
    }


def exported(dashboard: Dashboard, fragment: str = "") -> dict[str, bytes]:
    return embedded_in(export(dashboard, fragment))


def export(dashboard: Dashboard, fragment: str = "") -> str:
    """Return the file of a view, without figures, which take seconds to draw."""
    return dashboard.get("/api/export", hash=fragment, figures=0).text


def test_a_file_holds_what_the_server_answers(dashboard: Dashboard) -> None:
    answers = exported(dashboard)
    assert json.loads(answers["api/groups"]) == dashboard.json("/api/groups")
    assert len(json.loads(answers["api/runs"])["runs"]) == 9
    rows = json.loads(answers["api/groups?metric=val_loss"])["rows"]
    assert rows == dashboard.json("/api/groups", metric="val_loss")["rows"]
    for row in rows:
        for kind in ("interval", "range"):
            question = {"groups": row["id"], "metric": "loss", "x": "step", "band": kind}
            name = address("api/band", question)
            expected = dashboard.get("/api/band", **question, bins=300).content
            assert_nearly_equal(answers[name], expected)
        for key in row["keys"]:
            question = {"runs": key, "metric": "loss", "x": "step"}
            name = address("api/curves", question)
            assert answers[name] == dashboard.get("/api/curves", **question, bins=300).content
            details = json.loads(answers[f"api/run/{key}"])
            assert details.pop("left_out") == []
            assert details == dashboard.json(f"/api/run/{key}")


def test_a_file_holds_the_tables_of_evaluations(tmp_path: Path) -> None:
    line = {"step": 7, "text": "val", "block_size": 64, "stride": 64, "loss": 1.0, "bpb": 1.5}
    run = make_run(tmp_path, "classic", 1)
    (run / "evaluations.jsonl").write_text(f"{json.dumps(line)}\n")
    dashboard = Dashboard(tmp_path)
    answers = exported(dashboard)
    names = [one["name"] for one in json.loads(answers["api/groups"])["metrics"]]
    assert {"bpb@val:64", "tokens_per_s", "train_s"} <= set(names)
    for name in names:
        saved = json.loads(answers[f"api/groups?metric={quote(name, safe='')}"])
        assert saved["rows"] == dashboard.json("/api/groups", metric=name)["rows"]


def assert_nearly_equal(found: bytes, expected: bytes) -> None:
    (header, numbers), (other_header, other_numbers) = split_frame(found), split_frame(expected)
    assert header == other_header
    assert numbers == pytest.approx(other_numbers, rel=1e-6, abs=0, nan_ok=True)


@given(st.lists(st.floats()))
def test_rounded_numbers_are_near(values: list[float]) -> None:
    numbers = np.array(values, dtype=float)
    assert round_numbers(numbers) == pytest.approx(numbers, rel=1e-6, abs=0, nan_ok=True)


def test_a_file_holds_its_view_only(dashboard: Dashboard) -> None:
    rows = dashboard.json("/api/groups")["rows"]
    answers = exported(dashboard, "#/runs?where=name%3Dwave&metric=loss&x=tokens")
    keys = next(row["keys"] for row in rows if row["label"] == "wave")
    assert {row["key"] for row in json.loads(answers["api/runs"])["runs"]} == set(keys)
    assert "api/groups?metric=loss&where=name%3Dwave" in answers
    assert f"api/curves?metric=loss&runs={keys[0]}&x=tokens" in answers
    assert f"api/curves?metric=loss&runs={keys[0]}&x=step" in answers
    assert not any("x=train_s" in name for name in answers)
    one = exported(dashboard, f"#/run/{keys[0]}?tab=log")
    assert [row["key"] for row in json.loads(one["api/runs"])["runs"]] == keys[:1]
    assert f"api/run/{keys[0]}" in one
    assert dashboard.client.get("/api/export?hash=%23/run/unknown").status_code == 404


def test_a_file_of_a_comparison(dashboard: Dashboard) -> None:
    known = {row["label"]: row["id"] for row in dashboard.json("/api/groups")["rows"]}
    groups = f"{known['wave']},{known['classic']}"
    answers = exported(dashboard, f"#/compare?groups={groups}")
    question = {"groups": groups, "metric": "val_bpb", "baseline": "classic"}
    found = json.loads(answers[address("api/compare", question)])
    assert found["tables"] == dashboard.json("/api/compare", **question)["tables"]
    pair = {"a": known["classic"], "b": known["wave"], "metric": "val_bpb"}
    found = json.loads(answers[address("api/difference", pair)])
    assert found["mean"] == dashboard.json("/api/difference", **pair)["mean"]
    keys = [row["key"] for row in json.loads(answers["api/runs"])["runs"]]
    of_groups = {row["key"] for row in dashboard.rows().values() if row["name"] != "phasor"}
    pair = {"a": min(of_groups), "b": max(of_groups)}
    assert len(keys) == 9
    assert json.loads(answers[address("api/diff", pair)]) == dashboard.json("/api/diff", **pair)


def test_a_file_of_groups_leads_to_their_comparison(dashboard: Dashboard) -> None:
    """It compares the groups that are shown, by default the baseline and the best."""
    known = {row["label"]: row["id"] for row in dashboard.json("/api/groups")["rows"]}
    shown = f"{known['wave']},unknown,{known['phasor']}"
    for fragment, labels in (
        ("#/runs", ["classic", "wave", "phasor"]),
        (f"#/runs?metric=val_loss&where=seed%3C3&show={shown}", ["wave", "phasor"]),
        (f"#/compare?groups={shown}", ["wave", "phasor"]),
    ):
        page = export(dashboard, fragment)
        answers = embedded_in(page)
        view = Route.of(saved_in(page)["comparison"])
        assert view.page == "compare"
        ids = view.query["groups"].split(",")
        assert sorted(ids) == sorted(known[label] for label in labels)
        asked: dict[str, Any] = {name: view.query.getlist(name) for name in view.query}
        metric = view.query.get("metric") or "val_bpb"
        asked |= {"groups": view.query["groups"], "metric": metric, "baseline": labels[0]}
        asked["where"] = tuple(view.query.getlist("where"))
        found = json.loads(answers[address("api/compare", asked)])
        assert found["tables"] == dashboard.json("/api/compare", **asked)["tables"]
        n_differences = sum(name.startswith("api/difference?") for name in answers)
        assert n_differences == len(labels) - 1
    key = next(iter(dashboard.rows().values()))["key"]
    assert saved_in(export(dashboard, f"#/run/{key}"))["comparison"] is None
    assert saved_in(export(dashboard, "#/runs?where=name%3Dwave"))["comparison"] is None
    assert saved_in(export(dashboard, "#/runs?metric=unknown"))["comparison"] is None


def test_a_spike_is_in_the_file(tmp_path: Path) -> None:
    values = np.sin(np.arange(50_000) / 1000)
    values[31_234] = 77.0
    for seed in (1, 2):
        log_values(make_run(tmp_path, "classic", seed, status=None), list(values))
    answers = exported(Dashboard(tmp_path))
    frames = [body for name, body in answers.items() if name.startswith(("api/cu", "api/band"))]
    assert len(frames) >= 4
    for frame in frames:
        header, numbers = split_frame(frame)
        (series,) = header["series"]
        assert np.nanmax(columns_of(series, numbers)["max"]) == 77.0


def test_nothing_is_loaded_from_elsewhere(dashboard: Dashboard) -> None:
    page = export(dashboard)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#x27;none&#x27;" in policy[1]
    assert "unsafe-inline" not in policy[1].partition("script-src")[2].partition(";")[0]
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "data:" not in policy[1].partition("script-src")[2].partition(";")[0]
    script = re.search(r'<script type="module">(.*?)</script>', page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src &#x27;sha256-{digest}&#x27;;" in policy[1]
    assert not re.search(r"^(?:import|export)\b", script[1], re.MULTILINE)


def test_no_view_ends_a_script(dashboard: Dashboard) -> None:
    evil = "#/runs?x=</script><script>alert(1)</script>"
    page = export(dashboard, evil)
    assert "<script>alert" not in page
    assert saved_in(page)["view"] == evil


SOURCES = {
    "a.js": 'import {\n  one,\n  two as deux,\n} from "./x/b.js";\nimport "./x/c.js";\none(deux);\n',
    "x/b.js": 'import { c } from "./c.js";\nexport function one() {}\nexport const two = c;\n',
    "x/c.js": 'export class c {}\nconst text = "</script><!--";\nexport async function d() {}\n',
}


def test_modules_become_one_script() -> None:
    """Each runs once, after those that it imports."""
    script = join_modules("a.js", SOURCES.__getitem__)
    assert script == (
        'const module0 = (() => {\nclass c {}\nconst text = "<\\/script><\\!--";\n'
        "async function d() {}\n\nreturn { c, d };\n})();\n"
        "const module1 = (() => {\nconst { c } = module0;\nfunction one() {}\nconst two = c;\n"
        "\nreturn { one, two };\n})();\n"
        "const module2 = (() => {\nconst {\n  one,\n  two: deux,\n} = module1;\n\none(deux);\n"
        "\nreturn {  };\n})();\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        "export default 1;",
        'export * from "./x/c.js";',
        "export { a };",
        'import * as c from "./x/c.js";',
        'import { a } from "./a.js";',
        "export let a = 1;",
    ],
)
def test_modules_that_cannot_be_joined_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"a\.js"):
        join_modules("a.js", {**SOURCES, "a.js": source}.__getitem__)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, "api/x"),
        ({"b": 1, "a": "x y", "c": None, "d": ""}, "api/x?a=x+y&b=1"),
        ({"where": ("name=a*", "lr<=1e-3")}, "api/x?where=name%3Da*&where=lr%3C%3D1e-3"),
        ({"a": "~!'()é,"}, "api/x?a=%7E%21%27%28%29%C3%A9%2C"),
    ],
)
def test_addresses_are_those_of_a_browser(parameters: Any, expected: str) -> None:
    assert address("api/x", parameters) == expected


@pytest.mark.parametrize("fragment", ["", "#", "#/", "#/runs?%zz=&&=", "#/run/%ff", "?", "#a?b?c"])
def test_any_fragment_is_a_view(fragment: str) -> None:
    assert Route.of(fragment).page in ("runs", "run", "a")


def test_the_command_writes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs", "classic", 1)
    make_run(tmp_path / "runs", "wave", 1)
    monkeypatch.chdir(tmp_path)
    words = ["runs", "--where", "name=wave", "--export"]
    assert command.main([*words, "page.html"]) == 0
    assert capsys.readouterr().out == "page.html\n"
    rows = json.loads(embedded_in(Path("page.html").read_text())["api/runs"])["runs"]
    assert [row["name"] for row in rows] == ["wave"]
    Path("mine.html").write_text("mine")
    assert command.main([*words, "mine.html"]) == 2
    assert "overwrite it with --force" in capsys.readouterr().err
    assert Path("mine.html").read_text() == "mine"
    for wrong in ("missing/page.html", "page.txt"):
        assert command.main([*words, wrong]) == 2
        assert "--export" in capsys.readouterr().err
