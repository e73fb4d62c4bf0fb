"""Write `rliable_reference.json`: the statistics of rliable for some scores, with which
`test_statistics.py` compares ours.

rliable is no dependency of the tests themselves: it needs arch below 8, which breaks beside pandas
3 and has no wheels for Python 3.14. In an environment of its own, with Python 3.10 to 3.13:

    pip install rliable==1.2.0 'pandas<3'
    python tests/results/rliable_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".json")
RESAMPLES = 50_000


def main() -> None:
    """Compute and write all."""
    from rliable import library, metrics

    # Its bootstrap draws from NumPy's global generator and ignores `random_state`.
    np.random.seed(0)  # noqa: NPY002
    rng = np.random.default_rng(20210830)
    cases: list[dict[str, Any]] = []
    for runs, tasks in ((5, 1), (10, 1), (5, 4), (3, 6)):
        scores, others = rng.gamma(2.0, size=(2, runs, tasks)).round(2)
        functions = {"mean": metrics.aggregate_mean, "iqm": metrics.aggregate_iqm}
        case: dict[str, Any] = {"scores": scores.tolist(), "others": others.tolist()}
        for name, function in functions.items():
            points, intervals = library.get_interval_estimates(
                {"scores": scores}, lambda x, f=function: np.array([f(x)]), reps=RESAMPLES
            )
            case[name] = {
                "value": float(points["scores"][0]),
                "interval": intervals["scores"][:, 0].tolist(),
            }
        case["improvement"] = float(metrics.probability_of_improvement(scores, others))
        cases.append(case)
    FILE.write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
