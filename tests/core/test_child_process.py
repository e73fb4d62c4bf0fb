"""Children end with their parent, for any way in which it ends and at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.s3_server import eventually

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a thread of the child looks now and then"
)

# A module of a helper: it prints a line, and then sleeps, even if its stdin is closed.
_HELPER = """
import signal, sys
def main():
    print(signal.pthread_sigmask(signal.SIG_BLOCK, []) >= {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}, flush=True)
    while True:
        signal.pause()
"""
_PARENT = """
import os, signal, subprocess, sys
from spectral_exp.core.parent import die_with_parent_statement
from spectral_exp.core.child_process import start_helper
sys.path.insert(0, os.getcwd())
helper = start_helper("sleeper")
assert helper.stdout.readline() == b"True\\n"
own = f"{die_with_parent_statement(signal.SIGKILL)}; print(flush=True); import signal; signal.pause()"
child = subprocess.Popen([sys.executable, "-c", own], stdout=subprocess.PIPE)
child.stdout.readline()
os.kill(helper.pid, signal.SIGSTOP)
print(helper.pid, child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_children_end_with_their_parent_even_if_they_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(_HELPER)
    done = subprocess.run(
        [sys.executable, "-c", _PARENT], cwd=tmp_path, stdout=subprocess.PIPE, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    for pid in map(int, done.stdout.split()):
        eventually(lambda pid=pid: is_gone(pid), 30.0)  # type: ignore[misc]


def test_a_child_whose_parent_ended_before_it_began_ends_too() -> None:
    code = (
        "import os\n"
        "from spectral_exp.core.parent import die_with_parent\n"
        "die_with_parent(os.getppid() + 1)\n"
        "print('still there')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
