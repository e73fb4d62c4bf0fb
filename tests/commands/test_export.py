"""Exported models compute the logits of the trained model."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from spectral_exp.commands.export import FORMATS, main
from spectral_exp.config.command_line import CommandLine
from spectral_exp.config.exported import export_onnx, export_program, write_huggingface
from spectral_exp.config.parts import build_model
from spectral_exp.config.trained import Trained, load_trained
from spectral_exp.data.tokenizer import ByteTokenizer
from spectral_exp.runs.layout import LOCK_NAME
from spectral_exp.train import main as train_main
from tests.conftest import NO_PLOTS, TINY

KINDS = [
    *(
        [f"model/attention={name}"]
        for name in (
            "dot_product", "rotary", "interference", "phasor", "pure_wave", "pure_wave_linear",
        )
    ),
    ["model/embedding=wave", "model/mlp=resonance"],
    ["model/mlp=swiglu", "model/norm=rmsnorm", "model.qk_norm=true", "model.embedding_norm=true"],
    ["model/mlp=relu2", "model.logit_softcap=5", "model.tie_weights=true", "match=phasor"],
]  # fmt: skip
SIZES = ["model.n_embd=16", "model.n_layer=2", "model.n_head=2", "model.block_size=16",
         "model.n_wave=4"]  # fmt: skip


def make(kind: list[str]) -> Trained:
    (job,) = CommandLine.parse([*kind, *SIZES]).compose()
    torch.manual_seed(0)
    model = build_model(job.config, 256).eval()
    return Trained(model, torch.device("cpu"), ByteTokenizer(), job.config, 1)


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.exhaustive] if i not in (2, 6) else [])
        for i, kind in enumerate(KINDS)
    ],
    ids=lambda kind: kind[0],
)
def test_an_exported_program_computes_the_same_logits(kind: list[str]) -> None:
    trained = make(kind)
    program = torch.export.load(io.BytesIO(export_program(trained))).module()
    for shape in ((1, 2), (3, 7), (2, 16)):
        with torch.no_grad():
            torch.testing.assert_close(program(ids(*shape)), trained.model(ids(*shape)))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
def test_an_onnx_model_computes_the_same_logits(kind: list[str]) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    trained = make(kind)
    session = reference.ReferenceEvaluator(onnx.load_from_string(export_onnx(trained)))
    for shape in ((1, 2), (3, 7), (2, 16)):
        (found,) = session.run(None, {"ids": ids(*shape).numpy()})
        with torch.no_grad():
            expected = trained.model(ids(*shape))
        torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4)


def from_pretrained(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True
        ).eval()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[0])
def test_transformers_computes_the_same_logits(
    kind: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    trained = make(kind)
    write_huggingface(trained, tmp_path, tmp_path / "exported")
    model = from_pretrained(tmp_path / "exported")
    x = ids(2, 16)
    with torch.no_grad():
        expected, found = trained.model(x), model(x, labels=x)
    assert torch.equal(found.logits, expected)
    loss = torch.nn.functional.cross_entropy(expected[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(found.loss, loss)
    written = model.generate(x[:1, :4], max_new_tokens=20, do_sample=False)
    assert written.shape == (1, 24)


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_that_is_too_long_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path / ("x" * 300)), "--to", name]) == 2
    error = capsys.readouterr().err
    assert "File name too long; choose another f" in error
    assert "with" not in error.rpartition(";")[2]


def test_a_folder_inside_of_a_run_is_refused_by_its_real_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run/below").mkdir(parents=True)
    (tmp_path / "run" / LOCK_NAME).touch()
    (tmp_path / "link").symlink_to(tmp_path / "run/below")
    assert main([str(tmp_path), str(tmp_path / "link/hf"), "--to", "huggingface"]) == 2
    assert "is inside of the run" in capsys.readouterr().err
    outside = tmp_path / "run/../hf"
    assert main([str(tmp_path / "none"), str(outside), "--to", "huggingface"]) == 2
    assert "is inside of the run" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_each_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train_main([*TINY, NO_PLOTS, f"hydra.run.dir={run}", "+experiment=wave"]) == 0
    capsys.readouterr()
    pytest.importorskip("safetensors")
    # The folders of the files do not exist yet.
    folder, weights, program = (
        tmp_path / name for name in ("hf", "new/w.safetensors", "other/new/m.pt2")
    )
    assert main([str(run), str(folder), "--to", "huggingface"]) == 0
    assert main([str(run), str(weights), "--to", "safetensors"]) == 0
    assert main([str(run), str(program), "--to", "torch-export"]) == 0
    assert capsys.readouterr().out.split() == [str(folder), str(weights), str(program)]
    trained = load_trained(run, "best", "cpu")
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 256
    loaded = torch.export.load(program).module()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids(2, 9)), trained.model(ids(2, 9)))
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main([str(run), str(folder), "--to", "huggingface"]) == 2
    assert main([str(run), str(run / "hf"), "--to", "huggingface"]) == 2
    assert main([str(run), str(tmp_path), "--to", "torch-export"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 3
    assert "name a new folder" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == before
