"""Records the configuration and the results of a run: `config.json` and `results.json`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spectral_exp.core import files, json_files
from spectral_exp.core.errors import explain_os_error, require
from spectral_exp.core.git import code_directory, git_hash
from spectral_exp.core.redact import redact
from spectral_exp.core.timestamps import timestamp
from spectral_exp.monitoring.component import Component
from spectral_exp.monitoring.tracking import environment
from spectral_exp.monitoring.tracking.model_summary import summarize_model, summarize_models
from spectral_exp.monitoring.tracking.own_code import own_code
from spectral_exp.runs import layout
from spectral_exp.runs.open_experiment import close_experiment
from spectral_exp.runs.record import check_units

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


class ConfigTracker(Component):
    """Records a run's configuration and circumstances before training, and its results after.

    Args:
        experiment_dir: root of the run; its name is the experiment id.
        enabled: when false nothing is written; loading works.
    """

    files = (layout.CONFIG_NAME, layout.RESULTS_NAME, layout.GIT_DIFF_NAME, layout.OWN_CODE_NAME)

    def __init__(self, experiment_dir: str | Path, *, enabled: bool = True) -> None:
        self.paths = layout.RunPaths(experiment_dir)
        self.enabled = enabled
        self.problem = ""
        """Why the newest results could not be written; empty if they were."""

    def save_config(
        self,
        config: Mapping[str, Any],
        model: nn.Module | Mapping[str, nn.Module] | None = None,
        dataset_info: Mapping[str, Any] | None = None,
        *,
        overrides: Sequence[str] | None = None,
        command: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        better: Mapping[str, Literal["lower", "higher"]] | None = None,
        own_packages: Mapping[str, Path] | None = None,
        **extra: Any,
    ) -> Path:
        """Write `config.json`, and `git_diff.patch` if files differ from the commit; no secrets.

        Args:
            config: all settings, resolved.
            model: summarized under `model`; several by name.
            dataset_info: kept under `dataset`.
            overrides: settings changed on the command line.
            command: command line of the run; None stands for that of this process.
            units: unit of metrics by name, for plots, tables and papers: `{"loss": "MSE"}`.
            better: which values of a metric are better, `lower` or `higher`, by name. Metrics named
                `loss`, `perplexity` or `accuracy`, also with `val_` before it, need none.
            own_packages: name -> folder of packages whose state in git is recorded, with a copy of
                what git does not hold in `code.zip`; `layout.OWN_CONFIG_NAME` -> folder
                of configuration files.
            extra: further sections, with their names.

        Returns:
            Path of `config.json`.

        Raises:
            SettingError: `extra` uses the name of a standard section, a unit is not a short text,
                or a value of `better` is neither `lower` nor `higher`.
            UserError: the file cannot be written.
        """
        if not self.enabled:
            return self.paths.config_file
        given = {"units": check_units(units or {}), "better": _check_directions(better or {})}
        sections = {name: value for name, value in given.items() if value} | extra
        content = self._content(config, model, dataset_info, overrides, command, sections)
        # Last: the patch is searched for the secrets that stand in the settings.
        git, diff = environment.git_facts(code_directory())
        content["git"] = redact({**git, "diff_file": layout.GIT_DIFF_NAME if diff else None})
        own, archive = own_code(own_packages or {})
        if own:
            content["own_code"] = redact(own)
        # A flipped bit in a setting would read like another experiment.
        content["crc32"] = json_files.content_crc32(content)
        with explain_os_error(f"write {self.paths.config_file}"):
            self.paths.root.mkdir(parents=True, exist_ok=True)
            if archive:
                files.write_atomic(self.paths.own_code_file, archive)
            if diff:
                files.write_atomic(self.paths.git_diff_file, diff)
            json_files.write_json_atomic(self.paths.config_file, content)
        return self.paths.config_file

    def _content(
        self,
        config: Mapping[str, Any],
        model: nn.Module | Mapping[str, nn.Module] | None,
        dataset_info: Mapping[str, Any] | None,
        overrides: Sequence[str] | None,
        command: Sequence[str] | None,
        sections: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the content of `config.json` without secrets and the state of the code."""
        content: dict[str, Any] = {
            "experiment_id": self.paths.root.resolve().name,
            "timestamp": timestamp(),
            "git_hash": git_hash(),
            "config": config,
            "overrides": list(overrides or []),
            "command": list(command) if command is not None else environment.command_line(),
            "dataset": dataset_info,
            "model": _summary(model),
            "hardware": environment.hardware_facts(),
            "host": environment.host_facts(),
            "git": None,
            "package": environment.package_facts(),
            "packages": environment.package_versions(),
        }
        _add_sections(content, sections)
        redacted: dict[str, Any] = redact(content)
        return redacted

    def load_config(self) -> dict[str, Any]:
        """The content of `config.json`. Raises UserError if it is missing or unreadable."""
        return json_files.read_json(self.paths.config_file)

    def save_results(
        self,
        final_metrics: Mapping[str, Any],
        best_checkpoint: str | Path | None = None,
        generation_samples: Sequence[Any] | None = None,
        **extra: Any,
    ) -> Path:
        """Write `results.json`; if the disk refuses it, log an error with the final metrics.

        A run of `open_experiment` is released: it no longer belongs to this process.

        Args:
            final_metrics: metrics at the end, by name.
            best_checkpoint: path of the best checkpoint.
            generation_samples: texts the model wrote.
            extra: further sections with their names, e.g. `status` (`completed` by default),
                `totals`, `best_metrics`, `monitoring_cost`.

        Returns:
            Path of `results.json`.

        Raises:
            SettingError: `extra` uses the name of a standard section.
        """
        if not self.enabled:
            return self.paths.results_file
        content: dict[str, Any] = {
            "experiment_id": self.paths.root.resolve().name,
            "timestamp": timestamp(),
            "git_hash": git_hash(),
            "final_metrics": final_metrics,
            "best_checkpoint": best_checkpoint or None,
            "generation_samples": [] if generation_samples is None else list(generation_samples),
        }
        _add_sections(content, {"status": "completed"} | extra)
        try:
            self.paths.root.mkdir(parents=True, exist_ok=True)
            json_files.write_json_atomic(self.paths.results_file, redact(content))
            self.problem = ""
        except OSError as error:
            self.problem = error.strerror or str(error)
            metrics = redact(final_metrics)
            log.error(
                "cannot write %s: %s; final metrics: %s",
                self.paths.results_file,
                error.strerror,
                metrics,
            )
        close_experiment(self.paths.root)
        return self.paths.results_file


def _summary(model: nn.Module | Mapping[str, nn.Module] | None) -> dict[str, Any] | None:
    if model is None:
        return None
    return summarize_models(model) if isinstance(model, Mapping) else summarize_model(model)


def _check_directions(better: Mapping[str, str]) -> dict[str, str]:
    wrong = {name: value for name, value in better.items() if value not in ("lower", "higher")}
    require(not wrong, "better", wrong, "lower or higher for each metric")
    return dict(better)


def _add_sections(content: dict[str, Any], extra: Mapping[str, Any]) -> None:
    clash = sorted(set(content) & set(extra))
    require(not clash, "extra", clash, "without the names of standard sections")
    content.update(extra)
