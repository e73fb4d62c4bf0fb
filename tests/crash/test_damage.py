"""Damage at rest: a flipped bit in, a truncation of and the loss of every file of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import every_in_ci
from tests.crash.conftest import Zygote, report_count


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x04
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_every_file(
    zygote: Zygote, scenario: str, damage: Callable[[Path], None], folder: Path
) -> None:
    """Damage each file of a finished run in turn; the same command again repairs it or trains
    again."""
    finished = folder / "finished"
    expected = zygote.run(scenario, finished).text.split("\n")
    names = [
        path.relative_to(finished) for path in sorted(finished.rglob("*")) if not path.is_dir()
    ]
    failed = []
    for name in names:
        root = folder / "damaged"
        shutil.copytree(finished, root, symlinks=True)
        damage(root / name)
        text = zygote.run(scenario, root).text.split("\n")
        # Damaged lines of metrics are lost, with a warning; training is the same.
        head = 1 if scenario == "library" else 2
        if text != expected and not (
            name.name == "metrics.jsonl" and text[:head] == expected[:head]
        ):
            failed.append((name, text[:3]))
        shutil.rmtree(root)
    assert not failed, failed
    report_count(
        f"{damage.__name__} of each file, {scenario}", len(names), len(names) - len(failed)
    )


@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink])
@pytest.mark.slow
def test_every_file_of_a_library_run(
    zygote: Zygote, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    damage_every_file(zygote, "library", damage, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", every_in_ci(4, [flip, truncate, empty, Path.unlink]))
def test_every_file_of_a_whole_run(
    zygote: Zygote, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    damage_every_file(zygote, "synchronous run", damage, tmp_path)
