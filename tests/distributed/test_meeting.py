"""How processes of several hosts meet, with the processes of the tests in one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from spectral_exp.config.processes import find_shared_run, share_run
from spectral_exp.core.errors import RunError, UserError
from spectral_exp.distributed.interfaces import interface_of, is_reachable, source_address
from spectral_exp.distributed.rendezvous import Rendezvous, Report, first_line, publish
from spectral_exp.distributed.world import Address, World
from spectral_exp.runs.lock import RunLock

pytestmark = pytest.mark.distributed


@pytest.fixture
def pair() -> Iterator[tuple[Rendezvous, Rendezvous]]:
    """Two processes that have met."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = Address("127.0.0.1", store.port, is_served=True)
    one, other = (Rendezvous(World(rank, 2), address, 0.1) for rank in (0, 1))
    yield one, other
    del store


def test_a_run_directory_is_shared_if_its_lock_is_that_of_the_first_process(
    pair: tuple[Rendezvous, Rendezvous], tmp_path: Path
) -> None:
    main, member = pair
    root = tmp_path / "run"
    root.mkdir()
    share_run(main, root)
    refusal = f"{root} on {socket.gethostname()} is not the run directory of rank 0"
    with pytest.raises(UserError, match=refusal):
        find_shared_run(member)
    (root / "run.lock").write_text('{"host": "another", "pid": 1, "since": "then"}')
    with pytest.raises(UserError, match=refusal):
        find_shared_run(member)
    with RunLock(root):
        assert find_shared_run(member) == root
    publish(main.store, Report(0, "run", "the disk is full"))
    with pytest.raises(RunError, match="rank 0 failed: the disk is full"):
        find_shared_run(member)


def test_a_host_without_an_address_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"MASTER_ADDR=no\.such\.host\.invalid has no address on"):
        Rendezvous(World(1, 2), Address("no.such.host.invalid", 1, is_served=True), 1000.0)


def test_late_processes_are_named(pair: tuple[Rendezvous, Rendezvous]) -> None:
    main, _ = pair
    with pytest.raises(RunError, match="cannot reach 'ready', rank 1 is missing"):
        main.meet("ready", 0.1)


def test_the_interface_of_an_address_is_found() -> None:
    assert source_address("127.0.0.1") == "127.0.0.1"
    assert source_address("no.such.host.invalid") == ""
    addresses = ["", "127.0.1.1", "::1", "10.0.0.2", "fe80::1%eth0"]
    assert [is_reachable(address) for address in addresses] == [False, False, False, True, True]
    known = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.2", "fe80::1%eth0"]}
    assert interface_of("10.0.0.2", known) == "eth0"
    assert interface_of("", known) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[/a/b/pair.cc:553] Connection closed by peer [10.0.0.2]:24720. This is typically caused "
         "by a remote worker crashing. GLHF!", "Connection closed by peer [10.0.0.2]:24720"),
        ("Gloo connectFullMesh failed with [/a/pair.cc:152] timed out connecting", "timed out connecting"),
        ("Broken pipe\nException raised from", "Broken pipe"),
    ],
)  # fmt: skip
def test_the_reason_in_an_error_of_torch_is_found(text: str, line: str) -> None:
    assert first_line(RuntimeError(text)) == line
