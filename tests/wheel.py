"""What each wheel is asked before it is published: to be the right build, and to move bytes."""

from __future__ import annotations

import importlib.metadata
import sys
from concurrent.futures import ThreadPoolExecutor

import nixl_connect as nc
from nixl_connect import _core

THREADS = 8


def move(connectors: tuple[nc.Connector, nc.Connector], shared: nc.Descriptor) -> bytes:
    offering, reading = connectors
    target = bytearray(shared.size)
    with offering.create_readable_blocking(shared) as readable:
        metadata = nc.RdmaMetadata.model_validate_json(readable.metadata().model_dump_json())
        with reading.begin_read_blocking(metadata, nc.Descriptor(target)) as read:
            read.wait()
        readable.wait()
    return bytes(target)


assert importlib.metadata.version("nixl-connect") == nc.__version__
assert _core.__file__ is not None
free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
if "t" in sys.abiflags:
    assert free_threaded, "the module has turned the GIL on"
else:
    assert sys.version_info < (3, 12) or ".abi3." in _core.__file__, _core.__file__

source = bytes(range(256)) * 64
shared = nc.Descriptor(source)
with nc.Connector("offering") as offering, nc.Connector("reading") as reading:
    assert move((offering, reading), shared) == source
    with ThreadPoolExecutor(THREADS) as threads:
        everything = threads.map(lambda _: move((offering, reading), shared), range(100 * THREADS))
        assert set(everything) == {source}
print(f"nixl-connect {nc.__version__} on Python {sys.version.split()[0]}: {_core.__file__}")
