"""Runs that start from the weights of other runs and of files: what is loaded, recorded, refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.config.build import build, check
from spectral_exp.core.errors import UserError
from spectral_exp.monitoring.checkpoint.reader import read_checkpoint
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.load import load_run
from spectral_exp.runs.parentage import origin_settings, split_address
from spectral_exp.training.initial_weights import read_initial_weights, weights_sha256
from spectral_exp.training.runner import Runner
from tests.conftest import NO_PLOTS, TINY, compose

safetensors = pytest.importorskip("safetensors.torch")

BASE = (
    *TINY,
    NO_PLOTS,
    "+experiment=wave_rgd",
    "device=cpu",
    "monitoring/checkpoint=sync",
    "monitoring/spectra=off",
    "training.max_steps=6",
    "training.eval_interval=3",
    "monitoring.checkpoint.save_interval=2",
    "monitoring.checkpoint.keep_last_n=9",
)


ADAMW = {"_target_": "spectral_exp.optim.build_adamw"}
CHAR = {"_target_": "spectral_exp.data.Char"}


def config_of(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The configuration of `BASE` with other settings; composing it anew would take a while."""
    config = compose(*BASE)
    for name, value in (changes or {}).items():
        group, _, setting = name.rpartition(".")
        (config[group] if group else config)[setting] = value
    return config


def start(place: object, **changes: Any) -> dict[str, Any]:
    """The configuration of a run that starts from the weights at `place`."""
    return {**config_of(), "init_from": str(place), **changes}


def train(folder: Path, config: dict[str, Any]) -> Path:
    with building(config, folder) as runner:
        runner.run()
    return folder


@contextmanager
def building(config: dict[str, Any], folder: Path) -> Iterator[Runner]:
    folder.mkdir(exist_ok=True)
    with build(config, folder, list(BASE)) as runner:
        yield runner


def record_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "config.json").read_text())
    return content


def saved(run: Path, step: int) -> dict[str, Any]:
    return read_checkpoint(RunPaths(run).checkpoint_file(step))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "parent", config_of())


@pytest.fixture
def copy(parent: Path, tmp_path: Path) -> Path:
    """A copy of the parent that a test may damage."""
    return Path(shutil.copytree(parent, tmp_path / "copy", symlinks=True))


def problems(place: object, changes: Mapping[str, Any] | None = None) -> list[str]:
    return check(config_of({"init_from": str(place), **(changes or {})}), None)


def assert_equal_states(one: Any, other: Any) -> None:
    """Compare containers and the bits of tensors."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other


# --- what is loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "step"), [("", 6), ("@last", 6), ("@latest", 6), ("@4", 4), ("@0003", 3)]
)
def test_a_fork_has_the_weights_of_its_parent_bit_for_bit(
    parent: Path, tmp_path: Path, which: str, step: int
) -> None:
    with building(start(f"{parent}{which}", init_optimizer=True), tmp_path / "fork") as runner:
        runner.restore()
        then = saved(parent, step)
        assert runner.state.step == 0
        assert_equal_states(dict(runner.model.state_dict()), dict(then["model_state_dict"]))
        assert_equal_states(
            runner.optimizer.state_dict()["state"], then["optimizer_state_dict"]["state"]
        )


def test_the_first_loss_is_that_of_the_parents_weights(parent: Path, tmp_path: Path) -> None:
    """On the same batch: the fork has the seed and the settings of its parent."""
    with building(start(f"{parent}@4", init_optimizer=True), tmp_path / "fork") as runner:
        runner.restore()
        forked = runner.stepper.take_step(1).loss
    with building(config_of(), tmp_path / "other") as runner:
        runner.restore()
        state = saved(parent, 4)
        runner.model.load_state_dict(state["model_state_dict"])
        runner.optimizer.load_state_dict(state["optimizer_state_dict"])
        assert torch.equal(forked, runner.stepper.take_step(1).loss)


def test_the_settings_of_the_optimizer_are_those_of_the_fork(parent: Path, tmp_path: Path) -> None:
    config = start(parent, init_optimizer=True)
    config["optimizer"] |= {"betas": [0.5, 0.6], "weight_decay": 0.3}
    with building(config, tmp_path / "fork") as runner:
        group = runner.optimizer.param_groups[0]
        assert (group["betas"], group["weight_decay"]) == ((0.5, 0.6), 0.3)


def test_without_its_state_the_optimizer_is_new(parent: Path, tmp_path: Path) -> None:
    with building(start(parent), tmp_path / "fork") as runner:
        assert not runner.optimizer.state_dict()["state"]
        assert "optimizer" not in record_of(tmp_path / "fork")["parent"]


def test_only_what_fits_is_loaded_if_asked(parent: Path, tmp_path: Path) -> None:
    config = start(parent, init_partial=True, tokenizer=CHAR)
    config["model"] |= {"n_layer": 3, "block_size": 8}
    with building(config, tmp_path / "fork") as runner:
        weights, own = saved(parent, 6)["model_state_dict"], runner.model.state_dict()
        not_loaded = set(record_of(tmp_path / "fork")["parent"]["not_loaded"])
        for name, value in own.items():
            fits = name in weights and value.shape == weights[name].shape
            is_loaded = fits and torch.equal(value, weights[name])
            assert is_loaded is (name not in not_loaded)
    of_tokens = {"table.weight", "base_freqs", "phases", "harmonic_amps"}
    assert {f"embedding.{name}" for name in of_tokens} | {"head.weight"} <= not_loaded
    assert not any(name.startswith(("blocks.0", "blocks.1", "norm")) for name in not_loaded)
    assert {name.split(".")[1] for name in not_loaded if name.startswith("blocks")} == {"2"}


# --- what is recorded -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_chain_of_parents_is_recorded_and_survives_their_loss(
    copy: Path, tmp_path: Path
) -> None:
    child = train(tmp_path / "child", start(f"{copy}@best", seed=2))
    config = start(f"{child}@4", init_optimizer=True)
    grandchild = train(tmp_path / "grandchild", config)
    recorded = record_of(grandchild)["parent"]
    assert (recorded["path"], recorded["experiment_id"]) == (str(child), "child")
    assert (recorded["step"], recorded["optimizer"]) == (4, True)
    assert recorded["weights_sha256"] == weights_sha256(saved(child, 4)["model_state_dict"])
    (origin,) = recorded["ancestors"]
    best = int(saved(copy, 6)["train_state"]["best_step"])
    assert (origin["path"], origin["step"]) == (str(copy), best)
    assert origin["weights_sha256"] == weights_sha256(saved(copy, best)["model_state_dict"])
    # A checkpoint alone knows its ancestors, and so does a run that has lost its record.
    alone = read_initial_weights(str(shutil.copy(RunPaths(child).checkpoint_file(4), tmp_path)))
    assert alone.parent().get("ancestors") == [origin]
    (grandchild / "config.json").write_text("{")
    shutil.rmtree(copy)
    shutil.rmtree(child)
    config["training"]["max_steps"] = 8
    train(grandchild, config)
    assert record_of(grandchild)["parent"] == recorded
    assert load_run(grandchild).last_step == 8


def test_a_fork_resumes_bit_for_bit_without_its_parent(copy: Path, tmp_path: Path) -> None:
    config = start(f"{copy}@4", init_optimizer=True)
    whole = train(tmp_path / "whole", config)
    with building(config, tmp_path / "cut") as runner:
        runner.restore()
        for step in (1, 2, 3):
            runner.stepper.record(runner.stepper.take_step(step))
        runner.save()
    shutil.rmtree(copy)
    cut = train(tmp_path / "cut", config)
    one, other = saved(whole, 6), saved(cut, 6)
    for part in ("model_state_dict", "optimizer_state_dict", "loss_history", "rng_state"):
        assert_equal_states(one[part], other[part])


@pytest.mark.slow
def test_forks_of_seeds_of_one_experiment_are_one_group(parent: Path, tmp_path: Path) -> None:
    other = train(tmp_path / "parent2", config_of({"seed": 7}))
    forks = [
        load_run(train(tmp_path / f"fork{seed}", start(f"{run}@4", seed=seed)))
        for seed, run in ((1, parent), (2, other))
    ]
    assert len({fork.config_hash for fork in forks}) == 1
    assert record_of(forks[0].path)["parent"]["config_hash"] == load_run(parent).config_hash
    later = load_run(train(tmp_path / "later", start(f"{other}@6")))
    assert {later.config_hash, load_run(parent).config_hash}.isdisjoint(
        fork.config_hash for fork in forks
    )


def test_the_best_step_of_each_seed_is_one_origin() -> None:
    parent = {"path": "/a", "weights_sha256": "0" * 64, "name": "wave", "config_hash": "12345678"}
    origins = [
        origin_settings({"init_from": f"{run}@best"}, {"parent": {**parent, "step": step}})
        for run, step in (("a", 5), ("b", 7))
    ]
    assert origins == 2 * [{"init_from": "wave 12345678 at its best step"}]
    assert origin_settings({"seed": 1}, {}) == {"seed": 1}


def test_a_run_whose_checkpoints_were_removed_starts_from_its_parent_again(
    parent: Path, tmp_path: Path
) -> None:
    config = start(f"{parent}@4")
    with building(config, tmp_path / "fork") as runner:
        runner.restore()
        runner.stepper.record(runner.stepper.take_step(1))
        runner.save()
    paths = RunPaths(tmp_path / "fork")
    for file in paths.checkpoints.glob("checkpoint_step_*"):
        file.unlink()
    assert paths.latest_link.is_symlink()
    with building(config, tmp_path / "fork") as runner:
        runner.restore()
        assert runner.state.step == 0
        weights = saved(parent, 4)["model_state_dict"]
        assert_equal_states(dict(runner.model.state_dict()), dict(weights))


def test_settings_without_effect_leave_a_record_as_it_was(parent: Path) -> None:
    assert not [name for name in record_of(parent)["config"] if name.startswith("init_")]
    config = config_of()
    assert config["init_from"] is None
    for name in ("init_from", "init_optimizer", "init_partial"):
        del config[name]
    assert check(config, parent) == []
    assert check(config_of(), parent) == []


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("@5", "keeps no checkpoint of step 5; saved steps: 2, 3, 4, 6"),
        ("@0", "keeps no checkpoint of step 0; saved steps: 2, 3, 4, 6"),
        ("@bset", "@bset must be @best, @last or @STEP; saved steps: 2, 3, 4, 6"),
        ("@-3", "@-3 must be @best, @last or @STEP"),
        ("@", "@ must be @best, @last or @STEP"),
        ("@" + "9" * 30, "must be @best, @last or @STEP"),
        ("/config.json", "must be a run directory, a checkpoint"),
        ("/checkpoints", "is not a run directory"),
        ("/checkpoints/checkpoint_step_4.pt@4", "is a file; leave @4 out"),
        ("t", "does not exist; did you mean parent?"),
        ("/missing.pt", "does not exist"),
    ],
)
def test_a_wrong_address_is_refused_with_the_alternatives(
    parent: Path, which: str, words: str
) -> None:
    (problem,) = problems(f"{parent}{which}")
    assert words in problem
    assert problem.startswith(f"init_from={parent}{which}")


def test_a_place_may_contain_the_separator(parent: Path, tmp_path: Path) -> None:
    place = tmp_path / "a@best"
    assert split_address(str(place)) == (str(tmp_path / "a"), "best")
    shutil.copytree(parent, place, symlinks=True)
    assert split_address(str(place)) == (str(place), None)
    assert split_address(f"{place}@4") == (str(place), "4")
    assert read_initial_weights(f"{place}@4").step == 4
    assert split_address("ssh://me@host/run") == ("ssh://me@host/run", None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.n_layer": 3}, "8 parameters of the model are missing there: blocks.2"),
        ({"model.n_layer": 1}, "8 parameters there are not in the model: blocks.1"),
        ({"model.n_embd": 32}, "(256, 16) there, (256, 32) here"),
        ({"tokenizer": CHAR}, "id 0 is '\\\\x00' there and 'a' here"),
        ({"init_optimizer": True, "optimizer": ADAMW}, "build_rgd, and that of this run"),
        (
            {"init_optimizer": True, "optimizer.direction": "muon"},
            "that of this run spectral_exp.optim.build_rgd with direction=muon",
        ),
        (
            {"init_optimizer": True, "init_partial": True, "model.n_layer": 3},
            "the state of the optimizer needs all parameters",
        ),
    ],
)
def test_another_model_is_refused_with_the_differences(
    parent: Path, changes: dict[str, Any], words: str
) -> None:
    (problem, *_) = problems(parent, changes)
    assert words in problem


def test_options_need_weights() -> None:
    for name in ("init_optimizer", "init_partial"):
        assert check(config_of({name: True}), None) == [
            f"{name}=true must be false without init_from"
        ]


def test_a_damaged_checkpoint_is_passed_over_or_named(copy: Path) -> None:
    newest = RunPaths(copy).checkpoint_file(6)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert read_initial_weights(str(copy)).step == 4
    (problem,) = problems(f"{copy}@6")
    assert "checkpoint_step_6.pt is damaged" in problem
    assert problem.endswith("saved steps: 2, 3, 4")
    (problem,) = problems(newest)
    assert "is damaged" in problem
    assert newest.read_bytes() == bytes(content)


class Payload:
    """Code in a checkpoint."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch canary",)


def header(content: object, length: int | None = None) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
FILES: dict[str, Callable[[Path], object]] = {
    "empty.safetensors": lambda file: file.touch(),
    "short.safetensors": lambda file: file.write_bytes(b"\x01"),
    "giant.safetensors": lambda file: file.write_bytes(header({}, 1 << 62)),
    "text.safetensors": lambda file: file.write_bytes(header("a")),
    "outside.safetensors": lambda file: file.write_bytes(header({"a": {**ENTRY, "data_offsets": [0, 1 << 40]}})),
    "overlap.safetensors": lambda file: file.write_bytes(header({"a": ENTRY, "b": ENTRY}) + bytes(16)),
    "folder.safetensors": lambda file: file.mkdir(),
    "fifo.safetensors": lambda file: os.mkfifo(file),
    "fifo.pt": lambda file: os.mkfifo(file),
    "empty.pt": lambda file: file.touch(),
    "code.pt": lambda file: torch.save({"model_state_dict": Payload()}, file),
    "old.pt": lambda file: torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False),
    "plain.pt": lambda file: torch.save({"head.weight": torch.ones(2)}, file),
    "nothing.pt.zst": lambda file: file.write_bytes(b"\x28\xb5\x2f\xfd"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    FILES[name](tmp_path / name)
    with pytest.raises(UserError) as error:
        read_initial_weights(name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "weight",
    [torch.empty(2, device="meta"), torch.ones(2).to_sparse()],
    ids=["meta", "sparse"],
)
def test_a_tensor_without_plain_values_is_refused_by_name(
    weight: torch.Tensor, parent: Path, tmp_path: Path
) -> None:
    state = saved(parent, 6)
    torch.save({**state, "model_state_dict": {"odd": weight}}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="odd of its model is not a tensor with plain values"):
        read_initial_weights(str(tmp_path / "odd.pt"))


def test_safetensors_hold_the_same_weights(parent: Path, tmp_path: Path) -> None:
    weights = saved(parent, 4)["model_state_dict"]
    file = tmp_path / "weights.safetensors"
    safetensors.save_file(weights, file, metadata={"step": "4", "run": "x" * 300})
    found = read_initial_weights(str(file))
    assert_equal_states(dict(found.weights), dict(weights))
    assert (found.step, found.tokenizer_fingerprint) == (4, None)
    assert found.parent()["weights_sha256"] == weights_sha256(weights)
    (problem,) = problems(file, {"init_optimizer": True})
    assert "it holds no state of an optimizer" in problem
    weights["norm.weight"][0] = float("nan")
    safetensors.save_file(weights, file)
    (problem,) = problems(file)
    assert "values that are not finite: norm.weight" in problem


def test_resume_with_other_settings_names_the_command_that_forks(parent: Path) -> None:
    arguments = [*BASE, "seed=5", "name='a b'", f"resume={parent}", "experiment_id=parent"]
    config = config_of({"seed": 5, "name": "a b", "resume": str(parent)})
    first, second = check(config, parent, arguments)
    assert "holds a run of another configuration (name: wave_rgd -> a b; seed: 1337 -> 5)" in first
    command = second.partition("spectral-exp train ")[2]
    assert "resume=" not in command
    assert "experiment_id" not in command
    assert command.endswith(f"seed=5 'name='\"'\"'a b'\"'\"'' init_from={parent}")


def test_a_finished_run_whose_last_checkpoint_is_lost_is_not_shortened(copy: Path) -> None:
    for file in RunPaths(copy).checkpoints.glob("checkpoint_step_6*"):
        file.unlink()
    (problem,) = check(config_of({"training.max_steps": 5}), copy)
    assert problem.startswith("training.max_steps=5 must be >= 6")


def test_an_unfinished_run_is_not_shortened_below_its_newest_checkpoint(copy: Path) -> None:
    (copy / "results.json").unlink()
    (problem,) = check(config_of({"training.max_steps": 5}), copy)
    assert problem.startswith("training.max_steps=5 must be >= 6")
