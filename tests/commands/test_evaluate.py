"""Scores of trained models on texts: the numbers, the record in the run, and mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from spectral_exp.commands.evaluate import evaluate_run, main
from spectral_exp.config.parts import build_dataset
from spectral_exp.config.trained import load_trained
from spectral_exp.core.json_files import read_json
from spectral_exp.data.batches import SlidingWindows
from spectral_exp.train import main as train_main
from tests.conftest import NO_PLOTS, TINY


def trained(folder: Path, experiment: str, *more: str) -> Path:
    root = folder / experiment
    options = (f"+experiment={experiment}", *TINY, NO_PLOTS, f"hydra.run.dir={root}", *more)
    assert train_main(list(options)) == 0
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose attention carries positions."""
    folder = tmp_path_factory.mktemp("evaluate")
    more = ("training.eval_windows=null", "data.test_fraction=0.1")
    return trained(folder, "classic_rotary", *more)


@pytest.fixture(scope="module")
def with_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one vector for each position."""
    return trained(tmp_path_factory.mktemp("evaluate"), "classic")


@given(st.data())
def test_every_target_counts_once_with_its_context(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 60))
    block = data.draw(st.integers(1, size - 1))
    stride = data.draw(st.integers(1, block))
    batch = data.draw(st.integers(1, 5))
    windows = SlidingWindows(np.arange(size, dtype=np.uint8), block, stride, batch)
    seen: list[int] = []
    for x, y, counts in windows:
        assert torch.equal(y, x + 1)
        for row, places in zip(y, counts, strict=True):
            seen += row[places].tolist()
            first = int(places.nonzero()[0])
            assert first >= block - stride or row[0] == 1, "too little context"
    assert seen == list(range(1, size))


def by_hand(run: Path, tokens: npt.NDArray[np.uint8], block: int, stride: int) -> tuple[float, int]:
    """The nats of all tokens but the first, each predicted in a window of its own."""
    model = load_trained(run, block_size=block).model
    last = len(tokens) - 1 - block
    starts = [*range(0, last, stride), last]
    nats, done = 0.0, 0
    for start in starts:
        ids = torch.from_numpy(tokens[start : start + block + 1].astype(np.int64))
        each = F.cross_entropy(model(ids[None, :-1])[0].double(), ids[1:], reduction="none")
        new = start + block - done
        nats += float(each[block - new :].sum())
        done = start + block
    return nats, len(tokens) - 1


@pytest.mark.parametrize(("block", "stride"), [(16, 16), (16, 5), (40, 40), (40, 16), (7, 7)])
@torch.no_grad()
def test_the_score_is_that_of_single_windows(
    run: Path, tmp_path: Path, block: int, stride: int
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(bytes(i * i % 251 % 128 for i in range(200)))
    found = evaluate_run(run, data=text, block_size=block, stride=stride)
    nats, count = by_hand(run, np.frombuffer(text.read_bytes(), np.uint8), block, stride)
    assert (found.score.tokens, found.score.bytes) == (count, count)
    assert found.score.loss == pytest.approx(nats / count, rel=1e-6)
    assert found.score.bpb == pytest.approx(nats / count / math.log(2), rel=1e-6)


def test_the_validation_of_training_is_repeated(run: Path, tmp_path: Path) -> None:
    """All windows of validation follow each other; text that fills no window is left out."""
    val = build_dataset(read_json(run / "config.json")["config"]).val
    text = tmp_path / "val.txt"
    text.write_bytes(bytes(val[: (len(val) - 1) // 16 * 16 + 1]))
    found = evaluate_run(run, data=text)
    logged = [json.loads(line) for line in (run / "logs/metrics.jsonl").read_text().splitlines()]
    (at_best,) = [line for line in logged if line["step"] == found.step and "val_bpb" in line]
    assert found.score.bpb == pytest.approx(at_best["val_bpb"], rel=1e-6)
    assert found.score.loss == pytest.approx(at_best["val_loss"], rel=1e-6)
    whole = evaluate_run(run)
    assert whole.text == "val"
    assert whole.score.tokens == len(val) - 1


def test_the_standard_error_is_that_of_a_ratio_of_sums(run: Path, tmp_path: Path) -> None:
    """The jackknife over windows, which needs no formula, gives the same to first order."""
    text = tmp_path / "text.txt"
    text.write_bytes(bytes(i * 7 % 101 for i in range(16 * 12 + 1)))
    whole = evaluate_run(run, data=text).score
    each = []
    for start in range(0, 16 * 12, 16):
        part = tmp_path / "part.txt"
        part.write_bytes(text.read_bytes()[start : start + 17])
        each.append(evaluate_run(run, data=part).score.bpb)
    rest = [(sum(each) - one) / 11 for one in each]
    mean = sum(rest) / 12
    jackknife = math.sqrt(11 / 12 * sum((value - mean) ** 2 for value in rest))
    assert whole.windows == 12
    assert whole.standard_error_bpb == pytest.approx(jackknife, rel=1e-6)


def test_scores_are_added_to_the_records_of_the_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(run / "results.json")
    assert main([str(run), "--windows", "3", "--block-size", "32", "--stride", "8"]) == 0
    printed = capsys.readouterr().out
    assert "on val: " in printed
    assert "3 windows of 32 tokens, each 8 tokens further" in printed
    assert main([str(run), "--split", "test", "--no-record"]) == 0
    assert "on test: " in capsys.readouterr().out
    assert main([str(run), "--windows", "1", "--split", "train", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["standard_error_bpb"] is None
    assert main([str(run), "--windows", "1", "--no-record"]) == 0
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["text"], first["block_size"], first["stride"]) == ("val", 32, 8)
    assert second == record
    assert second["text"] == "train"
    assert read_json(run / "results.json") == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not a run directory"),
        (["RUN", "--windows", "0"], "--windows=0 must be >= 1"),
        (["RUN", "--block-size", "0"], "--block-size=0 must be >= 1"),
        (["RUN", "--stride", "17"], "--stride=17 must be from 1 to 16"),
        (["RUN", "--data", "TEXT", "--split", "val"], "exclude each other"),
        (["RUN", "--data", "gone.txt"], "--data=gone.txt must be an existing file or folder"),
        (["RUN", "--data", "TEXT"], "the text has 9 tokens; windows of --block-size=16"),
        (["RUN", "--data", "LATIN"], "--data="),
        (["TABLE", "--split", "test"], "was trained without a test text"),
        (["TABLE", "--block-size", "17"], "--block-size=17 must be <= 16: this model has a vector"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    run: Path,
    with_table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    names: dict[str, Any] = {"RUN": run, "TABLE": with_table}
    for name, content in {"TEXT": b"too short", "LATIN": b"\xe9" * 100}.items():
        (tmp_path / name).write_bytes(content)
        names[name] = tmp_path / name
    assert main([str(names.get(word, word)) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
