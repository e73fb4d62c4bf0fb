"""Jobs for Slurm that continue after preemption, a time limit or the loss of a node.

Slurm signals the tasks before the time limit and when it preempts a job; training saves and ends
with 128 plus the number of the signal. The script then puts its job into the queue again, unless
Slurm does so itself or a person has cancelled the job.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from spectral_exp.core.errors import UserError, require
from spectral_exp.core.foreign_text import printable
from spectral_exp.core.shell import shell_command, shell_word
from spectral_exp.submit.records import submitted_folder
from spectral_exp.submit.script import Environment, refuse_secrets, script_bytes
from spectral_exp.submit.training_job import TrainingJob

SYSTEM = "slurm"

_TIME = re.compile(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)", re.ASCII)
_WORD = re.compile(r"[^\s'\"\\#]+")
_UNLIMITED = ("UNLIMITED", "INFINITE")
_MAX_SIGNAL_S = 65535  # of sbatch
_OWN_OPTIONS = (
    "--array", "--error", "--job-name", "--no-requeue", "--open-mode", "--output", "--parsable",
    "--requeue", "--signal", "--test-only", "--wait", "--wrap",
)  # fmt: skip


@dataclass(frozen=True)
class SlurmOptions:
    """What a job requests.

    Args:
        partition, account, qos: as Slurm calls them; None for the cluster's defaults.
        time: time limit, as `90` (minutes), `1:30:00` or `2-12` (days and hours).
        nodes: number of nodes.
        tasks_per_node: processes on each node; each is a rank of distributed training.
        gpus: GPUs per node, as `4` or `a100:4`.
        cpus: cores per task.
        mem: memory per node, as `64G`.
        workers: number of jobs, which share the runs of a sweep.
        mail: address that gets a mail when the job ends or fails.
        save_time_s: how long before the time limit the run is asked to save, in seconds.
        give_up_after: number of consecutive starts without a new checkpoint after which the job
            ends.
        sbatch: further options of sbatch, as `--constraint=a100`.
        srun: further options of srun.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    nodes: int = 1
    tasks_per_node: int = 1
    gpus: str | None = None
    cpus: int | None = None
    mem: str | None = None
    workers: int = 1
    mail: str | None = None
    save_time_s: int = 120
    give_up_after: int = 5
    sbatch: tuple[str, ...] = ()
    srun: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "mail"):
            value = getattr(self, name)
            is_word = value is None or bool(_WORD.fullmatch(value) and value.isprintable())
            require(is_word, f"--{name}", repr(value), "one word without quotes")
        for name in ("nodes", "tasks_per_node", "cpus", "workers", "give_up_after"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name.replace('_', '-')}", value, ">= 1")
        self._check_amount("gpus", r"([\w.-]+:)?[1-9]\d*", "a number, or as in a100:4")
        self._check_amount("mem", r"\d+[KMGT]?", "a number of megabytes, or as in 64G")
        is_allowed = 1 <= self.save_time_s <= _MAX_SIGNAL_S
        require(is_allowed, "--save-time", self.save_time_s, f"from 1 to {_MAX_SIGNAL_S} seconds")
        if self.time is not None:
            self._check_time(self.time)
        for program in ("sbatch", "srun"):
            refuse_secrets(f"--{program}", getattr(self, program))
            for option in getattr(self, program):
                is_option = option.startswith("-") and option.isprintable()
                allowed = f"an option with its value, as in --{program}=--exclusive=user"
                require(is_option, f"--{program}", repr(option), allowed)
        for option in self.sbatch:
            name = option.partition("=")[0]
            allowed = "none of the options that this command sets itself"
            require(name not in _OWN_OPTIONS, "--sbatch", option, allowed)

    def _check_amount(self, name: str, pattern: str, allowed: str) -> None:
        value = getattr(self, name)
        is_allowed = value is None or bool(re.fullmatch(pattern, value, flags=re.ASCII))
        require(is_allowed, f"--{name}", repr(value), allowed)

    def _check_time(self, value: str) -> None:
        seconds = _seconds(value)
        allowed = "minutes, hours:minutes:seconds or days-hours:minutes:seconds"
        require(seconds is not None, "--time", repr(value), allowed)
        assert seconds is not None
        allowed = f"longer than --save-time={self.save_time_s} seconds"
        require(seconds > self.save_time_s, "--time", value, allowed, "allow more time")

    @property
    def is_array(self) -> bool:
        """Whether the jobs are an array."""
        return self.workers > 1

    def directives(self, job: TrainingJob, folder: Path) -> list[str]:
        """Return the `#SBATCH` lines."""
        log = str(folder).replace("%", "%%")
        log += "/slurm-%A_%a.log" if self.is_array else "/slurm-%j.log"
        options = {
            "job-name": job.name,
            "output": log,
            "open-mode": "append",
            "requeue": None,
            "signal": f"USR2@{self.save_time_s}",
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
        }
        if self.is_array:
            options["array"] = f"0-{self.workers - 1}"
        else:
            # The same job, submitted twice, waits for itself instead of finding its run in use.
            options["dependency"] = "singleton"
        requested = {
            "partition": self.partition, "account": self.account, "qos": self.qos,
            "time": self.time, "gres": self.gpus and f"gpu:{self.gpus}",
            "cpus-per-task": self.cpus, "mem": self.mem, "mail-user": self.mail,
            "mail-type": self.mail and "END,FAIL",
        }  # fmt: skip
        options |= {name: value for name, value in requested.items() if value is not None}
        lines = [f"--{name}" if v is None else f"--{name}={v}" for name, v in options.items()]
        return [f"#SBATCH {_directive_word(line)}" for line in (*lines, *self.sbatch)]


def slurm_script(job: TrainingJob, options: SlurmOptions, environment: Environment) -> bytes:
    """Return the script of a job, for the current folder.

    Raises:
        UserError: the options do not fit the job.
    """
    allowed = "1, because a single run is the work of one job; --workers is for sweeps (-m)"
    require(job.is_sweep or not options.is_array, "--workers", options.workers, allowed)
    for name, value in (("nodes", options.nodes), ("tasks-per-node", options.tasks_per_node)):
        allowed = "1 for a sweep, because all processes would train one run"
        is_allowed = value == 1 or not job.is_sweep
        require(is_allowed, f"--{name}", value, allowed, "--workers starts more jobs")
    folder = submitted_folder(job)
    srun = ["srun", "--kill-on-bad-exit=1", *options.srun]
    if options.cpus is not None:
        srun.append(f"--cpus-per-task={options.cpus}")  # srun does not take it from the job
    return script_bytes(
        [
            "#!/bin/bash",
            *options.directives(job, folder),
            "",
            "# Written by `spectral-exp submit slurm`. sbatch with the name of this file submits",
            "# the job again, which continues what is there.",
            "",
            *_JOB_ID[options.is_array],
            "",
            *_give_up(job, folder, options.give_up_after),
            "",
            *environment.opening(Path.cwd()),
            "",
            "# Slurm may signal this shell too, which has to wait until training has saved.",
            "trap : TERM",
            f"{shell_command(srun)} {environment.command(job)}",
            "code=$?",
            "",
            *_REQUEUE,
        ]
    )


# A job that is submitted from within an array has the variables of that array too.
_JOB_ID = {
    False: ["job=$SLURM_JOB_ID"],
    True: [
        "# The id of one of the tasks is that of the whole array too.",
        "job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
    ],
}


def _give_up(job: TrainingJob, folder: Path, limit: int) -> list[str]:
    """Return the lines that end a job which starts again and again and saves nothing new."""
    return f"""\
# Give up if {limit} starts in a row have saved nothing new.
folder={shell_word(str(job.folder.absolute()))}
progress={shell_word(str(folder))}/progress-$job
saved=$(find "$folder" -name 'checkpoint_step_*' 2> /dev/null | sort | cksum)
starts=0
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] && [ -f "$progress" ]; then
    IFS=: read -r starts before < "$progress"
    if [ "$before" != "$saved" ]; then
        starts=0
    fi
fi
if [ "$starts" -ge {limit} ]; then
    echo "error: $starts starts in a row saved nothing new; the job is not started again." \\
        "Allow more --time, or a longer --save-time" >&2
    exit 1
fi
echo "$((starts + 1)):$saved" > "$progress"\
""".splitlines()


_REQUEUE = """\
case $code in
138 | 140 | 143 | 152) # SIGUSR1, SIGUSR2, SIGTERM, SIGXCPU: stopped and saved
    # A job that Slurm preempts comes back without our help; a cancelled one must not come back.
    case $(squeue --noheader --jobs="$job" --format='%T %r') in
    RUNNING* | *TimeLimit)
        echo "stopped with exit code $code and saved; job $job returns to the queue"
        scontrol requeue "$job"
        ;;
    esac
    ;;
0)
    rm -f "$progress"
    ;;
esac
exit $code\
""".splitlines()


def submit(file: Path) -> list[str]:
    """Submit a script; return the id of the job.

    Raises:
        UserError: there is no Slurm, or it refuses the job.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise UserError(
            "sbatch is not installed here; submit from a login node of the cluster, or print the "
            "script with --dry-run"
        )
    done = subprocess.run(
        [program, "--parsable", str(file)],
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = " ".join(os.fsdecode(done.stderr).replace("sbatch: error: ", "").split())
        raise UserError(f"Slurm refuses the job: {printable(reason, 500)}")
    # With several clusters, `id;cluster`.
    return [os.fsdecode(done.stdout).strip().partition(";")[0]]


def _seconds(time: str) -> float | None:
    """Return a time limit of Slurm in seconds, or None if it is not one."""
    if time.upper() in _UNLIMITED:
        return float("inf")
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    days, hours, minutes, seconds, *rest = (None if v is None else int(v) for v in match.groups())
    if days is not None:
        return 86400 * days + 3600 * (hours or 0) + 60 * (minutes or 0) + (seconds or 0)
    first, second, third = rest
    assert first is not None
    if third is not None:
        return 3600 * first + 60 * (second or 0) + third
    return 60 * first + (second or 0)


def _directive_word(option: str) -> str:
    """Return an option as sbatch reads it from a `#SBATCH` line.

    Raises:
        UserError: sbatch has no notation for it.
    """
    if re.fullmatch(r"[\w./:=,%@+*&|()\[\]-]+", option):
        return option
    quote = '"' if '"' not in option else "'"
    if quote in option or "\\" in option or not option.isprintable():
        raise UserError(
            f"{printable(option)} cannot be written for Slurm, because it has both kinds of "
            "quotes, a backslash or control characters; choose another name"
        )
    return f"{quote}{option}{quote}"
