"""The user's own code is used as a run had it, or restored from its record, or refused."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spectral_exp import train
from spectral_exp.commands import reproduce
from spectral_exp.config import packages, trust
from spectral_exp.config.command_line import CommandLine
from spectral_exp.core.errors import UserError
from spectral_exp.monitoring.tracking.own_code import own_code
from spectral_exp.runs.layout import OWN_CONFIG_NAME, RunPaths
from spectral_exp.verification.recorded_packages import OwnPlaces, recorded_packages
from tests.conftest import NO_PLOTS, ROOT, TINY

FILES = {
    "mylab/a.py": "a = 1\n",
    "mylab/env/b.py": "b = 1\n",
    "myconf/optimizer/mine.yaml": "_target_: mylab.a.Mine\n",
    "myconf/notes.txt": "no configuration\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a user with a package and configuration files."""
    folder = tmp_path / "lab"
    write(folder, FILES)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def record_run(lab: Path) -> dict[str, Any]:
    """Record a run in `lab/run`, and remember what it uses."""
    places = {"mylab": lab / "mylab", OWN_CONFIG_NAME: lab / "myconf"}
    facts, archive = own_code(places)
    write(lab, {"run/config.json": "{}"})
    (lab / "run/code.zip").write_bytes(archive)
    packages.remember_packages({"packages": ["mylab"]})
    trust.remember_config_dir(lab / "myconf")
    return {"own_code": facts}


def find(
    lab: Path, record: dict[str, Any], code: str = "known"
) -> tuple[OwnPlaces, dict[str, str]]:
    """Return the places of the user's code, and the restored files."""
    options = {"is_trusted": code == "trusted", "is_current": code == "current"}
    with recorded_packages(RunPaths(lab / "run"), record, **options) as places:
        root = places.restored
        files = [path for path in root.rglob("*.*") if path.is_file()] if root else []
        return places, {str(path.relative_to(str(root))): path.read_text() for path in files}


def commit(lab: Path) -> None:
    for words in (["init", "-q"], ["add", "mylab", "myconf"], ["commit", "-qm", "first"]):
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@b", *words]
        subprocess.run(command, cwd=lab, check=True, capture_output=True)


def test_unchanged_code_is_used_in_its_place(lab: Path) -> None:
    record = record_run(lab)
    for code in ("known", "trusted", "current"):
        places, restored = find(lab, record, code)
        assert places == OwnPlaces([str(lab / "mylab")], lab / "myconf")
        assert restored == {}


@pytest.mark.parametrize("changed", ["mylab/a.py", "mylab/new.py", "myconf/optimizer/mine.yaml"])
def test_changed_code_is_restored_only_with_consent(changed: str, lab: Path) -> None:
    record = record_run(lab)
    write(lab, {changed: "other\n"})
    kind = "package mylab" if changed.startswith("mylab") else "folder of configuration files"
    with pytest.raises(UserError, match=rf"the {kind}.* has changed since the run.*--trust-code"):
        find(lab, record)
    assert find(lab, record, "current")[0] == OwnPlaces([str(lab / "mylab")], lab / "myconf")
    places, restored = find(lab, record, "trusted")
    part = changed.partition("/")[0].replace("myconf", OWN_CONFIG_NAME)
    expected = {
        name.replace("myconf", OWN_CONFIG_NAME): text
        for name, text in FILES.items()
        if not name.endswith(".txt")
    }
    assert restored == {name: text for name, text in expected.items() if name.startswith(part)}
    assert (places.packages == ["mylab"]) == (part == "mylab")


def test_code_in_the_history_of_the_user_needs_no_consent(lab: Path) -> None:
    commit(lab)
    record = record_run(lab)
    assert record["own_code"]["mylab"]["saved"] == []
    write(lab, {"mylab/a.py": "a = 2\n"})
    restored = find(lab, record)[1]
    assert restored == {name: text for name, text in FILES.items() if name.startswith("mylab")}


def test_what_git_and_the_archive_hold_is_put_together(lab: Path) -> None:
    commit(lab)
    (lab / "mylab/env/b.py").unlink()
    write(lab, {"mylab/a.py": "a = 2\n", "mylab/c.py": "c = 1\n"})
    record = record_run(lab)
    (lab / "mylab/c.py").unlink()
    with pytest.raises(UserError, match="--trust-code"):
        find(lab, record)
    assert find(lab, record, "trusted")[1] == {"mylab/a.py": "a = 2\n", "mylab/c.py": "c = 1\n"}


def test_code_of_somebody_else_needs_consent(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_run(lab)
    monkeypatch.setenv("XDG_STATE_HOME", str(lab / "of somebody else"))
    with pytest.raises(UserError, match=r"which you have not used on this machine.*--trust-code"):
        find(lab, record)
    with pytest.raises(UserError, match="replace --current-code by --trust-code"):
        find(lab, record, "current")
    assert find(lab, record, "trusted")[0].packages == ["mylab"]


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", ".git/config"])
def test_an_archive_writes_no_file_elsewhere(name: str, lab: Path) -> None:
    record = record_run(lab)
    with zipfile.ZipFile(lab / "run/code.zip", "a") as archive:
        archive.writestr(name, "evil")
    record["own_code"]["mylab"]["saved"].append(name)
    write(lab, {"mylab/a.py": "a = 2\n"})
    with pytest.raises(UserError, match="leads out of the archive"):
        find(lab, record, "trusted")


def test_a_link_in_the_commit_leads_no_file_elsewhere(lab: Path) -> None:
    elsewhere = lab / "elsewhere"
    elsewhere.mkdir()
    (lab / "mylab/link").symlink_to(elsewhere)
    commit(lab)
    write(lab, {"mylab/a.py": "a = 2\n"})
    record = record_run(lab)
    with zipfile.ZipFile(lab / "run/code.zip", "a") as archive:
        archive.writestr("mylab/link/evil.py", "evil")
    record["own_code"]["mylab"]["saved"].append("mylab/link/evil.py")
    write(lab, {"mylab/a.py": "a = 3\n"})
    with pytest.raises(UserError, match="below a link to another folder"):
        find(lab, record, "trusted")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", None])
def test_a_damaged_archive_is_reported(content: bytes | None, lab: Path) -> None:
    record = record_run(lab)
    archive = lab / "run/code.zip"
    archive.write_bytes(content) if content is not None else archive.unlink()
    write(lab, {"mylab/a.py": "a = 2\n"})
    with pytest.raises(UserError, match=r"code\.zip, the copy of your code, cannot be read"):
        find(lab, record, "trusted")


@pytest.mark.parametrize(
    "facts", [{}, {"place": "mylab"}, {"place": "/x/other"}, {"place": "/etc/my-lab"}]
)
def test_a_record_that_names_no_place_is_damaged(facts: dict[str, str], lab: Path) -> None:
    with pytest.raises(UserError, match=r"is damaged: own_code\.mylab"):
        find(lab, {"own_code": {"mylab": facts}}, "trusted")


# --- with parts of every kind ---------------------------------------------------------------------

GROUPS = ("optimizer", "model", "data", "schedule", "loss")
PARTS = {
    "mylab/optim.py": "from torch.optim import SGD\n\n\n"
    "def mine(params, learning_rate: float = 1e-2) -> SGD:\n"
    "    return SGD(params, lr=learning_rate)\n",
    "mylab/model.py": "from spectral_exp.models import GPT\n\n\n"
    "class Mine(GPT):\n"
    "    def forward(self, *args, **kwargs):\n"
    "        return 2 * super().forward(*args, **kwargs)\n",
    "mylab/data.py": "from spectral_exp.data import TextCorpus\n\n\n"
    "class Squares(TextCorpus):\n"
    "    def read(self, cache):\n"
    "        return ' '.join(str(i * i % 997) for i in range(2000)).encode()\n\n"
    "    def stamp(self, cache):\n"
    "        return ['squares']\n",
    "mylab/schedule.py": "class Constant:\n"
    "    def __init__(self, value: float = 0.5) -> None:\n"
    "        self.value = value\n\n"
    "    def factor(self, step):\n"
    "        return self.value\n",
    "mylab/loss.py": "from torch.nn.functional import cross_entropy\n\n"
    "from spectral_exp.losses import Loss\n\n\n"
    "class Smoothed(Loss):\n"
    "    def forward(self, logits, targets):\n"
    "        flat = logits.flatten(0, 1), targets.flatten()\n"
    "        plain = cross_entropy(*flat)\n"
    "        return cross_entropy(*flat, label_smoothing=0.1), {'loss': plain.detach()}\n",
    "mylab/watcher.py": "from spectral_exp.monitoring.component import Observer\n\n\n"
    "class Watcher(Observer):\n"
    "    metric_prefixes = ('watched_',)\n\n"
    "    def should_observe(self, step):\n"
    "        return True\n\n"
    "    def observe(self, step, model):\n"
    "        return {'watched_step': float(step)}\n",
    "myconf/optimizer/mine.yaml": "_target_: mylab.optim.mine\n",
    "myconf/model/mine.yaml": "defaults: [default, _self_]\n_target_: mylab.model.Mine\n",
    "myconf/data/mine.yaml": "_target_: mylab.data.Squares\n",
    "myconf/schedule/mine.yaml": "_target_: mylab.schedule.Constant\nvalue: 0.25\n",
    "myconf/loss/mine.yaml": "_target_: mylab.loss.Smoothed\n",
    "myconf/monitoring/watcher/mine.yaml": "_target_: mylab.watcher.Watcher\n",
    "myconf/experiment/mine.yaml": "# @package _global_\ndefaults:\n"
    "  - /monitoring/watcher: mine\n"
    + "".join(f"  - override /{group}: mine\n" for group in GROUPS)
    + "name: mine\npackages: [mylab]\n",
}


@pytest.mark.slow
def test_a_run_of_own_parts_of_every_kind_is_reproduced_with_its_own_code(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lab, PARTS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = [setting for setting in TINY if not setting.startswith("data")]
    mine = ["--config-dir", "myconf", "+experiment=mine", *settings, NO_PLOTS, "device=cpu"]
    assert train.main([*mine, "hydra.run.dir=run"]) == 0
    record = json.loads((lab / "run/config.json").read_text())
    targets = [record["config"][group]["_target_"] for group in GROUPS]
    assert all(target.startswith("mylab.") for target in targets)
    assert '"watched_step": 12.0' in (lab / "run/logs/metrics.jsonl").read_text()

    write(lab, {"mylab/schedule.py": PARTS["mylab/schedule.py"].replace("0.5", "0.7")})
    write(lab, {"myconf/schedule/mine.yaml": "_target_: mylab.schedule.Constant\nvalue: 0.9\n"})
    monkeypatch.chdir(lab.parent)
    assert reproduce.main(["lab/run"]) == 2
    assert "has changed since the run" in capsys.readouterr().err
    assert reproduce.main(["lab/run", "--trust-code"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert all(f"{part}: equal" in printed for part in ("code", "settings", "metrics", "results"))
    remembered = (lab.parent / "state/spectral_exp/packages").read_text()
    assert remembered.splitlines() == [str(lab / "mylab")]
    # The resumed run finds the package from another folder than that of its first command.
    overrides = CommandLine.parse(["resume=lab/run"]).overrides
    assert f"packages=[{lab / 'mylab'}]" in overrides
