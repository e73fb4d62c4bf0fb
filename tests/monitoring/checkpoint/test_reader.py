"""What a load makes of files that it cannot read now, that are hostile, or that others wrote: never
damage."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spectral_exp.core.checksum import file_crc32
from spectral_exp.core.errors import UserError
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint import reader as checkpoint_reader
from spectral_exp.monitoring.checkpoint.reader import BrokenCheckpointError, read_checkpoint
from spectral_exp.monitoring.checkpoint.state import CHECKPOINT_KEYS


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_reader, "_RETRY_PAUSES_S", (0.0, 0.0))


def saved(root: Path, *steps: int, compression: Any = None) -> CheckpointManager:
    """A manager whose run has checkpoints of `steps`."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    manager = CheckpointManager(root, keep_last_n=9, compression=compression)
    for step in steps:
        assert manager.save_checkpoint(step, model, optimizer, [1.0] * step, {"lr": 0.1})
    return manager


def contents(root: Path) -> dict[str, bytes | str]:
    """Every file below a folder with its bytes, and every link with its target."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if not path.is_dir()
    }


def write_sidecar(path: Path, **facts: Any) -> None:
    """Write the sidecar that belongs to the file."""
    content = {"size": path.stat().st_size, "crc32": f"{file_crc32(path, 1):08x}"} | facts
    checkpoint_file.sidecar_file(path).write_text(json.dumps(content))


def refused(root: Path, match: str) -> str:
    """Check that loading raises an error and changes nothing; return the message."""
    before = contents(root)
    with pytest.raises(UserError, match=match) as refusal:
        CheckpointManager(root).load_latest_checkpoint()
    assert contents(root) == before
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith(f"cannot read the checkpoint {root}/checkpoints")
    return message


# --- a storage that fails -------------------------------------------------------------------------


class FailingStorage:
    """Counts the opens, reads and look-ups below a folder, and lets some of them fail.

    Args:
        root: the folder.
        number: of the error.
        first: the operation that fails first, counted from 0.
        last: the last one that fails.
    """

    def __init__(self, root: Path, number: int = 0, first: int = -1, last: int = -1) -> None:
        self.root, self.number, self.first, self.last = str(root), number, first, last
        self.count = 0

    def touch(self, path: object) -> None:
        """Count an operation on `path`. Raises OSError if it is to fail."""
        if isinstance(path, str | os.PathLike) and str(path).startswith(self.root):
            self.count += 1
            if self.first < self.count <= self.last:
                raise OSError(self.number, os.strerror(self.number), str(path))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it below everything that reads files in Python."""
        for name in ("stat", "lstat", "listdir", "scandir", "readlink", "open"):
            patch.setattr(os, name, self._wrapped(getattr(os, name)))
        storage = self

        class File(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                storage.touch(self.name)
                return super().readinto(buffer)

            def readall(self) -> bytes:
                storage.touch(self.name)
                return super().readall()

            def read(self, size: int | None = -1) -> bytes:
                storage.touch(self.name)
                return super().read(-1 if size is None else size)

        real_open = io.open

        def open_file(
            file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any
        ) -> Any:
            storage.touch(file)
            if not str(file).startswith(storage.root) or mode != "rb":
                return real_open(file, mode, buffering, *rest, **options)
            raw = File(os.fspath(file), "rb")
            return raw if buffering == 0 else io.BufferedReader(raw)

        patch.setattr(io, "open", open_file)
        patch.setattr(builtins, "open", open_file)

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Any = ".", *rest: Any, **options: Any) -> Any:
            self.touch(path)
            return function(path, *rest, **options)

        return wrapped


@pytest.mark.parametrize(
    "number",
    [
        errno.EIO,
        errno.EACCES,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (errno.ESTALE, errno.ENOMEM)),
    ],
)
def test_a_failing_read_anywhere_changes_nothing(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1, 2)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        undisturbed = FailingStorage(tmp_path)
        undisturbed.install(patch)
        assert CheckpointManager(tmp_path).load_latest_checkpoint() is not None
    assert undisturbed.count > 20
    loaded = 0
    for lasting in (False, True):
        for at in range(0, undisturbed.count, 3 if lasting else 1):
            storage = FailingStorage(tmp_path, number, at, 10**9 if lasting else at + 1)
            with monkeypatch.context() as patch:
                storage.install(patch)
                try:
                    state = CheckpointManager(tmp_path).load_latest_checkpoint()
                except UserError as error:
                    assert "\n" not in str(error)  # noqa: PT017 - which of them fail is counted below
                else:
                    assert state is not None
                    assert state["step"] == 2
                    loaded += 1
            assert contents(tmp_path) == before
    # A moment of trouble passes; anything else is said.
    if number in {errno.EIO, errno.ESTALE}:
        assert loaded >= undisturbed.count // 2
    else:
        assert loaded < undisturbed.count // 4


# --- memory ---------------------------------------------------------------------------------------

MEMORY = """
import os, resource, sys
import psutil, torch
from spectral_exp.core.errors import UserError
from spectral_exp.monitoring import CheckpointManager
torch.set_num_threads(1)
root = sys.argv[1]
model = torch.nn.Linear(3000, 3000, bias=False)
optimizer = torch.optim.SGD(model.parameters())
for step in (1, 2):
    CheckpointManager(root).save_checkpoint(step, model, optimizer, [1.0], {})
assert CheckpointManager(root).load_latest_checkpoint()["step"] == 2
before = sorted(os.listdir(f"{root}/checkpoints"))
for spare_mb in (0, 1, 2, 4, 8, 16, 24, 32, 40, 2000):
    child = os.fork()
    if child == 0:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + spare_mb * 2**20,) * 2)
        try:
            found = CheckpointManager(root).load_latest_checkpoint()
            os._exit(0 if found["step"] == 2 else 1)
        except UserError as error:
            os._exit(3 if "memory" in str(error) else 4)
        except BaseException:
            os._exit(5)
    print(spare_mb, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert sorted(os.listdir(f"{root}/checkpoints")) == before
"""


def test_tensors_too_large_for_the_memory_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = saved(tmp_path, 1, 2).paths.checkpoint_file(2).stat().st_size
    monkeypatch.setattr(checkpoint_reader, "available_memory", lambda: size - 1)
    refused(tmp_path, "it needs 0 MB of memory, and 0 MB are available; free memory")
    monkeypatch.setattr(
        checkpoint_reader, "available_memory", lambda: None
    )  # a system that does not say
    assert CheckpointManager(tmp_path).load_latest_checkpoint() is not None


@pytest.mark.slow
def test_too_little_memory_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(outcomes) == 10
    assert outcomes[-1] == 0
    assert outcomes.count(3) >= 5
    assert set(outcomes) <= {0, 3}


# --- files by others ------------------------------------------------------------------------------


class Payload:
    """Calls a function when it is unpickled by a loader that allows it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def payloads(trace: Path) -> dict[str, Any]:
    """Objects that would leave `trace`, or do other harm, if they were loaded."""
    return {
        "system": Payload(os.system, f"touch {trace}"),
        "popen": Payload(subprocess.Popen, ["touch", str(trace)]),
        "eval": Payload(eval, f"open({str(trace)!r}, 'w')"),
        "getattr": Payload(getattr, "text", "upper"),
        "torch.load": Payload(torch.load, str(trace)),
        "collect_env": Payload(torch.utils.collect_env.run, f"touch {trace}"),
        "hub": Payload(torch.hub.load, str(trace)),
        "path": Path("x"),
        "object array": np.array([Payload(os.system, f"touch {trace}")], dtype=object),
        "numpy array": np.zeros(3),
    }


def state_with(value: Any) -> dict[str, Any]:
    """A checkpoint's entries around a value."""
    state: dict[str, Any] = {key: {} for key in CHECKPOINT_KEYS}
    state |= {"timestamp": "", "git_hash": "", "step": 2, "loss_history": torch.zeros(2)}
    return state | {"model_state_dict": {"weight": value}}


@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_objects_that_may_run_code_are_refused_and_not_called_damage(
    tmp_path: Path, name: str, sidecar: bool
) -> None:
    trace = tmp_path / "trace"
    path = saved(tmp_path / "run", 1, 2).paths.checkpoint_file(2)
    torch.save(state_with(payloads(trace)[name]), path)
    checkpoint_file.sidecar_file(path).unlink()
    if sidecar:
        write_sidecar(path)
    message = refused(
        tmp_path / "run", "holds objects that are not loaded, since loading them may run code"
    )
    assert "torch.load(..., weights_only=False)" in message
    assert not trace.exists()


def replace_records(path: Path, **records: bytes) -> None:
    """Write an archive again with other records, named by their last part."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, records.get(name.rpartition("/")[2].replace(".", "_"), data))


@pytest.mark.parametrize(
    "change",
    [
        {"data_pkl": pickle.dumps(state_with(1.0), protocol=5)},
        {"data_pkl": b"\x80\x02\xff."},
        {"data_pkl": b"\x80\x02ctorch\nFutureStorage\nq\x00."},
        {"data_pkl": b"\x80\x02]q\x00."},
        {"data_pkl": b""},
        {"version": b"99\n"},
    ],
    ids=["protocol", "opcode", "storage", "list", "empty", "version"],
)
@pytest.mark.parametrize("sidecar", [True, False])
def test_newer_and_foreign_formats_are_not_called_damage(
    tmp_path: Path, change: dict[str, bytes], sidecar: bool, recwarn: pytest.WarningsRecorder
) -> None:
    path = saved(tmp_path, 1, 2).paths.checkpoint_file(2)
    replace_records(path, **change)
    checkpoint_file.sidecar_file(path).unlink()
    if sidecar:
        write_sidecar(path)
    refused(tmp_path, "torch|is not a checkpoint of this program|may run code")
    recwarn.clear()  # torch's, of the protocol


def test_other_files_in_the_place_of_a_checkpoint_are_not_called_damage(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2).paths.checkpoint_file(2)
    checkpoint_file.sidecar_file(path).unlink()
    torch.save(state_with(torch.zeros(1)), path, _use_new_zipfile_serialization=False)
    refused(tmp_path, "it is a pickle, such as torch wrote before")
    torch.save({"weights": torch.zeros(3)}, path)
    refused(tmp_path, "it lacks step, model_state_dict, .* is not a checkpoint of this program")
    torch.save(state_with(0) | {"optimizer_state_dict": [1]}, path)
    refused(tmp_path, "its optimizer_state_dict is a list")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="it is not a regular file"):
        CheckpointManager(tmp_path).load_latest_checkpoint()
    path.unlink()
    path.mkdir()
    refused(tmp_path, "it is not a regular file")
    path.rmdir()
    path.symlink_to("/dev/zero")
    refused(tmp_path, "it is not a regular file")


def test_a_file_without_checksums_is_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path, 1, 2).paths.checkpoint_file(2)
    state = read_checkpoint(path)
    checkpoint_file.sidecar_file(path).unlink()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(path)["step"] == 2


@pytest.mark.parametrize(
    "sidecar",
    [
        "[" * 100_000,
        '{"size": NaN, "crc32": "00000000"}',
        '{"size": true, "crc32": "00000000"}',
        '{"size": ' + "9" * 5000 + "}",
        '{"crc32": 5, "size": 7}',
        '{"size": 7, "crc32": "../../x"}',
        "[]",
        "\udcff",
        "x" * (2 << 20),
    ],
    ids=["deep", "nan", "bool", "huge", "number", "text", "list", "bytes", "long"],
)
def test_a_hostile_sidecar_leaves_the_checkpoint_unverified(tmp_path: Path, sidecar: str) -> None:
    manager = saved(tmp_path, 1, 2)
    file = checkpoint_file.sidecar_file(manager.paths.checkpoint_file(2))
    file.write_bytes(sidecar.encode(errors="surrogateescape"))
    state = manager.load_latest_checkpoint()
    assert state is not None
    assert state["step"] == 2


def test_hostile_numbers_in_sidecars_do_no_harm(tmp_path: Path) -> None:
    manager = saved(tmp_path, 1, 2)
    for hostile in (-1, 2**70, "9", None, [1], 1e308, True):
        write_sidecar(
            manager.paths.checkpoint_file(2), serial=hostile, best_step=hostile, state_bytes=hostile
        )
        fresh = saved(tmp_path, 3)
        assert [found["step"] for found in fresh.list_checkpoints()] == [1, 2, 3]
        state = fresh.load_latest_checkpoint()
        assert state is not None
        assert state["step"] == 3
        fresh.cleanup_old_checkpoints()


# --- bombs ----------------------------------------------------------------------------------------

BOMB_BYTES = 192 << 20


def bomb(kind: str, path: Path) -> dict[str, Any]:
    """Write a small file that would take hundreds of megabytes, and return the entries of its
    sidecar."""
    if kind.startswith("zstd"):
        zstandard = pytest.importorskip("zstandard")
        compressor = zstandard.ZstdCompressor(level=1).compressobj()
        with path.open("wb") as file:
            head = b"" if kind == "zstd of zeros" else b"PK\x03\x04"
            file.write(compressor.compress(head))
            for _ in range(BOMB_BYTES >> 26):
                file.write(compressor.compress(bytes(1 << 26)))
            file.write(compressor.flush())
        return {"state_bytes": 10**15} if kind == "zstd that announces too much" else {}
    with zipfile.ZipFile(
        path, "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
    ) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("archive/data/0", "w") as record:
            for _ in range((64 << 20 if kind == "deflated" else 1 << 20) >> 20):
                record.write(bytes(1 << 20))
        if kind == "overlapping":  # one record under many names
            for number in range(1, 600):
                again = archive.getinfo("archive/data/0")
                info = zipfile.ZipInfo(f"archive/data/{number}")
                info.header_offset, info.CRC = again.header_offset, again.CRC
                info.file_size = info.compress_size = again.file_size
                archive.filelist.append(info)
    return {}


@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize(
    "kind", ["zstd of zeros", "zstd", "zstd that announces too much", "deflated", "overlapping"]
)
def test_bombs_are_refused_before_they_take_memory(
    tmp_path: Path, kind: str, sidecar: bool
) -> None:
    compressed = kind.startswith("zstd")
    manager = saved(tmp_path, 1, 2)
    manager._folder.remove(2)
    path = manager.paths.checkpoints / (
        "checkpoint_step_2.pt.zst" if compressed else "checkpoint_step_2.pt"
    )
    announced = bomb(kind, path)
    assert path.stat().st_size < 1.3e6
    if sidecar:
        write_sidecar(path, **announced)
    before = contents(tmp_path)
    tracemalloc.start()
    try:
        for check in (read_checkpoint, checkpoint_reader.verify):
            try:
                check(path)
            except (UserError, BrokenCheckpointError) as error:
                assert "\n" not in str(error)  # noqa: PT017 - both answers are right, a load is not
            else:
                # Bytes that agree with a sidecar are compared without being unpacked.
                assert (check, sidecar) == (checkpoint_reader.verify, True)
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()
    assert contents(tmp_path) == before


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("sidecar", [True, False])
def test_every_truncation_and_many_flips_are_found_or_harmless(
    tmp_path: Path, compression: str | None, sidecar: bool
) -> None:
    if compression:
        pytest.importorskip("zstandard")
    path = saved(tmp_path, 1, compression=compression).paths.checkpoint_file(1)
    if not sidecar:
        checkpoint_file.sidecar_file(path).unlink()
    whole = path.read_bytes()
    expected = read_checkpoint(path)["model_state_dict"]["weight"]
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        flipped = bytearray(whole)
        flipped[at] ^= 0x10
        for damaged in (whole[:at], bytes(flipped)):
            path.write_bytes(damaged)
            try:
                state = read_checkpoint(path)
            except (BrokenCheckpointError, UserError) as error:
                assert isinstance(error, BrokenCheckpointError) or not sidecar  # noqa: PT017
            else:
                # Padding, names and dates of an archive are covered by the sidecar alone.
                assert not sidecar
                assert torch.equal(state["model_state_dict"]["weight"], expected)


def test_a_checkpoint_replaced_while_it_is_read_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = saved(tmp_path, 1, 2)
    path = manager.paths.checkpoint_file(2)
    old = checkpoint_file.load_sidecar(path)
    answers = [old]

    def stale_then_true(where: Path) -> dict[str, Any] | None:
        if where == path and answers:
            saved(tmp_path, 2)
            return answers.pop()
        return checkpoint_file.load_sidecar(where)

    monkeypatch.setattr(checkpoint_reader, "load_sidecar", stale_then_true)
    assert read_checkpoint(path)["step"] == 2
    assert not answers
