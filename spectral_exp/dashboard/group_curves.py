"""The curves of the runs of a group."""

from __future__ import annotations

from spectral_exp.dashboard.bands import GroupCurves
from spectral_exp.dashboard.curves import READ_S, load_curves
from spectral_exp.dashboard.groups import group_id
from spectral_exp.dashboard.identity import color_of, run_key
from spectral_exp.dashboard.library import Library
from spectral_exp.dashboard.query import View
from spectral_exp.results.group import Group


def load_group_curves(
    library: Library,
    group: Group,
    view: View,
    metric: str,
    axis: str,
    budget_s: float | None = READ_S,
) -> GroupCurves:
    """Return a metric of the runs of a group.

    Raises:
        UserError: metrics cannot be read.
    """
    hashed = group_id(group, view)
    keys = [run_key(run.path) for run in group.runs]
    curves = load_curves(library, keys, metric, axis, budget_s)
    return GroupCurves(hashed, group.label, color_of(hashed), curves, group.strata)
