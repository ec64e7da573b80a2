"""What the doctor says of RDMA devices, and the folder that lends NIXL's wheel their providers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from nixl_connect.commands._rdma import RdmaDevice, find_rdma, find_rdma_devices
from nixl_connect.commands.providers import ProvidersError, find_bundled, link_providers

KNOWS = (
    "UCX  WARN  network device 'nixl_connect_asks' is not available, please use one or more of: "
    "'eth0'(tcp), 'lo'(tcp)"
)


def put(path: Path, text: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """With one device, as Linux shows it."""
    classes = tmp_path / "sys/class"
    put(classes / "infiniband/irdma0/ports/1/state", "4: ACTIVE\n")
    put(tmp_path / "sys/drivers/irdma/module")
    device = classes / "infiniband/irdma0/device"
    device.mkdir()
    (device / "driver").symlink_to(tmp_path / "sys/drivers/irdma")
    put(classes / "infiniband_verbs/uverbs0/ibdev", "irdma0\n")
    put(tmp_path / "dev/infiniband/uverbs0")
    return tmp_path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """NIXL's library as its wheel puts it."""
    put(tmp_path / "site/nixl_cu12.libs/libibverbs-1.so.1", b"\0lib%s-rdmav34.so\0")
    put(tmp_path / "site/nixl_cu12.libs/libnl-3-1.so.200")
    put(tmp_path / "site/nixl_cu12.libs/libmlx5-1.so.1")
    return put(tmp_path / "site/.nixl_cu12.mesonpy.libs/libnixl_capi.so")


def said(host: Path, library: Path | None, known: str = KNOWS) -> Any:
    def probe(kind: str, **environment: str) -> dict[str, object]:
        assert (kind, environment["UCX_TLS"]) == ("host", "all")
        return {"log": known}

    (finding,) = find_rdma(probe, library, host)
    return finding


def test_devices_as_linux_shows_them(host: Path) -> None:
    assert find_rdma_devices(host) == [RdmaDevice("irdma0", "irdma", True, True)]
    put(host / "sys/class/infiniband/rxe0/parent", "eth0\n")
    put(host / "sys/class/infiniband/rxe0/ports/1/state", "1: DOWN\n")
    assert find_rdma_devices(host)[1] == RdmaDevice("rxe0", "rdma_rxe", False, False)
    assert said(host / "nothing", None).state == "absent"


def test_a_device_that_ucx_does_not_know(host: Path, wheel: Path) -> None:
    finding = said(host, wheel)
    assert (finding.subject, finding.state) == ("RDMA device irdma0", "warning")
    assert "goes by TCP (eth0)" in finding.detail
    assert "nixl-connect rdma-providers" in finding.advice
    assert "from source" in finding.advice
    # Built from source it has no libibverbs of its own.
    assert "UCX_LOG_LEVEL" in said(host, host / "usr/lib/libnixl_capi.so").advice


def test_a_device_that_ucx_knows(host: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = KNOWS + ", 'irdma0:1'(ib)"
    monkeypatch.setenv("UCX_NET_DEVICES", "all")
    assert said(host, wheel, known).state == "ok"
    monkeypatch.setenv("UCX_NET_DEVICES", "eth0")
    assert "UCX_NET_DEVICES" in said(host, wheel, known).advice
    monkeypatch.setenv("UCX_NET_DEVICES", "eth0,irdma0:1")
    assert said(host, wheel, known).state == "ok"
    for transports, state in [("tcp,self", "warning"), ("rc,self", "ok"), ("^cma", "ok")]:
        monkeypatch.setenv("UCX_TLS", transports)
        assert said(host, wheel, known).state == state, transports


def test_a_device_that_cannot_be_used(host: Path, wheel: Path) -> None:
    put(host / "sys/class/infiniband/irdma0/ports/1/state", "1: DOWN\n")
    assert "no port of it is up" in said(host, wheel).detail
    (host / "dev/infiniband/uverbs0").unlink()
    assert "--device /dev/infiniband" in said(host, wheel).advice


def test_the_system_s_providers(host: Path, wheel: Path) -> None:
    folder = host / "usr/lib/x86_64-linux-gnu/libibverbs"
    for name in ("libirdma-rdmav34.so", "libmlx5-rdmav34.so", "libold-rdmav22.so", "README"):
        put(folder / name)
    for _ in range(2):
        assert link_providers(host / "links", wheel, host) == ["irdma", "mlx5"]
    links = {path.name: path.resolve() for path in (host / "links").iterdir()}
    libraries = wheel.parent.parent / "nixl_cu12.libs"
    assert find_bundled(wheel) == libraries / "libibverbs-1.so.1"
    assert links == {
        "libibverbs.so.1": libraries / "libibverbs-1.so.1",
        "libnl-3-1.so.200": libraries / "libnl-3-1.so.200",
        "libmlx5-rdmav34.so": libraries / "libmlx5-1.so.1",
        "libirdma-rdmav34.so": folder / "libirdma-rdmav34.so",
    }


def test_providers_that_do_not_fit(host: Path, wheel: Path) -> None:
    with pytest.raises(ProvidersError, match="rdma-core"):
        link_providers(host / "links", wheel, host)
    put(host / "usr/lib64/libibverbs/libirdma-rdmav57.so")
    with pytest.raises(ProvidersError, match=r"expected .* rdmav34.* rdmav57.*from source"):
        link_providers(host / "links", wheel, host)
    with pytest.raises(ProvidersError, match="the system's"):
        link_providers(host / "links", host / "usr/lib/libnixl_capi.so", host)
    assert not os.path.lexists(host / "links")
