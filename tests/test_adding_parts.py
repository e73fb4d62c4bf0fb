"""Parts are added as docs/extend.md describes, and one that does not fit is named before anything
is created."""

from __future__ import annotations

import math
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from spectral_exp.config.build import check
from spectral_exp.config.command_line import CommandLine
from spectral_exp.config.construct import Constructor
from spectral_exp.config.parts import make_loss, make_schedule
from spectral_exp.core.errors import UserError
from spectral_exp.losses import cross_entropy
from spectral_exp.optim import schedule
from tests.conftest import NO_PLOTS, ROOT, TINY, compose, python

FILES = {
    "spectral_exp/optim/lion.py": (
        """
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    def __init__(self, params: Iterable[Any], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 0.1)
                parameter.sub_(momentum.sign(), alpha=group["lr"])


def lion(params: Iterable[Any], learning_rate: float = 1e-4) -> Optimizer:
    return Lion(params, learning_rate)
"""
    ),
    "conf/optimizer/lion.yaml": "_target_: spectral_exp.optim.lion.lion\nlearning_rate: 1.0e-4\n",
    "conf/optimizer/sgd.yaml": "_target_: torch.optim.SGD\nlr: 0.1\n",
    "conf/optimizer/muon.yaml": "_target_: torch.optim.Muon\nlr: 0.1\n",
    "spectral_exp/models/mine.py": (
        """
from torch import Tensor, nn

from spectral_exp.models.attention import SoftmaxAttention
from spectral_exp.models.embedding import StandardEmbedding
from spectral_exp.models.gpt import GPT


class Cosine(SoftmaxAttention):
    def __init__(self, n_embd: int, n_head: int, block_size: int, dropout: float = 0.0, bias: bool = False) -> None:
        super().__init__(n_embd, n_head, block_size, dropout, bias, n_embd // n_head)

    def queries_and_keys(self, q: Tensor, k: Tensor, start: int) -> tuple[Tensor, Tensor]:
        return nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)


class Unfinished(SoftmaxAttention):
    def __init__(self, n_embd: int, n_head: int, block_size: int, dropout: float = 0.0, bias: bool = False) -> None:
        super().__init__(n_embd, n_head, block_size, dropout, bias, n_embd // n_head)


class Squared(nn.Module):
    def __init__(self, n_embd: int, dropout: float = 0.0, bias: bool = False, n_hidden: int = 8) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_embd, n_hidden, bias=bias)
        self.output = nn.Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(x).relu().square())

    def flops_per_token(self) -> int:
        return 4 * self.hidden.weight.numel()


class Scaled(StandardEmbedding):
    def forward(self, ids: Tensor, start: int = 0) -> Tensor:
        return 2 * super().forward(ids, start)


class Mine(GPT):
    pass
"""
    ),
    "conf/model/attention/cosine.yaml": (
        "_target_: spectral_exp.models.mine.Cosine\n_partial_: true\n"
    ),
    "conf/model/attention/unfinished.yaml": (
        "_target_: spectral_exp.models.mine.Unfinished\n_partial_: true\n"
    ),
    "conf/model/mlp/squared.yaml": (
        "_target_: spectral_exp.models.mine.Squared\n_partial_: true\nn_hidden: 8\n"
    ),
    "conf/model/embedding/scaled.yaml": (
        "_target_: spectral_exp.models.mine.Scaled\n_partial_: true\n"
    ),
    "conf/model/mine.yaml": (
        "defaults: [default, _self_]\n_target_: spectral_exp.models.mine.Mine\n"
    ),
    "conf/data/mine.yaml": (
        "_target_: spectral_exp.data.corpus.Repeated\nword: wave\nval_fraction: 0.1\n"
    ),
    "conf/experiment/mine.yaml": (
        "# @package _global_\nname: mine\ndefaults:\n  - override /model: mine\n"
    ),
}
# File -> (what stands there, what is added after it).
LINES = {
    "spectral_exp/data/corpus.py": [
        (
            "def list_files(",
            """class Repeated(TextCorpus):
    def __init__(self, word: str, val_fraction: float = 0.1) -> None:
        super().__init__(val_fraction)
        self.word = word

    def read(self, cache: Path) -> bytes:
        return self.word.encode() * 500

    def stamp(self, cache: Path) -> Stamp:
        return ["repeated", self.word]


def list_files(""",
        )
    ],
}
RUNS = """
import json
import sys
from pathlib import Path
from spectral_exp.commands import verify_resume
from spectral_exp.train import main
common = sys.argv[1:]
for name, overrides in {
    "lion": ["optimizer=lion"],
    "sgd": ["optimizer=sgd", "optimizer.lr=0.05"],
    "parts": ["model/attention=cosine", "model/mlp=squared", "model/embedding=scaled"],
    "model": ["+experiment=mine"],
    "data": ["data=mine"],
}.items():
    if name != "data":
        overrides = [*overrides, "data=markov", "data.n_tokens=20000"]
    code = main([*common, *overrides, f"hydra.run.dir={name}"])
    lines = [json.loads(line) for line in Path(name, "logs/metrics.jsonl").read_text().splitlines()]
    cost = json.loads(Path(name, "results.json").read_text())["monitoring_cost"]
    steps = [line["step"] for line in lines if line.get("weights_norm", 0) > 0]
    print("CODE", name, code, steps, cost["counts"]["weights"])
code = main(["resume=lion", "training.max_steps=15"])
lines = [json.loads(line) for line in Path("lion/logs/metrics.jsonl").read_text().splitlines()]
print("CODE resumed", code, [line["step"] for line in lines if line.get("weights_norm", 0) > 0])
print("CODE verified", verify_resume.main(["lion", "--steps", "2"]))
for name, overrides in {
    "unfinished": ["model/attention=unfinished"],
    "muon": ["optimizer=muon"],
    "synonym": ["optimizer=sgd", "optimizer.learning_rate=0.1"],
}.items():
    code = main([*common, "data=markov", *overrides, f"hydra.run.dir={name}"])
    print("CODE", name, code, Path(name).exists())
"""


def printed_files() -> dict[str, str]:
    """The files that the documentation shows in full: blocks that begin with a comment of a
    path."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    blocks = re.findall(r"^( *)```(?:python|yaml)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    files = {}
    for indent, block in blocks:
        content = textwrap.dedent(indent + block if not block.startswith(indent) else block)
        if match := re.match(r"# ((?:spectral_exp|conf)/\S+\.(?:py|yaml))\n", content):
            files[match[1]] = content
    return files


def printed_lines() -> tuple[str, str]:
    """The line of `conf/config.yaml` and the entry of `COMPONENTS` that the recipe of a component
    names."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = " ".join(" ".join(page.read_text().split()) for page in pages)
    match = re.search(
        r"`(- monitoring/\w+: default)` to the defaults .*?`(\"\w+\": \w+)` to `COMPONENTS`", text
    )
    assert match is not None
    return match[1], match[2]


def add_component(root: Path) -> None:
    """Follow the recipe of a monitoring component in `root`."""
    default, entry = printed_lines()
    config, components = root / "conf/config.yaml", root / "spectral_exp/config/components.py"
    last = "  - monitoring/tracking: default\n"
    config.write_text(config.read_text().replace(last, f"{last}  {default}\n"))
    module = next(file for file in printed_files() if file.startswith("spectral_exp/monitoring/"))
    name = module.removesuffix(".py").replace("/", ".")
    before = '    "tracking": ConfigTracker,\n'
    code = components.read_text()
    assert before in code
    code = code.replace(before, f"{before}    {entry},\n")
    first = "from spectral_exp.monitoring.component import"
    components.write_text(code.replace(first, f"from {name} import {entry.split()[1]}\n{first}"))


@pytest.mark.slow
def test_every_recipe_works_as_it_is_written(tmp_path: Path) -> None:
    for folder in ("spectral_exp", "conf"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    add_component(tmp_path)
    for name, content in (FILES | printed_files()).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for name, changes in LINES.items():
        text = (tmp_path / name).read_text()
        for before, after in changes:
            assert before in text, (name, before)
            text = text.replace(before, after, 1)
        (tmp_path / name).write_text(text)
    common = [override for override in TINY if not override.startswith("data")]
    done = python(
        "-c", RUNS, *common, NO_PLOTS, "device=cpu", "monitoring.weights.interval=5", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    codes = [
        line.removeprefix("CODE ") for line in done.stdout.splitlines() if line.startswith("CODE")
    ]
    trained = [f"{name} 0 [5, 10] 2" for name in ("lion", "sgd", "parts", "model", "data")]
    continued = ["resumed 0 [5, 10, 15]", "verified 0"]
    refused = [f"{name} 2 False" for name in ("unfinished", "muon", "synonym")]
    assert codes == trained + continued + refused, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert "queries_and_keys" in errors[0]
    assert "2D parameters" in errors[1]
    assert errors[2].startswith(
        "error: optimizer.learning_rate is not a setting; did you mean optimizer.lr="
    )


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}, None),
        ({"_target_": "torch.optim.AdamW", "lr": 0.1}, None),
        ({"_target_": "torch.optim.Adagrad"}, None),
        ({"_target_": "torch.optim.Muon", "lr": 0.1}, "Muon only supports 2D parameters"),
        ({"_target_": "torch.optim.LBFGS"}, "parameter groups"),
        (
            {"_target_": "torch.optim.SparseAdam"},
            "SparseAdam cannot do a step of the training loop",
        ),
        ({"_target_": "torch.optim.SGD", "lr": -1.0}, "Invalid learning rate"),
        ({"_target_": "torch.optim.SGD", "learning_rate": 0.1}, None),
        ({"_target_": "spectral_exp.optim.build_adamw", "lr": 0.1}, "did you mean learning_rate?"),
        (
            {"_target_": "torch.optim.SGD", "lr": 0.1, "_partial_": True},
            "optimizer._partial_=True must be false",
        ),
    ],
)
def test_an_optimizer_is_tried_on_the_parameters_of_the_model(
    node: dict[str, Any], message: str | None
) -> None:
    config = compose("+experiment=wave", *TINY, NO_PLOTS, "device=cpu", "model.bias=true")
    problems = check({**config, "optimizer": node}, None)
    assert len(problems) == (message is not None), problems
    if message is not None:
        assert problems[0].startswith("optimizer")
        assert re.search(re.escape(message), problems[0])
        assert len(problems[0].splitlines()) == 1


def test_the_other_name_of_a_learning_rate_is_known_on_the_command_line() -> None:
    with pytest.raises(
        UserError, match=r"optimizer\.lr is not .*; did you mean optimizer\.learning_rate=0\.1\?"
    ):
        CommandLine.parse(["optimizer.lr=0.1"]).compose()


def test_a_model_without_a_required_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from spectral_exp.models import gpt

    class Bare(nn.Module):
        block_size = 8

    monkeypatch.setattr(gpt, "Bare", Bare, raising=False)
    monkeypatch.setattr(Bare, "__module__", gpt.__name__)
    config = compose("+experiment=classic", *TINY, NO_PLOTS, "device=cpu")
    node = {"_target_": "spectral_exp.models.gpt.Bare"}
    problems = check({**config, "model": node, "match": None}, None)
    assert any(problem.startswith("model._target_: Bare lacks ") for problem in problems)
    assert any("new_cache" in problem for problem in problems)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda loss: loss, "must return the scalar to differentiate, and a dict"),
        (lambda loss: (loss, {}), "with the plain cross-entropy as `loss`"),
        (lambda loss: (loss, {"loss": loss}), "its detached scalar parts"),
        (lambda loss: (loss.detach(), {"loss": loss.detach()}), "the scalar to differentiate"),
        (lambda loss: (loss.repeat(2), {"loss": loss.detach()}), "the scalar to differentiate"),
        (lambda loss: int("x"), "loss: Own cannot do a step of the training loop: ValueError: "),
        (lambda loss: (loss, {"loss": loss.detach(), "other": loss.detach() * 2}), None),
    ],
)
def test_a_loss_is_tried_before_a_run(
    answer: Callable[[Tensor], Any], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(cross_entropy.Loss):
        def forward(self, logits: Tensor, targets: Tensor) -> Any:
            return answer(nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))

    monkeypatch.setattr(cross_entropy, "Own", Own, raising=False)
    monkeypatch.setattr(Own, "__module__", cross_entropy.__name__)
    make = Constructor()
    make_loss({"loss": {"_target_": f"{cross_entropy.__name__}.Own"}}, make, True, 7)
    assert len(make.problems) == (words is not None)
    assert words is None or words in make.problems[0]


@pytest.mark.parametrize("value", [None, "0.5", math.nan, 0.5, 1])
def test_a_schedule_is_tried_before_a_run(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own:
        def factor(self, step: int) -> Any:
            return value

    monkeypatch.setattr(schedule, "Own", Own, raising=False)
    monkeypatch.setattr(Own, "__module__", schedule.__name__)
    make = Constructor()
    make_schedule({"schedule": {"_target_": f"{schedule.__name__}.Own"}}, make, True, 10)
    is_valid = value in (0.5, 1)
    assert make.problems == [] if is_valid else "must be a finite number" in make.problems[0]
