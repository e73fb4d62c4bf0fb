"""The progress of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from spectral_exp.core.display import StatusLine, colorize, moves_cursor, width_of

log = logging.getLogger(__name__)

_BAR_WIDTH = 20
_REDRAW_S = 0.1
_PLAIN_LINE_S = 10.0
# Name and format of the metrics shown, in this order.
_SHOWN = (
    ("loss", "loss {:.4f}"),
    ("val_loss", "val_loss {:.4f}"),
    ("val_bpb", "val_bpb {:.4f}"),
    ("tokens_per_s", "{:,.0f} tokens/s"),
)


class Progress:
    """Shows the step, the newest metrics and the remaining time.

    Args:
        total: last step of the run; None if it is not known.
        checkpoint_interval: steps between checkpoints, to show the next one; None shows none.
        stream: the stream of the live line, by default stderr. If it is not a terminal that
            understands escape sequences, one line every ten seconds is logged instead.
        share: step -> share of the run that is done, by default that of `total` steps.
        compiles: whether the first step compiles the model; it is announced, and timed.
    """

    def __init__(
        self,
        total: int | None,
        checkpoint_interval: int | None = None,
        stream: TextIO | None = None,
        share: Callable[[int], float] | None = None,
        compiles: bool = False,
    ) -> None:
        self.total = total
        self._share = share or (lambda step: step / max(total or 1, 1))
        self._checkpoint_interval = checkpoint_interval
        self._stream = sys.stderr if stream is None else stream
        self._status = StatusLine(self._stream)
        # Parallel jobs of a sweep share a terminal, on which several lines overwrite each other.
        self._is_live = moves_cursor(self._stream) and multiprocessing.parent_process() is None
        self._values: dict[str, float] = {}
        self._shown_at = self._started_at = time.monotonic()
        self._first_share: float | None = None
        self._compiles = compiles
        if compiles:
            log.info("compiling the model in the first step, which may take a minute or more")

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Record the metrics `values` of `step`; show them if it is time.

        A validation is logged as a line of its own, also above a live line.
        """
        if values:
            self._values.update(values)
        now = time.monotonic()
        if self._first_share is None:
            if self._compiles:
                took = duration(now - self._started_at)
                log.info("the first step, with compilation, took %s", took)
            self._first_share, self._started_at = self._share(step), now
        due = now - self._shown_at >= (_REDRAW_S if self._is_live else _PLAIN_LINE_S)
        if "val_loss" in values or (due and not self._is_live):
            self._shown_at = now
            log.info("%s", "  ".join(self._parts(step, now)))
        if self._is_live and (due or step == self.total or "val_loss" in values):
            self._shown_at = now
            self._draw(step, now)

    def close(self) -> None:
        """Clear the live line."""
        if self._is_live:
            self._status.clear()

    def _draw(self, step: int, now: float) -> None:
        """Draw as many parts of the line, from the left, as the terminal is wide."""
        parts = self._parts(step, now)
        done = round(_BAR_WIDTH * self._share(step))
        n_first = 2 if parts[1:] and parts[1].startswith("ETA") else 1
        parts.insert(n_first, f"[{'#' * done}{'-' * (_BAR_WIDTH - done)}]")
        width = width_of(self._stream) - 1
        line = parts[0][:width]
        for part in parts[1:]:
            if len(line) + 2 + len(part) > width:
                break
            line += f"  {part}"
        shown = (
            line.replace("#" * done, colorize("#" * done, "green", self._stream)) if done else line
        )
        # If the terminal is gone, plain lines go to the log from now on.
        self._is_live = self._status.draw(shown, len(line))

    def _parts(self, step: int, now: float) -> list[str]:
        share = self._share(step)
        parts = [f"step {step}" if self.total is None else f"step {step}/{self.total}"]
        assert self._first_share is not None
        if share > self._first_share:
            whole_s = (now - self._started_at) / (share - self._first_share)
            parts.append(f"ETA {duration(whole_s * (1 - share))}")
        parts += [form.format(self._values[key]) for key, form in _SHOWN if key in self._values]
        if self._checkpoint_interval is not None:
            next_checkpoint = (step // self._checkpoint_interval + 1) * self._checkpoint_interval
            if self.total is None or next_checkpoint <= self.total:
                parts.append(f"checkpoint at {next_checkpoint}")
        return parts


def duration(seconds: float) -> str:
    """Format seconds as 42 s, 3 min 20 s or 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
