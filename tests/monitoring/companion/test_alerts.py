"""Alerts: what happens to a run, sent once, without secrets, over a real HTTP server."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.json_files import write_json_atomic
from spectral_exp.core.redact import REDACTED
from spectral_exp.monitoring.companion.addresses import send_message
from spectral_exp.monitoring.companion.alerts import (
    QUIET_S,
    TITLES,
    Alert,
    Alerts,
    HangDetector,
    send_at_once,
)
from spectral_exp.monitoring.companion.content import results_state
from spectral_exp.runs.layout import RunPaths
from tests.monitoring.companion.hook_server import HookServer, hook_server

__all__ = ["hook_server"]

ERRORS = {
    "RunError: 10 steps in a row had a non-finite loss (training.max_bad_steps=10)": "non_finite",
    "RunError: no checkpoint (monitoring.checkpoint.max_steps_at_risk=5)": "risk",
    "RunError: rank 1 failed: CUDA error": "rank_lost",
    "ValueError: something else": "failed",
}


def write_results(root: Path, **results: Any) -> None:
    (root / "results.json").write_text(json.dumps(results))


def queued(alerts: Alerts) -> list[tuple[str, str]]:
    found = []
    for box in alerts.outboxes.values():
        while not box._waiting.empty():
            alert = box._waiting.get()
            found.append((alert.kind, alert.text))
    return found


@pytest.mark.parametrize(("error", "kind"), ERRORS.items())
@pytest.mark.parametrize("has_results", [True, False])
def test_errors_have_kinds(tmp_path: Path, error: str, kind: str, has_results: bool) -> None:
    alerts = Alerts(tmp_path, ["x://"])
    if has_results:
        write_results(tmp_path, status="failed", error=error)
    alerts.note_end(has_finished=True, error=error)
    assert queued(alerts) == [(kind, error)]


@pytest.mark.parametrize(
    ("results", "has_finished", "kind", "words"),
    [
        ({"status": "completed", "totals": {"steps": 3}, "final_metrics": {"val_bpb": 1.25}}, True,
         "finished", "completed, 3 steps, val_bpb 1.25"),
        ({"status": "stopped_early"}, True, "finished", "stopped early"),
        ({"final_metrics": {"loss": 2.5}}, True, "finished", "completed, loss 2.5"),
        ({"final_metrics": {"loss": 2.5}}, False, "failed", ""),
        ({"status": "interrupted", "totals": {"steps": 3}}, True, "interrupted", "at step 3"),
        ({"status": "not_saved", "error": "disk full"}, True, "disk", "disk full"),
        (None, False, "failed", "killed"),
        (None, True, None, ""),
    ],
)  # fmt: skip
def test_ends_have_kinds(
    tmp_path: Path,
    results: dict[str, Any] | None,
    has_finished: bool,
    kind: str | None,
    words: str,
) -> None:
    write_results(tmp_path, status="completed")  # of an earlier attempt
    alerts = Alerts(tmp_path, ["x://"], results_state(RunPaths(tmp_path)))
    if results is not None:
        (tmp_path / "results.json").rename(tmp_path / "before.json")
        write_results(tmp_path, **results)
    alerts.note_end(has_finished=has_finished, error="")
    found = queued(alerts)
    assert [one for one, _ in found] == ([kind] if kind else [])
    assert all(words in text for _, text in found)


def test_warnings_of_the_disk_and_leaks_are_alerts_and_others_are_not(tmp_path: Path) -> None:
    alerts = Alerts(tmp_path, ["x://"])
    alerts.note("spectral_exp.training.validation", "LEAK: val_bpb 0.1 lies below")
    alerts.note("spectral_exp.monitoring.checkpoint.failures", "step 8 is not saved: disk full")
    alerts.note("spectral_exp.monitoring.checkpoint.failures", "checkpoints are saved again")
    alerts.note("spectral_exp.training.step", "step 3 skipped: loss nan")
    assert [kind for kind, _ in queued(alerts)] == ["leak", "disk"]


def test_one_of_a_kind_in_ten_minutes_over_all_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1e9]
    monkeypatch.setattr("time.time", lambda: clock[0])
    alerts = Alerts(tmp_path, ["x://", "y://"])
    alerts.add("hang", "first")
    alerts.add("hang", "second")
    alerts.add("failed", "another kind")
    assert queued(alerts) == [("hang", "first"), ("failed", "another kind")] * 2
    alerts = Alerts(tmp_path, ["x://"])
    alerts.add("hang", "third")
    assert queued(alerts) == []
    clock[0] += QUIET_S
    alerts.add("hang", "fourth")
    assert queued(alerts) == [("hang", "fourth; not sent before: 1 alert of this kind")]


def test_alerts_of_two_threads_are_recorded_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of messages must not end because the other one is writing."""
    alerts = Alerts(tmp_path, ["x://"])
    other = threading.Thread(target=alerts.add, args=("leak", "text"))
    contents: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []

    def write(file: Path, values: Mapping[str, Any]) -> None:
        before = dict(values)
        if other.ident is None:
            other.start()
            other.join(0.05)
        contents.append((before, dict(values)))
        write_json_atomic(file, values)

    monkeypatch.setattr("spectral_exp.monitoring.companion.alerts.write_json_atomic", write)
    alerts.add("hang", "text")
    other.join()
    assert all(before == after for before, after in contents)
    assert set(json.loads((RunPaths(tmp_path).companion / "alerts.json").read_text())) == {
        "hang", "leak",
    }  # fmt: skip


def test_a_damaged_record_of_alerts_only_forgets_them(tmp_path: Path) -> None:
    RunPaths(tmp_path).companion.mkdir()
    (RunPaths(tmp_path).companion / "alerts.json").write_text("no JSON")
    alerts = Alerts(tmp_path, ["x://"])
    alerts.add("hang", "text")
    assert queued(alerts) == [("hang", "text")]


def test_a_hang_is_ten_times_the_usual_silence_and_reported_once() -> None:
    detector, now_s = HangDetector(0.0), 0.0
    assert detector.see(0, 1e6) == "", "nothing is usual yet"
    for _ in range(20):
        now_s += 20
        assert detector.see(1, now_s) == ""
    assert detector.see(0, now_s + 199) == ""
    assert "nothing logged for 201 s; the usual interval is 20 s" in detector.see(0, now_s + 201)
    assert detector.see(0, now_s + 999) == ""
    assert detector.see(1, now_s + 1000) == ""
    # That silence was known: three times as long would be a hang.
    assert detector.see(0, now_s + 1000 + 2500) == ""
    assert detector.see(0, now_s + 1000 + 3100)


def test_a_webhook_gets_the_alert_without_secrets(
    tmp_path: Path, hook_server: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_PASSWORD", "correct-horse-battery")
    address = f"webhook:{hook_server.url}/hook"
    alerts = Alerts(tmp_path, [address])
    alerts.add("failed", "login correct-horse-battery refused")
    assert not alerts.outboxes[address].push(False)
    (message,) = hook_server.received
    assert message["event"] == "failed"
    assert message["run"] == tmp_path.name
    assert message["text"].startswith(f"{tmp_path.name} {TITLES['failed']}\nlogin {REDACTED} ")
    assert message["content"] == message["text"]


def test_a_webhook_with_a_login_gets_it_in_a_header(hook_server: HookServer) -> None:
    address = f"webhook:{hook_server.url}/hook".replace("://", "://user:p%40ss@")
    send_message(address, "title", "text", {})
    (login,) = hook_server.logins
    assert base64.b64decode(login.removeprefix("Basic ")) == b"user:p@ss"


def test_a_server_that_fails_gets_the_alert_again(tmp_path: Path, hook_server: HookServer) -> None:
    address = f"webhook:{hook_server.url}/hook"
    alerts = Alerts(tmp_path, [address])
    alerts.add("finished", "one")
    alerts.add("hang", "two")
    box = alerts.outboxes[address]
    hook_server.answers = [500]
    with pytest.raises(OSError, match="the server answers 500"):
        box.push(False)
    assert box.push(False), "the second one is waiting"
    assert not box.push(True)
    assert [message["event"] for message in hook_server.received] == ["finished", "hang"]


def test_a_sweep_sends_its_alert_in_time(hook_server: HookServer) -> None:
    alert = Alert("sweep_done", "lr", "6 jobs done")
    send_at_once([f"webhook:{hook_server.url}/silent"], alert, 0.05)
    send_at_once([f"webhook:{hook_server.url}/hook"], alert, 30)
    assert [message["run"] for message in hook_server.received] == ["lr"]
