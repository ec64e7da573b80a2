from __future__ import annotations

import nixl_connect as nc
import pytest


@pytest.mark.parametrize(
    ("text", "kind", "number", "written"),
    [
        ("cpu", nc.DeviceKind.HOST, 0, "cpu"),
        ("host", nc.DeviceKind.HOST, 0, "cpu"),
        (" CPU ", nc.DeviceKind.HOST, 0, "cpu"),
        ("cpu:0", nc.DeviceKind.HOST, 0, "cpu"),
        ("cuda", nc.DeviceKind.CUDA, 0, "cuda:0"),
        ("CUDA:3", nc.DeviceKind.CUDA, 3, "cuda:3"),
        ("gpu:1", nc.DeviceKind.CUDA, 1, "cuda:1"),
        ("xpu:2", nc.DeviceKind.XPU, 2, "xpu:2"),
    ],
)
def test_reads_and_writes_names(text: str, kind: nc.DeviceKind, number: int, written: str) -> None:
    device = nc.Device(text)
    assert (device.kind, device.id, str(device)) == (kind, number, written)
    assert device == nc.Device((kind, number))
    assert hash(device) == hash(nc.Device((kind, number)))


@pytest.mark.parametrize("text", ["", "tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cudax"])
def test_refuses_what_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="device: expected"):
        nc.Device(text)


def test_refuses_other_types() -> None:
    with pytest.raises(ValueError, match="got None"):
        nc.Device(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got int"):
        nc.Device(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got -1"):
        nc.Device((nc.DeviceKind.CUDA, -1))


def test_numbers_and_names_are_dynamos() -> None:
    assert [(int(k), str(k)) for k in nc.DeviceKind] == [
        (0, "<invalid>"),
        (1, "cpu"),
        (2, "cuda"),
        (3, "xpu"),
    ]
    assert nc.DeviceKind.HOST.nixl_mem_type == "DRAM"
    assert nc.DeviceKind.XPU.nixl_mem_type == "VRAM"
    assert [(int(k), str(k)) for k in nc.OperationKind] == [
        (0, "<invalid>"),
        (1, "READ"),
        (2, "WRITE"),
    ]
    assert [(int(s), str(s)) for s in nc.OperationStatus] == [
        (0, "<invalid>"),
        (1, "INIT"),
        (2, "PROC"),
        (3, "DONE"),
        (4, "STOP"),
        (5, "ERR"),
    ]
