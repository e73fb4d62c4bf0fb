"""The methods of `CheckpointManager` that load checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spectral_exp.core.steps import whole_step
from spectral_exp.monitoring.checkpoint.loader import CheckpointLoader
from spectral_exp.monitoring.checkpoint.state import HasState, Models, Optimizers

if TYPE_CHECKING:
    import torch
    from torch import nn


class CheckpointLoading:
    """Loads the checkpoints of a run, and records from which step training continues.

    Attributes:
        durable_step: the newest step known to be durable: saved or loaded by this manager.
    """

    durable_step: int
    _loader: CheckpointLoader

    def load_latest_checkpoint(
        self,
        map_location: str | torch.device = "cpu",
        *,
        history_as_array: bool = False,
        mapped: bool = False,
    ) -> dict[str, Any] | None:
        """Return the most recent intact checkpoint, or None if there is no checkpoint.

        The first candidate is that of `checkpoint_latest.pt`. If it is provably damaged, the one
        before is loaded with a warning, and the damaged one is renamed to `.corrupt`, unless this
        manager only reads or another process owns the run. Any other failure changes nothing.

        Args:
            map_location: device for its tensors; with `mapped` they stay in the file.
            history_as_array: return `loss_history` as an `array("d")`, which takes a tenth of the
                time of a list.

        Raises:
            UserError: a checkpoint cannot be read for another reason than damage, such as memory or
                permissions, or all of them are damaged. The message names the remedy.
        """
        return self._record_loaded(self._loader.load_latest(map_location, history_as_array, mapped))

    def load_best_checkpoint(
        self, map_location: str | torch.device = "cpu"
    ) -> dict[str, Any] | None:
        """Return the checkpoint of the best step, or None if it is missing or broken."""
        return self._loader.load_best(map_location)

    def load_checkpoint(
        self, step: int, map_location: str | torch.device = "cpu", *, mapped: bool = False
    ) -> dict[str, Any] | None:
        """Return the checkpoint of `step`, or None if there is none.

        A provably damaged one is also None, with a warning, and is renamed to `.corrupt` under the
        conditions of `load_latest_checkpoint`.

        Args:
            step: step after which it was saved.
            map_location, mapped: as for `load_latest_checkpoint`.

        Returns:
            The entries named in `CHECKPOINT_KEYS` and those given as `extra`; `loss_history` as a
            list of floats.

        Raises:
            UserError: the file cannot be read for another reason than damage; nothing is changed.
        """
        return self._record_loaded(self._loader.load_step(whole_step(step), map_location, mapped))

    @staticmethod
    def load_weights(model: nn.Module, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load a checkpoint's `model_state_dict` into a model with other wrappers.

        Checkpoints name weights without the wrappers of data parallelism and `torch.compile`. A
        model with compiled parts, as after `net.body = torch.compile(net.body)`, has other names.

        Args:
            model: of the same architecture, wrapped or not, as a whole or in parts.
            state: the entry of the checkpoint.
            strict: whether missing and unexpected names are errors.
        """
        from spectral_exp.monitoring.checkpoint.model_state import load_plain_state

        load_plain_state(model, state, strict=strict)

    @staticmethod
    def restore(
        checkpoint: Mapping[str, Any],
        model: Models,
        optimizer: Optimizers | None = None,
        *,
        states: Mapping[str, HasState] | None = None,
    ) -> int:
        """Load a checkpoint into the objects that were given to `save_checkpoint`.

        Args:
            checkpoint: as a load method returns it.
            model, optimizer, states: as for `save_checkpoint`; None leaves out that part.

        Returns:
            The step after which it was saved.

        Raises:
            UserError: the checkpoint lacks a part. Nothing has been loaded then.
        """
        from spectral_exp.monitoring.checkpoint.restore import restore

        return restore(checkpoint, model, optimizer, states or {})

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """Return all checkpoints by ascending step.

        Each has `step`, `path`, `size_mb`, `timestamp`, `is_latest` and `is_best`.
        """
        return self._loader.describe()

    def _record_loaded(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        if state is not None:
            self.durable_step = state["step"]  # training continues there, perhaps an earlier step
        return state
