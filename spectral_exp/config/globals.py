"""The settings at the top of the configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass

from spectral_exp.core.errors import SettingError, require


@dataclass(frozen=True)
class Globals:
    """The keys at the top of the configuration; each is explained in conf/config.yaml."""

    name: str
    seed: int
    device: str
    outputs: str
    threads: int | None = None
    resume: str | None = None
    init_from: str | None = None
    init_optimizer: bool = False
    init_partial: bool = False
    backup_url: str | None = None
    experiment_id: str | None = None
    sweep: str | None = None
    mirrors: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("init_optimizer", "init_partial"):
            is_allowed = self.init_from is not None or not getattr(self, name)
            require(is_allowed, name, "true", "false without init_from")
        if self.init_from == "":
            raise SettingError("init_from", "''", "a run or a file with weights, or null")
        if not self.name or "/" in self.name:
            raise SettingError("name", repr(self.name), "a folder name: not empty, without /")
        if not 0 <= self.seed < 2**63:
            raise SettingError("seed", self.seed, ">= 0 and < 2^63")
        if not self.outputs:
            remedy = "outputs=. is the current folder"
            raise SettingError("outputs", "''", "a folder", remedy)
        cpus = os.cpu_count() or 1
        # A run may continue on a smaller machine with the threads, and so the bits, that it had.
        if self.threads is not None and not 1 <= self.threads <= 4 * cpus:
            allowed = f"from 1 to {4 * cpus} or null"
            remedy = f"threads={cpus} uses {'the CPU' if cpus == 1 else f'all {cpus} CPUs'} here"
            raise SettingError("threads", self.threads, allowed, remedy)
