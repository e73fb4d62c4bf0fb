"""The configuration of model, optimizer, schedule and loss agrees with the parameters and defaults
of the constructors."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = (
    "model/embedding",
    "model/attention",
    "model/mlp",
    "model/norm",
    "optimizer",
    "schedule",
    "loss",
)
FILES = [file for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
# What the owner of a part passes at run time, and so no file may set.
RUNTIME = {
    "vocab_size",
    "block_size",
    "n_embd",
    "n_head",
    "dropout",
    "position_table",
    "params",
    "max_steps",
}
SIZES = {  # n_embd, n_layer, n_head, n_wave, block_size
    "tiny": (128, 4, 4, 16, 128),
    "small": (384, 8, 8, 48, 256),
    "medium": (512, 10, 8, 64, 384),
    "large": (768, 12, 12, 96, 512),
}


def model(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(None, overrides=["+model=default", *overrides])
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    node: dict[str, Any] = resolved["model"]
    return node


def signature(target: str) -> dict[str, inspect.Parameter]:
    # Hydra's own look-up goes by attributes: it would stumble over a package that hides one of its
    # modules.
    return dict(inspect.signature(get_object(target)).parameters)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_file_lists_every_setting_of_its_constructor(file: Path) -> None:
    node = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(node, dict)
    if file.parent.name == "optimizer":
        assert node.pop("roles") == {}
    is_part = file.parent.parent.name == "model"
    assert node.pop("_partial_", False) is is_part
    parameters = signature(node.pop("_target_"))
    settable = parameters.keys() - RUNTIME
    if is_part and "bias" not in node:
        settable -= {"bias"}  # passed by the model
    assert node.keys() == settable


@pytest.mark.parametrize("name", ["adamw", "muon", "rgd"])
def test_optimizers_are_configured_with_their_defaults(name: str) -> None:
    node = OmegaConf.to_container(OmegaConf.load(CONF / f"optimizer/{name}.yaml"))
    assert isinstance(node, dict)
    for key, parameter in signature(node.pop("_target_")).items():
        if key != "params":
            value = tuple(node[key]) if isinstance(node[key], list) else node[key]
            assert value == parameter.default


def test_optimizers_differ_in_nothing_that_they_share() -> None:
    nodes: list[Any] = []
    for name in ("adamw", "muon", "rgd"):
        nodes.append(OmegaConf.to_container(OmegaConf.load(CONF / f"optimizer/{name}.yaml")))
        del nodes[-1]["_target_"]
    adamw, muon, rgd = nodes
    shared = adamw.keys() & muon.keys() & rgd.keys()
    assert shared == {"learning_rate", "betas", "eps", "weight_decay", "roles"}
    for name in shared:
        assert adamw[name] == muon[name] == rgd[name]
    assert muon == {name: rgd[name] for name in muon}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_reach_the_model_and_its_wave_parts(size: str) -> None:
    node = model(f"model/size={size}", "model/embedding=wave", "model/attention=interference")
    assert (
        tuple(node[key] for key in ("n_embd", "n_layer", "n_head", "n_wave", "block_size"))
        == SIZES[size]
    )
    assert node["n_harmonic"] == 4
    assert node["embedding"]["n_wave"] == node["attention"]["n_wave"] == node["n_wave"]
    assert node.keys() - {"_target_"} <= signature(node["_target_"]).keys()


def test_shared_values_can_be_overridden_in_one_place() -> None:
    node = model(
        "model/embedding=wave", "model/attention=phasor", "model.n_wave=20", "model.bias=true"
    )
    assert (
        node["embedding"]["n_wave"],
        node["attention"]["n_wave"],
        node["embedding"]["bias"],
    ) == (20, 20, True)


def test_pure_wave_comes_in_both_modes() -> None:
    modes = {
        name: model(f"model/attention={name}")["attention"]["mode"]
        for name in ("pure_wave", "pure_wave_linear")
    }
    assert modes == {"pure_wave": "quadratic", "pure_wave_linear": "linear"}
