"""RDMA devices: which there are, and whether UCX uses them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ._finding import Finding
from .providers import find_bundled

__all__ = ["RdmaDevice", "find_rdma", "find_rdma_devices"]

_KNOWN = re.compile(r"is not available, please use one or more of: (.*)")
_OF_VERBS = re.compile(r"^(all|ib|rc|ud|dc|rc_.*|ud_.*|dc_.*)$")
# No interface is called so; UCX then says which there are.
_NO_DEVICE = "nixl_connect_asks"


@dataclass(frozen=True)
class RdmaDevice:
    """A device as the kernel shows it."""

    name: str
    driver: str
    """The kernel's module, such as ``mlx5_core``, ``irdma``, ``rdma_rxe``; empty where unknown."""
    active: bool
    """Whether a port of it is up."""
    usable: bool
    """Whether this process may open it."""

    def is_among(self, names: Iterable[str]) -> bool:
        """Whether one of UCX's names, such as ``mlx5_0:1``, is of a port of it."""
        return any(name.partition(":")[0] == self.name for name in names)


def find_rdma_devices(root: Path = Path("/")) -> list[RdmaDevice]:
    """All that are under ``/sys/class/infiniband``."""
    classes = root / "sys/class"
    nodes = {
        _text(verbs / "ibdev"): root / "dev/infiniband" / verbs.name
        for verbs in sorted((classes / "infiniband_verbs").glob("uverbs*"))
    }
    return [
        RdmaDevice(
            path.name,
            _driver(path),
            any("ACTIVE" in _text(state) for state in path.glob("ports/*/state")),
            path.name in nodes and os.access(nodes[path.name], os.R_OK | os.W_OK),
        )
        for path in sorted((classes / "infiniband").glob("*"))
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _driver(path: Path) -> str:
    driver = path / "device" / "driver"
    if driver.exists():
        return driver.resolve().name
    # A device without hardware names the network interface that it is on.
    return "rdma_rxe" if (path / "parent").exists() else ""


def find_rdma(
    probe: Callable[..., dict[str, object]], library: Path | None, root: Path = Path("/")
) -> Iterator[Finding]:
    """What there is to say of each device; `probe` asks UCX in another process."""
    devices = find_rdma_devices(root)
    if not devices:
        yield Finding("RDMA devices", "absent", "none")
        return
    log = str(probe("host", UCX_NET_DEVICES=_NO_DEVICE, UCX_TLS="all")["log"])
    said = _KNOWN.search(log)
    known = dict(re.findall(r"'([^']+)'\((\w+)\)", said[1])) if said else None
    for device in devices:
        subject = f"RDMA device {device.name}"
        problem = _problem(device, known, library)
        if problem is None:
            yield Finding(subject, "ok", f"{device.driver or 'unknown driver'}; UCX uses it")
        else:
            yield Finding(subject, "warning", *problem)


def _problem(
    device: RdmaDevice, known: dict[str, str] | None, library: Path | None
) -> tuple[str, str] | None:
    """Why UCX does not use it, and what to do."""
    driver = device.driver or "unknown driver"
    if not device.usable:
        return (
            f"{driver}; this process may not open it",
            "give it /dev/infiniband (docker run --device /dev/infiniband), and the right to it",
        )
    if not device.active:
        return (
            f"{driver}; no port of it is up",
            "look at `rdma link`, and at the interface it is on",
        )
    if known is None:
        return f"{driver}; UCX does not say which devices it knows", ""
    if not device.is_among(known):
        tcp = sorted(name for name, kind in known.items() if kind == "tcp" and name != "lo")
        by = (
            f"what goes to other hosts goes by TCP ({', '.join(tcp)})"
            if tcp
            else "nothing goes out"
        )
        return f"{driver}; UCX does not know it, and {by}", _advice(device, library)
    chosen = os.environ.get("UCX_NET_DEVICES", "all").split(",")
    if "all" not in chosen and not device.is_among(chosen):
        return f"{driver}; UCX_NET_DEVICES leaves it out", f"add {device.name}:1 to UCX_NET_DEVICES"
    transports = os.environ.get("UCX_TLS", "all")
    if not transports.startswith("^") and not any(
        _OF_VERBS.match(name) for name in transports.split(",")
    ):
        return f"{driver}; UCX_TLS leaves out RDMA", "add rc,ud to UCX_TLS"
    return None


def _advice(device: RdmaDevice, library: Path | None) -> str:
    if library is None or find_bundled(library) is None or device.driver.startswith("mlx5"):
        return "run with UCX_LOG_LEVEL=debug and read what UCX says of it"
    knows = "NIXL's wheel brings a libibverbs that knows mlx5 alone"
    lends = "`nixl-connect rdma-providers FOLDER` lends it the system's providers"
    if device.driver == "efa":
        return f"{knows}: use NIXL's backend LIBFABRIC; or {lends}"
    return f"{knows}: {lends}; or build NIXL from source"
