"""The same scenarios through this library and through `dynamo.nixl_connect`, as a table.

Each scenario is the same code for both, in a process of its own, because it may take the
process with it. What is promised here and kept: docs/reliability.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from rich.console import Console
from rich.progress import track
from rich.table import Table

PRELUDE = """
import asyncio, gc, importlib, os, sys, threading
import numpy as np
nc = importlib.import_module(sys.argv[1])

def memory(fill, size=4096):
    return np.full(size, fill, dtype=np.uint8)

def descriptor(array):
    return nc.Descriptor((array, "cpu"))

def sent(operation):
    return nc.RdmaMetadata.model_validate_json(operation.metadata().model_dump_json())

async def wait(operation, seconds=5):
    await asyncio.wait_for(operation.wait_for_completion(), seconds)

async def move(a, b, source=None, target=None):
    source = memory(7) if source is None else source
    target = memory(0) if target is None else target
    offer = await a.create_readable(descriptor(source))
    read = await b.begin_read(sent(offer), descriptor(target))
    await wait(read)
    await wait(offer)
    assert (target == 7).all(), "wrong bytes"
"""

LEAVE = """
except BaseException as error:
    sys.stderr.write(f"{type(error).__name__}: {error}".splitlines()[0] + chr(10))
    sys.stderr.flush()
    os._exit(1)
os._exit(0)
"""

SCENARIOS = {
    "two operations on one descriptor: the end of one leaves the other alone": """
async def main():
    a, b, c = nc.Connector("a"), nc.Connector("b"), nc.Connector("c")
    shared = descriptor(memory(7))
    first, second = await a.create_readable(shared), await a.create_readable(shared)
    for offer, reader in ((first, b), (second, c)):
        target = memory(0)
        with await reader.begin_read(sent(offer), descriptor(target)) as read:
            await wait(read)
        with offer:
            await wait(offer)
        assert (target == 7).all(), "wrong bytes"
asyncio.run(main())
""",
    "a descriptor registered by hand stays registered after an operation": """
async def main():
    a, b = nc.Connector("a"), nc.Connector("b")
    d = descriptor(memory(7))
    d.register_with_connector(await a._create_connection())
    with await a.create_readable(d) as offer:
        with await b.begin_read(sent(offer), descriptor(memory(0))) as read:
            await wait(read)
        await wait(offer)
    assert d.is_registered, "no longer registered"
asyncio.run(main())
""",
    "a transfer begins without being asked for its status": """
async def main():
    a, b = nc.Connector("a"), nc.Connector("b")
    offer = await a.create_readable(descriptor(memory(7)))
    read = await b.begin_read(sent(offer), descriptor(memory(0)))
    await wait(offer)
asyncio.run(main())
""",
    "one connector, two event loops, one after another": """
a, b = nc.Connector("a"), nc.Connector("b")
async def contended():
    await asyncio.gather(*[move(a, b) for _ in range(4)])
asyncio.run(contended()); asyncio.run(contended())
""",
    "one connector, four threads with event loops, at once": """
a, b = nc.Connector("a"), nc.Connector("b")
asyncio.run(move(a, b))
failed = []
def work():
    async def many():
        for _ in range(25): await move(a, b)
    try: asyncio.run(many())
    except BaseException as error: failed.append(error)
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert not failed, repr(failed[0])
""",
    "a destination that is not contiguous is refused": """
import torch
async def main():
    a, b = nc.Connector("a"), nc.Connector("b")
    offer = await a.create_readable(nc.Descriptor(torch.arange(64)))
    target = torch.zeros(8, 8, dtype=torch.int64).t()
    try:
        read = await b.begin_read(sent(offer), nc.Descriptor(target))
    except (TypeError, ValueError): return
    await wait(read)
    assert target.sum() == torch.arange(64).sum(), "complete, and nothing was delivered"
asyncio.run(main())
""",
    "bytes are refused as a destination": """
async def main():
    a, b = nc.Connector("a"), nc.Connector("b")
    offer = await a.create_readable(descriptor(memory(7)))
    constant = bytes(4096)
    try:
        read = await b.begin_read(sent(offer), nc.Descriptor(constant))
    except (TypeError, ValueError): return
    await wait(read)
    assert constant == bytes(4096), "wrote into an immutable object"
asyncio.run(main())
""",
    "a worker comes back under its old id": """
async def main():
    b = nc.Connector("b")
    for life in range(3):
        a = nc.Connector("phoenix")
        await move(a, b)
        if hasattr(a, "close"): a.close()
        del a; gc.collect()
asyncio.run(main())
""",
    "a wait for a peer that never comes can end": """
async def main():
    a = nc.Connector("a")
    offer = await a.create_readable(descriptor(memory(7)))
    assert hasattr(offer, "cancel"), "no deadline and no cancel"
    offer.cancel()
    await wait(offer)
asyncio.run(main())
""",
    "256 operations at once, every byte checked": """
async def main():
    a, b = nc.Connector("a"), nc.Connector("b")
    await asyncio.gather(*[move(a, b) for _ in range(256)])
asyncio.run(main())
""",
    "the process exits with status 0": """
async def main():
    a, b = nc.Connector("a"), nc.Connector("b")
    await move(a, b)
asyncio.run(main())
sys.exit(0)
""",
}


def run(library: str, scenario: str) -> str:
    code = PRELUDE + SCENARIOS[scenario]
    if "exits" not in scenario:
        # How a process exits is a scenario of its own.
        code = PRELUDE + "try:\n" + textwrap.indent(SCENARIOS[scenario], "    ") + LEAVE
    try:
        result = subprocess.run(
            [sys.executable, "-c", code, library],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "UCX_NET_DEVICES": "lo", "NIXL_LOG_LEVEL": "FATAL"},
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if result.returncode == 0:
        return "yes"
    if result.returncode < 0:
        return f"no: killed by signal {-result.returncode}"
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(" ")]
    return "no: " + (lines[-1][:90] if lines else f"status {result.returncode}")


def main() -> int:
    table = Table("", "nixl_connect", "dynamo.nixl_connect", show_lines=True)
    failed = 0
    for scenario in track(SCENARIOS, description="Both libraries"):
        ours, theirs = run("nixl_connect", scenario), run("dynamo.nixl_connect", scenario)
        failed += ours != "yes"
        table.add_row(scenario, ours, theirs)
    Console(width=140).print(table)
    return failed


if __name__ == "__main__":
    sys.exit(main())
