"""Format numbers rise with every change of their format.

Each test computes a digest of what fixed runs give. If it fails after a change, raise the number it
names and add the new digest under the new number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spectral_exp.results import figures
from spectral_exp.results.paper import PaperGenerator, provenance
from spectral_exp.runs import index
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import read_facts
from tests.results.made_runs import make_run

FACTS = {1: "cac774d78645fb1a", 2: "01872065e0d2b033", 3: "01872065e0d2b033"}
TEXTS = {
    1: "0c79c45e16bfe31c",
    2: "094ad51306f70e87",
    3: "96e50189409e0ea1",
    4: "a9bef0d2c14e26d4",
    5: "a9bef0d2c14e26d4",
    6: "3cf3a100992119c6",
    7: "432a427a81715114",
}
PROVENANCES = {1: "9e21ba763d07c239"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def test_the_index_has_a_new_format_if_the_facts_of_a_run_change(tmp_path: Path) -> None:
    """Runs that are whole, damaged, diverged, recorded by older versions, and without results."""
    whole = make_run(tmp_path, "wave_rgd", 1)
    odd = make_run(
        tmp_path, "classic", 2, status="diverged",
        settings={"training.batch_size": "many", "own.deep": [1, {"a": None}], "name": "o\x1bdd"},
        record={"hardware": {"cpu_count": -1}, "overrides": None, "own": 1},
    )  # fmt: skip
    with RunPaths(odd).metrics_file.open("ab") as file:
        file.write(
            b'{"step": 110, "loss": "NaN", "own": 1e999, "text": "x"}\n{"step": 110, "loss": 2.5,'
            b' "huge": 123456789012345678901234567890}\ngarbage\n{"step": 1'
        )
    killed = make_run(tmp_path, "phasor", 3, status=None, steps=30)
    unusable = make_run(tmp_path, "wave", 4)
    RunPaths(unusable).config_file.write_text('{"a": 1, "a": 2}')
    facts = [read_facts(path) for path in (whole, odd, killed, unusable)]
    assert digest(json.dumps(facts).encode()) == FACTS[index._FORMAT]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers")
    for name, bpb in {"classic": 2.72, "classic_rotary": 2.59, "wave_qfe": 2.74}.items():
        for seed, noise in enumerate((0.0, 0.011, -0.009, 0.004), 1):
            own = noise + 0.006 * (seed * len(name) % 3)
            make_run(folder / "runs", name, seed, val_bpb=bpb + own)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Figures have tests of their own, and their bytes depend on the version of matplotlib.
        patch.setattr(figures, "comparison_plots", lambda comparison, **options: [])
        PaperGenerator(["runs"]).write("paper", formats=["md", "tex"])
    return folder / "paper"


def test_the_writer_has_a_new_version_if_the_text_of_a_paper_changes(papers: Path) -> None:
    texts = sorted(path for path in papers.rglob("*") if path.suffix in {".md", ".tex"})
    assert len(texts) >= 2
    content = b"".join(path.read_bytes() for path in texts)
    assert digest(content) == TEXTS[provenance.WRITER_VERSION]


def test_the_provenance_has_a_new_format_if_its_entries_change(papers: Path) -> None:
    record = json.loads((papers / "provenance.json").read_bytes())
    assert (
        digest(json.dumps(shape(record), sort_keys=True).encode()) == PROVENANCES[provenance.FORMAT]
    )


def shape(value: Any) -> Any:
    """Names of entries and types of values; of a list, that of its first item."""
    if isinstance(value, Mapping):
        names = {"*": next(iter(value.values()))} if "paper.md" in value else value
        return {name: shape(item) for name, item in names.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__
