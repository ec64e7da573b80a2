"""Wrong uses that type checkers must flag: `make lint` fails where a comment here ignores nothing."""

from __future__ import annotations

import nixl_connect as nc
import nixl_connect.trio
from nixl_connect.metrics import ConnectorCollector


async def mistakes(
    connector: nc.Connector,
    descriptor: nc.Descriptor,
    metadata: nc.RdmaMetadata,
    offer: nc.ReadableOperation,
    transfer: nc.ReadOperation,
) -> None:
    # Arguments.
    nc.Connector(backend_parameters={"devices": ["mlx5_0"]})  # type: ignore[dict-item]
    nc.Connector("worker", "UCX")  # type: ignore[call-arg]
    nc.Connector(auth_key="a secret of 16 bytes")  # type: ignore[arg-type]
    nc.Device(("cuda", 0))  # type: ignore[arg-type]
    nc.DescriptorList([1], [2], device=0)  # type: ignore[arg-type]
    nc.Descriptor.from_serialized(metadata)  # type: ignore[arg-type]
    nc.Connection("worker", 1)  # type: ignore[arg-type]
    await connector.create_readable("text")  # type: ignore[arg-type]
    await connector.create_readable([descriptor, 5])  # type: ignore[list-item]
    await connector.create_writable(descriptor, 10)  # type: ignore[call-arg]
    await connector.create_writable(descriptor, timeout="10")  # type: ignore[arg-type]
    await connector.begin_read(descriptor, metadata)  # type: ignore[arg-type]
    await connector.begin_read(metadata.model_dump_json(), descriptor)  # type: ignore[arg-type]
    await connector.begin_write(metadata, descriptor)  # type: ignore[arg-type]
    await connector.begin_read(metadata.model_dump(), descriptor)  # type: ignore[arg-type]
    await connector.begin_read(offer, descriptor)  # type: ignore[arg-type]
    connector.begin_read_blocking(descriptor, metadata)  # type: ignore[arg-type]
    connector.create_readable_blocking(descriptor, timeout="10")  # type: ignore[arg-type]
    connector.begin_read_blocking(metadata, descriptor, None)  # type: ignore[call-arg]
    descriptor.register_with_connector(offer)  # type: ignore[arg-type]
    ConnectorCollector("worker")  # type: ignore[arg-type]
    await nixl_connect.trio.wait_for_completion(connector.create_readable(descriptor))  # type: ignore[arg-type]

    # Nothing was awaited.
    connector.create_readable(descriptor).metadata()  # type: ignore[attr-defined]
    offer.wait_for_completion()  # type: ignore[unused-coroutine]
    with connector.create_readable(descriptor):  # type: ignore[attr-defined]
        pass
    with connector.begin_read_blocking(metadata, descriptor) as entered:
        await entered  # type: ignore[misc]

    # The other side's members, and what can only be looked at.
    offer.remote.name  # type: ignore[attr-defined]
    transfer.metadata()  # type: ignore[attr-defined]
    transfer.status = nc.OperationStatus.COMPLETE  # type: ignore[misc]
    descriptor.size = 10  # type: ignore[misc]
    connector.stats().peers = 0  # type: ignore[misc]
    as_text: str = offer.metadata()  # type: ignore[assignment]
    ended: bool = await transfer.wait_for_completion()  # type: ignore[func-returns-value, assignment]
    by_kind: nc.WriteOperation = await connector.begin_read(metadata, descriptor)  # type: ignore[assignment]
    print(as_text, ended, by_kind)
