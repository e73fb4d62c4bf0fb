"""Which of several processes this one is, and how such a process ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from spectral_exp.core.errors import UserError


@dataclass(frozen=True)
class World:
    """The place of this process among those that train one model together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_size: number of processes on this machine.
        node: number of this machine, from 0.
        nodes: number of machines.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    node: int = 0
    nodes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process owns the run directory."""
        return self.rank == 0


SINGLE = World()
"""One process alone."""

LAUNCHED = "SPECTRAL_EXP_LAUNCHED_BY"
"""Variable with the process id of the launcher, in processes that `distributed.nproc` started."""

_SLURM_PORTS = range(20000, 30000)


@dataclass(frozen=True)
class Address:
    """Where the processes of a world find each other.

    Attributes:
        host, port: of the key-value store.
        is_served: whether the process that started this one serves the store; otherwise rank 0
            does.
        attempt: number of restarts of all processes by torchrun.
    """

    host: str
    port: int
    is_served: bool
    attempt: int = 0


def world_from_environment(variables: Mapping[str, str] = os.environ) -> World:
    """Return the place of this process, as torchrun, srun or `distributed.nproc` has set it.

    Raises:
        UserError: the variables contradict each other.
    """
    if "WORLD_SIZE" in variables:
        size = _number(variables, "WORLD_SIZE")
        if size == 1:
            return SINGLE
        local_size = _number(variables, "LOCAL_WORLD_SIZE", 1)
        world = World(
            rank=_number(variables, "RANK"),
            size=size,
            local_rank=_number(variables, "LOCAL_RANK", 0),
            local_size=local_size,
            node=_number(variables, "GROUP_RANK", 0),
            nodes=_number(variables, "GROUP_WORLD_SIZE", max(1, size // max(1, local_size))),
        )
    elif _number(variables, "SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PROCID" in variables:
        # Only srun sets the first; a batch script has the second too.
        nodes = _number(variables, "SLURM_STEP_NUM_NODES", 1)
        node = _number(variables, "SLURM_NODEID", 0)
        counts = _expand_counts(variables.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        world = World(
            rank=_number(variables, "SLURM_PROCID"),
            size=_number(variables, "SLURM_STEP_NUM_TASKS"),
            local_rank=_number(variables, "SLURM_LOCALID", 0),
            local_size=counts[node] if node < len(counts) else 1,
            node=node,
            nodes=nodes,
        )
    else:
        return SINGLE
    if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size):
        raise UserError(
            f"the environment names rank {world.rank} of {world.size} and local rank "
            f"{world.local_rank} of {world.local_size}; start the processes with torchrun or srun, "
            "or unset WORLD_SIZE"
        )
    return world


def address_from_environment(variables: Mapping[str, str] = os.environ) -> Address:
    """Return where the processes meet.

    Raises:
        UserError: no address is known.
    """
    host = variables.get("MASTER_ADDR") or _slurm_host(variables)
    if not host:
        raise UserError(
            "MASTER_ADDR is not set, so the processes cannot find each other; set it to the host "
            "of rank 0, and MASTER_PORT to a free port there"
        )
    if "MASTER_PORT" in variables:
        port = _number(variables, "MASTER_PORT")
    else:
        seed = 31 * _number(variables, "SLURM_JOB_ID", 0) + _number(variables, "SLURM_STEP_ID", 0)
        port = _SLURM_PORTS[seed % len(_SLURM_PORTS)]
    is_served = variables.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() == "true"
    return Address(host, port, is_served, _number(variables, "TORCHELASTIC_RESTART_COUNT", 0))


def is_under_torchrun(variables: Mapping[str, str] = os.environ) -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in variables


def is_one_of_several(variables: Mapping[str, str] = os.environ) -> bool:
    """Return whether this process was started as one of several, by torchrun or otherwise."""
    try:
        return world_from_environment(variables).size > 1
    except UserError:  # reported before
        return False


def end_process(code: int) -> NoReturn:
    """End this process, one of several, with the exit code `code`.

    A thread of gloo lets go of the tensors that it has sent some time after the operation that
    sent them. If the interpreter is finalizing by then, the thread aborts the process: it needs the
    interpreter's lock. Since torch may keep a process group beyond its destruction, nothing ends
    these threads. So the interpreter is not finalized here.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or None
            stream.flush()
    os._exit(code)


def _slurm_host(variables: Mapping[str, str]) -> str:
    """Return the host of the first task of a Slurm step, or "" outside of Slurm."""
    nodes = variables.get("SLURM_STEP_NODELIST", "")
    # The first of n[001-004,007],m1 is n001.
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    first = match[1] + (match[2] or "") if match else ""
    try:
        socket.gethostbyname(first)
    except OSError:
        return variables.get("SLURM_LAUNCH_NODE_IPADDR", first)
    return first


def _number(variables: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = variables.get(name)
    if value is None and default is not None:
        return default
    try:
        return int(value or "")
    except ValueError:
        raise UserError(
            f"the environment variable {name}={value or ''} must be a number; start the processes "
            "with torchrun or srun, or unset WORLD_SIZE"
        ) from None


def _expand_counts(tasks: str) -> list[int]:
    """Return the tasks of each node: [2, 2, 2, 1] for `2(x3),1`."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
