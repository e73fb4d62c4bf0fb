"""Who may ask for what, and what hostile runs cannot do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from spectral_exp.dashboard.guard import CONTENT_SECURITY_POLICY, Guard, host_name
from spectral_exp.runs.layout import RunPaths
from tests.dashboard.served import Client, Dashboard
from tests.results.made_runs import make_run

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
ADDRESSES = ("/", "/style.css", "/api/runs", "/api/run/0", "/api/nothing", "/../pyproject.toml")


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Dashboard:
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder)
    return Dashboard(folder)


def ask(dashboard: Dashboard, path: str = "/api/runs", **headers: str) -> httpx.Response:
    """Ask with the token and further headers."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return dashboard.client.get(path, headers={**dashboard.client.headers, **names})


@pytest.mark.parametrize("path", ADDRESSES)
def test_nothing_is_answered_without_the_token(dashboard: Dashboard, path: str) -> None:
    for headers in ({}, {"cookie": "test=wrong"}, {"authorization": "Bearer wrong"}):
        answer = dashboard.client.get(path, headers=headers)
        assert answer.status_code == 403
        assert dashboard.guard.token not in answer.text


def test_the_token_in_the_address_becomes_a_cookie(dashboard: Dashboard) -> None:
    address = {"token": dashboard.guard.token}
    visit = dashboard.client.get("/", params=address, headers={})
    assert (visit.status_code, visit.headers["location"]) == (303, "./")
    cookie = visit.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    from_link = dashboard.client.get("/", params=address, headers=link)
    assert 'content="0;url=./"' in from_link.text
    assert dashboard.guard.token not in from_link.text
    given = {"cookie": f"other=1; {cookie.partition(';')[0]}"}
    assert dashboard.client.get("/api/runs", headers=given).status_code == 200


def test_a_one_time_code_works_once(dashboard: Dashboard) -> None:
    code = dashboard.guard.one_time_code()
    answers = [dashboard.client.get("/", params={"token": code}, headers={}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 403]
    assert "set-cookie" not in answers[1].headers
    assert dashboard.client.get("/api/runs", headers={"cookie": f"test={code}"}).status_code == 403


def test_the_token_opens_the_page_only_at_its_address(dashboard: Dashboard) -> None:
    answer = dashboard.client.get("/api/runs", params={"token": dashboard.guard.token}, headers={})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:6070", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:6070", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:6070", 421),
        ("192.168.0.1", 421),
        ("", 421),
    ],
)
def test_only_our_host_names_are_answered(dashboard: Dashboard, host: str, status: int) -> None:
    assert ask(dashboard, host=host).status_code == status


def test_more_host_names_are_allowed_by_name_and_by_address() -> None:
    guard = Guard(_never, cookie="test", allowed_hosts=["Node7"], any_address=True)
    hosts = {"node7:6070": 403, "10.0.0.7:6070": 403, "[fe80::1]": 403, "node8": 421, "10.0.0": 421}
    for host, status in hosts.items():
        assert Client(guard, {"host": host}).get("/api/runs").status_code == status


@pytest.mark.parametrize("name", ["a", "[::1", "::1]", "[]", ":", "[a]b:c", "\x00"])
def test_a_host_of_any_form_has_a_name(name: str) -> None:
    assert isinstance(host_name(name), str)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_requests_of_other_pages_are_refused(dashboard: Dashboard, site: str) -> None:
    assert ask(dashboard, sec_fetch_site=site).status_code == 403
    assert ask(dashboard, "/", sec_fetch_site=site, sec_fetch_mode="no-cors").status_code == 403
    assert ask(dashboard, "/", sec_fetch_site=site, sec_fetch_mode="navigate").status_code == 200
    assert ask(dashboard, sec_fetch_site="same-origin").status_code == 200


def test_only_named_pages_may_embed_the_dashboard() -> None:
    origins = ("http://localhost:8888", "https://hub.example.org")
    guard = Guard(_never, cookie="test", embedding_origins=origins)
    client = Client(guard, {"host": "localhost"})
    headers = client.get("/").headers
    policy = CONTENT_SECURITY_POLICY.replace("ancestors 'none'", f"ancestors {' '.join(origins)}")
    assert headers["content-security-policy"] == policy
    assert "x-frame-options" not in headers
    # A frame of the same site keeps the fragment of its address; that of another gets no cookie.
    frame = {"host": "localhost", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    visit = {"params": {"token": guard.token}}
    same = client.get("/", headers={**frame, "sec-fetch-site": "same-site"}, **visit)
    assert (same.status_code, same.headers["location"]) == (303, "./")
    other = client.get("/", headers={**frame, "sec-fetch-site": "cross-site"})
    assert other.status_code == 403
    assert "the same host name" in other.text
    assert "the same host name" not in client.get("/").text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ODD"])
@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/notes"])
def test_other_methods_are_refused(dashboard: Dashboard, method: str, path: str) -> None:
    answer = dashboard.client.request(method, path)
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_every_answer_has_the_headers_of_security(dashboard: Dashboard) -> None:
    key = next(iter(dashboard.rows().values()))["key"]
    answers = [ask(dashboard, path) for path in (*ADDRESSES, f"/api/run/{key}")]
    answers += [dashboard.client.get("/", headers={}), ask(dashboard, host="evil.example")]
    answers += [dashboard.client.request("POST", "/"), ask(dashboard, "/api/curves")]
    assert {answer.status_code for answer in answers} == {200, 400, 403, 404, 405, 421}
    for answer in answers:
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "no-" in answer.headers["cache-control"]
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/%2e%2e/app.py",
        "/..%2fapp.py",
        "/%2fetc%2fpasswd",
        "//etc/passwd",
        "/chart/../../app.py",
        "/app.py",
        "/index.html%00.js",
        "/api/run/..%2f..",
        "/api/run/%00",
        "/api/run/0/image/..%2f..%2fetc/1",
        "/api/run/0/image/x/99999999999999999999999999",
        "/api/run/0/file/..",
    ],
)
def test_addresses_lead_to_no_other_file(dashboard: Dashboard, path: str) -> None:
    assert ask(dashboard, path).status_code == 404


def files_of(dashboard: Dashboard, run: Path) -> dict[str, Any]:
    details = dashboard.json(f"/api/run/{dashboard.key(run)}")
    return {file["name"]: file for file in details["files"]}


def test_links_out_of_a_run_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "secret.txt").write_text("SECRET\n")
    (secret / "plot_step_1.png").write_bytes(PNG)
    run = make_run(tmp_path / "runs")
    paths = RunPaths(run)
    (run / "link.txt").symlink_to(secret / "secret.txt")
    (run / "folder").symlink_to(secret)
    paths.visualizations.symlink_to(secret)
    paths.run_log.symlink_to(secret / "secret.txt")
    os.mkfifo(run / "fifo")
    dashboard = Dashboard(tmp_path / "runs")
    names = set(files_of(dashboard, run))
    assert names == {"config.json", "results.json", "logs/metrics.jsonl"}
    key = dashboard.key(run)
    details = dashboard.json(f"/api/run/{key}")
    assert (details["plots"], details["logs"]) == ([], [])
    assert ask(dashboard, f"/api/run/{key}/image/plot/1").status_code == 404
    assert "SECRET" not in ask(dashboard, f"/api/run/{key}/log").text


def test_a_file_that_becomes_a_link_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    run = make_run(tmp_path / "runs")
    (run / "notes").mkdir()
    (run / "notes" / "a.txt").write_text("fine")
    dashboard = Dashboard(tmp_path / "runs")
    address = f"/api/run/{dashboard.key(run)}/file/{files_of(dashboard, run)['notes/a.txt']['id']}"
    assert ask(dashboard, address).text == "fine"
    (run / "notes" / "a.txt").unlink()
    (run / "notes" / "a.txt").symlink_to(secret)
    assert ask(dashboard, address).status_code == 404


@pytest.mark.parametrize("name", ["../runs/x", "/etc/passwd", "a/../../x", "logs/../../x"])
def test_no_name_leads_out_of_a_run(tmp_path: Path, name: str) -> None:
    from spectral_exp.dashboard.run_files import open_inside

    (tmp_path / "x").write_text("SECRET")
    run = make_run(tmp_path / "runs")
    with pytest.raises(OSError, match=name):
        open_inside(run, name)


def test_checkpoints_and_archives_are_never_opened(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for name in ("weights.pt", "a.zst", "b.tar.gz", "c.NPZ", "d.safetensors"):
        (run / name).write_bytes(b"content")
    dashboard = Dashboard(tmp_path)
    files, key = files_of(dashboard, run), dashboard.key(run)
    for name in ("weights.pt", "a.zst", "b.tar.gz", "c.NPZ", "d.safetensors"):
        assert not files[name]["viewable"]
        assert ask(dashboard, f"/api/run/{key}/file/{files[name]['id']}").status_code == 404


def test_only_png_files_are_images(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    folder = RunPaths(run).visualizations
    folder.mkdir()
    (folder / "loss_step_0000005_20260101_000000.png").write_bytes(PNG + b"old")
    (folder / "loss_step_0000005_20260102_000000.png").write_bytes(PNG + b"new")
    (folder / "loss_step_7.png").write_bytes(b"<svg onload='alert(1)'>")
    (folder / "other.png").write_bytes(PNG)
    dashboard = Dashboard(tmp_path)
    key = dashboard.key(run)
    plots = dashboard.json(f"/api/run/{key}")["plots"]
    assert [(plot["name"], plot["steps"]) for plot in plots] == [("loss", [5, 7])]
    image = dashboard.get(f"/api/run/{key}/image/loss/5")
    assert (image.headers["content-type"], image.content) == ("image/png", PNG + b"new")
    assert ask(dashboard, f"/api/run/{key}/image/loss/7").status_code == 404
    assert ask(dashboard, f"/api/run/{key}/image/other/1").status_code == 404


def test_large_files_are_listed_and_not_sent(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with (run / "large.txt").open("wb") as file:
        file.truncate(1 << 40)
    dashboard = Dashboard(tmp_path)
    file_entry = files_of(dashboard, run)["large.txt"]
    assert (file_entry["size"], file_entry["viewable"]) == (1 << 40, False)


async def _never(*_: object) -> None:
    raise AssertionError("the request was passed on")
