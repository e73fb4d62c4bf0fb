"""Two hosts on this machine: each has its own name, network, process ids and mounts."""

from __future__ import annotations

import functools
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ip", "unshare", "mount")
PORT = 29400
ADDRESSES = ("10.221.7.1", "10.221.7.2")
BOTH = "".join(f"{address} host{i}\n" for i, address in enumerate(ADDRESSES))
KNOWN = (BOTH, BOTH)
LIKE_DEBIAN = (f"127.0.1.1 host0\n{BOTH}", f"127.0.1.1 host1\n{BOTH}")
"""Each host resolves its own name to a loopback address."""
STRANGERS = (BOTH.partition("\n")[0], BOTH.partition("\n")[2])
"""No host knows the other one."""


@functools.cache
def why_no_hosts() -> str:
    """Return why there can be no hosts here, or nothing."""
    if sys.platform != "linux":
        return "namespaces need Linux"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} not installed"
    unshare = ["unshare", "--net", "--uts", "--pid", "--mount", "--fork", "mount", "-t", "tmpfs"]
    tried = subprocess.run(
        [*unshare, "none", "/mnt"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return "namespaces are not permitted" if tried.returncode else ""


def call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@dataclass
class Host:
    """A host of the tests.

    Attributes:
        number: 0 or 1, which is the number of its node.
        namespace: name of its network.
        folder: the working directory of its command, which both hosts share.
        known: the names of hosts that it knows, each a line of /etc/hosts.
    """

    number: int
    namespace: str
    folder: Path
    known: str

    @property
    def name(self) -> str:
        return f"host{self.number}"

    def start(
        self, *command: str, variables: Mapping[str, str] | None = None, setup: str = ""
    ) -> subprocess.Popen[str]:
        """Start a command. All processes of the host end with it, as at a power failure.

        Args:
            command: what to run.
            variables: further variables of its environment.
            setup: shell commands that change the host before.
        """
        names = self.folder / f"{self.name}.names"
        names.write_text(f"127.0.0.1 localhost\n{self.known}\n")
        before = f"mount --bind {names} /etc/hosts && hostname {self.name} && {setup or 'true'}"
        return subprocess.Popen(
            [
                "ip", "netns", "exec", self.namespace,
                "unshare", "--uts", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child",
                "sh", "-c", f'{before} && exec "$@"', "sh", *command,
            ],
            cwd=self.folder, env={**os.environ, **(variables or {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def cut_cable(self) -> None:
        """Let nothing come from this host or reach it."""
        call("ip", "-n", self.namespace, "link", "set", "cable", "down")


@contextmanager
def two_hosts(folder: Path, known: Sequence[str] = KNOWN) -> Iterator[tuple[Host, Host]]:
    """Yield two hosts with a network between them.

    Args:
        folder: both work there.
        known: the lines of /etc/hosts of each host.
    """
    mark = secrets.token_hex(3)
    names = [f"test-{mark}-{number}" for number in (0, 1)]
    with ExitStack() as stack:
        for name in names:
            call("ip", "netns", "add", name)
            stack.callback(call, "ip", "netns", "del", name)
        ends = ["type", "veth", "peer", "name", "cable", "netns", names[1]]
        call("ip", "-n", names[0], "link", "add", "cable", *ends)
        for name, address in zip(names, ADDRESSES, strict=True):
            call("ip", "-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                call("ip", "-n", name, "link", "set", device, "up")
        one, other = (Host(i, names[i], folder, known[i]) for i in (0, 1))
        yield one, other
