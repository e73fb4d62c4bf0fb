"""A backup in a storage that others can write restores files of a run, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.core.checksum import crc32
from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.monitoring.backup.restore import restore

CONTENT = b"{}"
LATEST = "checkpoints/checkpoint_step_1.pt"


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "key": "objects/x",
        "size": len(CONTENT),
        "crc32": f"{crc32(CONTENT):08x}",
        "mtime_ns": 1,
        **changes,
    }


def manifest(extra: Any = None, /, **changes: Any) -> dict[str, Any]:
    whole = {"config.json": entry(), LATEST: entry(), **(extra or {})}
    plain = {
        "run": "r",
        "id": "1",
        "step": 1,
        "timestamp": "t",
        "latest": LATEST,
        "best": None,
        "files": whole,
    }
    return {**plain, **changes}


def store(folder: Path, content: dict[str, Any] | bytes) -> str:
    """A backup with this manifest; returns its URL."""
    place = folder / "store" / "r"
    (place / "objects").mkdir(parents=True)
    (place / "objects" / "x").write_bytes(CONTENT)
    (folder / "store" / "secret").write_bytes(CONTENT)
    if isinstance(content, dict):
        content = json.dumps({**content, "crc32": content_crc32(content)}).encode()
    (place / "manifest_000001_step_1.json").write_bytes(content)
    return f"file://{place}"


def test_a_sound_backup_is_restored(tmp_path: Path) -> None:
    run = restore(
        store(tmp_path, manifest({"visualizations/a b.png": entry()})), tmp_path / "outputs"
    )
    assert sorted(f.name for f in run.rglob("*") if f.is_file() and not f.is_symlink()) == [
        "a b.png", "checkpoint_step_1.pt", "config.json",
    ]  # fmt: skip


NAMES = (
    *(
        "../x",
        "a/../../x",
        "/etc/x",
        "",
        ".",
        "a//b",
        "./a",
        "C:x",
        "c:/x",
        "a\\..\\b",
        "a\x1bb",
        "a\0b",
        "a\n",
    ),
    *(
        "con",
        "logs/NUL.txt",
        "com1",
        "Lpt9.log",
        "a.",
        "a ",
        "x" * 300,
        "CONFIG.JSON",
        "config.json/x",
        "checkpoints",
    ),
)
HOSTILE: dict[str, dict[str, Any] | bytes] = {
    **{f"file {name[:20]!r}": manifest({name: entry()}) for name in NAMES},
    **{
        f"run {name!r}": manifest(run=name)
        for name in ("../r", "/r", "", "..", "a/../../b", "C:r", "a\x1b", 5, None)
    },
    **{
        f"key {key!r}": manifest({"x": entry(key=key)})
        for key in ("../secret", "objects/../../secret", "/etc/x", 3, "")
    },
    **{f"size {size!r}": manifest({"x": entry(size=size)}) for size in (-1, "2", 1e308, None)},
    **{f"time {time!r}": manifest({"x": entry(mtime_ns=time)}) for time in (-1, 10**30, "x")},
    "checksum": manifest({"x": entry(crc32="../../..")}),
    "latest elsewhere": manifest(latest="../../x"),
    "best elsewhere": manifest(best="../../x"),
    "files are a list": manifest(files=["a"]),
    "step is text": manifest(step="1"),
    "nothing": {},
    "duplicates": b'{"run": "r", "run": "../r"}',
    "deep": b'{"a": ' + b"[" * 50_000,
    "no object": b"[]",
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_manifests_without_a_run_are_refused_and_write_nothing(name: str, tmp_path: Path) -> None:
    url = store(tmp_path, HOSTILE[name])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="none is intact"):
        restore(url, tmp_path / "outputs")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_object_larger_than_its_recorded_size_is_refused(tmp_path: Path) -> None:
    url = store(tmp_path, manifest())
    (tmp_path / "store/r/objects/x").write_bytes(CONTENT * 1000)
    with pytest.raises(UserError, match="none is intact"):
        restore(url, tmp_path / "outputs")
    assert not list(tmp_path.glob("outputs/*"))
