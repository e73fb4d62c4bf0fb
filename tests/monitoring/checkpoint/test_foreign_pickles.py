"""Pickles that would run code, in every form of opcode and container: none is run, and the refusal is one line."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from spectral_exp.core.checksum import file_crc32
from spectral_exp.core.errors import UserError
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


@pytest.mark.parametrize("container", ["bare", "zip"])
@pytest.mark.parametrize("form", PAYLOADS)
def test_no_pickle_is_run(form: str, container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("checkpoint_step_1.pt")
    if container == "bare":
        path.write_bytes(PAYLOADS[form])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", PAYLOADS[form])
            archive.writestr("archive/version", "3\n")
    facts = {"size": path.stat().st_size, "crc32": f"{file_crc32(path, 1):08x}"}
    checkpoint_file.sidecar_file(path).write_text(json.dumps(facts))
    with pytest.raises((UserError, BrokenCheckpointError)) as caught:
        read_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1
    assert not os.path.lexists("canary")
