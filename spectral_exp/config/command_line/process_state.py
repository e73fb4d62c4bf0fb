"""Keep what a job of Hydra changes in the process around it, such as the kernel of a notebook."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Give back the working directory, arguments, environment, log handlers and Hydra's state.

    Inside, Hydra is not initialized.
    """
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    folder, arguments, environment = Path.cwd(), sys.argv[:], dict(os.environ)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        # Hydra may have replaced these objects.
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.argv[:] = arguments
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        os.chdir(folder)
