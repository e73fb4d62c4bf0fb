"""Run directories in the real formats, made without training."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spectral_exp.core.json_files import content_crc32, write_json_atomic
from spectral_exp.core.json_value import jsonable
from spectral_exp.runs.layout import RunPaths

_STANDARD, _WAVE = "embedding.StandardEmbedding", "wave.WaveEmbedding"
_DOT_PRODUCT, _ROTARY = "attention.DotProductAttention", "attention.RotaryAttention"
_INTERFERENCE, _PHASOR = "attention.InterferenceAttention", "attention.PhasorAttention"

PARTS = {
    "classic": (_STANDARD, _DOT_PRODUCT, "gelu", "adamw", "CrossEntropy"),
    "classic_rotary": (_STANDARD, _ROTARY, "gelu", "adamw", "CrossEntropy"),
    "wave": (_WAVE, _INTERFERENCE, "resonance", "adamw", "CrossEntropy"),
    "wave_rgd": (_WAVE, _INTERFERENCE, "resonance", "rgd", "CrossEntropy"),
    "wave_qfe": (_WAVE, _INTERFERENCE, "resonance", "adamw", "QFE"),
    "wave_rgd_qfe": (_WAVE, _INTERFERENCE, "resonance", "rgd", "QFE"),
    "phasor": (_WAVE, _PHASOR, "resonance", "adamw", "CrossEntropy"),
    "phasor_rgd": (_WAVE, _PHASOR, "resonance", "rgd", "CrossEntropy"),
    "phasor_rgd_qfe": (_WAVE, _PHASOR, "resonance", "rgd", "QFE"),
}
"""Experiments by name: classes of embedding and attention, activation, optimizer, class of the
loss."""


_DATASET = {
    "corpus": "PythonStdlib",
    "train_sha256": "aa" * 32,
    "val_sha256": "bb" * 32,
    "corpus_sha256": "cc" * 32,
    "train_bytes": 1_000_000,
    "val_bytes": 100_000,
    "train_tokens": 1_000_000,
    "val_tokens": 100_000,
    "tokenizer": "dd" * 32,
    "vocab_size": 256,
}


def make_run(
    folder: Path,
    name: str = "classic",
    seed: int = 1,
    *,
    val_bpb: float = 2.5,
    steps: int = 100,
    log_interval: int = 10,
    eval_interval: int = 50,
    status: str | None = "completed",
    parameters: int = 800_000,
    settings: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run directory below `folder` and return it.

    Args:
        val_bpb: at the end; it falls towards it.
        status: None leaves `results.json` out, as a killed run does.
        settings: replaces settings by dotted name.
        record: replaces top-level entries of `config.json`.
    """
    root = _new_folder(folder, f"{name}_20260101_{seed:06d}_abcd1234")
    paths = RunPaths(root)
    paths.logs.mkdir(parents=True)
    config = _config(name, seed, steps, log_interval, eval_interval)
    for key, value in (settings or {}).items():
        _put(config, key, value)
    content = {**_facts(root.name, name, seed, parameters), "config": config, **(record or {})}
    content["crc32"] = content_crc32(content)
    write_json_atomic(paths.config_file, content)
    lines = _lines(seed, val_bpb, steps, log_interval, eval_interval)
    paths.metrics_file.write_text("".join(json.dumps(jsonable(line)) + "\n" for line in lines))
    if status is not None:
        write_json_atomic(paths.results_file, _results(root.name, status, lines[-1], steps))
    return root


def _new_folder(folder: Path, run_id: str) -> Path:
    names = (run_id if number == 1 else f"{run_id}_{number}" for number in itertools.count(1))
    return next(root for name in names if not (root := folder / name).exists())


def _facts(run_id: str, name: str, seed: int, parameters: int) -> dict[str, Any]:
    """The entries of `config.json` beside the configuration."""
    overrides = [f"+experiment={name}", f"seed={seed}"]
    return {
        "experiment_id": run_id,
        "timestamp": "2026-01-01T00:00:00",
        "git_hash": "abcd1234",
        "overrides": overrides,
        "command": ["python", "-m", "spectral_exp.train", *overrides],
        "dataset": _DATASET,
        "model": {
            "type": "GPT",
            "num_parameters": parameters,
            "num_trainable_parameters": parameters,
            "d_model": 128,
        },
        "hardware": {
            "gpu_available": False,
            "cpu_count": 2,
            "cpu_model": "Test CPU",
            "torch_threads": 1,
        },
        "host": {"hostname": "here", "platform": "Linux"},
        "git": {"hash": "abcd1234" * 5, "dirty": False, "untracked": [], "diff_file": None},
        "packages": {"python": "3.11.7", "torch": "2.13.0"},
        "attempts": [
            {
                "timestamp": "2026-01-01T00:00:00",
                "git_hash": "abcd1234",
                "from_step": 0,
                "overrides": [],
            }
        ],
    }


def _config(
    name: str, seed: int, steps: int, log_interval: int, eval_interval: int
) -> dict[str, Any]:
    embedding, attention, activation, optimizer, loss = PARTS.get(name, PARTS["classic"])
    return {
        "name": name,
        "seed": seed,
        "model": {
            "_target_": "spectral_exp.models.GPT",
            "n_embd": 128,
            "n_layer": 4,
            "block_size": 64,
            "embedding": {"_target_": f"spectral_exp.models.{embedding}"},
            "attention": {"_target_": f"spectral_exp.models.{attention}"},
            "mlp": {"_target_": "spectral_exp.models.MLP", "activation": activation},
        },
        "optimizer": {
            "_target_": f"spectral_exp.optim.{optimizer}.{optimizer}",
            "learning_rate": 1e-3,
        },
        "loss": {"_target_": f"spectral_exp.losses.{loss}"},
        "schedule": {"_target_": "spectral_exp.optim.Cosine", "warmup_steps": 10},
        "data": {"_target_": "spectral_exp.data.PythonStdlib"},
        "tokenizer": {"_target_": "spectral_exp.data.Byte"},
        "training": {
            "max_steps": steps,
            "batch_size": 12,
            "grad_accum_steps": 1,
            "eval_interval": eval_interval,
        },
        "monitoring": {"metrics": {"log_interval": log_interval}},
        "outputs": "outputs",
        "experiment_id": None,
        "resume": None,
    }


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *folders, leaf = key.split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[leaf] = value


def _lines(
    seed: int, val_bpb: float, steps: int, log_interval: int, eval_interval: int
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        if step % log_interval and step % eval_interval and step != steps:
            continue
        line: dict[str, Any] = {
            "step": step,
            "timestamp": f"2026-01-01T00:{step // 60 % 60:02d}:{step % 60:02d}.000",
        }
        bpb = val_bpb + 2.0 * (1 - step / steps)
        if step % log_interval == 0:
            line |= {
                "loss": bpb * np.log(2) + 0.05 * rng.standard_normal(),
                "learning_rate": 1e-3,
                "grad_norm": 1.0,
                "tokens_per_s": 10_000.0,
            }
        if step % eval_interval == 0 or step == steps:
            line |= {"val_loss": bpb * np.log(2), "val_bpb": bpb, "perplexity": 2.0**bpb}
        lines.append(line)
    return lines


def _results(run_id: str, status: str, last: Mapping[str, Any], steps: int) -> dict[str, Any]:
    evaluated = {key: last[key] for key in ("val_loss", "val_bpb", "perplexity")}
    return {
        "experiment_id": run_id,
        "timestamp": "2026-01-01T00:10:00",
        "git_hash": "abcd1234",
        "final_metrics": {"step": last["step"], **evaluated},
        "best_checkpoint": None,
        "generation_samples": [],
        "status": status,
        "error": None,
        "best_metrics": {"step": last["step"], **evaluated},
        "totals": {
            "steps": steps,
            "tokens": steps * 768,
            "bad_steps": 0,
            "train_s": steps * 0.0768,
            "time_s": steps * 0.0768 + 5.0,
            "tokens_per_s": 10_000.0,
        },
        "reference": {"unigram_bits_per_byte": 4.8, "entropy_bits_per_byte": None},
        "monitoring_cost": {
            "blocked_s": {},
            "train_s": steps * 0.0768,
            "evaluation_s": 1.0,
            "share_of_training": 0.0,
        },
    }


def rest(*folders: Path, age_s: float = 60.0) -> None:
    """Let the files below some folders look as if nothing had changed them for a while, which an
    index waits for."""
    then = time.time() - age_s
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file():
                os.utime(file, (then, then))
