"""The output of a sweep: counts of states, the comparison, the command that continues it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from spectral_exp.core.errors import UserError
from spectral_exp.core.redact import redact
from spectral_exp.core.shell import shell_command
from spectral_exp.results import tables
from spectral_exp.results.aggregate import ResultsAggregator
from spectral_exp.results.comparison import compare
from spectral_exp.sweeps.states import STATES

_METRIC = "val_bpb"


def count_states(states: Iterable[str]) -> str:
    """Return the number of jobs of each state that occurs: `3 done, 1 running, 4 waiting`."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])


def command_to_continue(arguments: Sequence[str]) -> str:
    """Return the command that continues a sweep, as one line for a shell, without secrets."""
    return f"python -m spectral_exp.train {shell_command(redact(list(arguments)))}"


def comparison_text(sweep: Path) -> str:
    """Return the table that `spectral-exp compare` prints for the runs of a sweep."""
    chosen = ResultsAggregator([sweep]).select([])
    if all(run.value(_METRIC) is None for run in chosen.runs):
        return f"there is nothing to compare: no run of {sweep} has a {_METRIC}\n"
    try:
        comparison = compare(chosen.groups(), _METRIC)
        comparison = comparison.reorder(comparison.best_first())
    except UserError as error:
        return f"there is no comparison: {error}\n"
    return tables.render_comparisons([comparison], "table", chosen.left_out, chosen.archived_note)
