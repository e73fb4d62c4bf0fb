"""The key-value store by which processes meet, share a command and report failures.

A collective operation cannot say why another process has gone. So a process that fails writes its
reason to the store before it ends, and the others look for it there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from spectral_exp.core.errors import Interrupted, RunError, UserError
from spectral_exp.distributed.world import Address, World

log = logging.getLogger(__name__)

_POLL_S = 0.05
_PATIENCE_S = 30.0  # before a message that names the processes which have not come
_REPORTS_S = 2.0  # for the reports of other processes after a collective operation has failed
_ANSWER_S = 5.0  # for the store
_LEAVE_S = 5.0
_PREFIX = "spectral_exp"
_FAILURES = "failures"


@dataclass(frozen=True)
class Report:
    """Why a process has ended.

    Attributes:
        rank: of the process.
        kind: "run" and "user" are the RunError and UserError of a single process, "signal" is a
            stop before training, "peer" the failure of another process.
        message: one line; for a signal its number.
    """

    rank: int
    kind: Literal["run", "user", "signal", "peer"]
    message: str

    def error(self) -> BaseException:
        """Return the error to raise in another process."""
        if self.kind == "signal":
            return Interrupted(int(self.message))
        if self.kind == "user":
            return UserError(f"rank {self.rank}: {self.message}")
        return RunError(f"rank {self.rank} failed: {self.message}")


class Rendezvous:
    """Where the processes of a world meet.

    Args:
        world: the place of this process.
        address: of the store.
        timeout_s: longest wait for the store, and for what others compute.

    Raises:
        UserError: the host of the store has no address here.
        RunError: the store cannot be reached in time.
    """

    def __init__(self, world: World, address: Address, timeout_s: float) -> None:
        self.world, self.address = world, address
        self.timeout_s = timeout_s
        self._is_cut_off = False
        self._serves = world.is_main and not address.is_served
        _refuse_unknown_host(address.host)
        try:
            store = TCPStore(
                address.host,
                address.port,
                is_master=self._serves,
                timeout=timedelta(seconds=timeout_s),
                wait_for_workers=False,
            )
        except RuntimeError as error:
            raise RunError(
                f"cannot meet the other processes at {address.host}:{address.port} "
                f"({first_line(error)}); check MASTER_ADDR and MASTER_PORT, and "
                "distributed.init_timeout_s"
            ) from error
        self.store: Store = attempt_store(store, address.attempt)
        self._has_reported = False
        facts = {"host": socket.gethostname(), "pid": os.getpid()}
        self.put(f"member/{world.rank}", facts)

    def put(self, key: str, value: Any) -> None:
        """Publish a JSON value."""
        self.store.set(key, json.dumps(value))

    def get(self, key: str) -> Any:
        """Return the JSON value of a key, after waiting for it.

        Raises:
            RunError: another process has failed, or nothing came in time.
            UserError, Interrupted: as another process has raised it.
        """
        self._wait_for([key], "begin", self.timeout_s)
        return json.loads(self.store.get(key))

    def share(self, compute: Callable[[], Any]) -> Any:
        """Return the JSON value that process 0 computes; the others wait for it."""
        if self.world.is_main:
            self.put("shared", compute())
        return self.get("shared")

    def meet(self, name: str, timeout_s: float | None = None) -> None:
        """Wait until all processes have called this with `name`, by default without limit."""
        self.put(f"{name}/{self.world.rank}", True)
        keys = [f"{name}/{rank}" for rank in range(self.world.size)]
        waited_s = 0.0
        if timeout_s is not None and timeout_s > _PATIENCE_S:
            if self.wait_until(lambda: bool(self.store.check(keys)), _PATIENCE_S):
                return
            log.warning(
                "waiting for %s, for up to %g s (distributed.init_timeout_s)",
                self._missing(keys), timeout_s,
            )  # fmt: skip
            waited_s = _PATIENCE_S
        self._wait_for(keys, f"reach '{name}'", timeout_s, waited_s)

    def wait_without_limit(self, key: str) -> None:
        """Wait for a key for as long as no process fails."""
        self._wait_for([key], "", None)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `condition` is true, and return whether that came in time.

        Raises:
            RunError, UserError, Interrupted: another process has failed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                if condition():
                    return True
                reports = self._reports()
            except RuntimeError as error:
                raise RunError(f"rank 0 or its launcher has ended ({first_line(error)})") from error
            known = [report for report in reports if report.kind != "peer"] or reports
            if known:
                raise known[0].error()
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)

    def member(self, rank: int) -> dict[str, Any]:
        """Return `host` and `pid` of a process."""
        found: dict[str, Any] = self.get(f"member/{rank}")
        return found

    def members(self) -> list[dict[str, Any]]:
        """Return `host` and `pid` of every process."""
        return [self.member(rank) for rank in range(self.world.size)]

    # --- failures --------------------------------------------------------------------------------

    def report(self, error: BaseException) -> None:
        """Publish why this process ends; do nothing after the first report."""
        if self._has_reported:
            return
        self._has_reported = True
        rank, text = self.world.rank, " ".join(str(error).split())
        if isinstance(error, Interrupted):
            report = Report(rank, "signal", str(error.signal_number))
        elif isinstance(error, KeyboardInterrupt):
            report = Report(rank, "signal", str(int(signal.SIGINT)))
        elif isinstance(error, UserError):
            report = Report(rank, "user", text)
        elif isinstance(error, RunError):
            report = Report(rank, "run", text)
        else:
            report = Report(rank, "run", f"{type(error).__name__}: {text}")
        self._publish(report)

    def cause(self, error: BaseException) -> BaseException:
        """Return the error to raise for a collective operation that another process made fail."""
        found: list[BaseException] = []
        search = threading.Thread(
            target=lambda: found.append(self._find_cause(error)), name="cause", daemon=True
        )
        search.start()
        search.join(_REPORTS_S + _ANSWER_S)
        if found:
            return found[0]
        # A store waits without limit for a host that has vanished and closed no connection.
        self._is_cut_off = True
        return RunError(
            f"{self.address.host}, the host of rank 0, does not answer ({first_line(error)})"
        )

    def _find_cause(self, error: BaseException) -> BaseException:
        if not self._has_reported:
            self._has_reported = True
            self._publish(Report(self.world.rank, "peer", first_line(error)))
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        deadline = time.monotonic() + _REPORTS_S
        while True:
            try:
                reports = self._reports()
            except RuntimeError:  # the store has ended with the process that served it
                return RunError(f"rank 0 or its launcher has ended ({first_line(error)})")
            known = [report for report in reports if report.kind != "peer"]
            if known:
                return known[0].error()
            silent = [rank for rank in others if rank not in [report.rank for report in reports]]
            if not silent or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        return RunError(self._describe_silence(silent or others, error))

    def leave(self) -> None:
        """Let the other processes read the store before it ends with this process."""
        if self._is_cut_off:
            return
        try:
            self.put(f"gone/{self.world.rank}", True)
            if self._serves:
                keys = [f"gone/{rank}" for rank in range(self.world.size)]
                deadline = time.monotonic() + _LEAVE_S
                while not self.store.check(keys) and time.monotonic() < deadline:
                    time.sleep(_POLL_S)
        except RuntimeError:
            return  # it has ended before

    def _publish(self, report: Report) -> None:
        try:
            publish(self.store, report)
        except RuntimeError:
            log.warning("cannot report to the other processes why this one ends")

    def _reports(self) -> list[Report]:
        if self.store.add(_FAILURES, 0) == 0:
            return []
        ranks = range(self.world.size)
        keys = [f"failed/{rank}" for rank in ranks if self.store.check([f"failed/{rank}"])]
        return [Report(**json.loads(self.store.get(key))) for key in keys]

    def _wait_for(
        self, keys: Sequence[str], action: str, timeout_s: float | None, waited_s: float = 0.0
    ) -> None:
        left_s = None if timeout_s is None else timeout_s - waited_s
        if self.wait_until(lambda: bool(self.store.check(list(keys))), left_s):
            return
        raise RunError(
            f"not all processes were ready within {timeout_s:g} s "
            f"(distributed.init_timeout_s): cannot {action}, {self._missing(keys)} is missing"
        )

    def _missing(self, keys: Sequence[str]) -> str:
        ends = [key.rpartition("/")[2] for key in keys if not self.store.check([key])]
        # A key without a rank is set by process 0.
        return ", ".join(f"rank {end if end.isdigit() else 0}" for end in ends)

    def _describe_silence(self, silent: Sequence[int], error: BaseException) -> str:
        """Return a message about processes that have not reported why they ended."""
        suspects = {rank: self._state_here(rank) for rank in silent}
        gone = {rank: state for rank, state in suspects.items() if state != "running"} or suspects
        names = ", ".join(
            f"rank {rank}{f' {state}' if state else ''}" for rank, state in gone.items()
        )
        return f"{names} has not answered, and training cannot go on ({first_line(error)})"

    def _state_here(self, rank: int) -> str:
        """Return the state of a process on this machine, or where it runs."""
        import psutil

        if not self.store.check([f"member/{rank}"]):
            return "(never seen)"
        member = json.loads(self.store.get(f"member/{rank}"))
        place = f"process {member['pid']} on {member['host']}"
        if member["host"] != socket.gethostname():
            return f"({place})"
        try:
            status = psutil.Process(member["pid"]).status()
        except psutil.NoSuchProcess:
            return f"({place}, which was killed)"
        if status == psutil.STATUS_ZOMBIE:
            return f"({place}, which was killed)"
        return f"({place}, which is stopped)" if status == psutil.STATUS_STOPPED else "running"


def _refuse_unknown_host(host: str) -> None:
    """Raise a UserError if `host` has no address; a store would try again until its timeout."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise UserError(
            f"MASTER_ADDR={host} has no address on {socket.gethostname()} ({error.strerror}); name "
            "the host of rank 0 so that every host finds it, with torchrun by "
            "--local-addr=ADDRESS there"
        ) from error


def publish(store: Store, report: Report) -> None:
    """Publish why a process has ended, unless it has reported that itself."""
    key = f"failed/{report.rank}"
    if not store.check([key]):
        store.set(key, json.dumps(asdict(report)))
        store.add(_FAILURES, 1)


def attempt_store(store: Store, attempt: int = 0) -> Store:
    """Return the part of a store that the processes of one attempt use."""
    return PrefixStore(f"{_PREFIX}/{attempt}", store)


def describe_members(members: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of the processes of a run."""
    hosts = list(dict.fromkeys(member["host"] for member in members))
    return {"processes": len(members), "hosts": hosts}


def first_line(error: BaseException) -> str:
    """Return the first line of a torch error, from the position in its source on, if it has one.

    Before that, torch names the layers through which the error went, and at its end gloo guesses at
    the reason.
    """
    text = str(error).partition("\n")[0].partition(". This is typically caused by")[0]
    return re.split(r"\[/\S*:\d+\] ", text)[-1]
