"""Building models and devices from configurations, and who may use a run directory."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from spectral_exp.config.build import build, check
from spectral_exp.config.device import resolve_device
from spectral_exp.config.parts import build_model
from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.renamed import left_out_defaults, update_names
from tests.conftest import NO_PLOTS, ROOT, TINY, compose

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))
SIZES = ("tiny", "small", "medium", "large")


def resized(node: Any, size: dict[str, Any]) -> Any:
    """Return `node` with every setting that `size` names replaced at any depth, as by model/size."""
    if not isinstance(node, dict):
        return node
    return {key: size.get(key, resized(value, size)) for key, value in node.items()}


def meta_model(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return build_model(config, vocab_size=256)


def count(config: dict[str, Any]) -> int:
    return sum(p.numel() for p in meta_model(config).parameters())


@functools.cache
def counts_by_size(model: str) -> list[int]:
    """Parameters of the model node `model` (JSON) in every size; experiments that share a model are
    built once."""
    counts = []
    for name in SIZES:
        size = OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/model/size/{name}.yaml"))
        assert isinstance(size, dict)
        built = meta_model(
            {"model": resized(json.loads(model), {str(k): v for k, v in size.items()})}
        )
        assert all(p.is_meta for p in built.parameters())
        assert (built.n_embd, built.block_size) == (size["n_embd"], size["block_size"])
        counts.append(sum(p.numel() for p in built.parameters()))
    return counts


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_builds_in_every_size(experiment: str) -> None:
    counts = counts_by_size(json.dumps(compose(f"+experiment={experiment}")["model"]))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] / 50


def test_settings_that_records_leave_out_are_known_again() -> None:
    config = compose("+experiment=phasor_rgd")
    whole, recorded = dict(flatten(config)), dict(flatten(update_names(config)))
    assert len(recorded) < len(whole)
    assert recorded | left_out_defaults(recorded) == whole


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_matched_twin_is_as_large_as_the_wave_model(size: str) -> None:
    wave = count(compose("+experiment=wave", f"model/size={size}"))
    twin = count(compose("+experiment=classic", f"model/size={size}", "match=wave"))
    assert abs(twin - wave) <= 0.01 * wave
    if size == "tiny":
        # Which takes matching: the two differ by more as they come.
        assert abs(count(compose("+experiment=classic", "model/size=tiny")) - wave) > 0.02 * wave


def test_the_study_of_sizes_compares_models_of_equal_size() -> None:
    study = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/study/size.yaml"))
    assert isinstance(study, dict)
    overrides = [
        *study["overrides"],
        *study["blocks"]["attention"]["overrides"],
        "model/size=small",
    ]
    rotary, phasor = (
        count(compose(*overrides, f"model/attention={name}")) for name in ("rotary", "phasor")
    )
    assert abs(rotary - phasor) <= 0.01 * phasor


def test_a_wrong_setting_of_the_model_is_reported_by_its_full_name() -> None:
    config = compose("+experiment=wave")
    config["model"]["attention"]["n_wavez"] = 3
    config["model"]["n_layer"] = "two"
    with pytest.raises(UserError, match=r"model\.n_layer=two must be an integer") as caught:
        meta_model(config)
    assert "model.attention.n_wavez is not a setting" in str(caught.value)
    assert "did you mean n_wave?" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mirrors=tensorboard", "mirrors=tensorboard must be a list, each text, such as [tensorb"),
        ("mirrors=[foo]", "mirrors=foo must be tensorboard or tensorboard:FOLDER"),
        ("alerts=[foo]", "alerts[0]=... must be webhook:https://HOST/PATH, or an address"),
        ("backup_url=foo", "backup_url=foo must be s3://bucket/folder"),
        ("packages=mylab", "packages=mylab must be a list of packages, such as packages=[mylab]"),
        ("packages=[mylab]", "packages=mylab must be a package that can be imported"),
        ("monitoring.companion.mirrors=[foo]", "monitoring.companion.mirrors=foo must be tensorb"),
        ("monitoring.backup.url=foo", "monitoring.backup.url=foo must be s3://bucket/folder"),
    ],
)
def test_a_mistake_gets_one_line_with_the_setting_as_it_was_given(
    override: str, message: str
) -> None:
    (problem,) = check(compose(*TINY, NO_PLOTS, "device=cpu", override), None)
    assert problem.startswith(message)
    assert "error: " not in problem


def test_devices_that_are_not_there_are_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "mps", "tpu", "meta", "", "CPU"):
        with pytest.raises(SettingError, match=f"^device={name} must be auto or one of .*: cpu$"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SettingError, match=r"cpu, cuda:0, cuda:1$"):
        resolve_device("cuda:2")


def test_building_leaves_the_generators_and_gives_the_directory_back(tmp_path: Path) -> None:
    config = compose("+experiment=wave", *TINY, NO_PLOTS, "device=cpu")
    states = []
    before = torch.get_rng_state()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with build(config, tmp_path / name, []) as runner:
            states.append(runner.model.state_dict())
            with pytest.raises(UserError, match="is in use by"), build(config, tmp_path / name, []):
                pass
        assert not (tmp_path / name / "run.lock").exists()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_another_configuration_may_not_take_over_a_run(tmp_path: Path) -> None:
    """Also without a check before, as for the folders of a sweep."""
    config = compose("+experiment=classic", *TINY, NO_PLOTS, "device=cpu")
    with build(config, tmp_path, []):
        recorded = (tmp_path / "config.json").read_bytes()
    other = compose(
        "+experiment=classic", *TINY, NO_PLOTS, "device=cpu", "optimizer.learning_rate=0.5"
    )
    with (
        pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.001 -> 0\.5"),
        build(other, tmp_path, []),
    ):
        pass
    assert (tmp_path / "config.json").read_bytes() == recorded
    assert check(other, tmp_path) != []
    assert check(config, tmp_path) == []
