"""A real Slurm with two nodes on this machine, in processes of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.s3_server import eventually

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=16 RealMemory=8000
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=16 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=graced Nodes=ALL PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing_programs() -> str:
    """Return why there can be no Slurm here, or nothing."""
    if sys.platform != "linux":
        return "Slurm needs Linux"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [
        name for name in ("slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=path)
    ]
    return f"{', '.join(missing)} not installed" if missing else ""


class SlurmCluster:
    """The commands of a running cluster."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    def call(self, *command: str) -> str:
        """Run a command of Slurm and return what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return the state of a job or of a task of an array, as `RUNNING`."""
        shown = self.call("scontrol", "--oneliner", "show", "job", job)
        return next(w for w in shown.split() if w.startswith("JobState=")).partition("=")[2]

    def is_requeued(self, job: str) -> bool:
        """Return whether a job waits for another start."""
        return self.state(job) == "PENDING" and " Restarts=0 " not in self.call(
            "scontrol", "--oneliner", "show", "job", job
        )

    def start_now(self, job: str) -> None:
        """Start a job again, for which Slurm waits two minutes by default.

        In the second in which a job has ended, a node takes its new credential for the old one,
        which has been revoked, and the job fails.
        """
        eventually(lambda: self.is_requeued(job))
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now+2")


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Start a cluster that keeps its files in `folder`; end all of its processes at the end."""
    (folder / "state").mkdir()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        ports = [opened.getsockname()[1] for opened in sockets]
    file = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    user = getpass.getuser()
    file.write_text(CONFIGURATION.format(host=host, ports=ports, user=user, folder=folder))
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    environment = {**own, "PATH": f"{own['PATH']}:/usr/sbin:/sbin", "SLURM_CONF": str(file)}
    cluster = SlurmCluster(environment)
    daemons = [["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]]
    with ExitStack() as stack:
        stack.callback(_end_processes, file)
        for command in daemons:
            process = subprocess.Popen(
                [*command, "-D", "-c"], env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(_end, process)
        eventually(lambda: _nodes_are_idle(environment))
        yield cluster
        cluster.call("scancel", "--user", user, "--signal=KILL", "--full")
        cluster.call("scancel", "--user", user)


def _nodes_are_idle(environment: Mapping[str, str]) -> bool:
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split() == ["idle", "idle"]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_processes(configuration: Path) -> None:
    """Kill what jobs have left: processes that know the configuration of this cluster."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == str(configuration):
                process.kill()
