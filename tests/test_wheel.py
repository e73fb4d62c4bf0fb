"""The wheel carries the configuration and works in an empty folder; the contents of the sdist."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import NO_PLOTS, ROOT, TINY

DATA = {".css", ".html", ".js", ".json", ".md", ".svg", ".tex", ".typ"}
"""Suffixes of templates and texts that the package reads."""


@pytest.mark.slow
def test_a_wheel_trains_in_an_empty_folder(tmp_path: Path) -> None:
    wheels, site, empty = (tmp_path / name for name in ("wheels", "site", "empty"))
    empty.mkdir()
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(wheels),
        ".",
    ]
    subprocess.run(build, cwd=ROOT, check=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        folders = {name.partition("/")[0] for name in archive.namelist()}
        assert {folder.split("-")[0] for folder in folders} == {"spectral_exp"}
        about = next(
            archive.read(name) for name in archive.namelist() if name.endswith("METADATA")
        ).decode()
        assert (ROOT / "README.md").read_text(encoding="utf-8").strip() in about
        entry_points = next(
            name for name in archive.namelist() if name.endswith("entry_points.txt")
        )
        assert "spectral-exp = spectral_exp.__main__:main" in archive.read(entry_points).decode()
        data = [path for path in (ROOT / "spectral_exp").rglob("*") if path.suffix in DATA]
        assert data
        assert {path.relative_to(ROOT).as_posix() for path in data} <= set(archive.namelist())
    script = (
        f"import sys, spectral_exp\nassert spectral_exp.__file__.startswith({str(site)!r})\n"
        "from spectral_exp.train import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "+experiment=wave_rgd", *TINY, NO_PLOTS],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (empty / "outputs").iterdir()
    # Outside a repository there is no commit to name.
    assert run.name.endswith("_nogit000")
    assert (run / "results.json").is_file()


def test_the_sdist_holds_the_sources_the_tests_and_the_documentation(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as sources:
        held = {name.partition("/")[2] for name in sources.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt"} <= held
    assert {"conf/config.yaml", "docs/train.md", "examples/own_loop.ipynb"} <= held
    assert {"spectral_exp/train.py", "tests/test_docs.py"} <= held
    assert {name for name in held if name.startswith(("outputs/", ".venv/"))} <= {
        "outputs/README.md"
    }
