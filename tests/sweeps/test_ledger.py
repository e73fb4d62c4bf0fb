from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.runs.layout import SWEEP_NAME
from spectral_exp.sweeps.ledger import (
    Ledger,
    PlannedJob,
    SweepLock,
    digest,
    fingerprint,
    read_intact_ledger,
    read_ledger,
    record_plan,
)

ONE = PlannedJob("11111111", "wave_seed1_11111111", ("+experiment=wave", "seed=1"))
TWO = PlannedJob("22222222", "wave_seed2_22222222", ("+experiment=wave", "seed=2"))


def test_plans_of_several_launchers_are_joined(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == Ledger()
    record_plan(tmp_path, ["-m", "seed=1"], [ONE], "a")
    record_plan(tmp_path, ["-m", "seed=2"], [TWO], "a")
    ledger = read_ledger(tmp_path)
    assert ledger.jobs == {ONE.key: ONE, TWO.key: TWO}
    assert ledger.known == {digest(job.overrides): job.key for job in (ONE, TWO)}
    assert ledger.command == ["-m", "seed=2"]
    assert ledger.commands_of(ledger.jobs) == [["-m", "seed=1"], ["-m", "seed=2"]]
    assert ledger.commands_of([ONE.key]) == [["-m", "seed=1"]]
    assert ledger.commands_of([]) == [["-m", "seed=2"]]
    record_plan(tmp_path, ["-m", "seed=1,2"], [ONE, TWO], "a")
    assert read_ledger(tmp_path).commands_of(ledger.jobs) == [["-m", "seed=1,2"]]
    # Other configuration files may make other jobs of the same overrides.
    record_plan(tmp_path, [], [ONE], "b")
    assert read_ledger(tmp_path).known == {digest(ONE.overrides): ONE.key}
    record_plan(tmp_path, [], [ONE], "")
    assert read_ledger(tmp_path).known == {}


def test_what_depends_on_the_environment_is_composed_again(tmp_path: Path) -> None:
    job = PlannedJob("44444444", "x_seed1_44444444", ("training.max_steps=${oc.env:N}",))
    record_plan(tmp_path, [], [job], "a")
    assert read_ledger(tmp_path).known == {}
    assert list(read_ledger(tmp_path).jobs) == [job.key]


def test_secrets_are_not_written(tmp_path: Path) -> None:
    secret = "hunter2-hunter2"
    job = PlannedJob("33333333", "x_seed1_33333333", (f"backup_url=s3://key:{secret}@bucket/x",))
    record_plan(tmp_path, [f"backup_url=s3://key:{secret}@bucket/x"], [job], "a")
    assert secret not in (tmp_path / SWEEP_NAME).read_text()
    assert read_ledger(tmp_path).known == {digest(job.overrides): job.key}


@pytest.mark.parametrize("damage", ["flip", "cut", "list", "types", "path"])
def test_a_damaged_ledger_is_kept_aside(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record_plan(tmp_path, ["-m"], [ONE], "a")
    file = tmp_path / SWEEP_NAME
    text = file.read_text()
    content = json.loads(text)
    del content["crc32"]
    content["jobs"][ONE.key]["folder"] = "../elsewhere"
    file.write_text(
        {
            "flip": text.replace("seed1", "seed7"),
            "cut": text[:-20],
            "list": "[]",
            "types": '{"jobs": {"a": 1}, "known": {}, "command": [], "sources": ""}',
            "path": json.dumps(content),
        }[damage]
    )
    with pytest.raises(UserError):
        read_ledger(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert read_intact_ledger(tmp_path) == Ledger()
    assert "sweep.json.corrupt" in caplog.text
    record_plan(tmp_path, ["-m"], [TWO], "a")
    assert read_ledger(tmp_path).jobs == {TWO.key: TWO}


def test_the_lock_excludes_others_and_nests(tmp_path: Path) -> None:
    lock, order = SweepLock(tmp_path / "new"), list[str]()

    def other() -> None:
        with SweepLock(tmp_path / "new"):
            order.append("other")

    thread = threading.Thread(target=other)
    with lock:
        with lock:
            thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_the_fingerprint_is_that_of_the_files(tmp_path: Path) -> None:
    file = tmp_path / "group/a.yaml"
    file.parent.mkdir()
    file.write_text("x: 1")
    before = fingerprint([tmp_path], "config")
    assert before == fingerprint([tmp_path], "config") != fingerprint([tmp_path], "other")
    file.write_text("x: 2")
    assert fingerprint([tmp_path], "config") not in (before, "")
    file.write_text("x: ${oc.env:HOME}")
    assert fingerprint([tmp_path], "config") == ""
