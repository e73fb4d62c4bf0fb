"""Pickles that would run code, in every form of opcode and container: none is run, and the refusal
is one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spectral_exp.core.checksum import file_crc32
from spectral_exp.core.errors import UserError
from spectral_exp.core.files import replace_symlink
from spectral_exp.monitoring.checkpoint import file as checkpoint_file
from spectral_exp.monitoring.checkpoint.reader import BrokenCheckpointError, read_checkpoint

PAYLOADS = {
    "GLOBAL, REDUCE": b"\x80\x02cos\nmkdir\n(Vcanary\ntR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x06canary\x85R.",
    "BUILD": b"\x80\x02cos\nmkdir\n(Vcanary\ntR}b.",
    "INST": b"(Vcanary\nios\nmkdir\n.",
    "OBJ": b"(cos\nmkdir\nVcanary\no.",
    "NEWOBJ_EX": b"\x80\x04cos\nmkdir\n(Vcanary\nt}\x92.",
    "NEWOBJ": b"\x80\x02cos\nmkdir\n(Vcanary\nt\x81.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pcanary\n.",
    "BINPERSID": b"\x80\x02Vcanary\nQ.",
}


def _zipped(pickled: bytes, member: str = "data.pkl") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"archive/{member}", pickled)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def _in_tar(pickled: bytes) -> bytes:
    """The first format of torch: a tar file of three members, each of them pickles."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(pickled)
            archive.addfile(member, io.BytesIO(pickled))
    return file.getvalue()


def _in_stream(pickled: bytes) -> bytes:
    """The second format of torch: a row of pickles that begins with a magic number."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = [0x1950A86A20F9469CFC6C, 1001, facts]
    return b"".join(pickle.dumps(part, protocol=2) for part in head) + pickled


def _compressed(content: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))


CONTAINERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "bare": (".pt", bytes),
    "zip": (".pt", _zipped),
    "stream": (".pt", _in_stream),
    "tar": (".pt", _in_tar),
    "TorchScript": (".pt", lambda pickled: _zipped(pickled, "constants.pkl")),
    "bare before zip": (".pt", lambda pickled: pickled + _zipped(pickled)),
    "stream before zip": (".pt", lambda pickled: _in_stream(pickled) + _zipped(pickled)),
    "tar before zip": (".pt", lambda pickled: _in_tar(pickled) + _zipped(pickled)),
    "zip in zstd": (".pt.zst", lambda pickled: _compressed(_zipped(pickled))),
    "bare in zstd": (".pt.zst", lambda pickled: _compressed(pickled)),
    "tar in zstd": (".pt.zst", lambda pickled: _compressed(_in_tar(pickled))),
}
"""Suffix of the file, and the function from a pickle to the content of the file."""


def write_foreign(
    folder: Path, step: int, pickled: bytes, container: str, sidecar: bool = True
) -> Path:
    """Write a checkpoint that holds `pickled`, with a sidecar that agrees with it, in place of
    another."""
    suffix, pack = CONTAINERS[container]
    path = folder / f"checkpoint_step_{step}{suffix}"
    for link in (folder / "checkpoint_latest.pt", folder / "checkpoint_best.pt"):
        if link.is_symlink() and f"_{step}.pt" in str(link.readlink()):
            replace_symlink(link, path)
    for other in folder.glob(f"checkpoint_step_{step}.pt*"):
        other.unlink()
    path.write_bytes(pack(pickled))
    if sidecar:
        facts = {"size": path.stat().st_size, "crc32": f"{file_crc32(path, 1):08x}"}
        checkpoint_file.sidecar_file(path).write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize("container", CONTAINERS)
def test_no_pickle_is_run(
    container: str, sidecar: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for form, pickled in PAYLOADS.items():
        path = write_foreign(Path(), 1, pickled, container, sidecar)
        with pytest.raises((UserError, BrokenCheckpointError)) as caught:
            read_checkpoint(path)
        assert len(str(caught.value).splitlines()) == 1, form
        assert not os.path.lexists("canary"), form


def test_the_payloads_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for form in ("GLOBAL, REDUCE", "STACK_GLOBAL", "BUILD", "INST", "OBJ"):
        with contextlib.suppress(AttributeError):  # BUILD, after the call
            pickle.loads(PAYLOADS[form])
        Path("canary").rmdir()
    read = PAYLOADS["GLOBAL, REDUCE"]
    for container in ("stream", "zip"):
        content = CONTAINERS[container][1](read)
        with contextlib.suppress(Exception):  # torch asks for tensors, after the call
            torch.load(io.BytesIO(content), weights_only=False)
        assert os.path.lexists("canary"), container
        Path("canary").rmdir()
