"""`nixl-connect top`: a worker's figures as its operator sees them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import nixl_connect as nc
import pytest
from nixl_connect.commands import top
from nixl_connect.metrics import ConnectorCollector
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

Pair = tuple[nc.Connector, nc.Connector]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with nc.Connector("owner") as owner, nc.Connector("mover") as mover:
        yield owner, mover


def serve(registry: CollectorRegistry) -> Iterator[str]:
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def address(pair: Pair) -> Iterator[str]:
    registry = CollectorRegistry()
    registry.register(ConnectorCollector(*pair))
    yield from serve(registry)


@pytest.fixture
def empty_address() -> Iterator[str]:
    yield from serve(CollectorRegistry())


def read(pair: Pair, size: int) -> None:
    offer = pair[0].create_readable_blocking(nc.Descriptor(bytes(size)))
    pair[1].begin_read_blocking(offer.metadata(), nc.Descriptor(bytearray(size))).wait()
    offer.wait()


def cells(before: top.Sample, now: top.Sample, width: int = 80) -> dict[str, dict[str, str]]:
    """By connector and label."""
    found = {}
    for table in top.tables(before, now, width):
        labels, *columns = [
            [str(cell).strip() for cell in column.cells] for column in table.columns
        ]
        for heading, column in zip(table.columns[1:], columns, strict=True):
            found[str(heading.header)] = dict(zip(labels, column, strict=True))
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nixl_connect", "top", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_rates_ages_and_failures(pair: Pair, address: str) -> None:
    url = top.url_of(address)
    before = top.fetch(url)
    for _ in range(10):
        read(pair, 1 << 20)
    waiting = pair[0].create_readable_blocking(nc.Descriptor(bytes(100)))
    with pytest.raises(nc.DeadlineExceededError):
        pair[0].create_writable_blocking(nc.Descriptor(bytearray(100)), timeout=0).wait()
    deadline = time.monotonic() + 30
    while True:
        now = top.fetch(url)
        if cells(before, now)["owner"]["failed"] == "1" or time.monotonic() > deadline:
            break
    now.at = before.at + 2
    shown = cells(before, now)
    assert shown["mover"]["reads/s"] == "5"
    assert shown["mover"]["bytes/s"] == shown["owner"]["bytes/s"] == "5.2 MB"
    assert shown["mover"]["mean time"][-2:] in ("µs", "ms")
    assert shown["owner"]["reads/s"] == "0"
    assert shown["owner"]["served/s"] == "5"
    assert shown["owner"]["mean time"] == "-"
    assert shown["owner"]["waiting"] == "1"
    assert shown["owner"]["oldest"][-2:] in ("µs", "ms", " s")
    assert shown["mover"]["oldest"] == shown["mover"]["oldest in flight"] == "-"
    assert shown["owner"]["failed"] == "1"
    assert shown["mover"]["failed"] == "0"
    assert shown["owner"]["timed_out"] == "1"
    assert shown["mover"]["timed_out"] == ""
    waiting.cancel()


def test_a_worker_that_has_started_anew_has_no_negative_rates() -> None:
    def sample(at: float, reads: float) -> top.Sample:
        figures: dict[tuple[str, ...], float] = {("operations_total", "read", "complete"): reads}
        return top.Sample(at, {"worker": figures})

    assert cells(sample(0, 100), sample(1, 3))["worker"]["reads/s"] == "0"
    assert cells(sample(0, 100), sample(2, 300))["worker"]["reads/s"] == "100"


def test_many_connectors_are_in_tables_that_fit() -> None:
    now = top.Sample(1, {f"connector-{i}": {("peers",): float(i)} for i in range(20)})
    shown = cells(now, now)
    assert [shown[f"connector-{i}"]["peers"] for i in range(20)] == [f"{i}" for i in range(20)]
    for table in top.tables(now, now, 80):
        assert table.__rich_measure__(Console(width=500), Console(width=500).options).maximum <= 80


def test_a_name_is_no_markup() -> None:
    now = top.Sample(1, {"[bold]worker": {("peers",): 1.0}})
    console = Console(width=80)
    with console.capture() as shown:
        console.print(*top.tables(now, now, 80))
    assert "[bold]worker" in shown.get()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("localhost:9400", "http://localhost:9400/metrics"),
        ("https://host", "https://host/metrics"),
        ("http://host:1/prometheus", "http://host:1/prometheus"),
        ("host:1/other", "http://host:1/other"),
    ],
)
def test_an_address_is_a_host_and_port_or_a_url(given: str, url: str) -> None:
    assert top.url_of(given) == url


def test_the_command_looks_so_often(pair: Pair, address: str) -> None:
    read(pair, 100)
    result = run(address, "--interval", "0.1", "--count", "2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("reads/s") == 2
    assert result.stdout.split().count("mover") == 2
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_what_cannot_be_shown_is_said(empty_address: str, unused_port: int) -> None:
    def fails(address: str) -> Any:
        result = run(address, "--count", "1")
        assert result.returncode == 1, result.stdout
        assert not result.stdout
        return result.stderr

    assert "register a ConnectorCollector" in fails(empty_address)
    assert "no metrics" in fails(f"127.0.0.1:{unused_port}")
    assert "no metrics" in fails("http://no such host")
    assert "expected host:port" in fails("file:///etc/passwd")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
