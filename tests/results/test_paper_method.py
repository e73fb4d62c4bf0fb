"""That the method section states the mathematics of the settings in use: another setting, another
text."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.results.document.model import Equation, Heading, Paragraph, plain_text
from spectral_exp.results.paper.material import Choices, Material
from spectral_exp.results.paper.method import method
from spectral_exp.runs.overrides import flatten
from spectral_exp.runs.parts import SECTIONS, part_names
from spectral_exp.runs.run import Run
from tests.results.fakes import fake_group, fake_run
from tests.results.made_comparisons import made_comparison

# Another value for each setting of each part; None where it changes time, memory or random draws,
# not the function.
ANOTHER: dict[tuple[str, str], dict[str, Any]] = {
    ("embedding", "standard"): {},
    ("embedding", "wave"): {
        "n_wave": 24,
        "n_harmonic": 3,
        "wave_ratio": "scheduled",
        "ratio_start": 0.25,
        "ratio_end": None,
        "bias": None,  # follows model.bias
    },
    ("attention", "dot_product"): {},
    ("attention", "rotary"): {"base": 500.0, "frequencies": "learned"},
    ("attention", "interference"): {"n_wave": 24},
    ("attention", "alibi"): {},
    ("attention", "no_positions"): {},
    ("attention", "phasor"): {"n_wave": 24, "frequencies": "fixed"},
    **{
        ("attention", kind): {
            "n_wave": 24,
            "mode": None,
            "chunk_size": None,
            "frequencies": "learned",
            "feature_length": 6.5,
        }
        for kind in ("pure_wave", "pure_wave_linear")
    },
    **{
        ("mlp", kind): {"activation": None, "expansion": 3, "n_hidden": 321}
        for kind in ("gelu", "resonance", "relu2")
    },
    ("mlp", "swiglu"): {"expansion": 3, "n_hidden": 321},
    ("optimizer", "adamw"): {
        "learning_rate": 7e-4,
        "betas": [0.9, 0.88],
        "eps": 3e-7,
        "weight_decay": 0.07,
        "fused": None,
        "roles": {"embedding": {"learning_rate": 0.03}},
    },
    ("optimizer", "muon"): {
        "learning_rate": 7e-4,
        "momentum": 0.8,
        "nesterov": False,
        "ns_steps": 7,
        "rate_scale": "original",
        "betas": [0.9, 0.88],
        "eps": 3e-7,
        "weight_decay": 0.07,
        "roles": {"head": {"weight_decay": 0.03}},
    },
    ("optimizer", "rgd"): {
        "learning_rate": 7e-4,
        "betas": [0.9, 0.88],
        "eps": 3e-7,
        "weight_decay": 0.07,
        "resonance_strength": 0.45,
        "warmup_steps": 123,
        "gate_embeddings": "channels",
        "gate_every": 4,
        "direction": "muon",
        **dict.fromkeys(("momentum", "nesterov", "ns_steps", "rate_scale")),  # of Muon
        "roles": {"wave": {"learning_rate": 0.03}},
    },
    ("loss", "cross_entropy"): {"z_loss": 0.2},
    ("loss", "qfe"): {
        "coherence_weight": 0.2,
        "temperature": 1.7,
        "projection_dim": 32,
        "amplitude_threshold": 0.03,
        "seed": None,
        "z_loss": 0.2,
    },
}
USED = [
    (part, choice, name)
    for (part, choice), values in ANOTHER.items()
    for name, v in values.items()
    if v
]


def configured(part: str, choice: str) -> dict[str, Any]:
    """The settings of a part as `conf/` has them, by their whole names."""
    section = SECTIONS[part]
    folder = section.replace(".", "/")
    tree = {"model": {"n_wave": 16, "n_harmonic": 4, "bias": False}}
    whole = OmegaConf.create(tree)
    OmegaConf.update(whole, section, OmegaConf.load(CONF_DIR / folder / f"{choice}.yaml"))
    settings = OmegaConf.to_container(OmegaConf.select(whole, section), resolve=True)
    assert isinstance(settings, dict)
    return {f"{section}.{name!s}": value for name, value in settings.items() if name != "_partial_"}


def make(part: str, choice: str, **changes: Any) -> Run:
    section = SECTIONS[part]
    changed = {f"{section}.{name}": value for name, value in changes.items()}
    settings = dict(flatten(configured(part, choice) | changed))
    run = fake_run(settings=settings, run_id="_".join(["run", *changes]))
    run.parts.update(part_names(settings))  # type: ignore[attr-defined]
    assert run.parts[part] == choice
    return run


def text(*runs: Run) -> str:
    """The method of papers about these, one group each."""
    groups = tuple(fake_group([run], label=run.run_id) for run in runs)
    blocks = method(Material(Choices(), runs, groups, made_comparison(groups), (), {}))
    words = [plain_text(block.text) for block in blocks if isinstance(block, Paragraph)]
    words += [block.tex for block in blocks if isinstance(block, Equation)]
    return "\n".join([*words, *(block.text for block in blocks if isinstance(block, Heading))])


@pytest.mark.parametrize(("part", "choice"), ANOTHER)
def test_every_setting_is_known_here(part: str, choice: str) -> None:
    names = {name.removeprefix(SECTIONS[part] + ".") for name in configured(part, choice)} - {
        "_target_"
    }
    assert names == ANOTHER[part, choice].keys(), (
        "say whether the method section has to change with it"
    )


@pytest.mark.parametrize(("part", "choice"), ANOTHER)
def test_no_choice_of_the_configuration_lacks_a_description(part: str, choice: str) -> None:
    assert choice in {
        path.stem for path in (CONF_DIR / SECTIONS[part].replace(".", "/")).glob("*.yaml")
    }
    assert "the author has to write it" not in text(make(part, choice))


def test_all_choices_of_the_configuration_are_here() -> None:
    folders = {part: CONF_DIR / section.replace(".", "/") for part, section in SECTIONS.items()}
    assert {
        (part, path.stem) for part, folder in folders.items() for path in folder.glob("*.yaml")
    } == ANOTHER.keys()


@pytest.mark.parametrize(("part", "choice", "name"), USED)
def test_another_setting_is_another_text(part: str, choice: str, name: str) -> None:
    assert text(make(part, choice, **{name: ANOTHER[part, choice][name]})) != text(
        make(part, choice)
    )


@pytest.mark.parametrize("name", ["momentum", "nesterov", "ns_steps", "rate_scale"])
def test_on_muon_its_settings_count_too(name: str) -> None:
    muon = ANOTHER["optimizer", "muon"]
    plain = make("optimizer", "rgd", direction="muon")
    changed = make("optimizer", "rgd", direction="muon", **{name: muon[name]})
    assert text(plain) != text(changed)
    found = text(make("optimizer", "rgd"), plain)
    assert "In run_direction the matrices of attention and MLP follow Muon" in found
    assert "They start from \\tilde{M} = (1 - \\mu) G + \\mu M. The factor s" in found


def test_the_variants_of_pure_wave_attention_have_distinct_texts() -> None:
    plain_text = text(make("attention", "pure_wave"))
    assert "linear in $x$ too" not in plain_text
    assert "linear in x too" in plain_text
    assert "The length is \\ell = W^{1/4}." in plain_text
    changed = make("attention", "pure_wave", frequencies="learned", feature_length=16)
    alone = text(changed)
    assert "learned per head and wave from 10000^{-w/W}." in alone
    assert "The length is \\ell = 16." in alone
    assert "W^{1/4}" not in alone
    both = text(make("attention", "pure_wave"), changed)
    assert (
        "The length is \\ell = W^{1/4} (run). The length is \\ell = 16"
        " (run_frequencies_feature_length)." in both
    )


def test_runs_from_before_a_setting_have_its_default() -> None:
    old = make("attention", "pure_wave")
    settings = dict(old.settings)
    for name in ("frequencies", "feature_length"):
        del settings[f"model.attention.{name}"]
    before = fake_run(settings=settings, run_id="before")
    before.parts.update(old.parts)  # type: ignore[attr-defined]
    for name in ("model.attention.frequencies", "model.attention.feature_length"):
        assert name not in before.settings
    assert "The length is \\ell = W^{1/4}. No position" in text(before, old)


def test_the_text_of_a_schedule_has_both_of_its_ends() -> None:
    found = text(make("embedding", "wave", wave_ratio="scheduled", ratio_start=0.2, ratio_end=0.7))
    assert "follows a schedule from 0.2 to 0.7 over the run." in found


SWITCHES = {
    "norm._target_": ("spectral_exp.models.RMSNorm", "divides by the root mean square alone"),
    "embedding_norm": (True, "A normalization follows the embedding (other)."),
    "qk_norm": (True, "scales the projections of its queries and keys"),
    "logit_softcap": (30.0, "with c = 30"),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_of_the_model_are_stated_with_their_users(name: str) -> None:
    value, words = SWITCHES[name]
    plain, other = make("mlp", "gelu"), make("mlp", "gelu")
    object.__setattr__(other, "run_id", "other")
    other.settings[f"model.{name}"] = value  # type: ignore[index]
    assert words not in text(plain)
    assert words in text(plain, other)
    assert "(other)." in text(plain, other)


def test_biases_are_stated() -> None:
    without, with_them = (make("mlp", "gelu") for _ in range(2))
    with_them.settings["model.bias"] = True  # type: ignore[index]
    assert "Neither linear maps nor normalizations have biases." in text(without)
    assert "normalizations have biases, which start at zero." in text(with_them)


def test_settings_of_a_role_name_the_runs_that_have_them() -> None:
    changed = make("optimizer", "adamw", roles={"head": {"weight_decay": 0.25}})
    sentence = "Parameters of the role head have a weight_decay of 0.25"
    assert f"{sentence}." in text(changed)
    assert f"{sentence} (run_roles)." in text(changed, make("optimizer", "adamw"))
