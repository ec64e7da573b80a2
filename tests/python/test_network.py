"""Two hosts: network namespaces of this test's own, joined by a veth pair and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import OURS, PEER, Peer
from test_processes import move

IP = shutil.which("ip")
RELAY = Path(__file__).with_name("relay.py")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def namespaces_can_be_made() -> bool:
    if IP is None or os.geteuid() != 0:
        return False
    name = f"nixl-probe-{os.getpid()}"
    made = subprocess.run([IP, "netns", "add", name], capture_output=True, check=False)
    if made.returncode == 0:
        run(IP, "netns", "del", name)
    return made.returncode == 0


pytestmark = pytest.mark.skipif(
    not namespaces_can_be_made(), reason="needs ip (iproute2) and the right to make namespaces"
)


class Hosts:
    """Two namespaces; the names and the veth pair go with them."""

    def __init__(self) -> None:
        self.names = [f"nixl-{os.getpid()}-{side}" for side in ("a", "b")]
        self.links = [f"nv{os.getpid() % 100000}{side}" for side in ("a", "b")]

    def make(self) -> None:
        assert IP is not None
        for name in self.names:
            run(IP, "netns", "add", name)
        run(IP, "link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for i, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            run(IP, "link", "set", link, "netns", name)
            run(IP, "-n", name, "addr", "add", f"10.99.0.{i + 1}/24", "dev", link)
            run(IP, "-n", name, "link", "set", link, "up")
            run(IP, "-n", name, "link", "set", "lo", "up")

    def remove(self) -> None:
        assert IP is not None
        for name in self.names:
            subprocess.run([IP, "netns", "del", name], capture_output=True, check=False)

    def link(self, state: str) -> None:
        assert IP is not None
        run(IP, "-n", self.names[0], "link", "set", self.links[0], state)

    async def replace_cable(self, loss: float, delay: float) -> asyncio.subprocess.Process:
        """Another link in the place of the veth pair, that loses and delays frames."""
        assert IP is not None
        run(IP, "-n", self.names[0], "link", "del", self.links[0])
        device = "cable"
        relay = await asyncio.create_subprocess_exec(
            *(sys.executable, str(RELAY), *self.names, device, str(loss), str(delay)),
            stdout=subprocess.PIPE,
        )
        assert relay.stdout is not None
        assert await relay.stdout.readline() == b"ready\n"
        for i, name in enumerate(self.names):
            self.links[i] = device
            run(IP, "-n", name, "addr", "add", f"10.99.0.{i + 1}/24", "dev", device)
            run(IP, "-n", name, "link", "set", device, "up")
        return relay

    async def start(self, side: int) -> Peer:
        assert IP is not None
        environment = {
            "UCX_NET_DEVICES": self.links[side],
            "UCX_TLS": "tcp",
            # Notice a dead link within seconds.
            "UCX_TCP_KEEPIDLE": "2s",
            "UCX_TCP_KEEPINTVL": "1s",
            "UCX_TCP_KEEPCNT": "3",
            "UCX_LOG_LEVEL": "fatal",
            "NIXL_LOG_LEVEL": "FATAL",
        }
        command = [sys.executable, str(PEER), OURS, "host"]
        return await Peer.execute(IP, "netns", "exec", self.names[side], *command, **environment)


Start = Callable[[int], Awaitable[Peer]]


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    made = Hosts()
    try:
        made.make()
        yield made
    finally:
        made.remove()


@pytest.fixture
async def start(hosts: Hosts) -> AsyncIterator[Start]:
    peers: list[Peer] = []

    async def start_on(side: int) -> Peer:
        peers.append(await hosts.start(side))
        return peers[-1]

    yield start_on
    for peer in peers:
        if peer.process.returncode is None:
            peer.process.kill()
            await peer.process.wait()


async def test_moves_between_two_hosts(start: Start) -> None:
    left, right = await asyncio.gather(start(0), start(1))
    for kind in ("read", "write"):
        await move(left, right, kind, [1, 4096, 8 << 20], 1)
        await move(right, left, kind, [100_000], 2)
    await asyncio.gather(*[move(left, right, "read", [1000], seed) for seed in range(64)])


def on_host(hosts: Hosts, side: int, *command: str) -> tuple[list[str], dict[str, str]]:
    assert IP is not None
    arguments = [sys.executable, "-m", "nixl_connect", *command]
    environment = {
        **os.environ,
        "UCX_NET_DEVICES": hosts.links[side],
        "UCX_TLS": "tcp",
        "UCX_LOG_LEVEL": "fatal",
        "NIXL_LOG_LEVEL": "FATAL",
    }
    return [IP, "netns", "exec", hosts.names[side], *arguments], environment


def test_bench_between_two_hosts(hosts: Hosts) -> None:
    serve, environment = on_host(
        hosts, 0, "bench", "serve", "--host", "10.99.0.1", "--port", "7654"
    )
    with subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "serving at 10.99.0.1 port 7654\n"
        options = ["--sizes", "4K,1M", "--in-flight", "1,4", "--seconds", "0.05", "--json"]
        command, environment = on_host(hosts, 1, "bench", "connect", "10.99.0.1", *options)
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        assert result.returncode == 0, result.stderr
        assert all(figures["reads"] >= 2 for figures in json.loads(result.stdout))

        # An interface that does not lead there.
        environment["UCX_NET_DEVICES"] = "lo"
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        server.terminate()
    assert result.returncode == 1
    assert "UCX_NET_DEVICES, on both hosts" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_on_either_host_ends_bench_in_order(hosts: Hosts) -> None:
    connecting, there = on_host(hosts, 1, "bench", "connect", "10.99.0.1", "--seconds", "60")
    serving, here = on_host(hosts, 0, "bench", "serve", "--host", "10.99.0.1")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(serving, env=here, **pipes) as server:
        assert server.stdout is not None
        line = server.stdout.readline
        assert line() == "serving at 10.99.0.1 port 7654\n"
        assert line() == "from another host: nixl-connect bench connect 10.99.0.1 --port 7654\n"
        assert "a firewall must let them all through" in line()
        with subprocess.Popen(connecting, env=there, **pipes) as client:
            assert line() == "10.99.0.2 has come\n"
            client.send_signal(signal.SIGINT)
            assert client.communicate(timeout=60)[1].strip() == ""
            assert client.returncode == 130
        assert line() == "10.99.0.2 has gone\n"
        with subprocess.Popen(connecting, env=there, **pipes) as client:
            assert line() == "10.99.0.2 has come\n"
            server.send_signal(signal.SIGINT)
            assert server.communicate(timeout=60) == ("10.99.0.2 has gone\n", "")
            assert server.returncode == 130
            assert client.communicate(timeout=60)[1].strip() == "error: the serving side has gone"
            assert client.returncode == 1


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun")
@pytest.mark.parametrize(
    ("loss", "delay"), [(0.0, 0.005), (0.02, 0.0), (0.01, 0.002)], ids=["delay", "loss", "both"]
)
async def test_loss_and_delay(hosts: Hosts, start: Start, loss: float, delay: float) -> None:
    relay = await hosts.replace_cable(loss, delay)
    try:
        left, right = await asyncio.gather(start(0), start(1))
        for kind in ("read", "write"):
            await move(left, right, kind, [1, 4096, 1 << 20], 1)
        await asyncio.gather(*[move(left, right, "read", [1000], seed) for seed in range(32)])
    finally:
        relay.kill()
        await relay.wait()


async def test_a_link_that_goes_down_and_comes_back(hosts: Hosts, start: Start) -> None:
    left, right = await asyncio.gather(start(0), start(1))
    await move(left, right, "read", [4096], 1)

    size = [256 << 20]
    offer = await left.ask("offer", kind="read", sizes=size, seed=1, timeout=8)
    metadata = offer["metadata"]
    waiting = asyncio.create_task(left.ask("wait", key=metadata["notification_key"]))
    request: dict[str, Any] = {"kind": "read", "sizes": size, "seed": 1, "metadata": metadata}
    moving = asyncio.create_task(right.ask("begin", timeout=8, **request))
    await asyncio.sleep(0.1)
    hosts.link("down")
    moved, waited = await asyncio.wait_for(asyncio.gather(moving, waiting), 60)
    failures = {"DeadlineExceededError", "PeerDisconnectedError", "PeerUnreachableError"}
    assert moved.get("error") in failures or moved.get("right"), json.dumps(moved)
    assert "error" in waited or waited["status"] == "DONE", waited

    hosts.link("up")

    async def again() -> None:
        """The next operation works, when the two have found each other again."""
        for seed in range(20):
            offer = await left.ask("offer", kind="read", sizes=[4096], seed=seed, timeout=10)
            metadata = offer["metadata"]
            reply = await right.ask(
                "begin", kind="read", sizes=[4096], seed=seed, metadata=metadata, timeout=5
            )
            if reply.get("right"):
                return
            await asyncio.sleep(0.5)
        raise AssertionError(reply)

    await asyncio.wait_for(again(), 100)
    await asyncio.wait_for(move(left, right, "write", [4096], 9), 60)
