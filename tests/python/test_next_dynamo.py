"""What callers of the versions after Dynamo 1.6.1 use."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from typing import Any

import nixl_connect as nc
import numpy as np
import pytest
from nixl_connect import _core

SIZE = 4096
FIRST = 7


def text_of(blob: bytes) -> str:
    return "b64:" + base64.b64encode(zlib.compress(blob)).decode()


def parts_of(blob: bytes) -> tuple[bytes, bytes]:
    """How an agent is reached, and its regions, as an owner takes them apart in time."""
    begin = blob.index(b"MemSection") + len(b"MemSection|")
    count = begin + len(b"nixlSecElms") + 8
    no_regions = blob[:count] + bytes(8) + b"|"
    connections = blob.index(b"Conns")
    no_connections = blob[: connections + len(b"Conns") + 8] + bytes(8) + b"|"
    memory = blob[begin - len(b"MemSection|") - 8 :]
    return no_regions, no_connections + memory


def test_decode_metadata() -> None:
    blob = b"whatever it is"
    assert nc.Remote.decode_metadata(text_of(blob)) == blob
    assert nc.Remote.decode_metadata(zlib.compress(blob).hex()) == blob
    assert nc.Remote.decode_metadata(blob) is blob


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ("", ValueError, "cannot be empty"),
        (b"", ValueError, "cannot be empty"),
        (None, TypeError, "expected bytes or str, got NoneType"),
        (bytearray(b"x"), TypeError, "expected bytes or str, got bytearray"),
        ("b64:a", nc.RejectedMetadataError, "base64"),
        ("not-hex", nc.RejectedMetadataError, "hex"),
        ("00", nc.RejectedMetadataError, "zlib"),
    ],
)
def test_what_cannot_be_decoded(metadata: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nc.Remote.decode_metadata(metadata)
    connection = nc.Connection(nc.Connector("none"), 1)
    with pytest.raises(error, match=message):
        nc.Remote(connection, metadata)


async def test_connection_and_regions_apart(connector: nc.Connector, other: nc.Connector) -> None:
    source = np.full(SIZE, FIRST, dtype=np.uint8)
    async with connector.create_readable(source, readers=4) as offer:
        whole = offer.metadata()
        connections, regions = parts_of(nc.Remote.decode_metadata(whole.nixl_metadata))
        part = whole.model_copy(update={"nixl_metadata": text_of(regions)})
        with nc.Remote(offer.connection, regions, nixl_connection_metadata=connections) as remote:
            assert remote.name == nc.Remote(offer.connection, whole.nixl_metadata).name

        with pytest.raises(nc.RejectedMetadataError, match="no connection information"):
            await other.begin_read(part, np.zeros(SIZE, np.uint8))
        for known in (connections, text_of(connections)):
            target = np.zeros(SIZE, dtype=np.uint8)
            reading = await other.begin_read(part, target, nixl_connection_metadata=known)
            await reading.wait_for_completion(30)
            assert (target == FIRST).all()
        target = np.zeros(SIZE, dtype=np.uint8)
        connection = await other._create_connection()
        reading = nc.ReadOperation(
            connection, part, nc.Descriptor(target), nixl_connection_metadata=connections
        )
        await reading.wait_for_completion(30)
        other.begin_read_blocking(
            part.to_wire(), target, nixl_connection_metadata=connections
        ).wait(30)
        await offer.wait_for_completion(30)

    async with connector.create_writable(target) as writable:
        connections, regions = parts_of(
            nc.Remote.decode_metadata(writable.metadata().nixl_metadata)
        )
        part = writable.metadata().model_copy(update={"nixl_metadata": text_of(regions)})
        known = text_of(connections)
        writing = await other.begin_write(source, part, nixl_connection_metadata=known)
        await writing.wait_for_completion(30)


async def test_parts_that_do_not_belong_together(
    connector: nc.Connector, other: nc.Connector
) -> None:
    await connector.warmup()
    await other.warmup()
    async with connector.create_readable(np.zeros(SIZE, np.uint8)) as offer:
        theirs = (await other._create_connection()).metadata
        mine = nc.Remote.decode_metadata(offer.metadata().nixl_metadata)
        with pytest.raises(nc.RejectedMetadataError, match="two agents"):
            nc.Remote(offer.connection, mine, nixl_connection_metadata=theirs)
        with pytest.raises(ValueError, match=r"nixl_connection_metadata: cannot be empty"):
            nc.Remote(offer.connection, mine, nixl_connection_metadata=b"")
        with pytest.raises(TypeError, match="nixl_connection_metadata: expected bytes or str"):
            await other.begin_read(
                offer.metadata(),
                np.zeros(SIZE, np.uint8),
                nixl_connection_metadata=5,  # type: ignore[arg-type]
            )


async def test_what_is_not_signed_leads_nowhere() -> None:
    key = b"0123456789abcdef"
    async with nc.Connector("a", auth_key=key) as owner, nc.Connector("b", auth_key=key) as reader:
        async with owner.create_readable(np.zeros(SIZE, np.uint8)) as offer:
            known = nc.Remote.decode_metadata(offer.metadata().nixl_metadata)
            with pytest.raises(
                nc.RejectedMetadataError, match="nixl_connection_metadata: not signed"
            ):
                await reader.begin_read(
                    offer.metadata(), np.zeros(SIZE, np.uint8), nixl_connection_metadata=known
                )


def test_a_peer_s_address_is_not_asked_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*arguments: Any) -> None:
        raise AssertionError(f"the driver was asked about {arguments}")

    monkeypatch.setattr(_core, "check_memory", asked)
    serialized = [
        nc.SerializedDescriptor(device=device, ptr=0x7F0000000000, size=64)
        for device in ("cuda:0", "cuda:7", "cpu", "xpu:1")
    ]
    metadata = nc.RdmaMetadata(descriptors=serialized, operation_kind=1)
    for piece, descriptor in zip(serialized, metadata.to_descriptors(), strict=True):
        for made in (descriptor, piece.to_descriptor(), nc.Descriptor.from_serialized(piece)):
            assert (made.ptr, made.size, str(made.device)) == (piece.ptr, 64, piece.device)
            assert made.metadata == piece
    with pytest.raises(AssertionError):
        nc.Descriptor((0x7F0000000000, 64, "cuda:0"))


# Dynamo's frontend, in Rust: it has NIXL itself, takes its agent's metadata once, and registers what it
# has decoded when that comes (lib/llm/src/preprocessor/media/rdma.rs of Dynamo 1.6.1, and its test of
# the connection's part on the main branch).
FRONTEND = """
import base64, json, os, sys, time, zlib
os.environ["UCX_NET_DEVICES"] = "lo"
output = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import numpy as np
from nixl._api import nixl_agent

def text(blob): return "b64:" + base64.b64encode(zlib.compress(blob)).decode()

agent = nixl_agent("media-loader-1")
before = agent.get_agent_metadata()
data = np.full(4096, 7, dtype=np.uint8)
pieces = [(data.ctypes.data, data.nbytes, 0, "")]
agent.register_memory(pieces, "DRAM")
later = agent.get_partial_agent_metadata(agent.get_reg_descs(pieces, "DRAM"))
whole = agent.get_agent_metadata()
said = {"before": text(before), "later": text(later), "whole": text(whole)}
print(json.dumps({**said, "ptr": data.ctypes.data}), file=output, flush=True)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    for sender, notifications in agent.get_new_notifs().items():
        for each in notifications: print(each.decode(), file=output, flush=True)
    time.sleep(0.001)
"""


async def test_the_frontend_is_the_passive_side(connector: nc.Connector) -> None:
    pytest.importorskip("nixl._api", reason="needs NIXL's Python package")
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", FRONTEND], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as frontend:
        try:
            assert frontend.stdout is not None
            said = json.loads(frontend.stdout.readline())
            pieces = [nc.SerializedDescriptor(ptr=said["ptr"], size=SIZE)]

            def metadata(nixl_metadata: str, key: str) -> nc.RdmaMetadata:
                return nc.RdmaMetadata(
                    descriptors=pieces,
                    nixl_metadata=nixl_metadata,
                    notification_key=key,
                    operation_kind=1,
                )

            target = np.zeros(SIZE, dtype=np.uint8)
            with pytest.raises(nc.RejectedMetadataError, match="not among the regions"):
                await connector.begin_read(metadata(said["before"], "none"), target)
            # What reaches the agent serves to connect, with or without memory.
            await connector.connect(said["before"])
            for number, (sent, known) in enumerate(
                [(said["whole"], None), (said["later"], said["before"])]
            ):
                target[:] = 0
                reading = await connector.begin_read(
                    metadata(sent, f"key {number}"), target, nixl_connection_metadata=known
                )
                await reading.wait_for_completion(30)
                assert (target == FIRST).all()
                assert frontend.stdout.readline() == f"key {number}\n".encode()
        finally:
            frontend.kill()
