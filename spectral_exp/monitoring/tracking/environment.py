"""Facts about where a run takes place: hardware, software, the state of its code."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import spectral_exp
from spectral_exp.core.git import ask_git, commit_of, package_checkout, repository_of
from spectral_exp.monitoring.tracking.git_patch import Patch, working_tree_patch

MAX_UNTRACKED = 1000

_OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables that decide how many threads compute and how they wait for each other."""

_HEADER = re.compile(r"^(Name|Version): *(.*?) *$", re.MULTILINE)


def hardware_facts() -> dict[str, Any]:
    """Processor, memory and accelerators. Sizes in GB (10^9 bytes)."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        gpus = [
            {"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 2)} for gpu in properties
        ]
    elif torch.backends.mps.is_available():
        gpus = [{"name": "Apple MPS"}]
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "gpu_available": bool(gpus),
        "gpu_model": gpus[0]["name"] if gpus else None,
        "gpus": gpus,
        "cuda_version": torch.version.cuda,
        "cpu_count": os.cpu_count(),
        "cpus_usable": affinity,
        "cpu_model": _cpu_model(),
        "torch_threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
    }


def host_facts() -> dict[str, Any]:
    """Host name, operating system, process, working directory, and settings of OpenMP."""
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "pid": os.getpid(),
        "cwd": _working_directory(),
        "openmp": {name: os.environ[name] for name in _OPENMP if name in os.environ},
    }


def _working_directory() -> str | None:
    """The working directory, or None if it has been removed."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Versions of Python and of every installed distribution."""
    found = dict(filter(None, map(_name_and_version, metadata.distributions())))
    return {
        "python": platform.python_version(),
        **dict(sorted(found.items(), key=lambda item: item[0].lower())),
    }


def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str] | None:
    # `distribution.metadata` would parse the whole description as an e-mail: ten times slower.
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    headers = dict(_HEADER.findall(text.partition("\n\n")[0]))
    return (headers["Name"], headers["Version"]) if headers.keys() >= {"Name", "Version"} else None


def command_line() -> list[str]:
    """The command that started this process."""
    return list(sys.orig_argv)


def git_facts(directory: Path) -> tuple[dict[str, Any], bytes]:
    """Return the state of the git repository around `directory`, and its changes as a patch.

    Returns:
        `repository` (its root), `hash`, `dirty`, and `problem` (why the commit is unknown, else
        None); `untracked`, files that neither the commit nor the patch holds (at most
        `MAX_UNTRACKED` names), and `untracked_total`; `diff_truncated`, whether the patch is
        incomplete, `diff_missing`, the files that it lacks with the reasons, and `diff_redacted`,
        files in it from which secrets were removed. The patch is empty without a commit.
    """
    commit, root = commit_of(directory), repository_of(directory)
    facts: dict[str, Any] = {
        "repository": root.output.decode(errors="replace") or None,
        "hash": commit.output.decode() or None,
        "problem": commit.problem,
        "dirty": None,
        "untracked": [],
        "untracked_total": 0,
        "diff_truncated": False,
        "diff_missing": [],
        "diff_redacted": [],
    }
    if root.problem is not None:
        return facts, b""
    place = Path(root.output.decode(errors="surrogateescape"))
    changed, untracked = _status(place)
    if commit.problem is not None:
        return {**facts, "dirty": changed, **_untracked_facts(untracked)}, b""
    patch = working_tree_patch(place, commit.output.decode()) if changed or untracked else Patch()
    in_patch = set(patch.new)
    facts |= {
        "dirty": changed or bool(patch.content),
        "diff_truncated": bool(patch.missing),
        "diff_missing": patch.missing[:MAX_UNTRACKED],
        "diff_redacted": patch.redacted,
        **_untracked_facts([name for name in untracked if name not in in_patch]),
    }
    return facts, patch.content


def package_facts() -> dict[str, Any]:
    """Return the package version and, for a checkout, its `repository`, `hash` and `dirty`."""
    checkout = package_checkout()
    facts: dict[str, Any] = {
        "version": spectral_exp.__version__,
        "repository": None,
        "hash": None,
        "dirty": None,
    }
    if checkout is None:
        return {**facts, "problem": "installed, not a checkout"}
    commit, root = commit_of(checkout), repository_of(checkout)
    facts |= {
        "repository": root.output.decode(errors="replace") or None,
        "hash": commit.output.decode() or None,
    }
    if commit.problem is None:
        facts["dirty"] = _status(checkout)[0]
    return {**facts, "problem": commit.problem}


def _status(root: Path) -> tuple[bool, list[str]]:
    """Whether tracked files differ from the commit, and the untracked files and folders."""
    options = (
        "--porcelain=v2",
        "-z",
        "--untracked-files=normal",
        "--no-renames",
        "--ignore-submodules=dirty",
    )
    answer = ask_git("status", *options, directory=root, timeout_s=60.0)
    lines = answer.output.decode(errors="replace").split("\0")
    changed = any(line[:2] in {"1 ", "2 ", "u "} for line in lines) or answer.problem is not None
    return changed, [line.removeprefix("? ") for line in lines if line.startswith("? ")]


def _untracked_facts(untracked: list[str]) -> dict[str, Any]:
    return {"untracked": untracked[:MAX_UNTRACKED], "untracked_total": len(untracked)}


def _memory_gb() -> float | None:
    """Return the machine's memory, or None if it is unknown (no /proc)."""
    import psutil

    try:
        return round(psutil.virtual_memory().total / 1e9, 2)
    except OSError:
        return None


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):  # Linux only
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
