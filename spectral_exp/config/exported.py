"""Trained models in the formats of other libraries."""

from __future__ import annotations

import copy
import io
import json
import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_exp.config.packages import SETTING, find_packages
from spectral_exp.config.trained import Trained
from spectral_exp.core.errors import UserError, explain_missing, explain_os_error

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Largest difference of logits between a model and its exported program, relative to their size."""

_TEMPLATE = Path(__file__).with_name("modeling_spectral_exp.py.txt")
_TOKENIZER = "tokenizer.json"


def write_huggingface(trained: Trained, tokenizer_folder: Path, folder: Path) -> None:
    """Write a folder that `transformers` loads with `trust_remote_code=True`.

    It appears whole or not at all.

    Args:
        trained: the model and its settings.
        tokenizer_folder: the tokenizer of the run; its `tokenizer.json`, if any, is copied.
        folder: a new folder.

    Raises:
        UserError: the folder exists or cannot be written, or safetensors is not installed.
    """
    with explain_missing("this export needs the package safetensors", "safetensors"):
        from safetensors.torch import save_file
    if folder.exists():
        raise UserError(f"{folder} exists; name a new folder")
    settings = {"model": trained.config["model"], "match": trained.config.get("match")}
    if packages := list(find_packages(trained.config)):
        settings[SETTING] = packages
    config = {
        "model_type": "spectral_exp",
        "architectures": ["SpectralForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_spectral_exp.SpectralConfig",
            "AutoModelForCausalLM": "modeling_spectral_exp.SpectralForCausalLM",
        },
        "settings": settings,
        "vocab_size": trained.model.vocab_size,
        "block_size": trained.model.block_size,
        "max_position_embeddings": trained.model.block_size,
        "hidden_size": trained.model.n_embd,
        "num_hidden_layers": trained.model.n_layer,
        "num_attention_heads": trained.model.n_head,
        "use_cache": False,
        "tie_word_embeddings": False,
    }
    weights = {
        f"model.{name}": tensor.detach().cpu().clone().contiguous()
        for name, tensor in trained.model.state_dict().items()
    }
    with explain_os_error(f"write {folder}", "choose another folder"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            made = Path(temporary, "made")
            made.mkdir()
            save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
            text = json.dumps(config, indent=2, allow_nan=False) + "\n"
            (made / "config.json").write_text(text, encoding="utf-8")
            shutil.copyfile(_TEMPLATE, made / "modeling_spectral_exp.py")
            if (tokenizer_folder / _TOKENIZER).is_file():
                shutil.copyfile(tokenizer_folder / _TOKENIZER, made / _TOKENIZER)
                kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
                (made / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")
            made.rename(folder)


def export_program(trained: Trained) -> bytes:
    """Return the forward pass as a program for `torch.export.load`, in eval mode, on the CPU.

    It takes ids (B, T) of int64 with any B, and T from 2 to the block size.

    Raises:
        UserError: torch cannot export this model, or the program computes something else.
    """
    import torch

    program, _ = _trace(trained)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def export_onnx(trained: Trained) -> bytes:
    """Return the forward pass as an ONNX model; input and limits as of `export_program`.

    Raises:
        UserError: the packages onnx and onnxscript are not installed, or the model cannot be
            converted.
    """
    import torch

    with explain_missing("this export needs the packages onnx and onnxscript", "onnx"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    program, example = _trace(trained)
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = torch.onnx.export(
                program, (example,), dynamo=True, verbose=False, input_names=["ids"],
                output_names=["logits"],
            )  # fmt: skip
    except Exception as error:
        raise _refusal("ONNX", error) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert converted is not None
    content: bytes = converted.model_proto.SerializeToString()
    return content


def _trace(trained: Trained) -> tuple[torch.export.ExportedProgram, torch.Tensor]:
    """Return the program of a model and the ids with which it was traced."""
    import torch

    model = copy.deepcopy(trained.model).cpu().eval()
    size = min(model.block_size, 16)
    if size < 2:
        raise UserError("a model with block_size=1 cannot be exported; it takes a single token")
    example = torch.arange(2 * size).remainder(model.vocab_size).reshape(2, size)
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: dynamic, 1: dynamic},), strict=False
            )
    except Exception as error:
        raise _refusal("torch.export", error) from error
    for ids in (example, example[:1, : max(2, size // 2)]):
        with torch.no_grad():
            expected, found = model(ids), program.module()(ids)
        scale = max(1.0, float(expected.abs().max()))
        if float((expected - found).abs().max()) > TOLERANCE * scale:
            raise UserError("the exported program computes other logits than the model")
    return program, example


def _refusal(target: str, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [""])[0][:300]
    return UserError(f"{target} cannot export this model: {type(error).__name__}: {reason}")
