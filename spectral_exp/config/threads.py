"""How the threads of torch wait for each other; decided before torch is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that decide it; OpenMP reads them once, when it is loaded."""

DEFAULTS: Mapping[str, str] = MappingProxyType({"GOMP_SPINCOUNT": "1000"})
"""What a command sets if the user has set none of `VARIABLES`.

With the default of GNU's OpenMP a thread that waits spins for milliseconds, and beside another busy
process it spins on the processor that the other thread needs. `spectral-exp bench threads` measures
the effect.
"""


def set_waiting_of_threads() -> bool:
    """Let waiting threads sleep soon, unless the user has decided; return whether it was set.

    After torch has been imported this would have no effect, so that nothing is set.
    """
    if "torch" in sys.modules or any(name in os.environ for name in VARIABLES):
        return False
    os.environ.update(DEFAULTS)
    return True
