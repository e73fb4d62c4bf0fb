from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import python

PAGE_FAULTS = """
import resource, sys
from spectral_exp.core.allocator import keep_freed_memory
import torch
if "keep" in sys.argv:
    assert keep_freed_memory()
for _ in range(20):  # until the heap has found its form
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_memory_is_touched_for_the_first_time_only_once(tmp_path: Path) -> None:
    faults = {
        how: int(python("-c", PAGE_FAULTS, how, cwd=tmp_path).stdout)
        for how in ("keep", "give back")
    }
    assert faults["keep"] < faults["give back"] / 10
