"""The network interface by which the processes of several hosts exchange gradients.

gloo takes the address to which a host resolves its own name. On many systems that is a loopback
address, which other hosts cannot reach.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Mapping

from spectral_exp.distributed.rendezvous import Rendezvous

log = logging.getLogger(__name__)

_VARIABLE = "GLOO_SOCKET_IFNAME"
_ANY_PORT = 9


def choose_interface(rendezvous: Rendezvous) -> None:
    """Let gloo use the interface that leads to the other hosts, unless `GLOO_SOCKET_IFNAME` is set.

    All processes of `rendezvous` call this together.
    """
    rank = rendezvous.world.rank
    hosts = [member["host"] for member in rendezvous.members()]
    if len(set(hosts)) == 1:
        return
    rendezvous.put(f"address/{rank}", source_address(rendezvous.address.host))
    found = [rendezvous.get(f"address/{other}") for other in range(rendezvous.world.size)]
    if _VARIABLE in os.environ:
        return
    # Process 0 and its neighbours reach its host by a loopback address.
    others = [address for address, host in zip(found, hosts, strict=True) if host != hosts[rank]]
    reachable = [source_address(address) for address in others if is_reachable(address)]
    address = next(filter(is_reachable, [found[rank], *reachable]), "")
    name = interface_of(address, _addresses())
    if name is None:
        log.warning(
            "the network interface to the other hosts is unknown; if they cannot connect, set "
            "%s to its name, such as eth0", _VARIABLE,
        )  # fmt: skip
        return
    os.environ[_VARIABLE] = name


def source_address(host: str) -> str:
    """Return the address of this machine in the eyes of `host`, "" if it cannot be reached."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # chooses a route, and sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def is_reachable(address: str) -> bool:
    """Return whether other hosts may reach an address."""
    return bool(address) and not ipaddress.ip_address(address.partition("%")[0]).is_loopback


def interface_of(address: str, addresses: Mapping[str, list[str]]) -> str | None:
    """Return the interface that has an address, or None."""
    return next((name for name, own in addresses.items() if address in own), None)


def _addresses() -> dict[str, list[str]]:
    import psutil

    return {name: [a.address for a in found] for name, found in psutil.net_if_addrs().items()}
