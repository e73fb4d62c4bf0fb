"""A run of a stranger cannot make a command run code, read the environment or send data away."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp import train
from spectral_exp.commands import diagnose, generate, reproduce, verify_resume
from spectral_exp.config import trust
from spectral_exp.config.build import check
from spectral_exp.config.command_line import CommandLine
from spectral_exp.config.construct import Constructor
from spectral_exp.config.parts import build_model
from spectral_exp.config.roles import Role
from spectral_exp.core.errors import UserError
from spectral_exp.core.json_files import content_crc32
from spectral_exp.core.redact import REDACTED, redact
from spectral_exp.training.resume import resume_problems
from spectral_exp.verification import replay
from tests.conftest import NO_PLOTS, TINY, compose

SETTINGS = ("+experiment=classic", *TINY, NO_PLOTS, "device=cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    assert train.main([*SETTINGS, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change, in the working directory."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Path("run")


def change_record(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change `config.json` and give it a right checksum, as its author could."""
    file = run / "config.json"
    record = json.loads(file.read_text())
    change(record)
    record["crc32"] = content_crc32(record)
    file.write_text(json.dumps(record))


# What these would do shows in a file called canary, or in an address that is asked.
TARGETS: dict[str, dict[str, Any]] = {
    "torch.utils.collect_env.run": {"command": "touch canary"},
    "torch.utils.collect_env.run_and_return_first_line": {
        "run_lambda": None,
        "command": "touch canary",
    },
    "torch.hub.load": {"repo_or_dir": ".", "model": "canary", "source": "local"},
    "torch.hub.download_url_to_file": {"url": "file:///etc/hostname", "dst": "canary"},
    "torch.load": {"f": "payload.pt", "weights_only": False},
    "torch.serialization.load": {"f": "payload.pt", "weights_only": False},
    "torch.jit.load": {"f": "payload.pt"},
    "torch.ops.load_library": {"path": "payload.so"},
    "torch.classes.load_library": {"path": "payload.so"},
    "torch.distributed.run.main": {"args": ["payload.py"]},
    "torch.package.PackageImporter": {"file_or_buffer": "payload.pt"},
    "torch.utils.cpp_extension.load": {"name": "canary", "sources": ["payload.cpp"]},
    "torch.save": {"obj": {}, "f": "canary"},
    "torch.nn.Linear": {"in_features": 1, "out_features": 1},
    "torch.optim.lr_scheduler.StepLR": {"optimizer": None},
    "torch.optim.swa_utils.AveragedModel": {"model": None},
    "spectral_exp.core.child_process.start_helper": {"arguments": ["touch", "canary"]},
    "spectral_exp.core.child_process.subprocess.run": {"args": ["touch", "canary"]},
    "spectral_exp.runs.layout.subprocess": {},
    "spectral_exp.runs.layout.run_git": {"directory": "."},
    "spectral_exp.core.files.atomic_writer": {"path": "canary"},
    "spectral_exp.runs.layout.Path": {},
    "spectral_exp.monitoring.backup.process.BackupProcess": {"timeout_s": 1.0},
    "spectral_exp.monitoring.backup.restore.restore": {"url": "file:///tmp/x", "outputs": "canary"},
    "spectral_exp.data.download.download": {"url": "file:///etc/hostname", "file": "canary"},
    "spectral_exp.config.parts.build_model": {"config": {}, "vocab_size": 1},
    "spectral_exp.config.trained.load_trained": {"run": "run"},
    "spectral_exp.train.main": {"arguments": ["hydra.run.dir=canary"]},
    "spectral_exp.bench.__main__.main": {},
    "spectral_exp.commands.reproduce.main": {"arguments": ["run"]},
    "spectral_exp.verification.fingerprint.__builtins__": {},
    "spectral_exp.data.ByteTokenizer": {},
    "os.system": {"command": "touch canary"},
    "subprocess.run": {"args": ["touch", "canary"]},
    "builtins.exec": {"source": "open('canary', 'w')"},
    "shutil.rmtree": {"path": "run"},
    "spectral_exp": {},
    "torch": {},
    "spectral_exp..run_dir": {},
    "torch.optim.": {},
    "/etc/passwd": {},
    "": {},
}
PLACES = (
    "model", "model.embedding", "model.attention", "model.mlp", "model.dropout", "optimizer", "optimizer.betas",
    "schedule", "loss", "data", "data.n_tokens", "tokenizer", "training", "training.max_steps", "monitoring.backup",
    "monitoring.checkpoint", "monitoring.checkpoint.on_durable", "monitoring.metrics", "monitoring.visualization",
    "monitoring.tracking",
)  # fmt: skip


def hostile(
    target: str, place: str = "model", config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A configuration in which `place` is a node that names `target`."""
    config = compose(*SETTINGS) if config is None else config
    *groups, last = place.split(".")
    node = config
    for group in groups:
        node = node[group]
    before = node.get(last)
    partial = isinstance(before, dict) and "_partial_" in before
    node[last] = {"_target_": target, **TARGETS[target], **({"_partial_": True} if partial else {})}
    return config


def write_payload() -> None:
    """Files that leave a trace if they are loaded or run."""
    for name in ("payload.py", "hubconf.py"):
        Path(name).write_text("open('canary', 'w')\n")
    for name in ("payload.pt", "payload.so", "payload.cpp"):
        Path(name).write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_but_a_part_is_called(target: str, run: Path) -> None:
    write_payload()
    files = sorted(Path().rglob("*"))
    refused = rf"_target_={re.escape(target)} (must (lie|be) |cannot be found)"
    with pytest.raises(UserError, match=f"^model[.]{refused}") as caught:
        build_model(hostile(target), 256)
    assert len(str(caught.value).splitlines()) == 1
    make = Constructor()
    role = Role(torch.optim.Optimizer, "spectral_exp.optim", torch_home="torch.optim")
    assert make.make({"_target_": target, **TARGETS[target]}, "optimizer", role, params=[]) is None
    (problem,) = make.problems
    assert re.match(f"optimizer[.]{refused}", problem)
    assert sorted(Path().rglob("*")) == files


@pytest.mark.parametrize("place", PLACES)
def test_no_place_takes_another_kind_of_part(place: str, run: Path) -> None:
    # A part of this package in the wrong place is called no more than what is none.
    for target in ("torch.utils.collect_env.run", "spectral_exp.data.ByteTokenizer"):
        (problem,) = check(hostile(target, place), None)
        assert place in problem
        assert re.search("must be|takes no group|is not a setting", problem)
    assert not Path("canary").exists()


def test_foreign_text_reaches_the_terminal_without_control_characters(run: Path) -> None:
    config = hostile("os.system", "model.embedding")
    config["model"]["embedding"]["_target_"] = config["training"]["max_steps"] = (
        "\x1b[2J\nerror: all is well\r"
    )
    embedding, steps = sorted(check(config, None)[0].split("\nerror: "))
    assert embedding.startswith(
        "model.embedding._target_=\\x1b[2J\\nerror: all is well\\r must lie in "
    )
    assert steps.startswith(
        "training.max_steps=\\x1b[2J\\nerror: all is well\\r must be an integer"
    )


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays without the seconds that it takes to start three processes."""

    def called(work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(replay, "_run_in_process", called)


COMMANDS: dict[str, Callable[[], int]] = {
    "generate": lambda: generate.main(["run", "--tokens", "2"]),
    "diagnose": lambda: diagnose.main(["run", "--windows", "1"]),
    "verify_resume": lambda: verify_resume.main(["run", "--steps", "2"]),
    "reproduce": lambda: reproduce.main(["run", "--current-code"]),
    "resume": lambda: train.main(["resume=run", "training.max_steps=13"]),
}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "reproduce" else name
        for name in COMMANDS
    ],
)
def test_no_command_runs_code_named_in_a_record(
    command: str, run: Path, in_this_process: None, capfd: pytest.CaptureFixture[str]
) -> None:
    write_payload()
    target = "torch.utils.collect_env.run"

    def change(record: dict[str, Any]) -> None:
        hostile(target, config=record["config"])
        overrides = [f"model._target_={target}", "+model.command='touch canary'"]
        for attempt in record["attempts"]:
            attempt["overrides"] += overrides
        record["overrides"] += overrides

    change_record(run, change)
    before = (run / "results.json").read_bytes()
    capfd.readouterr()
    assert COMMANDS[command]() == 2
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert any(f"model._target_={target} must be" in line for line in lines), error
    assert "Traceback" not in error
    assert not Path("canary").exists()
    assert (run / "results.json").read_bytes() == before


OVERRIDES = (
    "hydra.job.env_set.LD_PRELOAD=payload.so",
    "++hydra.callbacks.x._target_=os.system",
    "+hydra.job_logging.handlers.x.class=os.system",
    "  hydra.run.dir=/tmp/elsewhere",
    "hydra={run:{dir:/tmp/elsewhere}}",
    "hydra/launcher=joblib",
    "~hydra/job_logging",
    "hydra.searchpath=[file:///tmp/evil]",
    "model@hydra.job=default",
    "model@_global_=default",
    "+experiment=../../run/evil",
    "+experiment=/tmp/evil",
    "+experiment=[classic,../evil]",
    "optimizer=..",
    "model/attention=../../../run/evil",
    "name=${oc.env:HOME}",
    "name='${oc.env:HOME}'",
    r"name='\\${oc.env:HOME}'",
    "+model.x={a:[b,'${oc.env:HOME}']}",
    "seed=1,2",
    "seed=range(1,3)",
    "backup_url=s3://evil/bucket",
    "backup_url=file:///tmp/evil",
    "++monitoring.backup.url=s3://evil/bucket",
    "monitoring.backup={url:s3://evil/bucket}",
    "mirrors=[tensorboard,mlflow:http://evil]",
    "mirrors=[wandb:evil/project]",
    "mirrors=[tensorboard:/tmp/evil]",
    "monitoring.companion.mirrors=[mlflow:http://evil]",
    "monitoring.companion={mirrors:[mlflow:http://evil]}",
    "alerts=[webhook:http://evil]",
    "monitoring.companion.alerts=[webhook:http://evil]",
    "monitoring={companion:{alerts:[webhook:http://evil]}}",
    "monitoring={backup:{url:s3://evil/bucket}}",
    "data={url:http://evil}",
    "name=\x1b[2Jcleared",
    "not an override",
    "a=b=c",
)


@pytest.mark.parametrize("override", OVERRIDES)
def test_recorded_overrides_with_effects_need_the_users_consent(override: str, run: Path) -> None:
    change_record(run, lambda record: record["overrides"].insert(0, override))
    with pytest.raises(
        UserError, match=r"is not trusted with that; .*give it again on the command line: "
    ) as caught:
        CommandLine.parse(["resume=run"])
    assert len(str(caught.value).splitlines()) == 1
    assert "\x1b" not in str(caught.value)


def test_hydras_own_record_is_trusted_no_more(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "canary-4711")
    (run / "config.json").unlink()
    for content in (
        "- name=${oc.env:A_SECRET}\n",
        "- hydra.job.chdir=true\n",
        "a: 1\n",
        "[\n",
        "- 1\n",
        "''\n",
    ):
        (run / ".hydra/overrides.yaml").write_text(content)
        with pytest.raises(UserError) as caught:
            CommandLine.parse(["resume=run"])
        assert "4711" not in str(caught.value)
    (run / ".hydra/overrides.yaml").write_text("".join(f"- {override}\n" for override in SETTINGS))
    assert set(SETTINGS) <= set(CommandLine.parse(["resume=run"]).overrides)


def test_a_typed_value_takes_the_place_of_a_recorded_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_record(run, lambda record: record["overrides"].append("name=${oc.env:A_NAME}"))
    monkeypatch.setenv("A_NAME", "mine")
    (job,) = CommandLine.parse(["resume=run", "name=${oc.env:A_NAME}"]).compose()
    assert job.config["name"] == "mine"


def test_backups_continue_only_at_an_address_the_user_has_used(run: Path) -> None:
    url = "file:///backups/of/mine"
    change_record(run, lambda record: record["overrides"].append(f"backup_url={url}"))
    with pytest.raises(UserError, match=r"or backup_url=null to switch it off$"):
        CommandLine.parse(["resume=run"])
    assert f"backup_url={url}" not in CommandLine.parse(["resume=run", "backup_url=null"]).overrides
    trust.remember_backup_url(f"{url}/deeper")
    with pytest.raises(UserError, match="you have not named on this machine"):
        CommandLine.parse(["resume=run"])
    trust.remember_backup_url(f"{url}/")
    trust.remember_backup_url(url)
    assert f"backup_url={url}" in CommandLine.parse(["resume=run"]).overrides
    places = Path("state/spectral_exp/backup_places")
    assert places.read_text().splitlines() == [f"{url}/deeper", url]
    # What others could have written counts for nothing.
    places.chmod(0o666)
    assert not trust.may_back_up(url, None)
    assert trust.may_back_up(url, f"{url}/run")
    assert not trust.may_back_up(url, f"{url}elsewhere/run")


def test_runs_are_mirrored_only_to_trackers_the_user_has_used(run: Path) -> None:
    local = "mirrors=[tensorboard,trackio:project]"
    change_record(run, lambda record: record["overrides"].append(local))
    assert local in CommandLine.parse(["resume=run"]).overrides
    server = "mirrors=[mlflow:http://host:5000]"
    change_record(run, lambda record: record["overrides"].append(server))
    with pytest.raises(UserError, match=r"you have not named on this machine.* or mirrors=\[\] to"):
        CommandLine.parse(["resume=run"])
    assert server not in CommandLine.parse(["resume=run", "mirrors=[]"]).overrides
    targets = ["mlflow:http://user:secret99@other", "mlflow:http://host:5000"]
    config = {"monitoring": {"backup": {"url": None}, "companion": {"mirrors": targets}}}
    trust.remember_choices(config, None)
    assert server in CommandLine.parse(["resume=run"]).overrides
    assert "secret99" not in Path("state/spectral_exp/trackers").read_text()


def test_alerts_are_recorded_nowhere_and_have_to_be_given_again(run: Path) -> None:
    address = "tgram://123456789:AAEhBOweik6ad9r/12345"
    for recorded in ([f"alerts=['{address}']"], {"alerts": [address]}):
        assert "AAEh" not in str(redact(recorded))
    change_record(run, lambda record: record["overrides"].append(f"alerts={REDACTED}"))
    with pytest.raises(UserError, match="alerts is a secret, which is never written to a file"):
        CommandLine.parse(["resume=run"])
    assert CommandLine.parse(["resume=run", "alerts=[]"])


@pytest.mark.slow
def test_training_notes_the_place_that_was_named(run: Path) -> None:
    url = f"file://{Path('remote').absolute()}"
    assert train.main([*SETTINGS, "hydra.run.dir=backed_up", f"backup_url={url}"]) == 0
    assert trust.may_back_up(url, None)
    assert train.main(["resume=backed_up", "training.max_steps=13"]) == 0
    assert list(Path("remote/backed_up").glob("manifest_*_step_13.json"))


def test_recorded_addresses_are_not_contacted() -> None:
    record = {"config": {"data": {"url": "http://evil", "val_fraction": 0.1}}}
    assert trust.recorded_config(record)["data"] == {"val_fraction": 0.1}
    assert record["config"]["data"]["url"] == "http://evil"


@pytest.mark.parametrize(
    "commit", ["--upload-pack=touch canary", "HEAD", "-h", "a" * 39, "A" * 40, 7, ["x"]]
)
def test_only_a_commit_reaches_git(
    commit: Any, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any]) -> None:
        record["git"]["hash"] = commit
        for attempt in record["attempts"]:
            attempt["git_hash"] = str(commit)[:8]

    change_record(run, change)
    assert reproduce.main(["run"]) == 2
    assert "error: " in capsys.readouterr().err
    assert not Path("canary").exists()
    assert not Path("run_reproduced").exists()


def test_a_patch_is_applied_only_with_consent(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(record: dict[str, Any]) -> None:
        record["git"] |= {"diff_file": "git_diff.patch", "diff_truncated": False, "untracked": []}

    change_record(run, change)
    (run / "git_diff.patch").write_text("--- a/x\n+++ b/x\n@@ -0,0 +1 @@\n+canary\n")
    assert reproduce.main(["run"]) == 2
    error = capsys.readouterr().err
    assert "4 lines in run/git_diff.patch; to run it, add --trust-code" in error
    assert not Path("run_reproduced").exists()


def test_a_relative_path_starts_at_the_working_directory_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "then").mkdir()
    (tmp_path / "then/text.txt").write_text("text")
    config = {"data": {"path": "text.txt"}}
    record = {"config": copy.deepcopy(config), "host": {"cwd": str(tmp_path / "then")}}
    assert trust.recorded_config(record)["data"]["path"] == str(tmp_path / "then/text.txt")
    assert record["config"] == config
    for changed in (
        {"host": None},
        {"host": {"cwd": str(tmp_path / "gone")}},
        {"config": {"data": None}},
    ):
        assert trust.recorded_config({**record, **changed}) == (changed.get("config") or config)
    absolute = {"data": {"path": str(Path("text.txt").absolute())}}
    assert trust.recorded_config({**record, "config": absolute}) == absolute


@pytest.mark.parametrize(
    "place",
    ["run.lock", "train.log", "config.json", "tokenizer/secret", "logs", "logs/metrics.jsonl", ".hydra/config.yaml",
     "checkpoints/checkpoint_step_99.pt", "checkpoints", "visualizations"],
)  # fmt: skip
def test_a_link_that_leads_out_of_a_run_is_not_followed(place: str, run: Path) -> None:
    shutil.copytree(run, "other", symlinks=True)
    link, target = run / place, Path("other", place)
    if link.is_dir():
        shutil.rmtree(link)
        target.mkdir(exist_ok=True)
    else:
        link.unlink(missing_ok=True)
        target.write_text(target.read_text() if target.is_file() else "secret")
    link.symlink_to(target.absolute())
    (problem,) = resume_problems({}, run, [])
    assert problem.startswith(f"run holds links ({place!r}) that may lead out of the run")


def test_nothing_is_written_through_a_link(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train.log", "run.lock"):
        Path(name).write_text("mine")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(Path(name).absolute())
    assert train.main(["resume=run", "training.max_steps=13"]) == 2
    error = capsys.readouterr().err
    assert "run holds links (" in error
    assert len(error.splitlines()) == 1
    assert [Path(name).read_text() for name in ("train.log", "run.lock")] == ["mine", "mine"]


@pytest.mark.slow
def test_checkpoints_may_lie_on_another_disk(run: Path) -> None:
    (run / "checkpoints").rename("scratch")
    (run / "checkpoints").symlink_to(Path("scratch").absolute())
    assert train.main(["resume=run", "training.max_steps=13"]) == 0
    assert Path("scratch/checkpoint_step_13.pt").is_file()
