"""The parts that the scripts of all batch systems share."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.core.errors import SettingError, UserError, require
from spectral_exp.core.redact import redact
from spectral_exp.core.shell import shell_command, shell_word
from spectral_exp.submit.training_job import TrainingJob


@dataclass(frozen=True)
class Environment:
    """What surrounds the training command on the machine that runs it.

    Args:
        setup: shell commands, for example `module load cuda`; one that fails ends the job.
        prefix: words before the interpreter, for example `apptainer exec image.sif`.
        python: the Python interpreter.
    """

    setup: tuple[str, ...] = ()
    prefix: str = ""
    python: str = sys.executable

    def __post_init__(self) -> None:
        refuse_secrets("--setup", self.setup)
        refuse_secrets("--prefix", [self.prefix])
        refuse_secrets("--python", [self.python])
        require(bool(self.python), "--python", repr(self.python), "a Python interpreter")
        for line in self.setup:
            require("\r" not in line, "--setup", repr(line), "without carriage returns")
        try:
            shlex.split(self.prefix)
        except ValueError as error:
            raise SettingError("--prefix", self.prefix, f"words of a shell ({error})") from error

    def opening(self, folder: Path) -> list[str]:
        """Return the lines that change to `folder` and set up the environment."""
        lines = [f"cd {shell_word(str(folder))} || exit 1"]
        return [*lines, "set -e", *self.setup, "set +e"] if self.setup else lines

    def command(self, job: TrainingJob) -> str:
        """Return the training command as one line for bash; it passes every argument exactly."""
        words = [*shlex.split(self.prefix), self.python, "-m", "spectral_exp.train"]
        return shell_command([*words, *job.arguments])


def refuse_secrets(option: str, values: Sequence[str]) -> None:
    """Raise a UserError if a value of an option holds a secret, as the script would do too."""
    if any(redact(value) != value for value in values):
        raise UserError(
            f"{option} holds a secret, which is never written to a file of a job; keep it in a "
            "file that only you may read, and load that: --setup 'source ~/.secrets'"
        )


def script_bytes(lines: Iterable[str]) -> bytes:
    """Return the file of a script.

    Raises:
        UserError: bash cannot read it, because of a line that the user gave.
    """
    content = os.fsencode("\n".join(lines) + "\n")
    try:
        checked = subprocess.run(["bash", "-n"], input=content, capture_output=True, check=False)
    except FileNotFoundError:  # the cluster has one
        return content
    if checked.returncode:
        reason = os.fsdecode(checked.stderr).strip().partition("\n")[0]
        raise UserError(f"bash cannot read the script of the job ({reason}); correct --setup")
    return content
