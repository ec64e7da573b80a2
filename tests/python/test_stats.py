"""Figures: what is counted, and how Prometheus, OpenTelemetry and logging see it."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import sys
import threading
import time
from array import array
from collections.abc import Iterator

import nixl_connect as nc
import pytest
from conftest import eventually
from nixl_connect import _tracing
from nixl_connect.metrics import ConnectorCollector
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import ProxyTracerProvider, SpanKind, StatusCode
from prometheus_client import CollectorRegistry, generate_latest

Pair = tuple[nc.Connector, nc.Connector]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with nc.Connector("owner") as owner, nc.Connector("mover") as mover:
        yield owner, mover


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of this test's connectors alone."""
    return str(request.node.name)


async def read(pair: Pair, size: int = 4096) -> None:
    owner, mover = pair
    with await owner.create_readable(nc.Descriptor(bytearray(size))) as offer:
        with await mover.begin_read(offer.metadata(), nc.Descriptor(bytearray(size))) as operation:
            await operation.wait_for_completion()
        await offer.wait_for_completion()


async def write(pair: Pair, size: int = 4096) -> None:
    owner, mover = pair
    with await owner.create_writable(nc.Descriptor(bytearray(size))) as offer:
        with await mover.begin_write(nc.Descriptor(bytes(size)), offer.metadata()) as operation:
            await operation.wait_for_completion()
        await offer.wait_for_completion()


async def fail(pair: Pair) -> None:
    owner, mover = pair
    offer = await owner.create_readable(nc.Descriptor(bytearray(10)))
    metadata = offer.metadata()
    offer.cancel()
    operation = await mover.begin_read(metadata, nc.Descriptor(bytearray(10)), timeout=0)
    with pytest.raises(nc.TransferError):
        await operation.wait_for_completion()


def told(owner: nc.Connector) -> int:
    stats = owner.stats()
    return stats.notifications_matched + stats.notifications_unknown


async def test_operations_are_counted_by_kind_and_end(pair: Pair) -> None:
    for _ in range(5):
        await read(pair)
    for _ in range(3):
        await write(pair, 100)
    # A notice may come after the host's table has told the owner.
    assert await eventually(lambda: told(pair[0]) == 8)
    assert await eventually(lambda: pair[1].stats().peers == 1)
    owner, mover = (connector.stats() for connector in pair)
    assert owner.operations["readable"].complete == 5
    assert owner.operations["readable"].bytes == 5 * 4096
    assert owner.operations["writable"].complete == 3
    assert mover.operations["read"].complete == 5
    assert mover.operations["write"].bytes == 300
    assert (owner.complete, owner.cancelled, owner.errored) == (8, 0, 0)
    for of in (owner.operations["readable"], mover.operations["write"]):
        assert sum(of.latency) == of.complete
        assert 0 < of.total_latency < 60
        # The histogram tells the same story as the sum.
        least = sum(count * 2 ** (i - 1) for i, count in enumerate(of.latency) if i > 0) / 1e6
        most = sum(count * 2**i for i, count in enumerate(of.latency)) / 1e6
        assert least <= of.total_latency <= most
    assert mover.peers == 1
    assert mover.engine_cpu_seconds > 0
    assert mover.engine_wakeups > 0
    json.dumps(dataclasses.asdict(owner))


async def test_failures_are_counted_by_why(pair: Pair) -> None:
    owner = pair[0]
    late = await owner.create_readable(nc.Descriptor(bytes(10)), timeout=0.01)
    with pytest.raises(nc.DeadlineExceededError):
        await late.wait_for_completion()
    declined = await owner.create_readable(nc.Descriptor(bytes(10)))
    await pair[1].decline(declined.metadata())
    with pytest.raises(nc.RemoteFailedError):
        await declined.wait_for_completion()
    assert await eventually(lambda: owner.stats().errored == 2)
    failures = owner.stats().operations["readable"].failures
    assert {why: n for why, n in failures.items() if n} == {"timed_out": 1, "remote_failed": 1}
    registry = CollectorRegistry()
    registry.register(ConnectorCollector(*pair))
    labels = {"connector": "owner", "kind": "readable"}
    for reason, count in ("timed_out", 1), ("remote_failed", 1), ("peer_unreachable", 0):
        value = registry.get_sample_value(
            "nixl_connect_failures_total", labels | {"reason": reason}
        )
        assert value == count


async def test_ages_are_of_the_oldest_that_still_waits() -> None:
    with nc.Connector(foreign_peers=True, linger=60) as connector:
        assert connector.stats().oldest_waiting == 0
        began = time.monotonic()
        offers = [await connector.create_readable(nc.Descriptor(bytes(10)))]
        await asyncio.sleep(0.05)
        offers.append(await connector.create_readable(nc.Descriptor(bytes(10))))
        age = connector.stats().oldest_waiting
        assert 0.05 <= age <= time.monotonic() - began
        offers[0].metadata()
        offers[0].cancel()  # and lingers
        assert await eventually(lambda: connector.stats().lingering == 1)
        assert 0 < connector.stats().oldest_waiting <= time.monotonic() - began - 0.05
        offers[1].cancel()
        assert await eventually(lambda: connector.stats().oldest_waiting == 0)
        assert connector.stats().oldest_in_flight == 0


def test_of_connectors_with_one_name_the_oldest_counts(name: str) -> None:
    with nc.Connector(name) as one, nc.Connector(name) as other:
        offers = [one.create_readable_blocking(nc.Descriptor(bytes(10)))]
        time.sleep(0.05)
        offers.append(other.create_readable_blocking(nc.Descriptor(bytes(10))))
        registry = CollectorRegistry()
        registry.register(ConnectorCollector(one, other))
        labels = {"connector": name}
        least = one.stats().oldest_waiting
        value = registry.get_sample_value("nixl_connect_oldest_waiting_seconds", labels)
        assert value is not None
        assert least <= value <= one.stats().oldest_waiting
        assert registry.get_sample_value("nixl_connect_waiting", labels) == 2


async def test_asking_starts_nothing() -> None:
    connector = nc.Connector()
    before = threading.active_count()
    stats = connector.stats()
    assert (stats.complete, stats.waiting, stats.engine_wakeups) == (0, 0, 0)
    assert connector.nixl_library == ""
    assert threading.active_count() == before
    connector.close()
    assert connector.stats().engine_cpu_seconds == 0


async def test_figures_outlive_the_engine(pair: Pair) -> None:
    await read(pair)
    used = pair[1].stats().engine_cpu_seconds
    pair[1].close()
    assert pair[1].stats().operations["read"].complete == 1
    assert pair[1].stats().engine_cpu_seconds >= used


async def test_what_a_collector_says(pair: Pair) -> None:
    await read(pair)
    registry = CollectorRegistry()
    registry.register(ConnectorCollector(*pair))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"nixl_connect_{name}", labels)

    of_reads = {"connector": "mover", "kind": "read"}
    assert value("operations_total", **of_reads, status="complete") == 1
    assert value("operations_total", **of_reads, status="errored") == 0
    assert value("bytes_total", **of_reads) == 4096
    assert value("operation_seconds_count", **of_reads) == 1
    assert value("operation_seconds_bucket", **of_reads, le="+Inf") == 1
    assert value("operation_seconds_bucket", **of_reads, le="1e-06") == 0
    assert value("peers", connector="mover") == 1
    assert value("notifications_total", connector="owner", fate="matched") == 1
    assert (value("engine_cpu_seconds_total", connector="mover") or 0) > 0
    text = generate_latest(registry).decode()
    assert "# TYPE nixl_connect_operation_seconds histogram" in text


async def test_a_collector_finds_the_connectors_and_adds_up_those_of_a_name(pair: Pair) -> None:
    with nc.Connector("namesake") as one, nc.Connector("namesake") as other:
        await read((pair[0], one))
        await read((pair[0], other))
        registry = CollectorRegistry()
        registry.register(ConnectorCollector())
        labels = {"connector": "namesake", "kind": "read", "status": "complete"}
        assert registry.get_sample_value("nixl_connect_operations_total", labels) == 2


def test_a_collector_takes_connectors_only() -> None:
    with pytest.raises(TypeError, match="connectors: expected Connector, got str"):
        ConnectorCollector("worker")  # type: ignore[arg-type]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("nixl_connect.connector.tracer", lambda: provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name.removeprefix("nixl_connect "): span for span in exporter.get_finished_spans()}


async def test_operations_have_spans(exporter: InMemorySpanExporter) -> None:
    with nc.Connector("owner") as owner, nc.Connector("mover") as mover:
        await read((owner, mover))
        spans = by_name(exporter)
        assert set(spans) == {"ReadableOperation", "ReadOperation"}
        attributes = spans["ReadOperation"].attributes
        assert attributes is not None
        assert attributes["nixl_connect.bytes"] == 4096
        assert attributes["nixl_connect.status"] == "complete"
        assert str(attributes["nixl_connect.remote"]).startswith("owner-")
        assert spans["ReadOperation"].kind is SpanKind.CLIENT
        assert spans["ReadableOperation"].kind is SpanKind.SERVER
        exporter.clear()
        await fail((owner, mover))
        failed = by_name(exporter)["ReadOperation"]
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.events[0].name == "exception"
        # The offer was cancelled, and nobody looked.
        gc.collect()
        offer = by_name(exporter)["ReadableOperation"].attributes
        assert offer is not None
        assert offer["nixl_connect.status"] == "unwatched"


def test_a_span_counts_what_is_moved_without_an_object_for_each(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = array("B", bytes(1000))
    address, _ = memory.buffer_info()
    pieces = nc.DescriptorList(array("Q", [address, address + 500]), array("Q", [300, 40]))
    whole = nc.Descriptor(memory)
    monkeypatch.delattr(nc.DescriptorList, "__getitem__")
    monkeypatch.delattr(nc.DescriptorList, "__iter__")
    with nc.Connector("owner") as owner:
        for local in (whole, [whole, whole], pieces):
            owner.create_readable_blocking(local).cancel()
    gc.collect()
    moved = [span.attributes for span in exporter.get_finished_spans()]
    counted = [(of["nixl_connect.descriptors"], of["nixl_connect.bytes"]) for of in moved if of]
    assert sorted(counted, key=str) == [(1, 1000), (2, 2000), (2, 340)]


@pytest.mark.parametrize(
    "provider", [TracerProvider(sampler=ALWAYS_OFF), ProxyTracerProvider()], ids=["off", "none"]
)
def test_a_span_that_nobody_records_is_not_kept(
    provider: TracerProvider | ProxyTracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nixl_connect.connector.tracer", lambda: provider.get_tracer("test"))
    monkeypatch.setattr(_tracing, "total_bytes", None)
    with nc.Connector("owner") as owner:
        assert owner.create_readable_blocking(nc.Descriptor(bytes(9)))._span is None


def test_there_are_no_spans_without_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.sdk.trace")
    assert _tracing.tracer() is None


async def test_one_logger_tells_of_connectors_and_failures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "nixl_connect")
    with nc.Connector("owner") as owner, nc.Connector("mover") as mover:
        await fail((owner, mover))
    assert {record.name for record in caplog.records} == {"nixl_connect"}
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert any(
        level == "INFO" and "'owner'" in text and "made its agent" in text for level, text in told
    )
    assert any(level == "DEBUG" and "read from 'owner-" in text for level, text in told)
    failures = [vars(record) for record in caplog.records if record.levelname == "DEBUG"]
    (failed,) = failures
    assert failed["connector"] == "mover"
    assert failed["operation"].startswith("mover-")
    assert failed["kind"] == "ReadOperation"
    assert failed["peer"].startswith("owner-")
    assert failed["reason"] in ("timed_out", "offer_closed")
    others = [record for record in caplog.records if record.levelname == "INFO"]
    assert {vars(record)["connector"] for record in others} == {"owner", "mover"}
    assert any(level == "INFO" and "'mover'" in text and "closing" in text for level, text in told)
