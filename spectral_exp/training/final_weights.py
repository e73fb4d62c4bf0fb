"""The final weights of a run: those of the last step or of the best validation, and their test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from spectral_exp.core.clock import Clock
from spectral_exp.core.errors import UserError
from spectral_exp.distributed.ranks import Ranks
from spectral_exp.monitoring import CheckpointManager
from spectral_exp.runs.status import FINISHED
from spectral_exp.training.budget import Budget
from spectral_exp.training.evaluation import evaluate
from spectral_exp.training.results import RunResults
from spectral_exp.training.settings import TrainingSettings
from spectral_exp.training.state import TrainState
from spectral_exp.training.step import Stepper
from spectral_exp.training.validation import Validator

log = logging.getLogger(__name__)


class _StoppedError(Exception):
    """A signal has ended the test."""


@dataclass
class FinalWeights:
    """Restores the best weights after an early stop, and tests the final ones.

    Attributes:
        model: the whole model, of which process 0 has a present copy if it is divided.
        test_windows: all windows of the test text, as those of `Validator`; None without one.
        ranks: the processes that have trained together.
    """

    settings: TrainingSettings
    budget: Budget
    state: TrainState
    device: torch.device
    model: nn.Module
    checkpoint: CheckpointManager
    stepper: Stepper
    validator: Validator
    results: RunResults
    test_windows: Any
    clock: Clock
    ranks: Ranks

    def test_together(self) -> None:
        """Let all processes share the test, unless process 0 will restore other weights."""
        if self.ranks.world.size > 1 and self._are_final():
            restores = self.state.stopped_early and self.settings.restore_best
            # The settings of the other processes do not say.
            if not self.ranks.from_main(int(restores)):
                self._test(self.state.step)

    def settle(self) -> None:
        """Restore the best weights after an early stop, and test what is not tested yet.

        Only process 0 calls this, after the others have ended.
        """
        if not self._are_final():
            return
        restores = self.state.stopped_early and self.settings.restore_best
        tests = self.test_windows is not None and self.results.test is None
        if self.ranks.world.size > 1 and (restores or tests):
            self._continue_alone()
        if restores:
            self._restore_best()
        self._test(self.results.restored_step or self.state.step)

    def _are_final(self) -> bool:
        """Return whether the run has finished, and was not ended by a search or a signal."""
        return self.state.end(self.budget) in FINISHED

    def _continue_alone(self) -> None:
        if self.ranks.is_sharded:
            self.validator.model = self.stepper.compute = self.model.to(self.device)
        alone = Ranks(self.device)
        alone.stop = self.ranks.stop
        self.validator.ranks = alone

    def _restore_best(self) -> None:
        try:
            best = self.checkpoint.load_best_checkpoint()
        except UserError as error:
            log.error("%s", error)
            best = None
        if best is None:
            log.warning("no best checkpoint is left; the final weights are those of the last step")
            return
        self.model.load_state_dict(best["model_state_dict"])
        step = self.results.restored_step = int(best["step"])
        if step == self.state.best_step:
            log.info("restored the weights of step %d, the best validation", step)
        else:
            log.warning(
                "restored the weights of step %d, the best that are kept; the best validation was "
                "that of step %s",
                step, self.state.best_step,
            )  # fmt: skip
        self.validator.validate(step)

    def _test(self, step: int) -> None:
        """Test the weights of `step`, unless that is done or a signal has arrived.

        A test that a signal ends has no result. The same command then repeats it.
        """
        if self.test_windows is None or self.results.test is not None:
            return
        validator = self.validator
        log.info("testing the weights of step %d on %d windows", step, self.test_windows.n_windows)
        try:
            with self.clock.measure("test"):
                found = evaluate(
                    validator.model,
                    self._until_stopped(),
                    validator.device,
                    validator.forward,
                    validator.ranks,
                )
        except _StoppedError:
            log.warning("a signal has stopped the test; the same command repeats it")
            return
        self.results.test = found
        error = found.window_error_bpb
        spread = "" if error is None else f" (standard error {error:.4f})"
        log.info("test_loss %.4f  test_bpb %.4f%s", found.loss, found.bpb, spread)

    def _until_stopped(self) -> Iterator[Any]:
        """Yield the windows; several processes need each other, and finish what they began."""
        if self.ranks.stop_signal is not None:
            raise _StoppedError
        ranks = self.validator.ranks
        for window in self.test_windows:
            if ranks.world.size == 1 and ranks.stop_signal is not None:
                raise _StoppedError
            yield window
