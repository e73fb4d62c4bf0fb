"""Record the inside of a model as histograms, one line per interval."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_exp.core.append_file import AppendFile
from spectral_exp.core.errors import require
from spectral_exp.core.steps import is_count, whole_step
from spectral_exp.core.timestamps import timestamp
from spectral_exp.monitoring.component import Observer
from spectral_exp.monitoring.metric_cuts import cut_back
from spectral_exp.monitoring.wrappers import unwrap
from spectral_exp.runs import layout
from spectral_exp.runs.metric_lines import is_entry

if TYPE_CHECKING:
    from torch import nn

    from spectral_exp.monitoring.histograms import Histogram

log = logging.getLogger(__name__)


class SpectraLogger(Observer):
    """Appends histograms of a model to `spectra.jsonl`; `runs/spectra.py` describes and reads them.

    Recorded is what the model has: frequencies, phases and amplitudes of its waves, the entropy of
    its attention for each head of a layer, and the sizes of the weights and gradients of its
    matrices in groups. Vectors are left out.

    The model is left as it was. What cannot be counted costs one warning, and lines that the disk
    refuses wait in memory until it takes them.

    Args:
        log_dir: folder of the file, created with the first line.
        interval: steps between lines, >= 1.
        enabled: False writes nothing.
        layer: the layer whose attention is recorded, from the end if negative.
        sample_ids: token ids of a text for the attention, of which at most 32 are used. Use the
            same ones in the whole run. None leaves the attention out.
        max_steps: the last step, after which a line is written too.
    """

    files = tuple(
        f"{layout.LOGS_FOLDER}/{name}" for name in (layout.SPECTRA_NAME, layout.CUT_SPECTRA_NAME)
    )

    def __init__(
        self,
        log_dir: str | Path,
        interval: int = 1000,
        *,
        enabled: bool = True,
        layer: int = -1,
        sample_ids: Sequence[int] | None = None,
        max_steps: int | None = None,
    ) -> None:
        require(is_count(interval), "interval", interval, "a whole number >= 1")
        is_whole = isinstance(layer, int) and not isinstance(layer, bool)
        require(is_whole, "layer", layer, "a whole number", "-1 is the last layer")
        self.interval = interval
        self.enabled = enabled
        self.layer = layer
        self.sample_ids = [] if sample_ids is None else list(map(int, sample_ids))
        self.max_steps = max_steps
        self.spectra_file = Path(log_dir) / layout.SPECTRA_NAME
        self.cut_file = Path(log_dir) / layout.CUT_SPECTRA_NAME
        self._lines = AppendFile(self.spectra_file, is_entry)
        self._failed: set[str] = set()

    def should_observe(self, step: int) -> bool:
        """Return whether a line is due after `step`, counted from 1."""
        if not self.enabled:
            return False
        return step > 0 and (step % self.interval == 0 or step == self.max_steps)

    def observe(self, step: int, model: nn.Module) -> Mapping[str, float]:
        """Append the histograms of `model` after `step`; return no metrics.

        Gradients are recorded if the parameters hold them: call this before they are cleared. The
        model may be wrapped by `DataParallel` or `torch.compile`.
        """
        from spectral_exp.plots.run.internals import one_thread

        if self.enabled:
            step = whole_step(step)
            # Each piece is small: with more threads, each would wait for a busy core.
            with one_thread():
                found = self._count(step, unwrap(model))
            if found:
                self._lines.write(format_line(step, found).encode())
        return {}

    def cut_back(self, step: int) -> int:
        """Move lines after `step` from `spectra.jsonl` to `spectra.cut.jsonl` beside it.

        Used on resume, as `MetricsLogger.cut_back`. Unreadable lines are moved too. A disabled
        logger changes no file.

        Returns:
            The number of moved lines.

        Raises:
            UserError: the files cannot be read or written.
        """
        if not self.enabled:
            return 0
        return cut_back(self._lines, self.cut_file, whole_step(step), lambda entry: None)

    def sync(self) -> None:
        """Make everything written so far survive a power cut."""
        self._lines.sync()

    def close(self) -> None:
        """Call `sync` and close the file. A later line opens it again."""
        self.sync()
        self._lines.close()

    def _count(self, step: int, model: nn.Module) -> dict[str, Histogram]:
        from spectral_exp.monitoring.histograms import model_histograms

        found: dict[str, Histogram] = {}
        with self._surviving("part of the model", step):
            for name, count in model_histograms(model, self.layer, self.sample_ids):
                with self._surviving(name, step):
                    found |= count()
        return found

    @contextmanager
    def _surviving(self, name: str, step: int) -> Iterator[None]:
        """Suppress failures inside the `with` block; log the first one of each name."""
        try:
            yield
        except Exception:
            if name not in self._failed:
                self._failed.add(name)
                text = "%s: %s is left out at step %d, and tried again at later steps"
                log.warning(text, self.spectra_file, name, step, exc_info=True)


def format_line(step: int, histograms: Mapping[str, Histogram]) -> str:
    """Return the line of a step."""
    from spectral_exp.runs.spectra import FAMILIES, pack_counts

    families = dict.fromkeys(name.partition("/")[0] for name in histograms)
    entry: dict[str, Any] = {
        "step": step,
        "timestamp": timestamp(),
        "bins": {family: list(FAMILIES[family].bins) for family in families},
        "counts": {name: pack_counts(found.counts) for name, found in histograms.items()},
        "nan": {name: found.n_nan for name, found in histograms.items() if found.n_nan},
    }
    return json.dumps(entry, separators=(",", ":")) + "\n"
