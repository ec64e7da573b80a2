"""What Prometheus sees of connectors: counters that never fall, metrics that have one collector."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import nixl_connect as nc
import pytest
from conftest import eventually, run_python
from nixl_connect import _totals
from nixl_connect.metrics import ConnectorCollector
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(ConnectorCollector())
    return made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of this test's connectors alone: what was counted stays counted."""
    return str(request.node.name)


@pytest.fixture(scope="module")
def owner() -> Iterator[nc.Connector]:
    with nc.Connector("owner") as made:
        yield made


def read(owner: nc.Connector, mover: nc.Connector, times: int = 1) -> None:
    for _ in range(times):
        offer = owner.create_readable_blocking(nc.Descriptor(bytes(100)))
        mover.begin_read_blocking(offer.metadata(), nc.Descriptor(bytearray(100))).wait()
        offer.wait()


def complete(registry: CollectorRegistry, name: str) -> float | None:
    labels = {"connector": name, "kind": "read", "status": "complete"}
    return registry.get_sample_value("nixl_connect_operations_total", labels)


def are_complete(registry: CollectorRegistry, name: str, count: int) -> bool:
    return asyncio.run(eventually(lambda: complete(registry, name) == count))


def test_counters_outlive_their_connectors(
    registry: CollectorRegistry, owner: nc.Connector, name: str
) -> None:
    assert complete(registry, name) is None
    for lives in range(1, 4):
        mover = nc.Connector(name)
        read(owner, mover, 2)
        if lives > 1:  # the first dies without having been closed
            mover.close()
            assert are_complete(registry, name, 2 * lives)
        del mover
        gc.collect()
        assert are_complete(registry, name, 2 * lives)
    with nc.Connector(name) as mover:
        read(owner, mover)
        assert are_complete(registry, name, 7)
    seconds = f'nixl_connect_operation_seconds_count{{connector="{name}",kind="read"}} 7.0'
    assert seconds in generate_latest(registry).decode()


def test_between_two_scrapes_a_connector_lives_and_dies(
    registry: CollectorRegistry, owner: nc.Connector, name: str
) -> None:
    generate_latest(registry)
    with nc.Connector(name) as mover:
        read(owner, mover)
    del mover
    gc.collect()
    assert complete(registry, name) == 1


def test_a_closed_connector_holds_nothing(
    registry: CollectorRegistry, owner: nc.Connector, name: str
) -> None:
    labels = {"connector": name}
    with nc.Connector(name) as mover:
        offer = mover.create_readable_blocking(nc.Descriptor(bytes(100)))
        assert registry.get_sample_value("nixl_connect_waiting", labels) == 1
    assert registry.get_sample_value("nixl_connect_waiting", labels) == 0
    assert offer.status is nc.OperationStatus.ERRORED


def test_counters_of_given_connectors_stay(owner: nc.Connector, name: str) -> None:
    movers = [nc.Connector(name) for _ in range(2)]
    registry = CollectorRegistry()
    registry.register(ConnectorCollector(*movers))
    with nc.Connector(name) as other:
        read(owner, other)
    for mover in movers:
        read(owner, mover)
    assert are_complete(registry, name, 2)
    movers.pop().close()
    gc.collect()
    assert complete(registry, name) == 2
    movers.pop().close()


def test_every_scrape_counts_each_connector_once(
    registry: CollectorRegistry, owner: nc.Connector, name: str
) -> None:
    lives, threads = 8, 3
    seen: list[float] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.is_set():
            seen.append(complete(registry, name) or 0)

    def live_and_die(_: int) -> None:
        for life in range(lives):
            mover = nc.Connector(name)
            read(owner, mover)
            if life % 2:
                closers = [threading.Thread(target=mover.close) for _ in range(2)]
                for closer in closers:
                    closer.start()
                for closer in closers:
                    closer.join()
            del mover
            gc.collect()

    scraper = threading.Thread(target=scrape)
    scraper.start()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(live_and_die, range(threads)))
    over.set()
    scraper.join()
    assert all(before <= after for before, after in pairwise(seen))
    assert complete(registry, name) == lives * threads


def test_a_connector_may_be_collected_in_the_middle_of_a_scrape(
    registry: CollectorRegistry, owner: nc.Connector, name: str
) -> None:
    mover = nc.Connector(name)
    read(owner, mover)
    with _totals._totals._lock:
        del mover
        gc.collect()
    assert complete(registry, name) == 1
    assert complete(registry, name) == 1
    assert not _totals._totals._retired


def test_what_ends_after_the_close_is_counted(registry: CollectorRegistry, name: str) -> None:
    """Closed on the engine's thread, by an owner of memory, a connector closes by and by."""
    connector = nc.Connector(name)

    class Memory(bytearray):
        def __del__(self) -> None:
            connector.close()

    def offer() -> nc.ReadableOperation:
        return connector.create_readable_blocking(nc.Descriptor(memoryview(Memory(100))))

    offers = [offer(), offer()]
    offers[0].cancel()
    offers[1].cancel()
    for of in offers:
        assert of._core.wait(nc._core.RELEASED, 30)
    del offers, of
    gc.collect()
    connector.close()
    labels = {"connector": name, "kind": "readable", "status": "cancelled"}
    assert registry.get_sample_value("nixl_connect_operations_total", labels) == 2


def test_what_a_collected_connector_ends_is_counted(registry: CollectorRegistry, name: str) -> None:
    connector = nc.Connector(name)
    waiting = connector.create_readable_blocking(nc.Descriptor(bytes(100)))._core
    del connector
    gc.collect()
    labels = {"connector": name, "kind": "readable", "status": "errored"}
    assert registry.get_sample_value("nixl_connect_operations_total", labels) == 1
    assert waiting.failure is not None


def test_names_beyond_so_many_share_a_label(
    registry: CollectorRegistry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_latest(registry)
    monkeypatch.setattr(_totals, "MOST_LABELS", len(_totals._totals._labels) + 1)
    first, second, third = (nc.Connector(f"{name}-{i}") for i in range(3))
    for _ in range(2):
        assert complete(registry, first.name) == 0
        assert complete(registry, "") == 0
        assert complete(registry, second.name) is None
        assert complete(registry, third.name) is None
        second.close()
    del first, second, third


def test_a_forked_child_leaves_its_parent_s_figures_out() -> None:
    result = run_python(FORK)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["child", "None", "None", "None", "0", "parent", "1", "1"]


FORK = """
import gc, os, nixl_connect as nc
from nixl_connect.metrics import ConnectorCollector
from prometheus_client import CollectorRegistry

def complete(registry, name):
    labels = {"connector": name, "kind": "readable", "status": "cancelled"}
    return registry.get_sample_value("nixl_connect_operations_total", labels)

def offer(connector):
    made = connector.create_readable_blocking(nc.Descriptor(bytes(9)))
    made.cancel()
    made._core.wait(nc._core.RELEASED, None)

unused, alive, dead = nc.Connector("unused"), nc.Connector("alive"), nc.Connector("dead")
offer(alive), offer(dead)
del dead
gc.collect()
every, given = CollectorRegistry(), CollectorRegistry()
every.register(ConnectorCollector())
given.register(ConnectorCollector(alive))
child = os.fork()
if child == 0:
    print("child", complete(every, "alive"), complete(every, "dead"), complete(given, "alive"))
    print(complete(every, "unused"), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", complete(every, "alive"), complete(every, "dead"))
"""


def test_a_registry_takes_one_collector(registry: CollectorRegistry) -> None:
    with nc.Connector("one") as connector:
        for second in (ConnectorCollector(), ConnectorCollector(connector)):
            with pytest.raises(ValueError, match="Duplicated timeseries"):
                registry.register(second)
        assert connector.nixl_library == ""


def test_what_is_described_is_what_is_collected(registry: CollectorRegistry) -> None:
    with nc.Connector("one"):
        described = {(m.name, m.type, m.documentation) for m in ConnectorCollector().describe()}
        collected = {(m.name, m.type, m.documentation) for m in registry.collect()}
    assert described == collected
    assert all(not metric.samples for metric in ConnectorCollector().describe())


def test_metrics_may_be_selected_by_name(registry: CollectorRegistry, name: str) -> None:
    query = "name[]=nixl_connect_peers&name[]=nixl_connect_operation_seconds_count"
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": query}
    with nc.Connector(name):
        answer = make_wsgi_app(registry)(environ, lambda *_: None)
    text = b"".join(answer).decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert f'nixl_connect_peers{{connector="{name}"}} 0.0' in lines
    assert {line.partition("{")[0] for line in lines} == {
        "nixl_connect_peers",
        "nixl_connect_operation_seconds_count",
    }


def test_every_figure_is_a_metric(registry: CollectorRegistry) -> None:
    metrics = {metric.name for metric in registry.collect()}
    for field in dataclasses.fields(nc.ConnectorStats):
        figure = "notifications" if field.name.startswith("notifications") else field.name
        names = {f"nixl_connect_{figure}", f"nixl_connect_{figure}_seconds"}
        assert len(names & metrics) == 1


def test_the_multiprocess_mode_asks_no_collector(tmp_path: Path) -> None:
    result = run_python(MULTIPROCESS, PROMETHEUS_MULTIPROC_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr


MULTIPROCESS = """
import nixl_connect as nc
from nixl_connect.metrics import ConnectorCollector
from prometheus_client import CollectorRegistry, generate_latest

try:
    ConnectorCollector()
except ValueError as error:
    assert "PROMETHEUS_MULTIPROC_DIR is set" in str(error), error
else:
    raise AssertionError("taken")
registry = CollectorRegistry()
registry.register(ConnectorCollector(per_process=True))
with nc.Connector("worker"):
    assert 'nixl_connect_peers{connector="worker"} 0.0' in generate_latest(registry).decode()
"""


def test_nothing_is_kept_before_the_metrics_are_imported() -> None:
    result = run_python(
        "import sys, nixl_connect as nc; nc.Connector('a')\n"
        "assert 'nixl_connect._totals' not in sys.modules and not nc._worker._watchers"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("end", ["", "connector.close()", "del connector"])
def test_a_process_ends_without_a_word(end: str) -> None:
    result = run_python(
        "import nixl_connect as nc, nixl_connect.metrics as m, prometheus_client as p\n"
        "collector = m.ConnectorCollector(); p.REGISTRY.register(collector)\n"
        "connector = nc.Connector('a')\n"
        "connector.create_readable_blocking(nc.Descriptor(bytes(9))).cancel()\n"
        "p.generate_latest()\n" + end,
        NIXL_LOG_LEVEL="FATAL",
    )
    assert (result.returncode, result.stderr) == (0, "")
