"""Packages of the user: parts that a configuration names without a change to this package."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spectral_exp import train
from spectral_exp.commands import generate
from spectral_exp.config import packages, trust
from spectral_exp.config.build import check
from spectral_exp.config.command_line import CommandLine, known_search
from spectral_exp.config.components import component_files
from spectral_exp.config.exported import write_huggingface
from spectral_exp.config.parts import build_model
from spectral_exp.config.trained import Trained
from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.data.tokenizer import ByteTokenizer
from spectral_exp.monitoring import ConfigTracker
from spectral_exp.monitoring.component import Component
from spectral_exp.monitoring.tracking.own_code import own_code
from tests.conftest import NO_PLOTS, TINY, compose, python
from tests.test_adding_parts import FILES

LION = FILES["spectral_exp/optim/lion.py"]
LOSS = """
from spectral_exp.losses import CrossEntropy


class Doubled(CrossEntropy):
    pass


def not_a_loss(x: float = 1.0) -> float:
    return x
"""
BREAKS_LATER = """    calls = 0

    def forward(self, logits, targets):
        self.calls += 1
        if self.calls > 3:
            raise RuntimeError("no more")
        return super().forward(logits, targets)
"""
MODELS = """
from spectral_exp.models import GPT
from spectral_exp.models.gpt import MLP


class Whole(GPT):
    def forward(self, ids, cache=None):
        return super().forward(ids, cache)


class Broken(GPT):
    def forward(self, ids, cache=None):
        raise ValueError("not that way")


class Shortened(GPT):
    def forward(self, ids, cache=None):
        return super().forward(ids, cache)[:, 1:]


class Pair(GPT):
    def forward(self, ids, cache=None):
        return super().forward(ids, cache), None


class Fixed(GPT):
    def forward(self, ids, cache=None):
        return super().forward(ids, cache).detach()


class BrokenMLP(MLP):
    def forward(self, x):
        return x @ x
"""
WATCHER = """
from pathlib import Path

from spectral_exp.monitoring.component import Observer


class Watcher(Observer):
    metric_prefixes = ("watched_",)
    files = ("watched/*.txt",)
    measures_machine = True

    def __init__(self, experiment_dir: Path, interval: int = 1) -> None:
        self.interval = interval
        self.folder = Path(experiment_dir, "watched")

    def should_observe(self, step):
        return step % self.interval == 0

    def observe(self, step, model):
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{step}.txt").touch()
        return {"watched_step": float(step)}
"""
CONF = {
    "optimizer/lion.yaml": "_target_: mylab.optim.lion\nlearning_rate: 1.0e-4\n",
    "loss/doubled.yaml": "_target_: mylab.losses.Doubled\n",
    "monitoring/watcher/every.yaml": "_target_: mylab.watcher.Watcher\n",
    "experiment/mine.yaml": (
        "# @package _global_\n"
        "defaults:\n  - /monitoring/watcher: every\n  - override /optimizer: lion\n"
        "name: mine\npackages: [mylab]\n"
    ),
}
SETTINGS = (*TINY, NO_PLOTS, "device=cpu", "optimizer=lion", "packages=[mylab]")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a user, who has a package that is not on Python's search path."""
    folder = tmp_path / "lab"
    write(folder / "mylab", {"optim.py": LION, "losses.py": LOSS, "watcher.py": WATCHER})
    write(folder / "myconf", CONF)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mylab", "evil"):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def problems_of(*overrides: str) -> list[str]:
    command = CommandLine.parse(["--config-dir", "myconf", *TINY, NO_PLOTS, *overrides])
    (job,) = command.compose()
    return check(job.config, None)


def test_a_part_in_a_named_package_is_built(lab: Path) -> None:
    assert problems_of("optimizer=lion", "packages=[mylab]", "loss=doubled") == []
    assert problems_of("+experiment=mine") == []
    (problem,) = problems_of("optimizer=lion")
    assert "a package that you name with packages=[...]" in problem
    (problem,) = problems_of("packages=[mylab]", "loss._target_=mylab.losses.not_a_loss")
    assert "a function in spectral_exp.losses or mylab that is annotated" in problem
    (problem,) = problems_of("packages=[mylab]", "loss._target_=mylab.optim.lion")
    assert "must be a subclass of Module" in problem
    (problem,) = problems_of("packages=[mylab]", "tokenizer._target_=mylab.optim.lion")
    assert "must lie in spectral_exp; for one of your own write tokenizer=hf" in problem


@pytest.mark.parametrize(
    ("place", "part", "words"),
    [
        ("model", "Whole", ()),
        ("model", "Broken", ("ValueError: not that way (", "models.py, line ")),
        ("model", "Shortened", ("a tensor (2, 4, ", "it returns a tensor (2, 3, ")),
        ("model", "Pair", ("for ids (2, 4); it returns a tuple",)),
        ("model", "Fixed", ("it returns a tensor without gradient",)),
        ("model.mlp", "BrokenMLP", ("model: GPT cannot do a step", "models.py, line ")),
    ],
)
def test_an_own_model_is_tried_before_a_run(
    place: str, part: str, words: tuple[str, ...], lab: Path
) -> None:
    write(lab / "mylab", {"models.py": MODELS})
    found = problems_of("packages=[mylab]", f"{place}._target_=mylab.models.{part}")
    assert len(found) == bool(words)
    assert all(word in found[0] for word in words)


def test_the_files_of_an_own_component_are_known(lab: Path) -> None:
    (job,) = CommandLine.parse(["--config-dir", "myconf", *TINY, "+experiment=mine"]).compose()
    for backed_up_only in (False, True):
        assert "watched/*.txt" in component_files(job.config, backed_up_only=backed_up_only)
    for target in ("mylab.watcher.Nothing", "mylab.optim.lion", "elsewhere.Watcher"):
        config = {**job.config, "monitoring": {"watcher": {"_target_": target}}}
        assert component_files(config) == component_files({})


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../other/*.txt", ""])
def test_the_files_of_a_component_are_inside_the_run(pattern: str) -> None:
    with pytest.raises(TypeError, match="relative to the run directory"):
        type("Outside", (Component,), {"files": (pattern,)})


def test_an_error_in_a_package_names_its_place(lab: Path) -> None:
    (lab / "mylab/broken.py").write_text("x = 1\ny = z\n")
    (problem,) = problems_of("packages=[mylab]", "loss._target_=mylab.broken.Loss")
    assert "cannot be imported: NameError: name 'z' is not defined" in problem
    assert problem.endswith("broken.py, line 2)")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[nowhere]", "a package that can be imported"),
        ("[mylab.optim]", "without dots"),
        ("[../lab/other]", "a package that can be imported"),
        ("mylab", "a list"),
        ("[1]", "a list"),
    ],
)
def test_what_is_no_package_is_refused(value: str, words: str, lab: Path) -> None:
    assert any(words in problem for problem in problems_of(f"packages={value}"))


def test_a_path_names_one_package_and_no_other_of_its_name(lab: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere/mylab"
    write(other, {"optim.py": "raise SystemExit"})
    found = packages.find_packages({"packages": [str(lab / "mylab")]})
    assert found == {"mylab": lab / "mylab"}
    with pytest.raises(SettingError, match="another mylab first"):
        packages.find_packages({"packages": [str(other)]})


def test_installed_distributions_may_declare_packages(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {
        "METADATA": "Metadata-Version: 2.1\nName: mylab\nVersion: 1\n",
        "entry_points.txt": "[spectral_exp.parts]\nmine = mylab\n",
    }
    site = tmp_path / "site"
    write(site / "mylab-1.dist-info", info)
    shutil.copytree(lab / "mylab", site / "mylab")
    monkeypatch.syspath_prepend(site)
    packages.entry_point_packages.cache_clear()
    try:
        assert problems_of("optimizer=lion") == []
        packages.entry_point_packages.cache_clear()
        monkeypatch.chdir(site)  # as if it had come with somebody's runs
        assert packages.entry_point_packages() == ()
        packages.entry_point_packages.cache_clear()
        monkeypatch.chdir(tmp_path)  # beside a package that is named by its path
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
        sys.modules.pop("mylab", None)
        packages.find_packages({"packages": [str(site / "mylab")]})
        assert str(site) in sys.path
        assert packages.entry_point_packages() == ()
    finally:
        packages.entry_point_packages.cache_clear()


# --- records --------------------------------------------------------------------------------------


def test_a_record_names_only_packages_that_the_user_has_used(lab: Path, tmp_path: Path) -> None:
    config = {"packages": ["mylab"], "name": "x"}
    record = {"config": config}
    assert trust.recorded_config(record) == {"name": "x"}
    assert trust.recorded_config(record, ["mylab"]) == config
    packages.remember_packages(config)
    place = str(lab / "mylab")
    assert trust.recorded_config(record)["packages"] == [place]
    assert packages.resolve_recorded([place, "os", "/tmp/mylab", "evil"])[1] == [
        "os", "/tmp/mylab", "evil",
    ]  # fmt: skip
    (tmp_path / "state/spectral_exp/packages").chmod(0o666)
    assert trust.recorded_config(record) == {"name": "x"}


def test_a_record_reaches_no_other_folder_of_a_package_without_init(
    lab: Path, tmp_path: Path
) -> None:
    """Such a package has the files of every folder of its name on the search path."""
    packages.remember_packages({"packages": ["mylab"]})
    (place,) = trust.recorded_config({"config": {"packages": ["mylab"]}})["packages"]
    archive = tmp_path / "archive"
    write(archive / "mylab", {"evil.py": "raise SystemExit"})
    sys.path.append(str(archive))  # a copy, which the fixture takes away again
    with pytest.raises(SettingError, match="has files in"):
        packages.find_packages({"packages": [place]})
    assert packages.find_packages({"packages": ["mylab"]}) == {"mylab": lab / "mylab"}
    sys.path[-1:] = [f"{lab}/../lab"]  # the same folder again
    assert packages.find_packages({"packages": [place]}) == {"mylab": lab / "mylab"}
    sys.path[-1] = str(archive)
    write(lab / "mylab", {"__init__.py": ""})
    assert packages.find_packages({"packages": [place]}) == {"mylab": lab / "mylab"}


@pytest.mark.parametrize(
    "override",
    ["packages=[evil]", "+packages=[evil]", "packages.0=evil", "packages=[/tmp/evil,mylab]"],
)
def test_a_foreign_record_imports_nothing(override: str, lab: Path) -> None:
    canary = lab / "canary"
    write(lab / "evil", {"__init__.py": f"open({str(canary)!r}, 'w')"})
    packages.remember_packages({"packages": ["mylab"]})
    run = lab / "run"
    config = {**compose(*TINY), "packages": ["evil"], "optimizer": {"_target_": "evil.x.Lion"}}
    ConfigTracker(run).save_config(config, overrides=[override, "optimizer._target_=evil.x.Lion"])
    with pytest.raises(UserError, match="names packages that you have not used on this machine"):
        CommandLine.parse([f"resume={run}"])
    recorded = trust.recorded_config(json.loads((run / "config.json").read_text()))
    assert "packages" not in recorded
    assert any("must lie in spectral_exp" in problem for problem in check(recorded, None))
    assert not canary.exists()


def test_a_known_folder_of_configuration_files_is_used_again(lab: Path) -> None:
    search = ["--config-dir", str(lab / "myconf")]
    assert known_search(search) is None
    trust.remember_config_dir("myconf")
    assert known_search(search) == {"--config-dir": str(lab / "myconf")}
    assert known_search([*search, "--config-name", "../other"]) is None
    assert known_search([*search, "hydra.searchpath=[x]"]) is None
    assert known_search(["--config-name", "mine"]) is None


# --- the source in the run ------------------------------------------------------------------------


def test_the_run_keeps_what_git_does_not_hold(lab: Path) -> None:
    def git(*arguments: str) -> None:
        names = ("-c", "user.name=A", "-c", "user.email=a@b")
        subprocess.run(["git", *names, *arguments], cwd=lab, check=True, capture_output=True)

    git("init")
    git("add", "mylab/optim.py", "mylab/losses.py")
    git("commit", "-m", "first")
    (lab / "mylab/losses.py").write_text("api_key = 'sk-0123456789abcdef0123456789abcdef'\n")
    (lab / ".gitignore").write_text("mylab/ignored.py")
    write(lab / "mylab", {"ignored.py": "x = 1\n", "big.py": "#" * 2_000_000, ".env": "A=b"})
    facts, archive = own_code({"mylab": lab / "mylab"})
    with zipfile.ZipFile(io.BytesIO(archive)) as saved:
        kept = {name: saved.read(name).decode() for name in saved.namelist()}
    assert kept.keys() == {"mylab/ignored.py", "mylab/losses.py", "mylab/watcher.py"}
    assert "sk-01234567" not in kept["mylab/losses.py"]
    assert facts["mylab"]["missing"] == ["big.py (too large)"]
    assert facts["mylab"]["repository"] == str(lab)
    assert len(facts["mylab"]["hash"]) == 40
    assert own_code({"mylab": lab / "mylab"})[1] == archive


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 or UTF-16")
def test_a_file_whose_name_is_not_utf8_is_reported(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text("x = 1\n")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    facts, _ = own_code({"mylab": tmp_path})
    assert facts["mylab"]["saved"] == ["mylab/part.py"]
    assert facts["mylab"]["missing"] == [r"caf\udce9.txt (its name is not UTF-8)"]


def test_an_error_in_an_own_part_ends_the_run_with_one_line(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(lab / "mylab", {"losses.py": LOSS.replace("    pass", BREAKS_LATER)})
    mine = ["--config-dir", "myconf", *TINY, NO_PLOTS, "device=cpu", "packages=[mylab]"]
    assert train.main([*mine, "loss=doubled", "hydra.run.dir=run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: run: RuntimeError: no more (traceback in run/train.log)"
    assert 'raise RuntimeError("no more")' in (lab / "run/train.log").read_text()


@pytest.mark.slow
def test_a_run_with_own_parts_goes_on_anywhere(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lab / "run"
    backup = f"backup_url=file://{tmp_path}/backups"
    mine = ["--config-dir", "myconf", "+experiment=mine", *SETTINGS[:-2], backup]
    assert train.main([*mine, f"hydra.run.dir={run}"]) == 0
    record = json.loads((run / "config.json").read_text())
    assert "mylab/watcher.py" in record["own_code"]["mylab"]["saved"]
    assert (run / "code.zip").is_file()
    assert record["machine_metric_prefixes"] == ["watched_"]
    assert '"watched_step"' in (run / "logs/metrics.jsonl").read_text()
    manifest = max((tmp_path / "backups/run").glob("manifest_*.json"))
    assert {"watched/12.txt", "code.zip"} <= json.loads(manifest.read_text())["files"].keys()
    monkeypatch.chdir(tmp_path)
    assert train.main([f"resume={run}", "training.max_steps=14"]) == 0
    assert generate.main([str(run), "--tokens", "1"]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    capsys.readouterr()
    assert train.main([f"resume={run}", "training.max_steps=15"]) == 2
    assert "name them again" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.exhaustive
def test_workers_and_ranks_know_the_packages(lab: Path) -> None:
    own = ("--config-dir", "myconf", *SETTINGS)
    two = ("training.grad_accum_steps=2", "distributed.nproc=2", "hydra.run.dir=two")
    sweep = ("-m", "seed=1,2", "sweep=s", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    for arguments in (two, sweep):
        done = python("-m", "spectral_exp.train", *own, *arguments, cwd=lab)
        assert done.returncode == 0, done.stderr
    results = [*lab.glob("two/results.json"), *lab.glob("outputs/s/*/results.json")]
    assert [json.loads(file.read_text())["status"] for file in results] == ["completed"] * 3


def test_an_exported_model_names_the_packages_of_its_parts(lab: Path) -> None:
    (lab / "mylab/mlp.py").write_text(
        "from spectral_exp.models.gpt import MLP\n\n\nclass Own(MLP):\n    pass\n"
    )
    overrides = ["model.mlp._target_=mylab.mlp.Own", f"packages=[{lab / 'mylab'}]"]
    (job,) = CommandLine.parse([*TINY, *overrides]).compose()
    model = build_model(job.config, 256)
    trained = Trained(model, torch.device("cpu"), ByteTokenizer(), job.config, 1)
    write_huggingface(trained, lab, lab / "exported")
    settings = json.loads((lab / "exported/config.json").read_text())["settings"]
    assert settings["packages"] == ["mylab"]
    assert repr(build_model(settings, 256)) == repr(model)
    assert "Own" in repr(model)
