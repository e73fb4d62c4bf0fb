"""Runs in Python: train them, load their models and metrics, compare them.

Example:
    ```python
    from spectral_exp.api import compare, load_model, load_runs, train

    run = train(["+experiment=wave_rgd", "training.max_steps=200"])
    print(run.status, run.value("val_bpb"))
    trained = load_model(run.path)
    print(compare("outputs", "val_bpb").best_first())
    metrics = load_runs("outputs").metrics_pandas()
    ```

Mistakes raise `spectral_exp.core.errors.UserError`, whose text is what a command would print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectral_exp.config.threads import set_waiting_of_threads
from spectral_exp.core.errors import require
from spectral_exp.results.frames import LoadedRuns, load_runs
from spectral_exp.runs.layout import RunPaths
from spectral_exp.runs.run import Run

if TYPE_CHECKING:
    from spectral_exp.config.trained import Trained
    from spectral_exp.results.compared import Comparison

__all__ = ["LoadedRuns", "Run", "compare", "load_model", "load_runs", "train"]


def train(overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> Run:
    """Train one run, or continue one with `resume=RUN`, and return it.

    A first Ctrl-C, the stop button of a notebook, saves the run and returns it with the status
    `interrupted`. Working directory, `sys.argv`, environment variables, signal handlers, logging
    and Hydra's state are afterwards as they were; but the first call that loads torch sets
    `GOMP_SPINCOUNT`, as the command does.

    Args:
        overrides: as on the command line: `["+experiment=wave", "seed=2"]`.
        config_dir: a folder with configuration files of your own.

    Raises:
        UserError: the settings have a mistake, or request a sweep; no run has been created.
        JobError: the run has failed; the message names its log.
        KeyboardInterrupt: it was interrupted before the run existed.
    """
    # Imported here because the command imports Hydra.
    from spectral_exp.config.command_line.process_state import preserve_process_state
    from spectral_exp.core.errors import Interrupted
    from spectral_exp.runs.load import load_run
    from spectral_exp.train import prepare_run

    require(not isinstance(overrides, str), "overrides", overrides, 'a list, such as ["seed=2"]')
    set_waiting_of_threads()
    flags = [] if config_dir is None else ["--config-dir", str(Path(config_dir).absolute())]
    with preserve_process_state():
        root, run_it = prepare_run([*flags, *overrides])
        root = root.absolute()
        try:
            run_it()
        except Interrupted:
            if not RunPaths(root).config_file.is_file():
                raise KeyboardInterrupt from None
    return load_run(root)


def load_model(
    run: str | Path,
    checkpoint: str = "best",
    device: str = "auto",
    *,
    packages: Sequence[str] = (),
) -> Trained:
    """Return the trained model of a run, with its tokenizer, settings and step.

    Args:
        run: the run directory.
        checkpoint: "best" (the latest if the best is not kept), "latest" or a step.
        device: as in the setting `device`.
        packages: packages of yours that may be imported to build the model, if the run was made by
            somebody else. Those that you have trained with on this machine are known.

    Raises:
        UserError: the run, the checkpoint or the device does not exist.
    """
    from spectral_exp.config.trained import load_trained

    return load_trained(Path(run), checkpoint, device, packages=packages)


def compare(
    folders: str | Path | Iterable[str | Path],
    metric: str | None = None,
    *,
    at: str = "final",
    where: Sequence[str] = (),
    group_by: Sequence[str] | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    archived: bool = False,
) -> Comparison:
    """Compare the runs below some folders, as the command `compare` does.

    Args:
        folders: a folder or several: run directories, sweeps, or folders that hold some.
        metric: a metric's name; None takes the first that some run has of `val_bpb`, `val_loss`,
            another metric of validation, and `loss`.
        at: which value of each run: `final`, `best` or a budget such as `step:N`.
        where: conditions that all hold, such as `optimizer=rgd`.
        group_by: settings in which the runs of a group agree; None for all but the seed.
        baseline: label of the group with which the others are compared.
        margin: the largest difference that counts as none; None tests no equivalence.
        archived: whether to include archived runs.

    Raises:
        UserError: a folder does not exist, no run meets the conditions, or none has the metric.
    """
    from spectral_exp.results.aggregate import ResultsAggregator
    from spectral_exp.results.comparison import compare as compare_groups
    from spectral_exp.runs.run import usual_metric

    places = [folders] if isinstance(folders, str | Path) else list(folders)
    chosen = ResultsAggregator(places).select(where, archived=archived)
    groups = chosen.groups(group_by)
    name = metric or usual_metric(chosen.runs)
    return compare_groups(groups, name, at=at, baseline=baseline, margin=margin)
