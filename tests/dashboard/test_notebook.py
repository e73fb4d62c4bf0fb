"""The view of runs that a notebook shows; `browser/test_notebook.py` looks at it."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spectral_exp.core.errors import UserError
from spectral_exp.dashboard import show
from spectral_exp.dashboard.notebook import Snapshot
from tests.dashboard.test_export import embedded_in, saved_in
from tests.results.made_runs import make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("classic", "wave & co"):
        for seed in (1, 2):
            make_run(folder, name, seed, val_bpb=2.5 + 0.01 * seed)
    return folder


def view_of(shown: Snapshot) -> str:
    return str(saved_in(shown.page)["view"])


def test_a_view_is_named_by_its_arguments(runs: Path) -> None:
    assert view_of(show(runs)) == "#/runs?"
    conditions = ["name=wave & co", "seed<3"]
    shown = show(str(runs), where=conditions, metric="val_loss", baseline="wave & co", theme="dark")
    assert view_of(shown) == (
        "#/runs?where=name%3Dwave+%26+co&where=seed%3C3&metric=val_loss&baseline=wave+%26+co"
    )
    assert saved_in(shown.page)["theme"] == "dark"
    assert sum(name.startswith("api/run/") for name in embedded_in(shown.page)) == 2
    assert repr(show(runs)) == "<dashboard of 4 runs>"
    copied = "http://127.0.0.1:6070/?token=secret#/runs?metric=loss"
    assert view_of(show(runs, view=copied)) == "#/runs?metric=loss"
    assert "secret" not in show(runs, view=copied).page


def test_a_run_directory_is_shown_in_depth(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run, *_) = sorted(runs.iterdir())
    monkeypatch.chdir(run)
    for folder in (run, Path()):
        assert view_of(show(folder)).startswith("#/run/")
    assert view_of(show(run, metric="loss")) == "#/runs?metric=loss"


def test_the_frame_holds_the_page(runs: Path, tmp_path: Path) -> None:
    shown = show(runs, where="name=wave & co", height=500)
    output = shown._repr_html_()
    found = re.fullmatch(r'<iframe ([^>]*) srcdoc="([^"]*)">([^<>]*)</iframe>', output)
    assert found is not None
    assert html.unescape(found[2]) == html.unescape(html.escape(shown.page))
    assert html.unescape(found[2]) == shown.page
    assert 'sandbox="allow-scripts allow-downloads"' in found[1]
    assert 'height="500"' in found[1]
    assert found[3].startswith("The dashboard of ")
    assert "trust the notebook" in found[3]  # shown where frames are left out
    file = tmp_path / "page.html"
    shown.save(file)
    assert file.read_text() == shown.page
    config = next(runs.iterdir()) / "config.json"
    before = config.read_bytes()
    with pytest.raises(UserError, match="record"):
        shown.save(config)
    assert config.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"where": "seed"}, "seed"),
        ({"theme": "blue"}, "light, dark"),
        ({"height": 10}, "height"),
        ({"view": "#/run/unknown"}, "unknown"),
        ({"view": "#/runs", "metric": "loss"}, "without where"),
    ],
)
def test_mistakes_are_named(runs: Path, arguments: dict[str, str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        show(runs, **arguments)  # type: ignore[arg-type]


def test_folders_are_required(tmp_path: Path) -> None:
    for folders in ((), (tmp_path / "missing",)):
        with pytest.raises(UserError, match="folder"):
            show(*folders)


def test_showing_runs_loads_neither_torch_nor_matplotlib(runs: Path) -> None:
    code = (
        "import sys; from spectral_exp.dashboard import show; show(sys.argv[1]);"
        "print({'torch', 'matplotlib', 'hydra'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
