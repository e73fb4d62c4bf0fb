"""Types of `config.json`, `results.json`, the lock of a run, and the manifest of a backup.

Readers can rely on these types, because null and values of another type are removed, the latter
with a finding. Keys that are not listed here are kept unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, cast

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.json_files import content_crc32
from spectral_exp.core.json_text import parse_object, read_object
from spectral_exp.runs.renamed import update_names
from spectral_exp.runs.schema import Between, Commit, Count, Findings, Matching, conform, is_of
from spectral_exp.runs.status import Status

_Sha256 = Annotated[str, Matching("[0-9a-f]{64}", "a SHA-256")]


class _AttemptBase(TypedDict):
    from_step: Count
    overrides: list[str]


class Attempt(_AttemptBase, total=False):
    """One execution of the training command in a run directory."""

    git_hash: str
    timestamp: str
    host: str
    search: list[str]
    processes: Count
    hosts: list[str]
    devices: list[str]
    own_code: dict[str, _Sha256]


class Git(TypedDict, total=False):
    """The state of the code's repository.

    `diff_crc32` is the checksum of uncommitted changes that are not published.
    """

    hash: Commit | None
    dirty: bool | None
    untracked: list[str]
    diff_truncated: bool
    diff_file: str | None
    diff_crc32: Annotated[str, Matching("[0-9a-f]{8}", "8 hexadecimal digits")]


class OwnCode(TypedDict, total=False):
    """The state of a package of the user, or of the user's configuration files."""

    place: str
    sha256: _Sha256
    repository: str | None
    hash: Commit | None
    committed: Count
    saved: list[str]
    deleted: list[str]
    missing: list[str]


class Dataset(TypedDict, total=False):
    """Sizes and fingerprints of the text of a run."""

    corpus: str
    corpus_sha256: str
    train_sha256: str
    val_sha256: str
    test_sha256: str
    tokenizer: str
    train_bytes: Count
    train_tokens: Count
    val_bytes: Count
    val_tokens: Count
    test_bytes: Count
    test_tokens: Count
    vocab_size: Count


class Model(TypedDict, total=False):
    """The size of a model."""

    type: str
    num_parameters: Count
    num_trainable_parameters: Count
    parameters_by_component: dict[str, Count]
    flops_per_token: float | None


class Hardware(TypedDict, total=False):
    """Processor and accelerators."""

    gpu_available: bool
    gpu_model: str | None
    gpus: list[Any]
    cuda_version: str | None
    cpu_count: Count | None
    cpu_model: str | None
    torch_threads: Count
    memory_gb: float


class Host(TypedDict, total=False):
    """The machine of a run."""

    hostname: str
    platform: str
    cwd: str


REPORTED_PACKAGES = (
    "python", "torch", "numpy", "hydra-core", "omegaconf", "matplotlib", "tokenizers",
)  # fmt: skip
"""The packages whose versions stand in papers and published records."""


class Packing(TypedDict):
    """What a published record holds of the original; see `runs.pack`."""

    metrics: bool


class _AncestorBase(TypedDict):
    path: str
    weights_sha256: _Sha256


class Ancestor(_AncestorBase, total=False):
    """The origin of weights: a run directory or a file, and a step."""

    experiment_id: str
    step: Count


class Parent(Ancestor, total=False):
    """The weights that a run started from.

    `config_hash` and `name` are those of the run that trained them, `ancestors` the origins of the
    weights that this run itself started from, the nearest first.
    """

    name: str
    config_hash: str
    optimizer: bool
    not_loaded: list[str]
    not_used: list[str]
    ancestors: list[Ancestor]


_UNIT = Matching(
    r"[^\x00-\x1f\x7f-\x9f$\\{}<>&\"'\u2028-\u202e\u2066-\u2069\ud800-\udfff]{1,60}",
    "a text of at most 60 characters, without control characters and any of $ \\ { } < > & \" '",
)


class ConfigRecord(TypedDict, total=False):
    """The content of `config.json`. Sections that are null are absent."""

    experiment_id: str
    timestamp: str
    git_hash: str
    config: dict[str, Any]
    overrides: list[str]
    changed_settings: dict[str, dict[str, Any]]
    command: list[str]
    dataset: Dataset
    model: Model
    hardware: Hardware
    host: Host
    git: Git
    own_code: dict[str, OwnCode]
    machine_metric_prefixes: list[str]
    packages: dict[str, str]
    attempts: list[Attempt]
    parent: Parent
    units: dict[str, Annotated[str, _UNIT]]
    better: dict[str, Literal["lower", "higher"]]
    packed: Packing
    crc32: str


class Totals(TypedDict, total=False):
    """Steps, tokens and times of a whole run."""

    steps: Count
    tokens: Count
    bad_steps: Count
    flops: float
    train_s: float
    cpu_s: float
    device_s: float
    time_s: float
    tokens_per_s: float


class BudgetRecord(TypedDict, total=False):
    """The limits of a run, and the setting whose limit has ended it."""

    max_steps: Count
    max_tokens: Count
    max_flops: float
    max_train_s: float
    last_step: Count | None
    reached: str | None


class EvaluatedText(TypedDict, total=False):
    """How much of a text each evaluation reads, and the standard error of the last one."""

    windows: Count
    available_windows: Count
    tokens: Count
    repeated_share: float
    standard_error_bpb: float | None


class Reference(TypedDict, total=False):
    """Bounds that the loss can be compared with."""

    unigram_bits_per_byte: float | None
    entropy_bits_per_byte: float | None


class MonitoringCost(TypedDict, total=False):
    """Time that training spent on monitoring."""

    blocked_s: dict[str, float]
    evaluation_s: float
    test_s: float
    share_of_training: float
    train_s: float


class ResultsRecord(TypedDict, total=False):
    """The content of `results.json`. Sections that are null are absent."""

    status: Status
    error: str
    pruned_because: str
    final_metrics: dict[str, float | None]
    best_metrics: dict[str, float | None]
    best_checkpoint: str
    generation_samples: list[Any]
    totals: Totals
    budget: BudgetRecord
    evaluation: dict[str, EvaluatedText]
    reference: Reference
    monitoring_cost: MonitoringCost


class ManifestFile(TypedDict):
    """A file of a run in its backup."""

    key: Annotated[str, Matching(r"objects/[^/\\\x00-\x1f]{1,255}", "the name of an object")]
    size: Count
    crc32: Annotated[str, Matching("[0-9a-f]{8}", "8 hexadecimal digits")]
    mtime_ns: Annotated[int, Between(0, 2**63 - 1)]


class Manifest(TypedDict):
    """One backup of a run; the keys of `files` are paths relative to the run directory."""

    run: str
    id: str
    step: Count
    timestamp: str
    latest: str
    best: str | None
    files: dict[str, ManifestFile]


class LockOwner(TypedDict):
    """The process that owns a run directory."""

    host: str
    pid: Annotated[int, Between(1, 2**31)]
    since: str


_MAX_BITS = 128  # of an integer setting
_SETTINGS: dict[str, Any] = {
    "name": str,
    "seed": int | None,
    "data.path": str | None,
    "loss.projection_dim": Count | None,
    "model.bias": bool,
    "model.block_size": Count,
    "model.n_embd": Count,
    "model.n_head": Count,
    "model.n_layer": Count,
    "model.n_wave": Count,
    "model.tie_weights": bool,
    "optimizer.gate_every": Count,
    "optimizer.learning_rate": float,
    "optimizer.warmup_steps": Count,
    "schedule.warmup_steps": Count,
    "training.batch_size": Count,
    "training.eval_windows": Count | None,
    "training.grad_accum_steps": Count,
    "training.max_flops": float | None,
    "training.max_steps": Count | None,
    "training.max_tokens": Count | None,
    "training.max_train_s": float | None,
    "training.overfit_one_batch": bool,
    "training.restore_best": bool,
}
"""Types of the settings that this package computes with."""


def read_config(file: Path) -> tuple[ConfigRecord, tuple[str, ...]]:
    """Return the content of a `config.json`, and a finding for each value that was removed.

    Raises:
        UserError: the file is missing or not a readable JSON object.
    """
    content = read_object(file)
    findings = Findings(file.name)
    if "crc32" in content and content["crc32"] != content_crc32(content):
        findings.sentences.append(_checksum_finding(file))
    record = cast("ConfigRecord", conform(ConfigRecord, _without_null(content), findings))
    if "config" in record:
        record["config"] = update_names(record["config"])
    return record, findings.all()


def _checksum_finding(file: Path) -> str:
    return f"{file.name} was changed or damaged since it was written"


def read_intact_config(file: Path) -> ConfigRecord:
    """Return the content of a `config.json` in which nothing is damaged.

    Raises:
        UserError: the file is missing, or a part of it is damaged or of another type.
    """
    record, findings = read_config(file)
    if not findings:
        return record
    finding = findings[0]
    if finding == _checksum_finding(file):
        raise UserError(str(file.parent / finding))
    raise UserError(f"{file} is damaged: {finding}")


def read_results(file: Path) -> tuple[ResultsRecord, tuple[str, ...]]:
    """Return the content of a `results.json`, and a finding for each value that was removed.

    Raises:
        UserError: the file is missing or not a readable JSON object.
    """
    findings = Findings(file.name)
    content = conform(ResultsRecord, _without_null(read_object(file)), findings)
    return cast("ResultsRecord", content), findings.all()


def manifest_of(content: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a backup.

    Raises:
        ValueError: a part is missing or of another type.
    """
    findings = Findings("the manifest")
    manifest = conform(Manifest, dict(content), findings)
    if findings.sentences:
        raise ValueError(findings.sentences[0])
    return cast("Manifest", manifest)


def parent_in(state: Mapping[str, Any]) -> Parent | None:
    """Return the origin of the initial weights that a checkpoint records, or None."""
    train_state = state.get("train_state")
    parent = train_state.get("parent") if isinstance(train_state, Mapping) else None
    return cast("Parent | None", conform(Parent, parent, Findings("the checkpoint")))


def parse_lock_owner(content: bytes) -> LockOwner | None:
    """Return the process in a lock file, or None if the file is unfinished or damaged."""
    try:
        owner = conform(LockOwner, parse_object(content), Findings("the lock"))
    except ValueError:
        return None
    if owner is None or not (owner["host"] + owner["since"]).isprintable():
        return None
    return cast("LockOwner", owner)


def check_units(units: Mapping[str, str]) -> dict[str, str]:
    """Return units of metrics by name, which label axes and stand in tables.

    Raises:
        SettingError: a unit is not a short text.
    """
    kind, unused = Annotated[str, _UNIT], Findings("units")
    wrong = {name: unit for name, unit in units.items() if not is_of(kind, unit, unused, name)}
    require(not wrong, "units", wrong, f"{_UNIT.words} for each metric")
    return dict(units)


def known_settings(
    settings: Mapping[str, Any], source: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings that conform to `_SETTINGS`, and a finding for each of the others.

    Args:
        settings: dotted name -> value.
        source: the name of the file in findings.
    """
    findings = Findings(source)
    kept = {}
    for name, value in settings.items():
        words = name.split(".")
        if above := [
            part for i in range(1, len(words)) if (part := ".".join(words[:i])) in _SETTINGS
        ]:
            findings.add(above[0], {}, "a single value")
            continue
        kind = str if words[-1] == "_target_" else _SETTINGS.get(name, Any)
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            findings.add(name, value, f"an integer of at most {_MAX_BITS} bits")
        elif is_of(kind, value, findings, name):
            kept[printable(name)] = value
    return kept, findings.all()


def _without_null(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value is not None}
