"""The records of runs in the form in which they stand beside a paper.

They give every number of the originals, and hold nothing about the machine but its hardware.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from spectral_exp.core.json_files import content_crc32
from spectral_exp.runs.anonymous import Anonymizer
from spectral_exp.runs.evaluations import Evaluation
from spectral_exp.runs.marks import Marks
from spectral_exp.runs.overrides import flatten, is_among, setting_of
from spectral_exp.runs.parts import makes_another_experiment
from spectral_exp.runs.record import REPORTED_PACKAGES, Git, Hardware, ResultsRecord

Record = Mapping[str, Any]

_COPIED = ("experiment_id", "timestamp", "git_hash", "units", "better")
_ANONYMOUS = ("config", "changed_settings", "dataset", "model", "parent")
_GIT = tuple(set(Git.__annotations__) - {"untracked", "diff_file", "diff_crc32"})
_PACKAGE = ("version", "hash", "dirty")
_ATTEMPT = ("timestamp", "git_hash", "from_step", "processes", "devices", "exact")
_GPU = ("name", "memory_gb")
_RESULTS = (*ResultsRecord.__annotations__, "experiment_id", "timestamp", "git_hash")
_PROSE = ("error", "pruned_because")

# Settings that name machines, persons or services, and what they become.
_PRIVATE: dict[str, Any] = {
    "backup_url": None,
    "mirrors": [],
    "alerts": [],
    "hydra": None,
    "monitoring.backup.url": None,
    "monitoring.companion.mirrors": [],
    "monitoring.companion.alerts": [],
}

_PRIVATE_OVERRIDES = (*_PRIVATE, "monitoring.backup", "monitoring.companion")


class Publication:
    """Makes the published records of some runs.

    Args:
        records: of all these runs: the content of `config.json` and `results.json`, and the lines
            of `evaluations.jsonl`. They may be damaged in any way.

    Attributes:
        anonymizer: of all texts in them.
    """

    def __init__(self, records: Iterable[tuple[Record, Record, Iterable[Any]]]) -> None:
        self.anonymizer = Anonymizer()
        values = defaultdict[str, set[str]](set)
        for config, results, evaluations in records:
            self.anonymizer.learn_hosts(_hosts(config, results))
            for text in _texts(config):
                self.anonymizer.learn_users(text)
            for name, value in flatten(config.get("config", {})):
                if makes_another_experiment(name):
                    values[name].update(_texts(value))
            for one in evaluations:
                if isinstance(one, Mapping):
                    values["evaluations"].update(_texts(one.get("text")))
        for _, texts in sorted(values.items()):
            self.anonymizer.learn_values(texts)

    def config(self, content: Record, patch_crc32: str, *, with_metrics: bool) -> dict[str, Any]:
        """Return the published content of a `config.json`.

        Args:
            content: of the original, with values of any type.
            patch_crc32: of the patch with uncommitted changes, which is left out, or "".
            with_metrics: whether the metrics of the run are published.
        """
        made: dict[str, Any] = {name: content[name] for name in _COPIED if name in content}
        made |= {name: self._anonymous(content[name]) for name in _ANONYMOUS if name in content}
        if isinstance(made.get("config"), Mapping):
            made["config"] = self._without_private(made["config"])
        named = _section(content, "host").keys() - {"platform"}
        self._count("command lines", bool(content.get("command")))
        self._count("names of hosts, process ids and working directories", bool(named))
        makers = {
            "overrides": self._overrides,
            "hardware": _hardware,
            "host": _host,
            "git": lambda git: self._git(git, patch_crc32),
            "package": lambda package: _chosen(package, _PACKAGE),
            "packages": lambda packages: _chosen(packages, REPORTED_PACKAGES),
            "attempts": self._attempts,
        }
        made |= {name: make(content[name]) for name, make in makers.items() if name in content}
        made["packed"] = {"metrics": with_metrics}
        if "crc32" in content:
            # A record that was damaged keeps its checksum, which is wrong for the new one too.
            is_intact = content["crc32"] == content_crc32(content)
            made["crc32"] = content_crc32(made) if is_intact else content["crc32"]
        return made

    def results(self, content: Record) -> dict[str, Any]:
        """Return the published content of a `results.json`."""
        made = {name: content[name] for name in _RESULTS if name in content}
        for name in _PROSE:
            if isinstance(made.get(name), str):
                made[name] = self.anonymizer.prose(made[name])
        made |= {n: self._anonymous(value) for n, value in made.items() if n not in _PROSE}
        if "generation_samples" in content:  # what a model has written names nobody
            made["generation_samples"] = _samples(content["generation_samples"])
        if "attempts" in content:
            made["attempts"] = [_numbers(one) for one in _list(content["attempts"])]
        if "processes" in content:
            made["processes"] = _numbers(content["processes"])
        return made

    def evaluation(self, entry: Record) -> dict[str, Any]:
        """Return the published content of a line of `evaluations.jsonl`."""
        return {n: self._anonymous(entry[n]) for n in entry if n in Evaluation.__annotations__}

    def marks(self, marks: Marks) -> dict[str, Any]:
        """Return the published content of a `notes.json`."""
        return {
            "tags": list(marks.tags),
            "note": self.anonymizer.prose(marks.note),
            "pinned": marks.is_pinned,
            "archived": marks.is_archived,
        }

    def sweep(self, content: Record) -> dict[str, Any]:
        """Return the published content of a `sweep.json`: the jobs that were planned."""
        jobs = {
            key: {
                "folder": job.get("folder"),
                "overrides": self._overrides(job.get("overrides")),
            }
            for key, job in _section(content, "jobs").items()
            if isinstance(job, Mapping)
        }
        self._count("command lines", bool(content.get("command")))
        made: dict[str, Any] = {"format": content.get("format"), "command": [], "jobs": jobs}
        made |= {"sources": "", "known": {}}
        return {**made, "crc32": content_crc32(made)}

    def _attempts(self, attempts: Any) -> Any:
        if not isinstance(attempts, list):
            return attempts
        made = []
        for one in attempts:
            chosen = _chosen(one, _ATTEMPT)
            if isinstance(one, Mapping) and "overrides" in one:
                chosen["overrides"] = self._overrides(one["overrides"])
            if isinstance(one, Mapping) and "search" in one:
                chosen["search"] = self._overrides(one["search"])
            made.append(chosen)
        return made

    def _overrides(self, overrides: Any) -> Any:
        """Return overrides without those of private settings."""
        if not isinstance(overrides, list):
            return overrides
        kept = [
            one
            for one in overrides
            if not (isinstance(one, str) and is_among(setting_of(one), _PRIVATE_OVERRIDES))
        ]
        self._count("settings of backups, mirrors, alerts and Hydra", len(overrides) - len(kept))
        return [self.anonymizer.override(one) if isinstance(one, str) else one for one in kept]

    def _git(self, git: Any, patch_crc32: str) -> Any:
        made = _chosen(git, _GIT)
        if isinstance(git, Mapping):
            made |= {"untracked": [], "diff_file": None}
            made |= {"diff_crc32": patch_crc32} if patch_crc32 else {}
            self._count("lists of untracked files", bool(git.get("untracked")))
            self._count("patches of uncommitted changes", bool(patch_crc32))
        return made

    def _without_private(self, config: Record, above: str = "") -> dict[str, Any]:
        made = {}
        for name, value in config.items():
            setting = f"{above}{name}"
            if setting in _PRIVATE:
                self._count("settings of backups, mirrors, alerts and Hydra", bool(value))
                made[name] = _PRIVATE[setting]
            elif isinstance(value, Mapping):
                made[name] = self._without_private(value, f"{setting}.")
            else:
                made[name] = value
        return made

    def _anonymous(self, value: Any) -> Any:
        """Return JSON without absolute paths in its texts; names stay."""
        if isinstance(value, str):
            return self.anonymizer.value(value)
        if isinstance(value, list):
            return [self._anonymous(item) for item in value]
        if isinstance(value, Mapping):
            return {name: self._anonymous(item) for name, item in value.items()}
        return value

    def _count(self, kind: str, number: int) -> None:
        self.anonymizer.removed[kind] += number


def _hosts(config: Record, results: Record) -> Iterable[str]:
    """Yield the names of the machines of a run."""
    attempts = [one for one in _list(config.get("attempts")) if isinstance(one, Mapping)]
    names = [
        _section(config, "host").get("hostname"),
        *(one.get("host") for one in attempts),
        *(name for one in attempts for name in _list(one.get("hosts"))),
        *_list(_section(results, "processes").get("hosts")),
    ]
    return (name for name in names if isinstance(name, str))


def _hardware(hardware: Any) -> Any:
    made = _chosen(hardware, tuple(Hardware.__annotations__))
    if isinstance(made, Mapping) and isinstance(made.get("gpus"), list):
        return {**made, "gpus": [_chosen(gpu, _GPU) for gpu in made["gpus"]]}
    return made


def _host(host: Any) -> Any:
    """Return the name of the operating system, without its version."""
    platform = host.get("platform") if isinstance(host, Mapping) else None
    return {"platform": platform.partition("-")[0]} if isinstance(platform, str) else {}


def _chosen(content: Any, names: Iterable[str]) -> Any:
    """Return some entries of an object; anything else stays, for readers to reject."""
    if not isinstance(content, Mapping):
        return content if content is None or isinstance(content, bool | int | float) else {}
    wanted = set(names)
    return {name: value for name, value in content.items() if name in wanted}


def _samples(samples: Any) -> list[Any]:
    """Return the texts that a model has written, with their steps and prompts."""
    names = ("step", "prompt", "text")
    return [
        one if isinstance(one, str) else _chosen(one, names)
        for one in _list(samples)
        if isinstance(one, str | Mapping)
    ]


def _numbers(content: Any) -> dict[str, Any]:
    entries = content.items() if isinstance(content, Mapping) else ()
    return {name: value for name, value in entries if isinstance(value, int | float)}


def _section(content: Record, name: str) -> Record:
    section = content.get(name)
    return section if isinstance(section, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> Iterable[str]:
    """Yield all texts in JSON that are values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for _, item in flatten(value):
            yield from _texts(item)
