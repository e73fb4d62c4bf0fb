"""Backups: nothing half done is ever restored, trouble costs a warning and never a step."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import random
import shutil
import signal
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.core.files import follow, replace_symlink
from spectral_exp.core.json_files import content_crc32, write_json_atomic
from spectral_exp.monitoring.backup.backup import Backup, check_url
from spectral_exp.monitoring.backup.restore import restore
from spectral_exp.monitoring.backup.store import normalize_url
from spectral_exp.runs.layout import BEST_NAME, LATEST_NAME, RunPaths
from spectral_exp.runs.marks import read_marks, update_marks
from tests.conftest import python
from tests.s3_server import S3Server, eventually

pytest.importorskip("fsspec", reason="the extra [backup] is not installed")

RUN = "tiny_20260131_093000_a3f2b1c4"


def write_run(root: Path) -> RunPaths:
    """A run directory without checkpoints."""
    paths = RunPaths(root)
    for folder in (paths.checkpoints, paths.logs, paths.tokenizer, root / ".hydra"):
        folder.mkdir(parents=True)
    write_json_atomic(paths.config_file, {"config": {"seed": 1}})
    (paths.tokenizer / "tokenizer.json").write_text("{}")
    (root / ".hydra" / "overrides.yaml").write_text("- seed=1\n- data.hf_token=hidden-value-123\n")
    paths.training_log.write_text("started\n")
    return paths


def write_checkpoint(
    paths: RunPaths, step: int, *, best: bool = False, n_bytes: int = 5000
) -> None:
    """A checkpoint as the manager leaves it, with random content."""
    content = random.Random(step).randbytes(n_bytes)
    path = paths.checkpoints / f"checkpoint_step_{step}.pt"
    path.write_bytes(content)
    facts = {"step": step, "size": n_bytes, "crc32": f"{zlib.crc32(content):08x}"}
    write_json_atomic(path.with_name(path.name + ".json"), facts)
    with paths.metrics_file.open("a") as file:
        file.write(json.dumps({"step": step}) + "\n")
    for link in [paths.latest_link] + [paths.best_link] * best:
        replace_symlink(link, path)


def files_of(root: Path) -> dict[str, bytes]:
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*")}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return write_run(tmp_path / "outputs" / RUN)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'remote'}"


@pytest.fixture
def backup(run: RunPaths, url: str) -> Iterator[Backup]:
    backup = Backup(run.root, url, pause_s=0.1)
    yield backup
    backup.close()


def store(backup: Backup, step: int) -> None:
    backup.submit(step)
    # The process of a backup has a low priority, so it waits for what else a busy machine does.
    eventually(lambda: backup.stored_step == step, 200.0)


# --- what is stored and brought back --------------------------------------------------------------


def test_restored_run_is_the_run(run: RunPaths, backup: Backup, url: str, tmp_path: Path) -> None:
    write_checkpoint(run, 10, best=True)
    write_checkpoint(run, 20)
    store(backup, 20)
    (run.root / "train.log").write_text("done\n")
    write_json_atomic(run.results_file, {"status": "completed"})
    marks = update_marks(run.root, {"tags": ["good"], "note": "text", "pinned": True})
    assert backup.close()

    there = restore(f"{url}/{RUN}", tmp_path / "empty" / "outputs")

    assert there == tmp_path / "empty" / "outputs" / RUN
    before, after = files_of(run.root), files_of(there)
    assert b"hidden-value-123" in before.pop(".hydra/overrides.yaml")
    assert after.pop(".hydra/overrides.yaml") == b"- seed=1\n- data.hf_token=<redacted>\n"
    assert after == before
    assert read_marks(there) == (marks, ())
    restored = RunPaths(there)
    assert follow(restored.latest_link) == restored.checkpoint_file(20)
    assert follow(restored.best_link) == restored.checkpoint_file(10)
    assert (
        restored.checkpoint_file(10).stat().st_mtime_ns
        == run.checkpoint_file(10).stat().st_mtime_ns
    )
    assert [p.name for p in there.parent.iterdir()] == [RUN]


def test_links_out_of_a_run_are_not_backed_up(
    run: RunPaths, backup: Backup, url: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("private")
    write_checkpoint(run, 10)
    (run.tokenizer / "k").symlink_to(secret / "key")
    (run.tokenizer / "folder").symlink_to(secret)
    (run.root / ".hydra" / "config.yaml").symlink_to(secret / "key")
    run.results_file.symlink_to(secret / "key")
    os.mkfifo(run.training_log.with_name("metrics.cut.jsonl"))
    run.training_log.unlink()
    run.training_log.symlink_to(secret / "key")
    store(backup, 10)
    there = restore(f"{url}/{RUN}", tmp_path / "outputs2")
    names = [path.name for path in there.rglob("*")]
    assert not {"k", "key", "config.yaml", "results.json", "training.log"} & set(names)
    assert not any(
        b"private" in path.read_bytes()
        for path in (tmp_path / "remote").rglob("*")
        if path.is_file()
    )


def test_leftovers_of_killed_restores_go_and_those_under_way_stay(
    run: RunPaths, backup: Backup, url: str, tmp_path: Path
) -> None:
    write_checkpoint(run, 10)
    store(backup, 10)
    outputs = tmp_path / "outputs2"
    killed, busy, other = (
        outputs / f".{name}.{i}-0a.tmp" for i, name in enumerate((RUN, RUN, "another"))
    )
    for folder in (killed, busy, other):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    descriptor = os.open(busy, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    restore(f"{url}/{RUN}", outputs)
    os.close(descriptor)
    assert sorted(path.name for path in outputs.iterdir()) == sorted([RUN, busy.name, other.name])


def test_only_committed_files_are_stored(run: RunPaths, backup: Backup, tmp_path: Path) -> None:
    write_checkpoint(run, 10)
    (run.checkpoints / ".checkpoint_step_20.pt.1-ab.tmp").write_text("half")
    (run.checkpoints / "checkpoint_step_5.pt.corrupt").write_text("broken")
    store(backup, 10)
    stored = {
        path.name.rpartition("-")[2]
        for path in (tmp_path / "remote" / RUN).rglob("*")
        if path.is_file()
    }
    assert "checkpoint_step_10.pt" in stored
    assert not any(name.endswith((".tmp", ".corrupt")) for name in stored)
    assert not {LATEST_NAME, BEST_NAME} & stored


def test_unchanged_files_are_stored_once(run: RunPaths, backup: Backup, tmp_path: Path) -> None:
    write_checkpoint(run, 10, best=True)
    store(backup, 10)
    first = next((tmp_path / "remote").rglob("*-checkpoint_step_10.pt")).stat()
    write_checkpoint(run, 20)
    store(backup, 20)
    (again,) = (tmp_path / "remote").rglob("*-checkpoint_step_10.pt")
    assert again.stat().st_mtime_ns == first.st_mtime_ns


def test_retention_keeps_the_newest_and_the_best(run: RunPaths, url: str, tmp_path: Path) -> None:
    backup = Backup(run.root, url, keep_last_n=2)
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(run, step, best=step == 2)
        store(backup, step)
    assert backup.close()
    remote = tmp_path / "remote" / RUN
    assert sorted(p.name.partition("_step_")[2] for p in remote.glob("manifest_*")) == [
        "4.json",
        "5.json",
    ]
    kept = {path.name.rpartition("-")[2] for path in (remote / "objects").glob("*.pt")}
    assert kept == {f"checkpoint_step_{step}.pt" for step in (2, 4, 5)}
    listed = [json.loads(p.read_text()) for p in remote.glob("manifest_*")]
    named = {entry["key"] for manifest in listed for entry in manifest["files"].values()}
    assert {
        p.relative_to(remote).as_posix() for p in (remote / "objects").rglob("*") if p.is_file()
    } == named


def test_going_back_makes_the_earlier_step_the_newest(
    run: RunPaths, backup: Backup, url: str, tmp_path: Path
) -> None:
    write_checkpoint(run, 20)
    store(backup, 20)
    write_checkpoint(run, 10)
    store(backup, 10)
    assert follow(RunPaths(restore(f"{url}/{RUN}", tmp_path / "b")).latest_link) is not None
    assert RunPaths(tmp_path / "b" / RUN).checkpoint_steps() == [10]


def test_submit_returns_at_once_and_the_newest_wins(
    run: RunPaths, backup: Backup, tmp_path: Path
) -> None:
    for step in range(1, 31):
        write_checkpoint(run, step)
    started = time.perf_counter()
    for step in range(1, 31):
        backup.submit(step)
    assert time.perf_counter() - started < 0.1
    eventually(lambda: backup.stored_step == 30)
    assert len(list((tmp_path / "remote" / RUN).glob("manifest_*"))) <= 2


def test_removed_checkpoint_is_passed_over(
    run: RunPaths, backup: Backup, caplog: pytest.LogCaptureFixture, url: str, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    write_checkpoint(run, 2)
    backup.submit(1)
    eventually(lambda: "its checkpoint was removed" in caplog.text)
    store(backup, 2)
    assert RunPaths(restore(f"{url}/{RUN}", tmp_path / "b")).checkpoint_steps() == [2]


def test_close_without_a_checkpoint_starts_nothing(backup: Backup, tmp_path: Path) -> None:
    assert backup.close()
    assert not (tmp_path / "remote").exists()


def test_submitting_works_after_close(run: RunPaths, backup: Backup) -> None:
    write_checkpoint(run, 1)
    assert backup.close()
    assert backup.stored_step == 1
    write_checkpoint(run, 2)
    store(backup, 2)


# --- a checkpoint that is damaged here must not replace a good one there --------------------------


def test_locally_damaged_checkpoint_makes_no_backup(
    run: RunPaths, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backup = Backup(run.root, url, retries=1, pause_s=0.05)
    write_checkpoint(run, 10)
    store(backup, 10)
    write_checkpoint(run, 20)
    content = bytearray(run.checkpoint_file(20).read_bytes())
    content[100] ^= 1
    run.checkpoint_file(20).write_bytes(content)
    backup.submit(20)
    eventually(lambda: backup.failures == 2)
    assert "damaged on the local disk" in caplog.text
    assert not backup.close()
    assert "the backup is not complete" in caplog.text
    assert RunPaths(restore(f"{url}/{RUN}", tmp_path / "b")).checkpoint_steps() == [10]


# --- damage there ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "outside"])
def test_damaged_backup_falls_back_to_the_one_before(
    damage: str,
    run: RunPaths,
    backup: Backup,
    url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for step in (1, 2):
        write_checkpoint(run, step)
        store(backup, step)
    remote = tmp_path / "remote" / RUN
    (victim,) = remote.rglob("*-checkpoint_step_2.pt")
    (manifest,) = remote.glob("manifest_*_step_2.json")
    if damage == "flip":
        flipped = bytearray(victim.read_bytes())
        flipped[-1] ^= 1
        victim.write_bytes(flipped)
    elif damage == "truncate":
        os.truncate(victim, 100)
    elif damage == "remove":
        victim.unlink()
    elif damage == "manifest":
        os.truncate(manifest, 50)
    else:
        content = json.loads(manifest.read_text())
        content["files"]["../../stolen"] = content["files"]["config.json"]
        manifest.write_text(json.dumps(content | {"crc32": content_crc32(content)}))
    there = restore(f"{url}/{RUN}", tmp_path / "b")
    assert "BACKUP DAMAGED" in caplog.text
    assert RunPaths(there).checkpoint_steps() == [1]
    assert [p.name for p in there.parent.iterdir()] == [RUN]


def test_nothing_intact_is_an_error_and_leaves_nothing(
    run: RunPaths, backup: Backup, url: str, tmp_path: Path
) -> None:
    write_checkpoint(run, 1)
    store(backup, 1)
    for victim in (tmp_path / "remote").rglob("*.pt"):
        victim.unlink()
    with pytest.raises(UserError, match="none is intact"):
        restore(f"{url}/{RUN}", tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []


def test_a_damaged_remote_object_is_replaced_by_the_next_attempt(
    run: RunPaths, url: str, tmp_path: Path
) -> None:
    write_checkpoint(run, 1, best=True)
    first = Backup(run.root, url)
    assert first.close()
    for victim in (tmp_path / "remote").rglob("*-tokenizer.json"):
        victim.write_text("[]")
    assert Backup(run.root, url).close()
    assert (
        restore(f"{url}/{RUN}", tmp_path / "b") / "tokenizer" / "tokenizer.json"
    ).read_text() == "{}"


def test_a_damaged_best_checkpoint_costs_itself_alone(
    run: RunPaths, backup: Backup, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(run, 1, best=True)
    write_checkpoint(run, 2)
    store(backup, 2)
    for victim in (tmp_path / "remote").rglob("*-checkpoint_step_1.pt"):
        os.truncate(victim, 10)
    there = RunPaths(restore(f"{url}/{RUN}", tmp_path / "b"))
    assert there.checkpoint_steps() == [2]
    assert follow(there.best_link) is None
    assert "the run is restored without checkpoints/checkpoint_step_1.pt" in caplog.text


# --- which run it is ------------------------------------------------------------------------------


def test_another_run_of_the_same_name_is_refused_and_harms_nothing(
    run: RunPaths, url: str, tmp_path: Path
) -> None:
    write_checkpoint(run, 7)
    assert Backup(run.root, url).close()
    before = files_of(tmp_path / "remote")
    other = write_run(tmp_path / "elsewhere" / RUN)
    with pytest.raises(
        UserError,
        match=r"holds the backups of another run .* at step 7\); choose another backup_url",
    ):
        Backup(other.root, url).check()
    write_checkpoint(other, 9)
    assert not Backup(other.root, url, retries=0).close()
    assert files_of(tmp_path / "remote") == before
    again = Backup(run.root, url)
    again.check()
    assert again.close()


def test_a_copied_run_is_a_run_of_its_own(run: RunPaths, url: str, tmp_path: Path) -> None:
    write_checkpoint(run, 1)
    assert Backup(run.root, url).close()
    shutil.copytree(run.root, run.root.with_name("copy"), symlinks=True)
    write_checkpoint(RunPaths(run.root.with_name("copy")), 2)
    assert Backup(run.root.with_name("copy"), url).close()
    assert RunPaths(restore(f"{url}/{RUN}", tmp_path / "b")).checkpoint_steps() == [1]
    assert RunPaths(restore(f"{url}/copy", tmp_path / "b")).checkpoint_steps() == [2]


def test_jobs_of_sweeps_keep_their_places(url: str, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for sweep in ("a", "b"):
        paths = write_run(outputs / sweep / "0_wave_seed1")
        write_checkpoint(paths, 1 if sweep == "a" else 2)
        assert Backup(paths.root, url, outputs=outputs).close()
    there = restore(f"{url}/b/0_wave_seed1", tmp_path / "empty")
    assert there == tmp_path / "empty" / "b" / "0_wave_seed1"
    assert RunPaths(there).checkpoint_steps() == [2]
    # From wherever it is continued, its backups go where they were.
    write_checkpoint(RunPaths(there), 3)
    assert Backup(there, url, outputs=tmp_path / "unrelated").close()
    assert RunPaths(restore(f"{url}/b/0_wave_seed1", tmp_path / "third")).checkpoint_steps() == [3]


def test_a_lost_or_damaged_identity_is_taken_from_the_backups(
    run: RunPaths, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(run, 1)
    assert Backup(run.root, url).close()
    before = json.loads(run.backup_file.read_text())
    run.backup_file.write_text("{")
    again = Backup(run.root, url)
    again.check()
    assert again.stored_step == 1
    assert again.close()
    assert json.loads(run.backup_file.read_text()) == before
    assert "backup.json is damaged" in caplog.text


def test_steps_kept_for_good_are_in_every_backup(run: RunPaths, url: str, tmp_path: Path) -> None:
    backup = Backup(run.root, url, keep_last_n=1, keep_every_n_steps=10)
    for step in (5, 10, 15, 20, 25):
        write_checkpoint(run, step)
        store(backup, step)
    assert backup.close()
    assert RunPaths(restore(f"{url}/{RUN}", tmp_path / "b")).checkpoint_steps() == [10, 20, 25]


# --- a run that is here already -------------------------------------------------------------------


def test_local_run_is_never_overwritten(run: RunPaths, backup: Backup, url: str) -> None:
    write_checkpoint(run, 1)
    write_checkpoint(run, 2)
    store(backup, 2)
    before = files_of(run.root)
    assert restore(f"{url}/{RUN}", run.root.parent) == run.root
    run.checkpoint_file(2).unlink()
    with pytest.raises(UserError, match=r"has step 2, but .* is only at step 1; move it away"):
        restore(f"{url}/{RUN}", run.root.parent)
    before.pop("checkpoints/checkpoint_step_2.pt")
    assert files_of(run.root) == before


def test_a_missing_backup_is_an_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no backup of a run"):
        restore(f"{url}/{RUN}", tmp_path)


# --- killed at any moment -------------------------------------------------------------------------

# A process that dies by SIGKILL at the n-th file operation of a backup, for each n; prints how many
# there are.
KILLED_EVERYWHERE = """
import json, os, shutil, signal, sys
from pathlib import Path
from spectral_exp.monitoring import ConfigTracker, MetricsLogger
from spectral_exp.monitoring.backup.store import Store
from spectral_exp.monitoring.backup.worker import back_up
from spectral_exp.monitoring.backup.restore import restore

COMPONENT_FILES = [*ConfigTracker.files, *MetricsLogger.files, "backup.json"]
root, remote, place = (Path(argument) for argument in sys.argv[1:])
url = f"file://{remote}/{root.name}"
run_id = json.loads((root / "backup.json").read_text())["run_id"]
Store(url).names()
pristine = remote.with_name("pristine")
shutil.copytree(remote, pristine)
n, dead = 0, True
while dead:
    n += 1
    shutil.rmtree(remote)
    shutil.copytree(pristine, remote)
    child = os.fork()
    if child == 0:
        left = n
        def hook(event, arguments):
            global left
            if event in ("open", "os.rename", "os.remove", "os.mkdir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        back_up(Store(url), root, root.name, run_id, 3, 2, None, COMPONENT_FILES)
        os._exit(0)
    dead = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    complete = list((remote / root.name).glob("manifest_*_step_3.json"))
    there = restore(url, place / str(n))
    step = int((there / "checkpoints" / "checkpoint_latest.pt").readlink().stem.rpartition("_")[2])
    assert step == (3 if complete else 2), (n, step)
    # The next attempt completes the backup and leaves no temporary files.
    back_up(Store(url), root, root.name, run_id, 3, 2, None, COMPONENT_FILES)
    left = [p.name for p in remote.rglob("*") if p.suffix == ".tmp" or "_step_1." in p.name]
    assert not left, (n, left)
assert step == 3
print(n)
"""


def test_worker_killed_at_every_file_operation(
    run: RunPaths, backup: Backup, tmp_path: Path
) -> None:
    for step in (1, 2):
        write_checkpoint(run, step)
        store(backup, step)
    backup.close()
    run.checkpoint_file(1).unlink()
    write_checkpoint(run, 3, best=True)
    done = python(
        "-c",
        KILLED_EVERYWHERE,
        str(run.root),
        str(tmp_path / "remote"),
        str(tmp_path / "b"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def test_killed_worker_is_replaced(
    run: RunPaths, backup: Backup, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(run, 1, n_bytes=64 << 20)
    for _ in range(2):
        backup.submit(1)
        eventually(lambda: children())
        for child in children():
            os.kill(child, signal.SIGKILL)
        eventually(lambda: backup.stored_step == 1)
        backup.stored_step = None
    warnings = [record for record in caplog.records if "training continues" in record.message]
    assert warnings
    assert "its process died" in warnings[0].message


def test_worker_ends_with_its_parent(tmp_path: Path, run: RunPaths, url: str) -> None:
    write_checkpoint(run, 1)
    code = (
        "import os, signal, sys; from spectral_exp.monitoring.backup.backup import Backup\n"
        "backup = Backup(sys.argv[1], sys.argv[2]); backup.submit(1)\n"
        "while backup.stored_step is None: pass\n"
        "print(backup._process._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = python("-c", code, str(run.root), url, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    eventually(lambda: not Path(f"/proc/{int(done.stdout)}").exists(), 10.0)


@pytest.mark.slow
def test_hung_worker_costs_a_warning_and_is_replaced(
    run: RunPaths, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    backup = Backup(run.root, url, timeout_s=12.0, pause_s=0.1)
    write_checkpoint(run, 1)
    store(backup, 1)
    (child,) = children()
    os.kill(child, signal.SIGSTOP)
    write_checkpoint(run, 2)
    store(backup, 2)
    assert "no progress for 12 s; check the network" in caplog.text
    assert backup.close()
    assert children() == []


def test_close_gives_up_at_its_deadline(
    run: RunPaths, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    backup = Backup(run.root, url, exit_deadline_s=0.5)
    write_checkpoint(run, 1)
    store(backup, 1)
    (child,) = children()
    os.kill(child, signal.SIGSTOP)
    write_checkpoint(run, 2)
    started = time.perf_counter()
    assert not backup.close()
    assert time.perf_counter() - started < 5.0
    assert "lacks the last state of the run (step 2) after exit_deadline_s=0.5" in caplog.text
    assert "the newest step there: 1" in caplog.text
    assert children() == []


def children() -> list[int]:
    """Processes of backup workers that this process has started."""
    import psutil

    found = []
    for child in psutil.Process().children():
        try:
            if "backup.worker" in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def test_worker_has_low_priority_and_no_torch(run: RunPaths, backup: Backup) -> None:
    write_checkpoint(run, 1)
    store(backup, 1)
    (child,) = children()
    assert os.getpriority(os.PRIO_PROCESS, child) >= 10
    assert "libtorch" not in Path(f"/proc/{child}/maps").read_text()


# --- errors at the start --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    ["", "remote", "ftp://host/x", "file://relative/x", "file:///", "s3://", "gs:///x", "ssh://", "s3://b/x?a=1",
     "s3://b/../x", "file:///a::s3://b"],
)  # fmt: skip
def test_wrong_urls_are_refused(wrong: str) -> None:
    with pytest.raises(SettingError, match=r"^backup_url=.* must be s3://bucket/folder, gs://"):
        normalize_url(wrong)


@pytest.mark.parametrize(
    "url", ["s3://KEY:s3cr3t@bucket/x", "s3://s3cr3t@bucket", "ssh://me:s3cr3t@host/x"]
)
def test_credentials_in_urls_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingError, match="credentials belong into the environment") as error:
        normalize_url(url)
    assert "s3cr3t" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("file:///tmp/x", "fsspec", "backup"),
        ("s3://bucket/x", "s3fs", "s3"),
        ("gs://bucket/x", "gcsfs", "gcs"),
        ("ssh://me@host:2222/x", "paramiko", "ssh"),
    ],
)
def test_missing_library_names_the_extra(
    url: str, library: str, extra: str, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules[sys.argv[2]] = sys.modules[sys.argv[2] + '.core'] = None\n"
        "from spectral_exp.core.errors import UserError\n"
        "from spectral_exp.monitoring.backup.store import Store\n"
        "try: Store(sys.argv[1])\n"
        "except UserError as error: print(error)"
    )
    done = python("-c", code, url, library, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"backup_url={url} needs a library that is not installed" in done.stdout
    assert f"pip install 'spectral-exp[{extra}]'" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_check_reports_a_missing_library() -> None:
    with pytest.raises(UserError, match=r"pip install 'spectral-exp\[gcs\]'"):
        check_url("gs://bucket/runs")


def test_check_leaves_nothing(url: str, tmp_path: Path) -> None:
    check_url(url)
    assert list((tmp_path / "remote").iterdir()) == []


def test_check_refuses_unwritable_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        UserError,
        match=r"^backup_url=file://.* cannot be used: .*; check the network and the storage",
    ):
        check_url(f"file://{tmp_path / 'file'}/runs")


def test_import_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, spectral_exp.monitoring.backup.backup, spectral_exp.monitoring.backup.restore;"
        " print(*sys.modules)"
    )
    loaded = set(python("-c", code, cwd=tmp_path).stdout.split())
    assert "spectral_exp.monitoring.backup.restore" in loaded
    assert not loaded & {"fsspec", "s3fs", "torch", "paramiko"}


# --- with the real manager ------------------------------------------------------------------------


def test_a_run_continues_from_its_backup(tmp_path: Path, url: str) -> None:
    import torch

    from spectral_exp.monitoring import CheckpointManager

    paths = write_run(tmp_path / "outputs" / RUN)
    backup = Backup(paths.root, url)
    manager = CheckpointManager(
        paths.root, 1, keep_last_n=2, background=True, on_durable=backup.submit
    )
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(1, 6):
        manager.save_checkpoint(step, model, optimizer, [0.5] * step, {}, is_best=step == 2)
        manager.wait()
    manager.close()
    assert backup.close()
    there = restore(f"{url}/{RUN}", tmp_path / "b")
    state = CheckpointManager(there).load_latest_checkpoint()
    best = CheckpointManager(there).load_best_checkpoint()
    assert state is not None
    assert best is not None
    assert (state["step"], best["step"]) == (5, 2)
    assert torch.equal(state["model_state_dict"]["weight"], model.weight)


# --- a real S3 server -----------------------------------------------------------------------------


def restore_elsewhere(url: str, folder: Path) -> Path:
    """As on another machine: by a fresh process."""
    code = (
        "import sys; from spectral_exp.monitoring.backup.restore import restore;"
        " print(restore(*sys.argv[1:]))"
    )
    done = python("-c", code, url, str(folder), cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.slow
def test_s3_stores_retains_and_restores(s3_server: S3Server, run: RunPaths, tmp_path: Path) -> None:
    s3_server.make_bucket()
    backup = Backup(run.root, "s3://bucket/runs", keep_last_n=2)
    backup.check()
    for step in (1, 2, 3, 4):
        write_checkpoint(run, step, best=step == 1, n_bytes=20 << 20 if step == 4 else 5000)
        store(backup, step)
    assert backup.close()
    listed = s3_server.list_keys()
    kept = {name.rpartition("_")[2] for name in listed if name.endswith(".pt")}
    assert kept == {"1.pt", "3.pt", "4.pt"}
    assert sum("/manifest_" in name for name in listed) == 2
    there = restore_elsewhere(f"s3://bucket/runs/{RUN}", tmp_path / "b")
    for step in (1, 4):
        assert (
            RunPaths(there).checkpoint_file(step).read_bytes()
            == run.checkpoint_file(step).read_bytes()
        )
    assert (there / "logs" / "metrics.jsonl").read_bytes() == run.metrics_file.read_bytes()


@pytest.mark.slow
def test_s3_unknown_bucket_and_missing_server_are_refused_at_start(s3_server: S3Server) -> None:
    with pytest.raises(
        UserError, match=r"^backup_url=s3://nobody/runs cannot be used: .*create the bucket"
    ):
        check_url("s3://nobody/runs")
    s3_server.stop()
    with pytest.raises(UserError, match=r"cannot be used: .*check the network") as error:
        check_url("s3://bucket/runs")
    assert "testing-secret-value" not in str(error.value)


@pytest.mark.slow
def test_s3_server_down_is_retried_when_back(
    s3_server: S3Server, run: RunPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s3_server.make_bucket()
    backup = Backup(run.root, "s3://bucket/runs", pause_s=0.5, retries=30)
    write_checkpoint(run, 1)
    store(backup, 1)
    s3_server.stop()
    write_checkpoint(run, 2)
    backup.submit(2)
    eventually(lambda: backup.failures >= 1)
    assert backup.stored_step == 1
    assert "training continues" in caplog.text
    assert "testing-secret-value" not in caplog.text
    s3_server.start()  # with nothing in it: what the first backup had stored has to be stored again
    s3_server.make_bucket()
    eventually(lambda: backup.stored_step == 2)
    assert "work again, from step 2 on" in caplog.text
    assert len([r for r in caplog.records if "training continues" in r.message]) == 1
    assert backup.close()
    assert RunPaths(
        restore_elsewhere(f"s3://bucket/runs/{RUN}", tmp_path / "b")
    ).checkpoint_steps() == [2]


@pytest.mark.slow
def test_s3_server_that_hangs_during_upload(
    s3_server: S3Server, run: RunPaths, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s3_server.make_bucket()
    assert s3_server.process is not None
    backup = Backup(run.root, "s3://bucket/runs", timeout_s=6.0, pause_s=0.5, retries=30)
    write_checkpoint(run, 1)
    store(backup, 1)
    s3_server.process.send_signal(signal.SIGSTOP)
    write_checkpoint(run, 2)
    backup.submit(2)
    eventually(lambda: backup.failures >= 1)
    assert "no progress for 6 s" in caplog.text
    s3_server.process.send_signal(signal.SIGCONT)
    eventually(lambda: backup.stored_step == 2)
    assert backup.close()
    assert RunPaths(
        restore_elsewhere(f"s3://bucket/runs/{RUN}", tmp_path / "b")
    ).checkpoint_steps() == [2]
