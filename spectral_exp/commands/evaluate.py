"""Score trained models on a text: `spectral-exp evaluate outputs/<run> --block-size 512`.

Each score is printed and added to `evaluations.jsonl` in the run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.commands.options import add_checkpoint, add_device, add_models, add_packages
from spectral_exp.config.trained import Trained, load_trained
from spectral_exp.core.append_file import AppendFile
from spectral_exp.core.console import Parser, command
from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable_lines
from spectral_exp.core.json_value import jsonable
from spectral_exp.core.timestamps import timestamp
from spectral_exp.core.wording import format_count
from spectral_exp.runs.layout import RunPaths

if TYPE_CHECKING:
    from spectral_exp.data.tokenizer_base import Ids
    from spectral_exp.training.text_score import TextScore

_LOGITS_AT_ONCE = 2**25
_TOKENS_AT_ONCE = 2**13
_SPLITS = ("val", "test", "train")


@dataclass(frozen=True)
class Evaluated:
    """The score of one checkpoint on one text.

    Attributes:
        run: id of the run.
        step: step of the checkpoint.
        text: "val", "test" or "train" for a part of the run's own text, otherwise its path.
        text_sha256: checksum of the ids of the text.
        block_size: tokens of a window.
        stride: tokens by which each window advances.
        precision: that of training, in which the model computed.
        score: the numbers.
    """

    run: str
    step: int
    text: str
    text_sha256: str
    block_size: int
    stride: int
    precision: str
    score: TextScore

    def record(self) -> dict[str, Any]:
        """Return the line for the records of the run."""
        from spectral_exp.training.evaluation import perplexity

        whole = asdict(self)
        score = whole.pop("score")
        return {"time": timestamp(), **whole, **score, "perplexity": perplexity(self.score.loss)}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        "spectral-exp evaluate",
        description="Score trained models on a text: nats per token and bits per byte.",
    )
    add_models(parser)
    parser.add_argument(
        "--split", choices=_SPLITS, help="part of the run's own text (default: val)"
    )
    parser.add_argument("--data", type=Path, help="another text: a UTF-8 file, or a folder of them")
    parser.add_argument(
        "--block-size", type=int, help="tokens of a window (default: those of training)"
    )
    parser.add_argument(
        "--stride",
        type=int,
        help="tokens by which a window advances; fewer than --block-size give every prediction "
        "more context (default: --block-size)",
    )
    parser.add_argument("--windows", type=int, help="number of windows (default: all)")
    add_checkpoint(parser)
    add_device(parser)
    add_packages(parser)
    parser.add_argument("--no-record", action="store_true", help="leave the run as it is")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")
    return parser


def run(options: argparse.Namespace) -> int:
    """Score each run, print the score and record it."""
    records, problems = [], []
    for folder in options.runs:
        evaluated = evaluate_run(
            folder,
            split=options.split,
            data=options.data,
            block_size=options.block_size,
            stride=options.stride,
            windows=options.windows,
            checkpoint=options.checkpoint,
            device=options.device,
            packages=options.packages,
        )
        records.append(jsonable(evaluated.record()))
        if not options.json:
            print(printable_lines(_describe(evaluated)), flush=True)
        if not options.no_record:
            try:
                _append(folder, records[-1])
            except UserError as error:
                problems.append(str(error))
    if options.json:
        print(json.dumps(records, indent=1), flush=True)
    if problems:
        raise UserError("\n".join(problems))
    return 0


def evaluate_run(
    run: Path,
    *,
    split: str | None = None,
    data: Path | None = None,
    block_size: int | None = None,
    stride: int | None = None,
    windows: int | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    packages: Sequence[str] = (),
) -> Evaluated:
    """Return the score of the model of a run, without recording it.

    Args:
        run: the run directory.
        split: "val", "test" or "train", a part of the run's own text; "val" by default.
        data: a UTF-8 file or a folder of them instead, which is scored as a whole.
        block_size: tokens of a window; by default those of training.
        stride: tokens by which each window advances; by default `block_size`.
        windows: number of windows, evenly spread over the text; all by default.
        checkpoint, device, packages: as for `load_trained`.

    Raises:
        UserError: the run, checkpoint, text or device does not exist, the text is too short or
            holds characters that the tokenizer does not know, or a setting is out of range.
    """
    if split is not None and data is not None:
        raise UserError("--split and --data exclude each other; a text of --data has no parts")
    require(block_size is None or block_size >= 1, "--block-size", block_size, ">= 1")
    require(windows is None or windows >= 1, "--windows", windows, ">= 1")
    trained = load_trained(run, checkpoint, device, block_size, packages)
    length = int(trained.config["model"]["block_size"]) if block_size is None else block_size
    step = length if stride is None else stride
    require(1 <= step <= length, "--stride", step, f"from 1 to {length}, the tokens of a window")
    part = split or "val"
    tokens = _own_text(run, trained, part) if data is None else _read_text(data, trained)
    if len(tokens) <= length:
        raise UserError(
            f"{data or part}: the text has {format_count(len(tokens), 'token')}; windows of "
            f"--block-size={length} need at least {length + 1}"
        )

    import hashlib

    import numpy as np

    return Evaluated(
        run=run.resolve().name,
        step=trained.step,
        text=part if data is None else str(data),
        text_sha256=hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest(),
        block_size=length,
        stride=step,
        precision=str(trained.config.get("training", {}).get("precision", "fp32")),
        score=_score(trained, tokens, length, step, windows),
    )


def _score(
    trained: Trained, tokens: Ids, block_size: int, stride: int, windows: int | None
) -> TextScore:
    import torch

    from spectral_exp.data.batches import SlidingWindows
    from spectral_exp.training.text_score import score_text

    per_window = max(block_size * trained.tokenizer.vocab_size, 1)
    batch_size = max(1, min(_LOGITS_AT_ONCE // per_window, _TOKENS_AT_ONCE // block_size))
    chosen = SlidingWindows(tokens, block_size, stride, batch_size, windows)
    token_bytes = torch.from_numpy(trained.tokenizer.token_bytes)
    is_bf16 = trained.config.get("training", {}).get("precision") == "bf16"
    with torch.autocast(trained.device.type, dtype=torch.bfloat16, enabled=is_bf16):
        return score_text(trained.model, chosen, token_bytes, trained.device)


def _own_text(run: Path, trained: Trained, split: str) -> Ids:
    """Return the ids of a part of the text of the run, which must not have changed."""
    from spectral_exp.config.parts import build_dataset
    from spectral_exp.config.trust import recorded_config, require_fingerprints
    from spectral_exp.runs.record import read_config
    from spectral_exp.training.resume import find_known_text, refuse_changed_data

    paths = RunPaths(run)
    # Not the configuration of the model, which may be built for longer sequences.
    config = recorded_config(read_config(paths.config_file)[0], trained.config.get("packages", ()))
    known = find_known_text(paths)
    require_fingerprints(run, config, known.fingerprints if known else {})
    dataset = build_dataset(config, known)
    refuse_changed_data(paths, dataset.fingerprints)
    ids: Ids | None = getattr(dataset, split)
    if ids is None:
        raise UserError(
            f"{run} was trained without a test text, which data.test_fraction=0.1 keeps apart; "
            "choose --split val or another text with --data"
        )
    return ids


def _read_text(path: Path, trained: Trained) -> Ids:
    """Return the ids of a text, encoded with the tokenizer of the run."""
    from spectral_exp.core.cache_folder import cache_folder
    from spectral_exp.core.errors import SettingError
    from spectral_exp.data.corpus import TextFile

    try:
        text = TextFile(str(path)).read(cache_folder())
    except SettingError as error:
        raise SettingError("--data", error.value, error.allowed, error.remedy) from error
    return trained.tokenizer.encode(text.decode("utf-8"))


def _append(run: Path, record: dict[str, Any]) -> None:
    """Add a line to the evaluations of a run. Raises UserError if the disk refuses it."""
    file = AppendFile(RunPaths(run).evaluations_file)
    file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    file.sync()
    lost = file.last_waiting_line is not None
    file.close()
    if lost:
        raise UserError(
            f"{file.path} cannot be written; free space or check its permissions, or give "
            "--no-record to see the score alone"
        )


def _describe(evaluated: Evaluated) -> str:
    from spectral_exp.training.evaluation import perplexity

    score = evaluated.score
    error = score.standard_error_bpb
    spread = "" if error is None else f" (standard error {error:.4f})"
    advance = evaluated.stride
    overlap = "" if advance == evaluated.block_size else f", each {advance} tokens further"
    return (
        f"{evaluated.run}: step {evaluated.step} on {evaluated.text}: {score.bpb:.4f} bits per "
        f"byte{spread}, {score.loss:.4f} nats per token, perplexity {perplexity(score.loss):.2f}\n"
        f"  {format_count(score.windows, 'window')} of {evaluated.block_size} tokens{overlap}: "
        f"{score.tokens} tokens, {score.bytes} bytes"
    )


main = command(build_parser, run)
