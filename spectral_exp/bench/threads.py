"""Steps of a small model by the way in which the threads of torch wait for each other.

torch's wheels for Linux use GNU's OpenMP (libgomp), whose threads spin for milliseconds at the end
of every operation before they sleep. Beside another busy process a spinning thread takes the
processor from the thread that it waits for. The environment is read when torch is loaded, so every
measurement is a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from spectral_exp.bench import measure
from spectral_exp.bench.measure import Figures, Line, Options, Section, Target
from spectral_exp.config.threads import DEFAULTS

SPINNING = "2 threads, spinning"
ONE = "1 thread"
DEFAULT = "2 threads, as runs set it"

_WAITING: dict[str, dict[str, str]] = {
    SPINNING: {},
    ONE: {},
    DEFAULT: dict(DEFAULTS),
    "2 threads, OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "2 threads, GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "2 threads, GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "2 threads, GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
}
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

QUIET_COST = Target(1.02, strict=True)

_SECONDS, _QUICK_SECONDS = 2.0, 0.3


def run(options: Options) -> Iterator[Section]:
    """Measure on the machine as it is, then beside one process that never sleeps."""
    seconds = _QUICK_SECONDS if options.quick else _SECONDS
    names = [SPINNING, ONE, DEFAULT] if options.quick else list(_WAITING)
    for title, is_busy in (("as the machine is", False), ("beside a busy process", True)):
        measure.log_progress(f"steps of a small model, {title}")
        measurements: dict[str, Callable[[], Figures]] = {
            name: functools.partial(_measure, name, seconds) for name in names
        }
        with _busy_process() if is_busy else contextlib.nullcontext():
            count = options.rounds or (1 if options.quick else 5)
            rounds = measure.interleave(measurements, count, budget_s=options.budget_s(120))
        lines = [Line(name, "a step", "ms", measure.spread(rounds, name, "ms")) for name in names]
        for name in names[1:]:
            target = QUIET_COST if name == DEFAULT and not is_busy else None
            relative = measure.ratio(rounds, name, SPINNING, "ms")
            lines.append(Line(name, f"a step / {SPINNING}", "x", relative, target))
        yield Section(f"steps of a small model, {title}", lines)


@contextlib.contextmanager
def _busy_process() -> Iterator[None]:
    """Keep one processor busy inside the `with` block, and no longer than this process lives."""
    parent = os.getpid()
    code = f"import os\nwhile os.getppid() == {parent}: sum(range(100000))"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield
        finally:
            process.kill()


def _measure(name: str, seconds: float) -> Figures:
    """Return the median time of a step in a new process."""
    variables = measure.environment(**_WAITING[name])
    for variable in set(_VARIABLES) - set(_WAITING[name]):
        variables.pop(variable, None)
    threads = "1" if name == ONE else "2"
    command = [sys.executable, "-m", __name__, threads, str(seconds)]
    output = measure.run_process(command, variables)
    result: dict[str, float] = json.loads(measure.last_line(output))
    return result


def _train(threads: int, seconds: float) -> None:
    """Train a small model for some seconds and print the median time of a step."""
    import torch

    from spectral_exp.models import GPT, DotProductAttention
    from spectral_exp.models.embedding import StandardEmbedding
    from spectral_exp.models.gpt import MLP

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = GPT(
        vocab_size=256,
        n_layer=4,
        n_head=4,
        n_embd=128,
        block_size=128,
        embedding=StandardEmbedding,
        attention=DotProductAttention,
        mlp=MLP,
    )
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(256, (16, 128))
    taken_s: list[float] = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or len(taken_s) < 4:
        start_s = time.perf_counter()
        optimizer.zero_grad()
        logits = model(ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        taken_s.append(time.perf_counter() - start_s)
    print(json.dumps({"ms": 1e3 * statistics.median(taken_s[1:])}))


if __name__ == "__main__":
    _train(int(sys.argv[1]), float(sys.argv[2]))
