"""Random numbers that depend on the step alone, and the process-wide switches that one run may set.

Every draw inside a training step comes from torch's default generator, seeded from (seed, step, rank) when the step
begins. What is logged, plotted or evaluated in between can therefore not change training, and a resumed run draws what
the uninterrupted one would have drawn. Where model and loss draw nothing, nothing is seeded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spectral_exp.core.allocator import keep_freed_memory

_MASK = 2**64 - 1


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 63-bit seed for one step of one process; different steps and ranks get unrelated streams.

    The three numbers are mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) because torch's CPU
    generator uses the low 32 bits only, which must depend on all of them.
    """
    mixed = 0
    for part in (seed, step, rank):
        mixed = (mixed ^ (part & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
        mixed ^= mixed >> 31
    return mixed >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the default generators of the CPU and of `device`, as `torch.manual_seed` seeds those of all devices.

    That one also queues a formatted stack for every kind of device that has not been used yet: half a millisecond a
    call, and memory that is never given back.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def process_settings(threads: int | None, deterministic: bool) -> Iterator[None]:
    """Set torch's thread count and determinism for one run; put them and the generators back afterwards.

    The process also begins to keep the memory that it frees, and goes on to do so.
    """
    keep_freed_memory()
    before_threads = torch.get_num_threads()
    before_deterministic = torch.are_deterministic_algorithms_enabled()
    before_benchmark = torch.backends.cudnn.benchmark
    before_cublas = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    # fork_rng keeps what one job of a sweep draws from reaching the next.
    with torch.random.fork_rng():
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            if deterministic:
                # cuBLAS is deterministic only with a fixed workspace, which it reads when it starts.
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.use_deterministic_algorithms(True)
                torch.backends.cudnn.benchmark = False
            yield
        finally:
            torch.set_num_threads(before_threads)
            if deterministic:  # the call imports torch's compiler
                torch.use_deterministic_algorithms(before_deterministic)
            torch.backends.cudnn.benchmark = before_benchmark
            if before_cublas is None:
                os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def rng_state() -> dict[str, torch.Tensor]:
    """The states of torch's generators, CPU and accelerators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng_state(states: dict[str, torch.Tensor]) -> None:
    """Put back what `rng_state` returned; devices that are no longer there are left out."""
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name.startswith("cuda:") and int(name[5:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, name)
