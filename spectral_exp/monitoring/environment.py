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

from spectral_exp.monitoring.redact import environment_secrets, redact_text
from spectral_exp.run_dir import run_git

MAX_DIFF_BYTES = 1_000_000
MAX_UNTRACKED = 1000

_HEADER = re.compile(r"^(Name|Version): *(.*?) *$", re.MULTILINE)


def hardware_facts() -> dict[str, Any]:
    """Processor, memory and accelerators. Sizes in GB (10^9 bytes)."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        gpus = [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 2)} for gpu in properties]
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
    """Host name, operating system, process and working directory."""
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "pid": os.getpid(),
        "cwd": _working_directory(),
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
    return {"python": platform.python_version(), **dict(sorted(found.items(), key=lambda item: item[0].lower()))}


def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str] | None:
    # `distribution.metadata` would parse the whole description as an e-mail: ten times slower.
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    headers = dict(_HEADER.findall(text.partition("\n\n")[0]))
    return (headers["Name"], headers["Version"]) if headers.keys() >= {"Name", "Version"} else None


def command_line() -> list[str]:
    """The command that started this process."""
    return list(sys.orig_argv)


def git_facts(directory: Path) -> tuple[dict[str, Any], bytes]:
    """The state of the git repository around `directory`, and the difference of its files to the commit as a patch.

    Returns:
        `hash` (None outside a repository or before its first commit), `dirty`, `untracked` (at most `MAX_UNTRACKED`
        names), `untracked_total` and `diff_truncated`; and the patch, at most `MAX_DIFF_BYTES` of whole lines, with
        secrets of the environment removed.
    """
    status = run_git("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal", directory=directory)
    if status is None:
        return {"hash": None, "dirty": None, "untracked": [], "untracked_total": 0, "diff_truncated": False}, b""
    lines = status.decode(errors="replace").split("\0")
    commit = next(
        (line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")), "(initial)"
    )
    untracked = [line.removeprefix("? ") for line in lines if line.startswith("? ")]
    dirty = any(line[:2] in {"1 ", "2 ", "u "} for line in lines)
    has_commit = commit != "(initial)"
    diff = _diff(directory) if dirty and has_commit else b""
    facts = {
        "hash": commit if has_commit else None,
        "dirty": dirty,
        "untracked": untracked[:MAX_UNTRACKED],
        "untracked_total": len(untracked),
        "diff_truncated": len(diff) > MAX_DIFF_BYTES,
    }
    return facts, diff[: diff.rfind(b"\n", 0, MAX_DIFF_BYTES) + 1] if len(diff) > MAX_DIFF_BYTES else diff


def _diff(directory: Path) -> bytes:
    printed = run_git("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", directory=directory) or b""
    text = redact_text(printed.decode(errors="surrogateescape"), environment_secrets())
    return text.encode(errors="surrogateescape")


def _memory_gb() -> float | None:
    """The machine's memory, or None if the system does not say (no /proc)."""
    import psutil

    try:
        return round(psutil.virtual_memory().total / 1e9, 2)
    except OSError:
        return None


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):  # Linux only
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None
