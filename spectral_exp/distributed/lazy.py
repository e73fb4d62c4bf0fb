"""A launcher that imports torch only if several processes are to be started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spectral_exp.distributed.settings import DistributedSettings

if TYPE_CHECKING:
    from spectral_exp.distributed.launch import Launcher


class LazyLauncher:
    """The processes that this command has started, none at first."""

    def __init__(self) -> None:
        self._launcher: Launcher | None = None

    @contextmanager
    def start(
        self, size: int, arguments: Sequence[str], settings: Mapping[str, Any]
    ) -> Iterator[None]:
        """Start `size` processes, which are ended with the block."""
        from spectral_exp.distributed.launch import Launcher

        known = {name: settings[name] for name in ("init_timeout_s", "step_timeout_s")}
        with Launcher(size, arguments, DistributedSettings(**known)) as launcher:
            self._launcher = launcher
            try:
                yield
            finally:
                self._launcher = None

    def run(self, shared: str) -> int:
        """Let the started processes train, and return the exit code of the first."""
        assert self._launcher is not None
        return self._launcher.run(shared)

    def stop(self) -> bool:
        """Ask the started processes to save and end; return whether there are any."""
        return self._launcher is not None and self._launcher.stop()
