"""Write the files of the `.hydra` folder of a running job as Hydra does, but redacted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from spectral_exp.core.files import atomic_writer
from spectral_exp.core.redact import redact
from spectral_exp.runs import layout


def write_hydra_folder(config: DictConfig, run_dir: Path) -> None:
    """Write the configuration, the settings of Hydra and the overrides of the running job.

    Args:
        config: the configuration of the job.
        run_dir: its run directory.
    """
    folder = layout.RunPaths(run_dir).hydra
    folder.mkdir(exist_ok=True)
    hydra_only = OmegaConf.masked_copy(cast(DictConfig, HydraConfig.instance().cfg), "hydra")
    sections = {
        layout.HYDRA_CONFIG_NAME: config,
        layout.HYDRA_OWN_NAME: hydra_only,
        layout.HYDRA_OVERRIDES_NAME: HydraConfig.get().overrides.task,
    }
    for name, section in sections.items():
        _write_yaml(
            folder / name, redact(OmegaConf.to_container(section, resolve=False, enum_to_str=True))
        )


def _write_yaml(path: Path, content: Any) -> None:
    with atomic_writer(path) as file:
        file.write(
            yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode(
                errors="backslashreplace"
            )
        )
