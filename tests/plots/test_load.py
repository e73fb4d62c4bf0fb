"""matplotlib is imported in any environment, and the settings of the user do not change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLOTS = """
import logging, os, sys
logging.basicConfig(level=logging.WARNING, format="WARNED %(message)s")
before = dict(os.environ)
from spectral_exp.monitoring import VisualizationManager
for background in (False, True):
    viz = VisualizationManager(sys.argv[1], background=background, dpi=40)
    viz.generate_training_plots(1, [1.0], {})
    viz.generate_comparison_plots({"a": {"loss_history": [1.0]}})
    viz.close()
    print(viz.failures)
assert dict(os.environ) == before
"""


def plot(
    folder: Path, *prefix: str, program: str = PLOTS, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Draw two plots in the process itself and two in a child; the numbers of failures are
    printed."""
    command = [*prefix, sys.executable, "-c", program, str(folder)]
    environ = {**os.environ, **environment}
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("backend", "afterwards"),
    [
        ("bogus", "agg"),
        pytest.param(
            "module://not_installed.backend",
            "module://not_installed.backend",
            marks=pytest.mark.slow,
        ),
        pytest.param("TkAgg", "tkagg", marks=pytest.mark.slow),
    ],
)
def test_an_inherited_backend_costs_no_plot_and_stays_the_users(
    tmp_path: Path, backend: str, afterwards: str
) -> None:
    ending = (
        "import matplotlib\nname = dict.__getitem__(matplotlib.rcParams, 'backend')\n"
        "print(name if isinstance(name, str) else 'agg')"
    )
    done = plot(tmp_path, program=PLOTS + ending, MPLBACKEND=backend, DISPLAY="")
    assert done.stdout.lower().split() == ["0", "0", afterwards], done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 4


@pytest.mark.slow
def test_settings_and_figures_of_the_user_stay(tmp_path: Path) -> None:
    program = (
        "import matplotlib; matplotlib.use('svg'); import matplotlib.pyplot as plt;"
        " plt.rcParams['font.size'] = 3\nfigure = plt.figure(); settings ="
        " matplotlib.rcParams.copy()\n"
        + PLOTS
        + "assert matplotlib.rcParams == settings and plt.get_backend() == 'svg' and"
        " plt.get_fignums() == [1]\n"
    )
    done = plot(tmp_path, program=program)
    assert done.stdout.split() == ["0", "0"], done.stderr


def test_a_matplotlib_that_cannot_be_imported_costs_one_warning(tmp_path: Path) -> None:
    broken = tmp_path / "matplotlib"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('a library is missing')")
    done = plot(tmp_path / "plots", PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "2"]
    assert done.stderr.count("WARNED") == 2  # one for each manager
    assert "reinstall it or switch the plots off" in done.stderr


@pytest.mark.slow
def test_plots_come_without_a_home_and_a_place_for_temporary_files(tmp_path: Path) -> None:
    if not hasattr(os, "getuid") or os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("making folders read-only needs root and unshare")
    # What lies there stays visible: this package and its interpreter may be among it.
    shield = (
        "for place in /tmp /var/tmp /usr/tmp; do"
        " mount --bind $place $place && mount -o remount,bind,ro $place; done 2>/dev/null; "
    )
    shield += 'mount -t tmpfs none /mnt && cd /proc && "$@"; code=$?; ls -A /mnt/plots; exit $code'
    prefix = ["unshare", "-m", "bash", "-c", shield, "shield"]
    done = plot(Path("/mnt/plots"), *prefix, HOME="/proc/none", TMPDIR="/proc", MPLCONFIGDIR="")
    if "unshare failed" in done.stderr:
        pytest.skip("may not unshare here")
    failures, names = done.stdout.split()[:2], done.stdout.split()[2:]
    assert failures == ["0", "0"], done.stderr
    assert sum(name.endswith(".png") for name in names) == 4


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs closed streams and limits of Linux"
)
def test_plots_need_neither_standard_streams_nor_another_thread(tmp_path: Path) -> None:
    closed = "import os\nfor number in (0, 2):\n    os.close(number)\n" + PLOTS
    done = plot(tmp_path, program=closed)
    assert done.stdout.split() == ["0", "0"]
    no_threads = (
        'import threading\ndef refuse(self):\n    raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = refuse\n" + PLOTS
    )
    done = plot(tmp_path, program=no_threads)
    assert done.stdout.split() == ["0", "2"]
    assert done.stderr.count("WARNED plot training_dynamics skipped") == 1
