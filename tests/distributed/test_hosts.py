"""One run on two hosts, by torchrun on each of them, as the documentation shows it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from spectral_exp.runs.layout import RunPaths
from spectral_exp.train import main
from tests.conftest import NO_PLOTS, ROOT, TINY
from tests.distributed.hosts import (
    ADDRESSES,
    KNOWN,
    LIKE_DEBIAN,
    STRANGERS,
    Host,
    two_hosts,
    why_no_hosts,
)
from tests.distributed.test_equality import differences, metrics_of
from tests.distributed.test_kills import MARK, alive

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,
    pytest.mark.distributed,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts() or "two hosts are possible"),
]

RUN = "outputs/run"
SETTINGS = [
    "+experiment=wave_rgd", *TINY, NO_PLOTS, "training.grad_accum_steps=2", f"hydra.run.dir={RUN}",
    "schedule=constant", "monitoring.metrics.log_interval=1",
]  # fmt: skip
ENDLESS = ["training.max_steps=100000", "training.eval_interval=100000"]


class Command:
    """The documented command on two hosts.

    Attributes:
        paths: of the run.
        processes: the command on each host.
    """

    def __init__(self, hosts: Sequence[Host], *overrides: str, setup: str = "") -> None:
        self.folder = hosts[0].folder
        self.paths = RunPaths(self.folder / RUN)
        torchrun = [sys.executable, "-m", "torch.distributed.run"]
        torchrun += ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
        torchrun += [f"--rdzv-endpoint={ADDRESSES[0]}:29400"]
        training = ["-m", "spectral_exp.train", *SETTINGS, *overrides]
        variables = {MARK: str(self.folder), "PYTHONPATH": str(ROOT)}
        self.processes = [
            host.start(
                *torchrun, *training, variables=variables, setup=setup if host.number else ""
            )
            for host in hosts
        ]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 200
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def wait_for_steps(self) -> None:
        def are_done() -> bool:
            assert all(process.poll() is None for process in self.processes), self.end()
            file = self.paths.metrics_file
            return file.exists() and file.read_bytes().count(b"\n") > 5

        self.wait_until(are_done)

    def log_of_rank_1(self) -> str:
        return self.paths.rank_log(1).read_text()

    def ranks(self) -> list[psutil.Process]:
        """Return the processes that train."""
        found = []
        for process in alive(str(self.folder)):
            with contextlib.suppress(psutil.Error):
                if "RANK" in process.environ():
                    found.append(process)
        return found

    def end(self) -> list[tuple[int, str]]:
        """Return the exit code and the messages of each host, after a look for orphans."""
        ended = []
        for process in self.processes:
            _, printed = process.communicate(timeout=200)
            ended.append((process.returncode, printed))
        self.wait_until(lambda: not alive(str(self.folder)))
        return ended


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., tuple[Command, Sequence[Host]]]]:
    with contextlib.ExitStack() as stack:

        def start(
            *overrides: str, known: Sequence[str] = KNOWN, setup: str = ""
        ) -> tuple[Command, Sequence[Host]]:
            hosts = stack.enter_context(two_hosts(tmp_path, known))
            command = Command(hosts, *overrides, setup=setup)
            for process in command.processes:
                stack.callback(process.communicate)
                stack.callback(process.kill)
            return command, hosts

        yield start


Begin = Callable[..., tuple[Command, Sequence[Host]]]


def test_two_hosts_train_one_run_with_the_bits_of_one_process(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each host takes its own name for a loopback address, as on Debian."""
    command, _ = begin(known=LIKE_DEBIAN)
    assert [code for code, _ in command.end()] == [0, 0]
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["run"]
    (attempt,) = json.loads(command.paths.config_file.read_text())["attempts"]
    processes = json.loads(command.paths.results_file.read_text())["processes"]
    for record in (attempt, processes):
        assert record["processes"] == 2
        assert record["hosts"] == ["host0", "host1"]
        assert record["devices"] == ["cpu", "cpu"]
    monkeypatch.chdir(tmp_path)
    assert main([*SETTINGS, "hydra.run.dir=one"]) == 0
    assert not differences(tmp_path / RUN, tmp_path / "one")
    assert metrics_of(tmp_path / RUN) == metrics_of(tmp_path / "one")


def test_the_loss_of_the_second_host_ends_the_first_which_names_it(begin: Begin) -> None:
    command, _ = begin(*ENDLESS)
    command.wait_for_steps()
    command.processes[1].kill()
    (code, printed), _ = command.end()
    assert code == 1
    (reason,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert reason.startswith(f"error: {RUN}: rank 1 (process ")
    assert "on host1) has not answered, and training cannot go on (" in reason
    assert json.loads(command.paths.results_file.read_text())["status"] == "failed"
    assert command.paths.checkpoint_steps()


def test_the_loss_of_the_first_host_ends_the_second(begin: Begin) -> None:
    command, _ = begin(*ENDLESS)
    command.wait_for_steps()
    command.processes[0].kill()
    _, (code, _) = command.end()
    assert code == 1
    assert command.paths.checkpoint_steps()


def test_a_cut_cable_ends_the_processes_of_both_hosts(begin: Begin) -> None:
    """No connection is closed, so only the time tells. The agent of torchrun waits for longer."""
    command, hosts = begin(*ENDLESS, "distributed.step_timeout_s=5")
    command.wait_for_steps()
    hosts[1].cut_cable()
    _, printed = command.processes[0].communicate(timeout=200)
    assert command.processes[0].returncode == 1
    assert "on host1) has not answered" in printed
    command.wait_until(lambda: not command.ranks())
    assert "host0, the host of rank 0, does not answer" in command.log_of_rank_1()


@pytest.mark.parametrize(
    ("setup", "known", "reason"),
    [
        ("mkdir -p outputs && mount -t tmpfs none outputs", KNOWN,
         "rank 1: {folder}/outputs/run on host1 is not the run directory of rank 0 on host0; all "
         "processes need outputs= on a disk that they share"),
        ("", STRANGERS, "MASTER_ADDR=host0 has no address on host1 "),
    ],
    ids=["disk", "name"],
)  # fmt: skip
def test_hosts_without_a_common_disk_or_name_are_refused(
    setup: str, known: Sequence[str], reason: str, begin: Begin, tmp_path: Path
) -> None:
    command, _ = begin("distributed.init_timeout_s=30", setup=setup, known=known)
    ended = command.end()
    assert [code for code, _ in ended] == [1, 1]
    assert reason.format(folder=tmp_path) in "".join(message for _, message in ended)
    assert not command.paths.metrics_file.exists()
