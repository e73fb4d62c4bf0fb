"""Cost of plots and spectra for training at the size of `make run`.

Plots are drawn in the same or a child process.

Letters: B batch, T tokens.
"""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Iterator

import torch
from torch.nn import functional

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Spread, Target
from spectral_exp.config.command_line import CommandLine
from spectral_exp.config.parts import build_model
from spectral_exp.core.wording import format_count
from spectral_exp.monitoring import SpectraLogger, VisualizationManager
from spectral_exp.plots.run.internals import TextSample, one_thread

IN_PROCESS = "ours, in the training process"
IN_CHILD = "ours, in a child process"
FORWARD = "forward pass alone"

BLOCKED_MS = Target(5, strict=True)

_VOCABULARY = 256
_STEPS = 1000
_LOG_INTERVAL = 10
_METRICS = (
    "val_loss",
    "learning_rate",
    "perplexity",
    "grad_norm",
    "tokens_per_s",
    "wave_ratio",
    "resonance",
)
_LONG_HISTORY = 1_000_000
_SENTENCE = b"for wave in waves: packet.add(wave)"


class _Run:
    """The training of `make run` on random tokens, with its history, plots and spectra."""

    def __init__(
        self, options: Options, name: str, *, background: bool, experiment: str = "wave_rgd"
    ) -> None:
        torch.manual_seed(0)
        (job,) = CommandLine.parse([f"+experiment={experiment}"]).compose()
        settings = job.config["monitoring"]["visualization"]
        self.model = build_model(job.config, _VOCABULARY)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        shape = (job.config["training"]["batch_size"], job.config["model"]["block_size"])
        self.ids = torch.randint(_VOCABULARY, shape)  # (B, T)
        self.losses = array("d", torch.rand(_STEPS, dtype=torch.float64).tolist())
        steps = array("q", range(_LOG_INTERVAL, _STEPS + 1, _LOG_INTERVAL))
        self.history = {name: (steps, self.losses[: len(steps)]) for name in _METRICS}
        self.sample = TextSample(list(_SENTENCE), [chr(i) for i in _SENTENCE])
        folder = options.new_folder(name)
        self.plots = VisualizationManager(folder, dpi=settings["dpi"], background=background)
        self.spectra = SpectraLogger(folder, sample_ids=self.sample.ids)

    def step(self) -> float:
        """Do one training step and return its duration in seconds."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        logits = self.model(self.ids)
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), self.ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return time.perf_counter() - start

    def draw_set(self) -> Figures:
        """Draw a set of plots after a step and return its blocked time and time until drawn."""
        self.step()
        start = time.perf_counter()
        self.begin()
        blocked_s = time.perf_counter() - start
        self.plots.wait()
        return {"blocked_ms": 1e3 * blocked_s, "drawn_s": time.perf_counter() - start}

    def compute_attention(self) -> Figures:
        """Compute the last layer's attention weights, the minimal work of an attention plot."""
        self.step()
        ids = torch.tensor([self.sample.ids])
        with one_thread(), torch.no_grad():
            last = self.model.n_layer - 1
            return measure.milliseconds(
                lambda: self.model.attention_weights(ids, last), "blocked_ms"
            )

    def log_spectra(self) -> Figures:
        """Write a line of spectra after a step."""
        step_s = self.step()
        taken_s = measure.time_call(lambda: self.spectra.observe(_STEPS, self.model))
        line = self.spectra.spectra_file.read_bytes().splitlines()[-1]
        share = 100 * taken_s / (_STEPS * step_s)
        return {"blocked_ms": 1e3 * taken_s, "bytes": len(line) + 1, "percent": share}

    def begin(self) -> None:
        """Start a set of plots."""
        self.plots.generate_training_plots(_STEPS, self.losses, self.history)
        self.plots.generate_model_plots(_STEPS, self.model, sample=self.sample, token_labels=chr)

    def draw_long_history(self) -> Figures:
        """Draw the training plots of a very long run."""
        losses = array("d", bytes(8 * _LONG_HISTORY))
        self.step()
        figures = measure.milliseconds(
            lambda: self.plots.generate_training_plots(_LONG_HISTORY, losses, self.history),
            "blocked_ms",
        )
        self.plots.wait()
        return figures

    def train_while_drawing(self) -> Figures:
        """Measure steps before and during the drawing of a set."""
        undisturbed_s = statistics.median(self.step() for _ in range(12))
        self.begin()
        steps = [self.step()]
        while self.plots.busy:
            steps.append(self.step())
        return {
            "ratio": statistics.median(steps) / undisturbed_s,
            "lost_s": sum(steps) - len(steps) * undisturbed_s,
            "cpu_s": sum(report.cpu_s for report in self.plots.reports[-2:]),
        }


def run(options: Options) -> Iterator[Section]:
    """Measure the blocked time of a set of plots, then the steps during it."""
    runs = {
        IN_PROCESS: _Run(options, "here", background=False),
        IN_CHILD: _Run(options, "child", background=True),
    }
    try:
        yield _spectra(options, runs[IN_PROCESS])
        yield _sets(options, runs)
        yield _steps(options, runs[IN_CHILD])
    finally:
        for each in runs.values():
            each.plots.close()


def _spectra(options: Options, wave: _Run) -> Section:
    measure.log_progress("writing spectra")
    classic = _Run(options, "classic", background=False, experiment="classic")
    measurements = {"wave_rgd": wave.log_spectra, "classic": classic.log_spectra}
    n_rounds = options.rounds or (3 if options.quick else 25)
    rounds = measure.interleave(measurements, n_rounds, budget_s=options.budget_s(20))
    lines = [
        Line(name, title, unit, measure.spread(rounds, name, figure))
        for title, unit, figure in (
            ("blocked", "ms", "blocked_ms"),
            (f"share of {_STEPS:,} steps", "%", "percent"),
            ("written", "bytes", "bytes"),
        )
        for name in measurements
    ]
    return Section("a line of spectra", lines)


def _sets(options: Options, runs: dict[str, _Run]) -> Section:
    measure.log_progress("drawing sets of plots")
    for each in runs.values():
        for _ in range(5):
            each.step()
    measurements = {name: each.draw_set for name, each in runs.items()}
    measurements[FORWARD] = runs[IN_CHILD].compute_attention
    (first,) = measure.interleave(measurements, 1, budget_s=0)
    n_rounds = options.rounds or (2 if options.quick else 9)
    rounds = measure.interleave(measurements, n_rounds, budget_s=options.budget_s(70))
    long = measure.interleave(
        {IN_CHILD: runs[IN_CHILD].draw_long_history}, n_rounds, budget_s=options.budget_s(20)
    )
    lines = [Line(FORWARD, "limit: blocked", "ms", measure.spread(rounds, FORWARD, "blocked_ms"))]
    for name in runs:
        target = BLOCKED_MS if name == IN_CHILD else None
        lines.append(Line(name, "blocked, first set", "ms", Spread.of([first[name]["blocked_ms"]])))
        lines.append(
            Line(name, "blocked", "ms", measure.spread(rounds, name, "blocked_ms"), target)
        )
    for name in runs:
        lines.append(Line(name, "until drawn", "s", measure.spread(rounds, name, "drawn_s")))
    name = f"blocked, training plots of {_LONG_HISTORY:,} losses"
    lines.append(
        Line(IN_CHILD, name, "ms", measure.spread(long, IN_CHILD, "blocked_ms"), BLOCKED_MS)
    )
    return Section("a set of 1 training and 5 model plots", lines)


def _steps(options: Options, child: _Run) -> Section:
    lines = []
    before = torch.get_num_threads()
    for threads in sorted({1, before}, reverse=True):
        measure.log_progress(f"training with {threads} threads while plots are drawn")
        torch.set_num_threads(threads)
        try:
            rounds = measure.interleave(
                {IN_CHILD: child.train_while_drawing},
                options.rounds or 4,
                budget_s=options.budget_s(45),
            )
        finally:
            torch.set_num_threads(before)
        noun = format_count(threads, "thread")
        for name, unit, figure in (
            ("a step meanwhile / before", "x", "ratio"),
            ("time lost to a set", "s", "lost_s"),
            ("the child's processor time", "s", "cpu_s"),
        ):
            value = measure.spread(rounds, IN_CHILD, figure)
            lines.append(Line(IN_CHILD, f"{name}, {noun}", unit, value))
    return Section("training while a set is drawn", lines)
