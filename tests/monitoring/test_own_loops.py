"""The components in training loops as people write them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.monitoring import CheckpointManager, ConfigTracker, MetricsLogger, open_experiment
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import compare
from spectral_exp.runs.load import load_run
from spectral_exp.runs.lock import RunInUseError, RunLock
from spectral_exp.runs.run import usual_metric


@dataclass
class Loop:
    """A training loop: its objects, and a step that returns metrics.

    `models` and `optimizers` are given to the checkpoints as they are.
    """

    models: Any
    optimizers: Any
    step: Callable[[int], Mapping[str, Any]]
    states: dict[str, Any] = field(default_factory=dict)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 1, 8, 8, generator=generator)
    return x, torch.randint(0, 3, (4,), generator=generator)


def cnn() -> Loop:
    """A convolutional network with a DataLoader, a schedule, a scaler and averaged weights."""
    x, y = (torch.cat(parts) for parts in zip(*map(batch, range(8)), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=2),
            torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 5]),
        ],
        milestones=[2],
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    average_fn = get_ema_multi_avg_fn(0.5)  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=average_fn, use_buffers=True)

    def step(number: int) -> Mapping[str, Any]:
        images, labels = list(loader)[number]
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        average.update_parameters(model)
        accuracy = (model(images).argmax(1) == labels).float().mean()
        return {"train": {"loss": loss.detach(), "accuracy": accuracy.numpy()}}

    return Loop(
        model, optimizer, step, {"schedule": schedule, "scaler": scaler, "average": average}
    )


def gan() -> Loop:
    """A generator and a critic with an optimizer each."""
    models = {"generator": nn.Linear(2, 64), "critic": nn.Linear(64, 1)}
    optimizers = {
        name: torch.optim.Adam(model.parameters(), lr=0.01) for name, model in models.items()
    }

    def step(number: int) -> Mapping[str, Any]:
        real = batch(number)[0].flatten(1)
        noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(number))
        fake = models["generator"](noise)
        critic_loss = F.softplus(models["critic"](fake.detach()) - models["critic"](real)).mean()
        optimizers["critic"].zero_grad()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        optimizers["critic"].step()
        loss = -models["critic"](fake).mean()
        optimizers["generator"].zero_grad()
        loss.backward()
        optimizers["generator"].step()
        return {"loss": loss.detach(), "critic": {"loss": critic_loss.detach()}}

    return Loop(models, optimizers, step)


class Output(OrderedDict[str, Any]):
    """An output that is a mapping with attributes, as of `transformers`."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.compile(nn.Linear(64, 3), backend="eager")

    def forward(self, images: Tensor, labels: Tensor) -> Output:
        logits = self.body(images.flatten(1))
        return Output(loss=F.cross_entropy(logits, labels), logits=logits)


def hf() -> Loop:
    """A model that returns its loss within an output object, and clipped gradients."""
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step(number: int) -> Mapping[str, Any]:
        images, labels = batch(number)
        output = model(images, labels=labels)
        output.loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": output["loss"].detach(), "grad_norm": norm}

    return Loop(model, optimizer, step)


class WrappedOptimizer(torch.optim.Optimizer):
    """Passes everything on to the optimizer inside, as that of `accelerate` does."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    param_groups = property(lambda self: self.inner.param_groups)
    state = property(lambda self: self.inner.state)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)


def accelerate() -> Loop:
    """A model and an optimizer in wrappers."""
    model = nn.DataParallel(nn.Linear(64, 3))
    optimizer = WrappedOptimizer(torch.optim.AdamW(model.parameters(), lr=0.01))

    def step(number: int) -> Mapping[str, Any]:
        images, labels = batch(number)
        loss = F.cross_entropy(model(images.flatten(1)), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.item()}

    return Loop(model, optimizer, step)


def closure() -> Loop:
    """An optimizer that calls the model several times in a step."""
    model = nn.Linear(64, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def step(number: int) -> Mapping[str, Any]:
        images, labels = batch(0)

        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images.flatten(1)), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        return {"loss": optimizer.step(evaluate).detach()}  # type: ignore[no-untyped-call]

    return Loop(model, optimizer, step)


def train(make: Callable[[], Loop], root: Path, until: int, *, background: bool) -> Loop:
    """Train from the newest checkpoint, or from the start, to a step."""
    torch.manual_seed(0)
    loop, losses, first = make(), [], 1
    checkpoints = CheckpointManager(root, save_interval=2, background=background)
    with MetricsLogger(root / "logs", log_interval=1) as metrics:
        if (found := checkpoints.load_latest_checkpoint()) is not None:
            first = 1 + checkpoints.restore(found, loop.models, loop.optimizers, states=loop.states)
            losses = found["loss_history"]
        metrics.cut_back(first - 1)
        for step in range(first, until + 1):
            logged = loop.step(step)
            metrics.log_metrics(step, logged)
            losses.append(logged.get("loss", 0.0))
            if checkpoints.should_checkpoint(step):
                checkpoints.save_checkpoint(
                    step, loop.models, loop.optimizers, losses, {}, states=loop.states
                )
    assert checkpoints.close()
    return loop


def state_of(loop: Loop) -> Any:
    parts = [loop.models, loop.optimizers, loop.states]
    each = [part if isinstance(part, dict) else {"": part} for part in parts]
    return [{name: one.state_dict() for name, one in part.items()} for part in each]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("make", [cnn, gan, hf, accelerate, closure])
def test_a_loop_that_is_broken_off_ends_with_the_same_bits(
    make: Callable[[], Loop], background: bool, tmp_path: Path
) -> None:
    whole = train(make, tmp_path / "whole", 6, background=background)
    train(make, tmp_path / "parts", 3, background=background)
    parts = train(make, tmp_path / "parts", 6, background=background)
    torch.testing.assert_close(state_of(parts), state_of(whole), rtol=0, atol=0)
    logged = [load_run(tmp_path / name) for name in ("whole", "parts")]
    assert logged[0].metrics
    assert logged[0].metrics == logged[1].metrics
    assert all("/" in name or name in ("loss", "grad_norm") for name in logged[0].metrics)


def test_a_checkpoint_without_a_part_loads_nothing(tmp_path: Path) -> None:
    loop = gan()
    checkpoints = CheckpointManager(tmp_path)
    checkpoints.save_checkpoint(1, loop.models, loop.optimizers, [], {})
    found = checkpoints.load_latest_checkpoint()
    assert found is not None
    other = gan()
    before = [p.clone() for p in other.models["critic"].parameters()]
    models = {**other.models, "critc": nn.Linear(1, 1)}
    with pytest.raises(UserError, match="no critc in model_state_dict; did you mean critic"):
        checkpoints.restore(found, models, other.optimizers)
    with pytest.raises(UserError, match="no ema in states"):
        checkpoints.restore(found, other.models, states={"ema": nn.Linear(1, 1)})
    assert all(map(torch.equal, other.models["critic"].parameters(), before))
    assert checkpoints.restore(found, other.models) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": [nn.Linear(1, 1)]}, "model"),
        ({"optimizer": {"": torch.optim.SGD([torch.zeros(1)])}}, "optimizer"),
        ({"states": {"schedule": 1.0}}, "states"),
        ({"extra": {"states": {}}}, "extra"),
    ],
)
def test_what_has_no_name_or_state_is_refused(
    arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    model = nn.Linear(1, 1)
    usual = {"model": model, "optimizer": torch.optim.SGD(model.parameters())}
    with pytest.raises(SettingError, match=words):
        CheckpointManager(tmp_path).save_checkpoint(
            1, loss_history=[], config={}, **{**usual, **arguments}
        )
    assert not list(tmp_path.rglob("*.pt"))


# --- runs of one's own ----------------------------------------------------------------------------


def begin(base: Path, config: dict[str, Any], **record: Any) -> Path:
    root = open_experiment(base, "mine", config)["root"]
    ConfigTracker(root).save_config(config, **record)
    return root


def test_an_unfinished_run_is_continued_and_a_finished_one_is_not(tmp_path: Path) -> None:
    config = {"lr": 0.1, "seed": 1, "sizes": (1, 2), "api_key": "hidden"}
    first = begin(tmp_path, config)
    assert begin(tmp_path, config) == first
    other_seed = begin(tmp_path, {**config, "seed": 2})
    assert other_seed != first
    ConfigTracker(first).save_results({}, status="failed")
    assert begin(tmp_path, config) == first
    ConfigTracker(first).save_results({"loss": 1.0})
    assert load_run(first).results["status"] == "completed"
    again = begin(tmp_path, config)
    assert again not in (first, other_seed)
    assert {path.name.split("_")[0] for path in tmp_path.iterdir()} == {"mine"}


def test_a_run_belongs_to_the_process_that_has_opened_it(tmp_path: Path) -> None:
    root = begin(tmp_path, {})
    assert load_run(root).status == "running"
    with pytest.raises(RunInUseError):
        RunLock(root).acquire()
    ConfigTracker(root).save_results({}, status="interrupted")
    assert load_run(root).status == "interrupted"
    with RunLock(root):  # as another process holds it
        other = begin(tmp_path, {})
    assert other != root
    assert begin(tmp_path, {}) == other


def test_a_run_that_ends_while_it_is_opened_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = begin(tmp_path, {})
    ConfigTracker(root).save_results({}, status="interrupted")
    acquire = RunLock.acquire

    def finish_and_acquire(lock: RunLock) -> None:
        if lock.path.parent == root:  # as by another process that has had the lock until now
            ConfigTracker(root).save_results({})
        acquire(lock)

    monkeypatch.setattr(RunLock, "acquire", finish_and_acquire)
    other = begin(tmp_path, {})
    assert other != root
    with RunLock(root):  # it was released
        assert load_run(root).results["status"] == "completed"


def test_a_run_without_a_readable_record_is_not_continued(tmp_path: Path) -> None:
    root = begin(tmp_path, {})
    (root / "config.json").write_text("{")
    assert begin(tmp_path, {}) != root


def test_runs_count_in_a_comparison_with_their_units_and_directions(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for sharp in (True, False):
            config = {"sharp": sharp, "seed": seed}
            root = begin(tmp_path, config, units={"psnr": "dB"}, better={"psnr": "higher"})
            with MetricsLogger(root / "logs") as metrics:
                metrics.log_metrics(10, {"psnr": 20.0 + 5 * sharp + seed / 10})
            ConfigTracker(root).save_results({})
    found = ResultsAggregator([tmp_path], index=False)
    assert usual_metric(found.runs) == "psnr"
    comparison = compare(found.groups(), "psnr")
    assert comparison.metric_info.axis_label == "psnr (dB)"
    assert comparison.best_first() == ["sharp=true", "sharp=false"]
    assert found.runs[0].value("psnr", "best") is not None


def test_a_loss_has_the_unit_that_its_run_gives(tmp_path: Path) -> None:
    root = begin(tmp_path, {}, units={"loss": "MSE"})
    run = load_run(root)
    assert run.metric_info("loss").axis_label == "loss (MSE)"
    assert run.metric_info("val/loss").unit == "loss (MSE)"
    assert load_run(begin(tmp_path, {"seed": 1})).metric_info("loss").unit == "loss"


@pytest.mark.parametrize(
    "record",
    [
        {"units": {"loss": "$x^2$"}},
        {"units": {"loss": ""}},
        {"units": {"loss": 3}},
        {"better": {"loss": "low"}},
    ],
)
def test_units_and_directions_are_checked(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"units|better"):
        ConfigTracker(tmp_path).save_config({}, **record)
    assert list(tmp_path.iterdir()) == []
