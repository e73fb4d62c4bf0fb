"""The documentation: its commands run, its links lead somewhere, its settings exist."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectral_exp.__main__ import COMMANDS, main
from spectral_exp.config.command_line import CommandLine, open_composer
from spectral_exp.config.conf_dir import CONF_DIR
from spectral_exp.core.errors import UserError
from spectral_exp.sweeps.plan import Plan
from tests.conftest import NO_PLOTS, ROOT, TINY, compose, python
from tests.results.made_runs import make_run
from tests.test_adding_parts import FILES

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
ALL = "\n".join(PAGES.values())

NOT_RUN = {
    "make run": "takes minutes; the command that it stands for is run",
    "make test": "runs this suite",
    "make slow": "runs this suite",
    "make exhaustive": "runs this suite",
    "pytest tests/test_docs.py": "runs this suite",
    "pytest tests/monitoring -n 2": "runs this suite",
    "pip install .": "changes the environment; tests/test_wheel.py installs",
    "pip install 'spectral-exp[paper]'": "changes the environment",
    "pip install 'spectral-exp[dashboard]'": "changes the environment",
    "spectral-exp dashboard outputs/": "does not end; tests/dashboard starts it",
    "spectral-exp dashboard outputs/ --where optimizer=rgd": "does not end",
    "spectral-exp dashboard outputs/ --edit": "does not end",
    "spectral-exp dashboard outputs/ --embed http://localhost:8888": "does not end",
    "pip install nbconvert ipykernel": "changes the environment",
    "tar -xf runs.tar.xz": "tests/runs/test_pack.py extracts archives",
    "jupyter nbconvert --to notebook --execute --inplace examples/own_loop.ipynb "
    "examples/runs.ipynb":
        "needs Jupyter; tests/test_notebook.py runs the cells",
    "source .venv/bin/activate": "changes the shell",
    'eval "$(register-python-argcomplete spectral-exp)"': "changes the shell",
    "tail -f outputs/RUN/logs/metrics.jsonl": "does not end",
    "spectral-exp train +experiment=wave_rgd backup_url=s3://bucket/runs":
        "needs a bucket; tests/test_train.py runs both against a server",
    "spectral-exp train resume=s3://bucket/runs/RUN": "needs a bucket",
    "spectral-exp train +experiment=wave_rgd 'mirrors=[wandb:ENTITY/PROJECT,mlflow:http://localhost:5000]'":
        "needs servers; tests/monitoring/companion tests each tracker",
    "spectral-exp train +experiment=wave_rgd 'alerts=[webhook:https://hooks.slack.com/services/...]'":
        "would send a message",
    "spectral-exp train +experiment=wave_rgd 'alerts=[ntfy://my_topic, mailto://user:password@example.com]'":
        "would send messages",
    "spectral-exp bench all --json figures.json": "takes ten minutes; tests/bench runs each",
    "spectral-exp bench loop --quick": "takes a minute; tests/bench runs each bench",
    "tar -xf docs/science/runs.tar.xz -C outputs": "tests/test_science.py extracts the records",
    **dict.fromkeys(re.findall(r"^spectral-exp compare outputs/runs/.*$", ALL, flags=re.MULTILINE),
        "tests/test_science.py runs it on the published records"),
    "apt-get install bible-kjv perl-doc": "changes the machine",
    "mkdir texts": "the folder of the two lines below it",
    "bible -l1000 'gen1:1-rev22:21' > texts/kjv.txt": "needs the package above it",
    "dpkg -L perl-doc | grep '/pod/perl.*\\.pod$' | LC_ALL=C sort | xargs cat > texts/perl.txt": (
        "needs the package above it"
    ),
    "spectral-exp train study=attribution hydra/launcher=joblib": "takes hours",
    "spectral-exp train study=optimizers hydra/launcher=joblib": "takes hours",
    "spectral-exp train study=length hydra/launcher=joblib": "takes hours",
    "spectral-exp train study=size": "takes hours",
    "spectral-exp evaluate outputs/length --split test --block-size 512": "needs a study above it",
}  # fmt: skip
"""Lines of the documentation that no test runs, each with the reason. They are still parsed."""

JOBS = {
    "experiment=classic,wave seed": 6,
    "glob(wave*)": 4,
    "=0,0.3,0.6": 3,
    "rotary,phasor": 9,
    "study=learning_rate:reporting": 6,
    "study=learning_rate:tuning": 4,
    "study=learning_rate": 10,
    "study=attribution": 252,
    "study=optimizers": 83,
    "study=length": 80,
    "study=size": 24,
}
"""How many runs a sweep starts, by a part of its line."""

EXIT_CODES = {
    "config-diff": {1},
    "checkpoints prune": {2},
    "runs delete": {2},
    "spectral-exp reproduce outputs/RUN": {0, 2},
}
"""By a part of the line: the runs differ; there is no terminal on which to ask (twice); and a
checkout with uncommitted changes is not run without `--trust-code`."""

SHORTER = [override for override in TINY if not override.startswith(("data", "training="))]


def documented_lines() -> list[str]:
    """Return the lines of blocks of shell commands and the training commands inside the text."""
    blocks = re.findall(r"^```bash\n(.*?)^```", ALL, flags=re.DOTALL | re.MULTILINE)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    quoted = re.findall(r"`(spectral-exp train \+[^`]+)`", ALL)
    return list(dict.fromkeys(filter(None, [*lines, *quoted])))


def arguments_of(line: str) -> list[str] | None:
    """Return the arguments of our command line in a line, or None if it calls another program."""
    words = shlex.split(line)
    if words[0] == "spectral-exp":
        return words[1:]
    if words[:2] != ["python", "-m"] or not words[2].startswith("spectral_exp"):
        return None
    module = words[2].removeprefix("spectral_exp").lstrip(".").removesuffix("_monitoring")
    return [*([module] if module else []), *words[3:]]


LINES = documented_lines()
OURS = {line: arguments for line in LINES if (arguments := arguments_of(line)) is not None}


def is_short(arguments: list[str]) -> bool:
    """Whether a command takes about a second, so that the default suite runs it."""
    if arguments[0] == "train":
        return arguments[1].startswith("--") or arguments[1:] in (
            ["+experiment=wave_rgd"],
            ["resume=outputs/RUN"],
        )
    return (
        arguments[0] in {"compare", "generate", "checkpoints", "diagnose", "evaluate", "runs"}
        and "--plots" not in arguments
    )


def kind_of(arguments: list[str]) -> str:
    """Return the name of a command, or `a sweep` for training with several values."""
    is_sweep = "-m" in arguments or any(word.startswith("study=") for word in arguments)
    return "a sweep" if is_sweep and arguments[0] == "train" else arguments[0]


SHORT = {
    line: arguments
    for line, arguments in OURS.items()
    if line not in NOT_RUN and is_short(arguments)
}
LONG = {
    line: arguments for line, arguments in OURS.items() if line not in NOT_RUN and line not in SHORT
}


def test_every_line_is_run_or_has_a_reason() -> None:
    assert set(NOT_RUN) <= set(LINES), "remove the reasons of lines that are gone"
    assert not [line for line in LINES if line not in OURS and line not in NOT_RUN]
    assert len(SHORT) > 15
    assert len(LONG) > 15
    assert len({arguments[0] for arguments in LONG.values()}) > 4


def test_lines_for_other_programs_name_existing_files_and_options() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = (
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("optional-dependencies]")[2]
    )
    for target in re.findall(r"\bmake ([a-z]+)$", "\n".join(LINES), flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target
    for extra in re.findall(r"spectral-exp\[([a-z0-9]+)\]", ALL):
        assert f"\n{extra} = [" in extras, extra
    for path in re.findall(
        r"^(?:pytest|jupyter) .*?((?:tests|examples)/\S+)", "\n".join(LINES), flags=re.MULTILINE
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "line", [line for line, arguments in OURS.items() if arguments[0] != "train"]
)
def test_every_command_parses(line: str) -> None:
    name, *arguments = OURS[line]
    parser = importlib.import_module(COMMANDS[name][0]).build_parser()
    assert parser.parse_args(arguments)


TRAINING = [
    line for line, arguments in OURS.items() if arguments[0] == "train" and "resume=" not in line
]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(
            line,
            marks=[
                *([pytest.mark.slow] if "seed=1,2,3" in line or "study=" in line else []),
                *([pytest.mark.exhaustive] if line in NOT_RUN else []),
            ],
        )
        for line in TRAINING
        if "--" not in line and " search=" not in line
    ],
)
def test_every_training_command_composes(line: str) -> None:
    command = CommandLine.parse(OURS[line][1:])
    if command.multirun:
        with open_composer(command.config_name, command.config_dir) as composer:
            jobs = composer.compose_all(Plan(command, composer).requested)
    else:
        jobs = command.compose()
    assert len(jobs) == next((count for part, count in JOBS.items() if part in line), 1)


def test_commands_inside_the_text_exist() -> None:
    quoted = re.findall(r"`((?:spectral-exp|python -m spectral_exp)[ .][^`]+)`", ALL)
    named = {arguments[0] for line in quoted if (arguments := arguments_of(line))}
    assert named - {"COMMAND", "--help"} <= set(COMMANDS)
    assert len(named) > 5


# --- running --------------------------------------------------------------------------------------

RUN_ALL = """
import json, shutil, signal, time
from spectral_exp.__main__ import main

def interrupt(seconds):
    signal.raise_signal(signal.SIGINT)

codes = {}
for line, arguments in json.load(open("commands.json")).items():
    time.sleep, sleep = interrupt if "--watch" in arguments else time.sleep, time.sleep
    try:
        codes[line] = main(arguments)
    except SystemExit as error:
        codes[line] = error.code
    time.sleep = sleep
    # The next reproduction would refuse to overwrite this one.
    shutil.rmtree("outputs/RUN_reproduced", ignore_errors=True)
json.dump(codes, open("codes.json", "w"))
"""


def runnable(arguments: list[str]) -> list[str]:
    """Return the arguments of a command, training for a few small steps instead of many."""
    if arguments[0] != "train" or any(argument.startswith("--") for argument in arguments):
        return arguments
    if any(argument.startswith("resume=") for argument in arguments):
        return [
            *(argument for argument in arguments if "max_steps" not in argument),
            "training.max_steps=14",
        ]
    has_text = any(argument.startswith("data=") for argument in arguments)
    text = [] if has_text else ["data=markov", "data.n_tokens=20000"]
    steps = 20 if "training=profile" in arguments else 4
    few = (
        ["search.trials=2"] if any(argument.startswith("search=") for argument in arguments) else []
    )
    short = [argument.replace("seed=1,2,3", "seed=1,2") for argument in arguments]
    return [*short, *SHORTER, *text, *few, f"training.max_steps={steps}", NO_PLOTS]


def run_in_one_process(commands: dict[str, list[str]], folder: Path) -> dict[str, int]:
    """Run commands one after another in one interpreter and return the exit code of each."""
    (folder / "commands.json").write_text(json.dumps(commands))
    done = python("-c", RUN_ALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    codes: dict[str, int] = json.loads((folder / "codes.json").read_text())
    wrong = {line: code for line, code in codes.items() if code not in expected_codes(line)}
    assert not wrong, done.stderr
    return codes


def expected_codes(line: str) -> set[int]:
    special = (codes for part, codes in EXIT_CODES.items() if part in line and "-code" not in line)
    return next(special, {0})


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A working directory with the runs and files that the documentation names."""
    return Path(shutil.copytree(template, tmp_path / "here", symlinks=True))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a directory, untouched: runs, a text and notes."""
    folder = tmp_path_factory.mktemp("documented")
    for seed in (1, 2, 3):
        for name in ("classic", "classic_rotary", "wave", "wave_rgd"):
            make_run(folder / "outputs", name, seed, val_bpb=2.5 + 0.01 * seed)
    for seed in (1, 2, 3):
        run = make_run(folder / "outputs/learning_rate", "wave", seed)
        run.rename(run.with_name(f"wave_lr0.004_seed{seed}_{seed:08x}"))
    (folder / "FILE").write_text(PAGES["README.md"] * 5)
    (folder / "notes.md").write_text(documented_notes())
    first = {
        "first": ["train", "+experiment=wave_rgd", *TINY, NO_PLOTS, "hydra.run.dir=outputs/RUN"]
    }
    run_in_one_process(first, folder)
    for name in ("RUN_A", "RUN_B", "SWEEP/RUN"):
        shutil.copytree(folder / "outputs/RUN", folder / "outputs" / name, symlinks=True)
    settings = folder / "outputs/RUN_B/config.json"
    settings.write_text(settings.read_text().replace('"batch_size": 4', '"batch_size": 5'))
    return folder


def documented_notes() -> str:
    (notes,) = re.findall(r"```markdown\n(.*?)```", PAGES["docs/paper.md"], flags=re.DOTALL)
    return str(notes)


def test_short_commands_run(folder: Path) -> None:
    codes = run_in_one_process(
        {line: runnable(arguments) for line, arguments in SHORT.items()}, folder
    )
    assert codes.keys() == SHORT.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({kind_of(arguments) for arguments in LONG.values()}))
def test_long_commands_run(folder: Path, kind: str) -> None:
    commands = {
        line: runnable(arguments) for line, arguments in LONG.items() if kind_of(arguments) == kind
    }
    codes = run_in_one_process(commands, folder)
    assert codes.keys() == commands.keys()


@pytest.mark.slow
def test_the_stand_alone_loop_continues_on_its_next_start(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", PAGES["docs/components.md"], re.DOTALL | re.MULTILINE
    )
    loop, spectra = blocks
    start = "for step in range(start, 101):\n"
    assert start in loop
    broken = loop.replace(start, f"{start}    if step == 73: raise KeyboardInterrupt\n")
    whole = (
        f"try:\n    exec({broken!r}, {{}})\nexcept KeyboardInterrupt:\n    pass\n"
        f"exec({loop!r})\nprint(start)\nexec({spectra!r})"
    )
    done = python("-c", whole, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("51\n[ 50 100] ")
    (run,) = (tmp_path / "outputs").glob("my_experiment_*")
    assert list((run / "visualizations").glob("training_dynamics_step_0000100_*.png"))
    lines = (run / "logs/metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["step"] for line in lines]
    assert logged == list(range(10, 101, 10))
    folder = str(tmp_path / "outputs")
    text = StringIO()
    with redirect_stdout(text):
        assert main(["compare", folder, "--no-index"]) == 0
        assert main(["paper", folder, "--output", str(tmp_path / "paper"), "--formats", "md"]) == 0
    assert text.getvalue().startswith("loss (mean squared error), final value of each run")
    paper = (tmp_path / "paper/paper.md").read_text()
    assert "1 configuration in training loss (mean squared error) (lower is better)" in paper
    assert "language model" not in paper
    assert "nats" not in paper


def test_a_run_directory_holds_the_files_that_the_readme_lists(template: Path) -> None:
    (listing,) = re.findall(
        r"^outputs/wave_rgd_\S+/\n((?:  .*\n)+)", PAGES["README.md"], flags=re.MULTILINE
    )
    listed = {line.split()[0] for line in listing.splitlines()}
    # Plots are off in the tests, and a checkout without changes has no patch.
    assert listed - {
        path.name + "/" * path.is_dir() for path in (template / "outputs/RUN").iterdir()
    } <= {
        "visualizations/",
        "git_diff.patch",
    }


def test_the_mistake_in_the_readme_is_reported_as_shown() -> None:
    ((line, message),) = re.findall(
        r"^\$ (spectral-exp train .*)\nerror: (.*)$", ALL, flags=re.MULTILINE
    )
    with pytest.raises(UserError) as error:
        CommandLine.parse(shlex.split(line)[2:]).compose()
    assert str(error.value) == message


def test_the_example_of_frames_runs(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["docs/compare.md"], flags=re.DOTALL)
    monkeypatch.chdir(template)
    names: dict[str, Any] = {}
    exec(example, names)
    assert len(names["runs"]) == 19
    assert {"run_id", "step", "val_bpb"} <= set(names["metrics"].columns)


@pytest.mark.slow
def test_the_example_of_the_python_interface_runs(
    template: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["docs/python.md"], flags=re.DOTALL)
    monkeypatch.chdir(template)
    long = '"training.max_steps=200"'
    assert long in example
    names: dict[str, Any] = {}
    exec(example.replace(long, f"*{[*TINY, NO_PLOTS, 'training.max_steps=4']}"), names)
    assert names["run"].status == "completed"
    assert "completed 4 " in capsys.readouterr().out


def test_the_example_of_spectra_runs(
    template: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGES["docs/train.md"], flags=re.DOTALL)
    monkeypatch.chdir(template)
    exec(example, {})
    assert capsys.readouterr().out.startswith("Base frequencies cycles [0. ")


# --- names and links ------------------------------------------------------------------------------


def test_every_choice_named_in_a_table_exists() -> None:
    named = re.findall(r"`([a-z/]+)=([a-z_0-9]+(?:\\\|[a-z_0-9]+)+)`", ALL)
    assert len(named) > 8
    for group, choices in named:
        for choice in choices.split("\\|"):
            assert (CONF_DIR / group / f"{choice}.yaml").is_file(), f"{group}={choice}"
    experiments = re.findall(
        r"^\| (`.*?) \|", PAGES["docs/configure.md"].partition("| embedding |")[2], re.MULTILINE
    )
    listed = {name for cell in experiments[:6] for name in re.findall(r"`(\w+)`", cell)}
    assert listed == {path.stem for path in (CONF_DIR / "experiment").glob("*.yaml")}


def test_every_setting_named_in_the_text_exists() -> None:
    config = compose("+experiment=wave_rgd", "monitoring/checkpoint=default")
    names = set(re.findall(r"`((?:training|monitoring|optimizer|schedule)(?:\.[a-z_]+)+)", ALL))
    assert len(names) > 8
    for name in names:
        node: Any = config
        for key in name.split("."):
            assert key in node, name
            node = node[key]


def test_blocks_of_yaml_are_the_recipes_that_are_tested() -> None:
    recipes = [yaml.safe_load(text) for name, text in FILES.items() if name.endswith(".yaml")]
    # tests/test_adding_parts.py writes blocks that begin with the path of a file to that file.
    blocks = re.findall(r"```yaml\n(?!# conf/)(.*?)```", PAGES["docs/extend.md"], flags=re.DOTALL)
    assert len(blocks) == 2
    assert all(yaml.safe_load(block) in recipes for block in blocks)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), target


def test_every_page_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", PAGES["README.md"]))
    assert {page for page in PAGES if page != "README.md"} <= linked


def test_pictures_are_small_and_used() -> None:
    pictures = list((ROOT / "docs/images").iterdir())
    assert pictures
    for picture in pictures:
        assert picture.name in ALL
        assert picture.stat().st_size < 150_000


def test_the_workflow_runs_the_two_commands_of_the_readme() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    steps = job["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test", "make run"]
    assert all(
        re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step
    )
    assert len(job["strategy"]["matrix"]["python"]) > 1
    assert "secrets." not in str(workflow)
