"""What docs/operations gives to operators: alerts and a dashboard, on a real Prometheus."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import nixl_connect as nc
import pytest
from nixl_connect.commands import top
from nixl_connect.metrics import ConnectorCollector
from prometheus_client import CollectorRegistry, start_http_server

DOCS = Path(__file__).parents[2] / "docs"
OPERATIONS = DOCS / "operations"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's package prometheus is not installed"
)


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    # Other tests look for some at this moment.
    for first in random.sample(range(20000, 30000), 100):
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no port is free")


def expressions() -> list[str]:
    """Of the dashboard's panels, as Grafana would send them."""
    dashboard = json.loads((OPERATIONS / "dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    found = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ())]
    variables = {"$connector": ".*", "$instance": ".*", "$__rate_interval": "1m"}
    for name, value in variables.items():
        found = [expression.replace(name, value) for expression in found]
    assert all("$" not in expression for expression in found)
    return found


def exposed() -> set[str]:
    """Every metric's name, as it is exposed."""
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        metric.name + suffix
        for metric in ConnectorCollector().describe()
        for suffix in suffixes[metric.type]
    }


def test_alerts_and_dashboard_name_what_is_exposed() -> None:
    texts = [(OPERATIONS / "alerts.yml").read_text(), *expressions()]
    named = {name for text in texts for name in re.findall(r"\bnixl_connect_\w+", text)}
    assert len(named) > 10
    assert named <= exposed()
    page = (DOCS / "operations.md").read_text()
    for alert in re.findall(r"alert: (\w+)", texts[0]):
        assert f"`{alert}`" in page, "the page says what to do about each"


@needs_prometheus
def test_alerts_fire_when_they_should() -> None:
    result = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=OPERATIONS,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    tested = (OPERATIONS / "alerts_test.yml").read_text()
    for alert in re.findall(r"alert: (\w+)", (OPERATIONS / "alerts.yml").read_text()):
        assert tested.count(alert) >= 2, (
            f"{alert}: a case where it fires, and one where it does not"
        )


class Prometheus:
    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/api/v1/"

    def get(self, path: str, **parameters: str) -> Any:
        url = self._address + path + "?" + urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def eventually(self, expression: str, *, above: float = 0) -> dict[tuple[str, str], float]:
        """The values by connector and instance, once there are any above that."""
        for _ in range(600):
            try:
                found = self.query(expression)
            except OSError:
                found = []  # not up yet
            values = {
                (of["metric"].get("connector", ""), of["metric"].get("instance", "")): float(
                    of["value"][1]
                )
                for of in found
            }
            if values and max(values.values()) > above:
                return values
            time.sleep(0.1)
        raise AssertionError(f"{expression} has no value above {above}: {values}")


@contextmanager
def prometheus(folder: Path, *targets: int) -> Iterator[Prometheus]:
    """A server that scrapes these ports of this host twice a second."""
    job = {
        "job_name": "workers",
        "static_configs": [{"targets": [f"127.0.0.1:{target}" for target in targets]}],
    }
    configuration = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(OPERATIONS / "alerts.yml")],
        "scrape_configs": [job],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(configuration))  # which is YAML too
    port = free_ports(1)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield Prometheus(port)
    finally:
        server.kill()
        server.wait()


@needs_prometheus
@pytest.mark.usefixtures("ctrl_c")
def test_prometheus_scrapes_the_pipeline(tmp_path: Path) -> None:
    roles = ("image", "video", "prefill", "decode")
    first = free_ports(len(roles))
    command = [sys.executable, str(DOCS / "examples/pipeline/main.py"), "--requests=400"]
    command += [f"--{role}=1" for role in roles]
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "example.log").open("wb"))
        example = subprocess.Popen([*command, f"--metrics={first}"], stdout=log, stderr=log)
        stack.callback(example.wait)
        stack.callback(example.send_signal, signal.SIGINT)
        server = stack.enter_context(prometheus(tmp_path, *range(first, first + len(roles))))
        by_worker = server.eventually('nixl_connect_operations_total{status="complete"}', above=20)
        workers = {connector for connector, _ in by_worker}
        assert workers == {f"{role}-0" for role in roles}
        server.eventually('rate(nixl_connect_bytes_total{kind="read"}[5s])')
        for expression in expressions():
            server.query(expression)  # an error of its syntax is an error here
        rules = server.get("rules")["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert {rule["state"] for rule in rules} == {"inactive"}
        # As an operator would look at one of them, meanwhile.
        before = top.fetch(top.url_of(f"127.0.0.1:{first}"))
        assert set(before.figures) == {"image-0"}
        assert example.poll() is None, "it has ended before it was looked at"


@needs_prometheus
def test_an_offer_that_nobody_reads_is_seen(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    with nc.Connector("forgetful") as connector:
        registry.register(ConnectorCollector(connector))
        web, thread = start_http_server(0, "127.0.0.1", registry)
        offer = connector.create_readable_blocking(nc.Descriptor(bytes(100)))
        with prometheus(tmp_path, web.server_port) as server:
            ages = server.eventually("nixl_connect_oldest_waiting_seconds", above=1)
            assert list(ages) == [("forgetful", f"127.0.0.1:{web.server_port}")]
            offer.cancel()
            server.eventually("nixl_connect_oldest_waiting_seconds == bool 0")
        web.shutdown()
        web.server_close()
        thread.join()
