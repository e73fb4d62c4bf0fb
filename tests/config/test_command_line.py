from __future__ import annotations

import json
import shlex
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from spectral_exp.config.command_line import CommandLine, list_changed_settings, quote
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


def compose(*arguments: str) -> list[dict[str, object]]:
    return [job.config for job in CommandLine.parse(list(arguments)).compose()]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_under_its_own_name(experiment: str) -> None:
    (config,) = compose(f"+experiment={experiment}")
    assert config["name"] == experiment


def test_the_wave_experiment_consists_of_the_wave_parts() -> None:
    (config,) = compose("+experiment=wave_rgd_qfe", "model/size=small", "training.max_steps=7")
    model = config["model"]
    assert isinstance(model, dict)
    assert model["embedding"]["_target_"].endswith("WaveEmbedding")
    assert model["attention"]["_target_"].endswith("InterferenceAttention")
    assert (model["n_embd"], model["n_layer"], model["n_head"], model["block_size"]) == (
        384,
        8,
        8,
        256,
    )
    assert config["training"]["max_steps"] == 7  # type: ignore[index]


def changed_settings(*overrides: str) -> dict[str, dict[str, object]]:
    """Return what the record of a job with these overrides holds."""
    with hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
        job = hydra.compose("config", list(overrides), return_hydra_config=True)
        config = OmegaConf.to_container(
            OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"]), resolve=True
        )
        assert isinstance(config, dict)
        job.hydra.job.config_name = "config"
        return list_changed_settings(job.hydra, {str(key): value for key, value in config.items()})


def test_changed_settings_are_those_that_differ_from_the_defaults() -> None:
    assert changed_settings("seed=1337", "outputs=elsewhere", "optimizer=adamw") == {}
    assert changed_settings("seed=3", "+data.extra=[1]", "training.max_steps=1300") == {
        "data.extra": {},
        "seed": {"default": 1337},
        "training.max_steps": {"default": 1200},
    }
    found = changed_settings("+experiment=wave_rgd")
    assert found["optimizer._target_"] == {"default": "spectral_exp.optim.build_adamw"}
    assert "optimizer.eps" not in found


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("training.max_stepz=5", "did you mean training.max_steps=5?"),
        ("traning.max_steps=5", "did you mean training.max_steps=5?"),
        ("max_steps=5", "did you mean training.max_steps=5?"),
        ("modle=default", "did you mean model=default?"),
        ("model.mlp.n_wave=3", "did you mean model.n_wave=3?"),
        ("monitoring=off", "choose monitoring/backup=..., monitoring/checkpoint=..."),
        ("seed=1,2", "needs --multirun (-m)"),
        ("model/sise=small", "did you mean model/size=small?"),
    ],
)
def test_a_typo_gets_the_nearest_valid_name(override: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        compose("+experiment=wave", override)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "use +" not in str(caught.value)


MISPLACED = {
    "data.path=x": "data.path belongs to data=text_file; write data=text_file data.path=x",
    "optimizer.resonance_strength=2": "optimizer.resonance_strength belongs to optimizer=rgd; "
    "write optimizer=rgd optimizer.resonance_strength=2",
    "optimizer.lr=1e-3": "did you mean optimizer.learning_rate=1e-3?",
    "lr=1": "did you mean optimizer.learning_rate=1?",
    "max_iters=3": "did you mean training.max_steps=3?",
    "model.d_model=32": "did you mean model.n_embd=32?",
    "+experment=wave": "did you mean +experiment=wave?",
    "expermient=wav": "did you mean +experiment=wave?",
    "+sed=3": "did you mean seed=3?",
    "attention=phasor": "did you mean model/attention=phasor?",
    "model.attention=phaser": "did you mean model/attention=phasor?",
    "monitoring.checkpoint=off": "did you mean monitoring/checkpoint=off?",
    "rotary.base=2": "did you mean model/attention=rotary model.attention.base=2?",
    "+foo.bar=1": "foo.bar is not a setting; --cfg job shows all settings",
}
WITHOUT_EQUALS = {
    "--seed 1": "did you mean seed=1?",
    "--seed=1": "did you mean seed=1?",
    "--max-steps 5": "did you mean training.max_steps=5?",
    "--optimizer.lr -3": "did you mean optimizer.learning_rate=-3?",
    "--compile": "did you mean training.compile=true?",
    "--no-compile": "did you mean training.compile=false?",
    "--model small": "did you mean model/size=small?",
    "--experiment wave": "did you mean +experiment=wave?",
    "-lr 3": "did you mean optimizer.learning_rate=3?",
    "--mutlirun": "did you mean --multirun?",
    "--cfg job --path x": "did you mean data=text_file data.path=x or tokenizer=",
    "wave_rgd -m": "did you mean +experiment=wave_rgd?",
    "seed 3": "did you mean seed=3?",
    "seed:4": "did you mean seed=4?",
    "seed= 5": "did you mean seed=5?",
    "training.max_steps = 3": "did you mean training.max_steps=3?",
}


@pytest.mark.parametrize("expected", [MISPLACED, WITHOUT_EQUALS], ids=["keys", "arguments"])
def test_every_mistake_is_answered_in_one_line_by_what_was_meant(expected: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        compose(*" ".join(expected).split())
    lines = str(caught.value).splitlines()
    assert len(lines) == len(expected)
    for answer in expected.values():
        assert any(answer in line for line in lines), (answer, lines)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("model=small", "model/size=small"),
        ("optimizer=cosine", "schedule=cosine"),
        ("+experiment=rgd", "optimizer=rgd"),
        ("data=texts/x.txt", "data=text_file data.path=texts/x.txt"),
    ],
)
def test_an_option_of_another_group_is_found(override: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(override)
    assert f"{override} does not exist; did you mean {meant}?" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    ["resume=", "experiment_id=''", "outputs=", "sweep=", "study=", 'init_from=""', "+sweep="],
)
def test_a_place_without_a_name_is_refused(override: str) -> None:
    """Otherwise a variable of the shell that is not set would mean another run."""
    with pytest.raises(UserError) as caught:
        CommandLine.parse(["+experiment=classic", override])
    assert str(caught.value).startswith(f"{override} has no value; is a variable of the shell not")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a: [\n", "line 2: expected the node content"), ("a: b: c\n", "line 1: mapping values are")],
)
def test_a_configuration_file_that_is_not_yaml_is_named(
    content: str, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "experiment/mine.yaml"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        CommandLine.parse(["--config-dir", str(tmp_path), "+experiment=mine"]).compose()
    assert str(caught.value).startswith(f"{file}, {reason}")


@pytest.mark.parametrize(
    ("launcher", "answer"),
    [
        ("rq", "hydra/launcher=rq needs a package that is not installed: pip install hydra-rq-l"),
        (
            "slurm",
            "hydra/launcher=slurm does not exist; did you mean hydra/launcher=submitit_slurm?",
        ),
    ],
)
def test_a_launcher_that_is_not_installed_names_its_package(launcher: str, answer: str) -> None:
    with pytest.raises(UserError) as caught:
        compose("-m", "seed=1,2", f"hydra/launcher={launcher}")
    assert str(caught.value).startswith(answer)


def test_options_and_settings_of_the_users_own_folder_are_suggested(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "lion.yaml").write_text("_target_: mylab.Lion\nmomentum_decay: 0.9\n")
    own = f"--config-dir={tmp_path}"
    with pytest.raises(UserError, match="did you mean optimizer=lion"):
        compose(own, "optimizer=lyon")
    with pytest.raises(UserError, match=r"belongs to optimizer=lion; write optimizer=lion opt"):
        compose(own, "optimizer.momentum_decay=1")
    with pytest.raises(UserError, match=r"did you mean optimizer=lion optimizer\.momentum_decay=1"):
        compose(own, "--momentum-decay", "1")


def test_several_typos_are_reported_together() -> None:
    with pytest.raises(UserError) as caught:
        compose("training.max_stepz=5", "optimizer.learning_rat=1")
    assert len(str(caught.value).splitlines()) == 2


def test_unknown_choices_list_the_choices() -> None:
    with pytest.raises(
        UserError,
        match=r"\+experiment=wav_rgd does not exist; did you mean \+experiment=wave_rgd\?; choose from c",
    ):
        compose("+experiment=wav_rgd")
    with pytest.raises(
        UserError,
        match=r"optimizer=rdg does not exist; did you mean optimizer=rgd\?; choose from adamw",
    ):
        compose("optimizer=rdg")


def test_an_experiment_without_plus_is_explained() -> None:
    with pytest.raises(UserError, match=r"\+experiment=wave"):
        compose("experiment=wave")


@pytest.mark.slow
def test_sweeps_are_composed_job_by_job() -> None:
    jobs = compose("-m", "+experiment=classic,wave", "seed=1,2,3")
    assert [(job["name"], job["seed"]) for job in jobs] == [
        (n, s) for n in ("classic", "wave") for s in (1, 2, 3)
    ]
    names = {job["name"] for job in compose("-m", "+experiment=glob(wave*)", "seed=range(1,3)")}
    assert names == {"wave", "wave_rgd", "wave_qfe", "wave_rgd_qfe"}


def test_one_bad_job_of_a_sweep_refuses_the_sweep() -> None:
    with pytest.raises(UserError, match=r"did you mean \+experiment=wave"):
        compose("-m", "+experiment=classic,wav")


def test_run_directories_are_named_once_and_differ() -> None:
    command = CommandLine.parse(["+experiment=wave"])
    (job,) = command.compose()
    first, second = (command.with_run_dir(job).arguments[-1] for _ in range(2))
    assert first.startswith("experiment_id=wave_")
    assert first != second
    named = CommandLine.parse(["hydra.run.dir=some/place"])
    (job,) = named.compose()
    assert job.run_dir == Path("some/place")
    assert named.with_run_dir(job).arguments[-1] == "experiment_id=place"


def test_resume_repeats_recorded_overrides_and_the_command_line_wins(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    run.mkdir()
    recorded = ["+experiment=wave", "training.max_steps=5", "seed=3", "experiment_id=a_run"]
    (run / "config.json").write_text(json.dumps({"overrides": recorded}))
    command = CommandLine.parse([f"resume='{run}'", "training.max_steps=9"])
    (job,) = command.compose()
    assert job.config["name"] == "wave"
    assert job.config["seed"] == 3
    assert job.config["training"]["max_steps"] == 9
    assert job.run_dir == run


def test_resume_continues_a_run_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("outputs/group/run")
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"overrides": ["seed=3"]}))
    for same in ("outputs=outputs", "outputs=outputs/group", "experiment_id=group/run"):
        assert "seed=3" in CommandLine.parse([f"resume={run}", same]).overrides
    for other in ("outputs=elsewhere", "experiment_id=other", "hydra.run.dir=outputs/group"):
        with pytest.raises(UserError, match="continues the run where it is"):
            CommandLine.parse([f"resume={run}", other])


@pytest.mark.parametrize("content", [None, "empty"])
def test_resume_of_something_else_is_refused(tmp_path: Path, content: str | None) -> None:
    run = tmp_path / "run"
    if content is not None:
        run.mkdir()
    with pytest.raises(UserError, match=r"resume=.*(is not a directory|holds no config\.json)"):
        CommandLine.parse([f"resume={run}"])


def test_a_secret_of_the_recorded_command_line_must_be_given_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"overrides": ["+data.api_key=<redacted>", "seed=3"]})
    )
    with pytest.raises(UserError, match=r"data\.api_key is a secret"):
        CommandLine.parse([f"resume={tmp_path}"])
    assert (
        "+data.api_key=x" in CommandLine.parse([f"resume={tmp_path}", "+data.api_key=x"]).overrides
    )


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_resume_is_understood_however_it_is_signed_and_is_never_swept(
    tmp_path: Path, sign: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"overrides": ["seed=3"]}))
    assert "seed=3" in CommandLine.parse([f"{sign}resume={tmp_path}"]).overrides
    with pytest.raises(UserError, match="cannot be part of a sweep"):
        CommandLine.parse(["-m", f"{sign}resume={tmp_path}", "seed=1,2"])


def test_quoting_survives_hydra(tmp_path: Path) -> None:
    for text in ("plain", "with space", "it's", "läuft", "a=b,c", "brace{x}", "back\\slash"):
        (config,) = compose(f"name={quote(text)}")
        assert config["name"] == text


def test_questions_about_the_configuration_go_to_hydra_untouched() -> None:
    arguments = ["--cfg", "job", "+experiment=wave", "--package", "model"]
    command = CommandLine.parse(arguments)
    assert command.informs_only
    assert command.arguments == arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=1,2", "--cfg", "job"], "--cfg shows the settings of one run, and --multirun"),
        (["study=length:rates_64", "-c", "job"], "study=length:rates_64 requests a sweep of runs"),
        (["--info", "defaults", "study=length"], "give --info the settings of one of them"),
        (["--cfg", "job", "--info", "all"], "--cfg and --info exclude each other"),
        (["-sc", "install=bash", "-m"], "--shell-completion and --multirun exclude each other"),
        (["--resolve"], "--resolve says what --cfg prints; add --cfg job"),
        (["--cfg"], "--cfg/-c: expected one argument; choose from job, hydra, all"),
        (["-c", "foo"], "--cfg/-c: invalid choice: 'foo'; choose from job, hydra, all"),
        (["--info=foo"], "--info/-i: invalid choice: 'foo'; choose from all, config, defaults"),
        (["--config-dir"], "--config-dir/-cd: expected one argument"),
        (["-m", "resume=x"], "cannot be part of a sweep; leave out -m, or"),
        (["study=length", "resume=x"], "cannot be part of a sweep; leave out study=length, or"),
        (["resume=x", "sweep=s"], "cannot be part of a sweep; leave out sweep=s, or"),
    ],
)
def test_a_mistake_in_flags_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        CommandLine.parse(arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer='adamw"], "optimizer='adamw: the quote ' is not closed"),
        (["optimizer=\"it's"], 'optimizer="it\'s: the quote " is not closed'),
        (["model.n_embd=[1,2"], "model.n_embd=[1,2: a bracket ] is missing"),
        (["model.n_embd=1)"], "model.n_embd=1): a bracket ( is missing"),
        (["seed==1"], "seed==1: a setting takes one equals sign: seed=1"),
        (["+seed=1"], "+seed=1: seed is there already; write seed=1"),
        (["training.epochs=3"], "training.epochs is not a setting: training is measured in steps"),
        (["epochs=3"], "set training.max_steps or training.max_tokens"),
        (
            ["+experiment=wave", "+experiment=classic"],
            "+experiment=wave +experiment=classic: experiment is given twice; give one of them",
        ),
        (["+experiment=wave", "+experiment=wave"], "experiment is given twice; give one of them"),
        (["+optimizer=rgd"], "+optimizer=rgd: optimizer is there already; write optimizer=rgd"),
        (["+model/size=tiny"], "model/size is there already; write model/size=tiny"),
        (["optimizer=a#b"], "a value with # needs quotes; to take the value literally, quote it: "),
        (["-m", "name=é,b"], "a value with é needs quotes; write " + shlex.quote("name='é',b")),
        (
            ["training.stop_signals=[a,b=c]"],
            "write " + shlex.quote("training.stop_signals=[a,'b=c']"),
        ),
        (["-m", "resume=A,é_X"], "write " + shlex.quote("resume=A,'é_X'")),
        (["-m", "seed=1,,2"], "seed=1,,2: a value beside a comma is missing"),
        (["seed!=3"], "seed! is not a name of a setting"),
        (["--config-name", "confi"], "--config-name=confi does not exist; did you mean config?"),
        (["--config-name="], "choose from config, or name the folder that holds your own file"),
    ],
)
def test_a_mistake_in_writing_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        CommandLine.parse(arguments).compose()
    (line,) = str(caught.value).splitlines()
    assert message in line
    assert not any(word in line for word in ("hydra.cc", "Lexer", "token rec", "structured://"))
