"""Random numbers that depend only on the step, and the process-wide settings of a run.

A micro-batch draws from torch's default generators, which are seeded by (seed, step, micro-batch)
when it begins. So logging, plots and evaluation between steps cannot change training, and a resumed
run draws the same numbers as an uninterrupted one. If model and loss draw nothing, nothing is
seeded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spectral_exp.core.allocator import keep_freed_memory

_MASK = 2**64 - 1


def step_seed(seed: int, step: int, micro_batch: int = 0) -> int:
    """Return a 63-bit seed for a micro-batch of a step; each gets an unrelated stream.

    The numbers are mixed by the finalizer of SplitMix64 (Steele, Lea and Flood, 2014). Torch's CPU
    generator uses only the low 32 bits, which must depend on all three.
    """
    mixed = 0
    for part in (seed, step, micro_batch):
        mixed = (mixed ^ (part & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
        mixed ^= mixed >> 31
    return mixed >> 1


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the default generators of the CPU and of `device`.

    `torch.manual_seed` seeds all devices. For each kind of device that is not in use yet, it
    queues a formatted stack: half a millisecond per call, and memory that is never released.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def process_settings(threads: int | None, deterministic: bool) -> Iterator[None]:
    """Set torch's thread count and determinism; restore them and the generators afterwards.

    From the first call on, the process also keeps the memory that it frees.
    """
    keep_freed_memory()
    before_threads = torch.get_num_threads()
    before_deterministic = torch.are_deterministic_algorithms_enabled()
    before_benchmark = torch.backends.cudnn.benchmark
    before_cublas = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    # One job of a sweep must not change the random numbers of the next.
    with torch.random.fork_rng():
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            if deterministic:
                # cuBLAS needs a fixed workspace to be deterministic, and reads it at its start.
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
    """Return the states of torch's generators, by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng_state(states: dict[str, torch.Tensor]) -> None:
    """Restore the states that `rng_state` returned; devices that are missing now are skipped."""
    torch.set_rng_state(states["cpu"])
    for name, state in states.items():
        if name.startswith("cuda:") and int(name[5:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, name)
