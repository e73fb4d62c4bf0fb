"""Marks of runs: shown, filtered and, with --edit, changed by the page alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from spectral_exp.runs.marks import read_marks, update_marks
from tests.dashboard.served import Dashboard
from tests.results.made_runs import make_run

OURS = {
    "content-type": "application/json",
    "x-spectral-edit": "1",
    "origin": "http://localhost:6070",
}


def post(
    dashboard: Dashboard, key: str, body: Any, change: dict[str, str] | None = None
) -> httpx.Response:
    """Mark a run as the page does, with other headers if given; "" leaves one out."""
    headers = {**dashboard.client.headers, **OURS, **(change or {})}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {name: value for name, value in headers.items() if value}
    path = f"/api/notes/{key}"
    return dashboard.client.request("POST", path, headers=sent, content=content)


def test_marks_are_written_shown_and_seen_by_others(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    dashboard = Dashboard(tmp_path, editable=True)
    key = dashboard.key(run)
    seq = dashboard.json("/api/runs")["seq"]
    answer = post(dashboard, key, {"tags": ["good"], "note": "<b>why</b>", "pinned": True})
    assert answer.status_code == 200, answer.text
    row = answer.json()["row"]
    assert (row["tags"], row["note"], row["pinned"], row["archived"]) == (
        ["good"],
        "<b>why</b>",
        True,
        False,
    )
    assert read_marks(run)[0].tags == ("good",)
    assert dashboard.json("/api/changes", since=seq)["runs"] == [row]
    update_marks(run, {"add_tags": ["fine"]})
    dashboard.refresh()
    assert dashboard.rows()[run.name]["tags"] == ["fine", "good"]


def test_archived_runs_count_only_if_asked_for(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "classic", seed) for seed in (1, 2)]
    update_marks(runs[0], {"archived": True, "tags": ["old"]})
    dashboard = Dashboard(tmp_path)
    assert dashboard.rows()[runs[0].name]["archived"]
    answer = dashboard.json("/api/groups")
    assert (answer["n_runs"], answer["n_archived"]) == (1, 1)
    answer = dashboard.json("/api/groups", archived=1)
    assert (answer["n_runs"], answer["rows"][0]["tags"]) == (2, ["old"])
    assert answer["command"].endswith("--archived")
    assert dashboard.json("/api/groups", where="tag=old", archived=1)["n_runs"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"origin": "http://evil.example"},
        {"origin": ""},
        {"origin": "null"},
        {"origin": "http://localhost"},
        {"x-spectral-edit": ""},
        {"content-type": "text/plain"},
        {"authorization": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_nobody_else_marks_a_run(tmp_path: Path, change: dict[str, str]) -> None:
    run = make_run(tmp_path)
    dashboard = Dashboard(tmp_path, editable=True)
    answer = post(dashboard, dashboard.key(run), {"pinned": True}, change)
    assert answer.status_code == 403
    assert not read_marks(run)[0].is_pinned


def test_without_edit_nothing_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    dashboard = Dashboard(tmp_path)
    assert post(dashboard, dashboard.key(run), {"pinned": True}).status_code == 403
    assert not read_marks(run)[0].is_pinned


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"tags": "good"}, 400),
        ({"unknown": 1}, 400),
        ({"archived": "yes"}, 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"note": "' + b"x" * (65 << 10) + b'"}', 413),
    ],
)
def test_wrong_marks_change_nothing(tmp_path: Path, body: Any, status: int) -> None:
    run = make_run(tmp_path)
    before = sorted(path.name for path in run.iterdir())
    dashboard = Dashboard(tmp_path, editable=True)
    answer = post(dashboard, dashboard.key(run), body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert sorted(path.name for path in run.iterdir()) == before
    assert post(dashboard, "unknown", {"pinned": True}).status_code == 404


def test_marks_do_not_follow_a_link(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (run / "notes.json").symlink_to(outside)
    dashboard = Dashboard(tmp_path / "runs", editable=True)
    post(dashboard, dashboard.key(run), {"pinned": True})
    assert outside.read_text() == "{}"
