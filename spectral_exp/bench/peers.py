"""Other tools for saving and logging, measured for comparison if they are installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from spectral_exp.core.files import fsync_directory
from spectral_exp.core.wording import install

if TYPE_CHECKING:
    from spectral_exp.bench.training import Training

REMEDY = install("bench")

DCP = "DCP async_save"
LIGHTNING = "Lightning AsyncCheckpointIO"
TENSORBOARD = "TensorBoard"


class Contender(ABC):
    """A tool that saves the state of `training` below `folder`.

    Attributes:
        name: name in the table.
        background: whether `save` returns before the checkpoint is durable.
        note: remark on the comparison.
    """

    name: str
    background: ClassVar[bool] = True
    note: ClassVar[str] = ""

    def __init__(self, folder: Path, training: Training) -> None:
        self._folder = folder
        self._training = training
        self._number = 0  # of the newest checkpoint

    @abstractmethod
    def save(self) -> None:
        """Start a save; the next forward and backward pass may run after it returns."""

    def fence(self) -> None:  # noqa: B027 - `save` may have copied the state
        """Wait until the state may be changed."""

    @abstractmethod
    def busy(self) -> bool:
        """Whether a save is in progress in the background."""

    @abstractmethod
    def wait(self) -> float:
        """Wait until the save has ended; return the `perf_counter` time at which it was durable."""

    def close(self) -> None:  # noqa: B027 - not every tool holds resources
        """Release all resources."""


MakeContender: TypeAlias = "Callable[[Path, Training], Contender]"
"""Returns a contender that saves a training below a folder."""


def checkpoint_peers() -> tuple[dict[str, MakeContender], list[str]]:
    """Return the installed background savers by name, and a reason for each missing one."""
    installed: dict[str, MakeContender] = {}
    missing = []
    if _has_stager():
        installed[DCP] = DcpAsyncSave
    else:
        missing.append(f"{DCP}: not in this version of torch")
    if importlib.util.find_spec("lightning"):
        installed[LIGHTNING] = LightningAsync
    else:
        missing.append(f"{LIGHTNING}: not installed: {REMEDY}")
    return installed, missing


def _has_stager() -> bool:
    try:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions  # noqa: F401
    except ImportError:  # a build without torch.distributed, or an older version
        return False
    return True


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Provide the process group that torch's distributed checkpoints require, if supported."""
    import torch.distributed

    if not torch.distributed.is_available():
        yield
        return
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


class DcpAsyncSave(Contender):
    """`torch.distributed.checkpoint.async_save` with a persistent stager, both in threads."""

    name = DCP

    def __init__(self, folder: Path, training: Training) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().__init__(folder, training)
        # Staging in a thread is comparable to `CheckpointManager`: training waits only before the
        # optimizer.
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False,
                use_shared_memory=False,
                use_async_staging=True,
                use_non_blocking_copy=False,
            )
        )
        self._response: Any = None

    def save(self) -> None:
        """Start a save."""
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self._number += 1
        target = self._folder / str(self._number)
        self._response = async_save(
            self._training.state(), checkpoint_id=target, async_stager=self._stager
        )

    def fence(self) -> None:
        """Wait until the state may be changed."""
        if self._response is not None:
            self._response.staging_completion.result()

    def busy(self) -> bool:
        """Return whether a save is in progress."""
        return self._response is not None and not self._response.upload_completion.done()

    def wait(self) -> float:
        """Wait until the files are synchronized."""
        self._response.upload_completion.result()
        ended = time.perf_counter()
        # The first save has no predecessor.
        shutil.rmtree(self._folder / str(self._number - 1), ignore_errors=True)
        return ended

    def close(self) -> None:
        """Release the staged copy."""
        self._stager.close()


class LightningAsync(Contender):
    """Lightning's `AsyncCheckpointIO` around its default `TorchCheckpointIO`."""

    name = LIGHTNING
    note = "fsync added"

    def __init__(self, folder: Path, training: Training) -> None:
        super().__init__(folder, training)
        io = importlib.import_module("lightning.pytorch.plugins.io")
        self._ended = threading.Event()
        self._ended.set()
        ended = self._ended

        class Durable(io.TorchCheckpointIO):  # type: ignore[misc, name-defined]
            """The default writer with an added fsync."""

            def save_checkpoint(
                self, checkpoint: dict[str, Any], path: str, storage_options: Any = None
            ) -> None:
                try:
                    super().save_checkpoint(checkpoint, path, storage_options)
                    descriptor = os.open(path, os.O_RDWR)
                    os.fsync(descriptor)
                    os.close(descriptor)
                    fsync_directory(Path(path).parent)
                finally:
                    ended.set()

        self._plugin = io.AsyncCheckpointIO(Durable())

    def save(self) -> None:
        """Clone the state and start to write the clone."""
        self._number += 1
        self._ended.clear()
        self._plugin.save_checkpoint(
            self._training.state(), str(self._folder / f"{self._number}.ckpt")
        )

    def busy(self) -> bool:
        """Return whether a save is in progress."""
        return not self._ended.is_set()

    def wait(self) -> float:
        """Wait until the file is synchronized."""
        self._ended.wait()
        ended = time.perf_counter()
        (self._folder / f"{self._number - 1}.ckpt").unlink(missing_ok=True)
        return ended

    def close(self) -> None:
        """Stop the thread and raise its error, if any."""
        self._plugin.teardown()


# --- logging --------------------------------------------------------------------------------------


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardLog:
    """torch's `SummaryWriter` with default settings."""

    def __init__(self, folder: Path) -> None:
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log one entry."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write pending entries and close the log."""
        self._writer.close()

    @staticmethod
    def steps(folder: Path, name: str) -> set[int]:
        """Return the steps at which the files in `folder` hold the metric `name`."""
        loader = importlib.import_module(
            "tensorboard.backend.event_processing.event_file_loader"
        ).EventFileLoader
        return {
            event.step
            for path in sorted(folder.iterdir())
            for event in loader(str(path)).Load()
            for value in event.summary.value
            if value.tag == name
        }
