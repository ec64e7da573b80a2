"""Importing, leaving and forking."""

from __future__ import annotations

import ctypes.util
import signal

import pytest
from conftest import run_python

MOVE = """
import asyncio, gc, os, sys, threading
import nixl_connect as nc

async def move(owner, mover):
    source, target = bytearray(b"abc"), bytearray(3)
    offer = await owner.create_readable(nc.Descriptor(source))
    read = await mover.begin_read(offer.metadata(), nc.Descriptor(target))
    await asyncio.gather(read.wait_for_completion(timeout=60), offer.wait_for_completion(timeout=60))
    assert target == source
"""


def test_import_brings_neither_torch_nor_nixl() -> None:
    result = run_python(
        """
import sys
import nixl_connect
loaded = [m for m in sys.modules if m.split(".")[0] in ("torch", "numpy", "nixl", "nixl_cu12")]
assert not loaded, loaded
assert "nixl" not in open("/proc/self/maps").read().replace("nixl_connect", "")
connector = nixl_connect.Connector()
descriptor = nixl_connect.Descriptor(b"bytes")
assert "torch" not in sys.modules
"""
    )
    assert result.returncode == 0, result.stderr


LEAVING = {
    "closed": "a, b = nc.Connector(), nc.Connector(); asyncio.run(move(a, b)); a.close(); b.close()",
    "left open": "a, b = nc.Connector(), nc.Connector(); asyncio.run(move(a, b))",
    "never used": "a = nc.Connector()",
    "agent never ready": "a = nc.Connector(); a._core.start()",
    "operations pending": """
async def main():
    global kept
    a = nc.Connector()
    kept = [await a.create_readable(nc.Descriptor(bytearray(10))) for _ in range(256)]
    for operation in kept:
        asyncio.ensure_future(operation.wait_for_completion())
    await asyncio.sleep(0.01)
asyncio.run(main())
""",
    "from another thread": """
a = nc.Connector()
thread = threading.Thread(target=lambda: asyncio.run(move(a, a)))
thread.start(); thread.join()
""",
    "daemon thread still waiting": """
a = nc.Connector()
offer = a.create_readable_blocking(nc.Descriptor(bytearray(10)))
def wait():
    try:
        offer.wait()
    except nc.ConnectorClosedError:
        pass
threading.Thread(target=wait, daemon=True).start()
""",
    "in a cycle": """
a = nc.Connector(); asyncio.run(move(a, a))
cycle = [a, nc.Descriptor(bytearray(10))]; cycle.append(cycle)
cycle[1].register_with_connector(a._shared_connection)
del a, cycle
""",
    "garbage collected while in use": """
def use():
    a, b = nc.Connector(), nc.Connector()
    asyncio.run(move(a, b))
for _ in range(3):
    use(); gc.collect()
""",
    "after an exception": """
a = nc.Connector(); asyncio.run(move(a, a))
raise SystemExit(0)
""",
}


DAEMONS = """
a = nc.Connector()
offer = a.create_readable_blocking(nc.Descriptor(bytearray(10)))
def again_and_again(call):
    while True:
        try:
            call()
        except nc.TransferError:
            pass
def wait_a_moment():
    try:
        offer.wait(0.001)
    except TimeoutError:
        pass
for call in (a.stats, a.stats, wait_a_moment, wait_a_moment, offer.wait, offer.metadata):
    threading.Thread(target=again_and_again, args=(call,), daemon=True).start()
time.sleep(0.1)
"""


@pytest.mark.parametrize("run", range(5))
def test_daemon_threads_in_blocking_calls_end_with_the_process(run: int) -> None:
    result = run_python("import time\n" + MOVE + DAEMONS, NIXL_LOG_LEVEL="ERROR")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("how", LEAVING)
def test_leaves_with_status_0(how: str) -> None:
    result = run_python(MOVE + LEAVING[how], NIXL_LOG_LEVEL="ERROR")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert "leaked" not in result.stderr, result.stderr


OTHER_USER = """
import torch
import nixl._api as api
def other_user():
    global agent
    agent = api.nixl_agent("bare", api.nixl_agent_config(backends=["UCX"]))
def ours():
    a = nc.Connector(); asyncio.run(move(a, a))
def check():
    with open("/proc/self/maps") as maps:
        assert len({line.split()[-1] for line in maps if "libucp" in line}) == 1
"""


def test_shares_one_ucx_with_another_user_of_nixl() -> None:
    pytest.importorskip("nixl._api", reason="needs NIXL's Python package")
    after = run_python(MOVE + OTHER_USER + "ours(); other_user(); check()")
    assert after.returncode == 0, after.stderr
    # Where bare NIXL crashes at exit (see below) and was there first, we cannot mend it.
    before = run_python(MOVE + OTHER_USER + "other_user(); ours(); check(); os._exit(0)")
    assert before.returncode == 0, before.stderr


@pytest.mark.skipif(
    ctypes.util.find_library("efa") is None, reason="needs the distribution's libefa"
)
def test_leaves_in_order_where_bare_nixl_crashes() -> None:
    """UCX's EFA module brings a second libnl; see `settle_system_libraries` in the core."""
    pytest.importorskip("nixl._api", reason="needs NIXL's Python package")
    bare = run_python(
        """
import nixl._api as api
agent = api.nixl_agent("bare", api.nixl_agent_config(backends=["UCX"]))
"""
    )
    if bare.returncode == 0:
        pytest.skip("bare NIXL does not crash here")
    assert bare.returncode == -signal.SIGSEGV
    ours = run_python(MOVE + "a = nc.Connector(); asyncio.run(move(a, a))")
    assert ours.returncode == 0, ours.stderr


def test_a_forked_child_is_told() -> None:
    result = run_python(
        MOVE
        + """
a = nc.Connector("parent"); b = nc.Connector("other")
asyncio.run(move(a, b))
offer = a.create_readable_blocking(nc.Descriptor(bytearray(10)))
unused = nc.Connector("unused")
child = os.fork()
if child == 0:
    status = 1
    try:
        def told(call, *args):
            try:
                call(*args)
            except nc.ForkedProcessError as error:
                assert "forked" in str(error), error
            else:
                raise AssertionError(call)
        local = nc.Descriptor(bytearray(10))
        told(a.create_readable_blocking, local)
        told(a.begin_read_blocking, offer.metadata(), local)
        told(offer.wait)
        told(offer.cancel)
        told(lambda: asyncio.run(move(a, a)))
        told(lambda: local.register_with_connector(a._shared_connection))
        told(lambda: a._shared_connection.metadata)
        # UCX does not survive the fork, whose ever the agent is.
        told(unused.create_readable_blocking, local)
        told(lambda: asyncio.run(move(nc.Connector(), unused)))
        a.close(); a.close()
        del offer, a, b
        gc.collect()
        unused.close()
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
# The parent goes on as if nothing had been.
asyncio.run(move(a, b))
assert offer.status is nc.OperationStatus.INITIALIZED
"""
    )
    assert result.returncode == 0, result.stderr


def test_a_connector_made_before_a_fork_is_used_after_it() -> None:
    result = run_python(
        MOVE
        + """
a = nc.Connector("prefork")
children = [os.fork() for _ in range(1)]
asyncio.run(move(a, a))
if 0 in children:
    a.close()
    os._exit(0)
assert os.waitpid(children[0], 0)[1] == 0
"""
    )
    assert result.returncode == 0, result.stderr


def test_a_forked_child_that_only_leaves() -> None:
    result = run_python(
        MOVE
        + """
a = nc.Connector(); asyncio.run(move(a, a))
offer = a.create_readable_blocking(nc.Descriptor(bytearray(10)))
child = os.fork()
if child == 0:
    sys.exit(0)  # runs what is registered with atexit
assert os.waitpid(child, 0)[1] == 0
"""
    )
    assert result.returncode == 0, result.stderr


def test_ctrl_c_ends_a_blocking_wait() -> None:
    result = run_python(
        """
import os, signal, threading
import nixl_connect as nc
# Even where the signal is ignored from the start, as in a shell's background.
signal.signal(signal.SIGINT, signal.default_int_handler)
a = nc.Connector()
offer = a.create_readable_blocking(nc.Descriptor(bytearray(10)))
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    offer.wait()
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "interrupted\n"


def test_the_heap_does_not_end_elsewhere_while_ucx_is_loaded() -> None:
    """UCX moves the break up and down as it is loaded; where malloc does so too, the process dies."""
    result = run_python(
        """
import ctypes, mmap
import nixl_connect as nc

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
connector = nc.Connector()
connector._core.start()
first = libc.sbrk(0)
ends, rounds = set(), 0
while True:
    end = libc.sbrk(0)
    if connector._core.started:
        break
    ends.add(end)
    rounds += 1
    for piece in [libc.malloc(100_000) for _ in range(100)]:
        libc.free(piece)
connector.close()
assert "libucs" in open("/proc/self/maps").read()
# UCX itself moves it by a page, and back, which may be seen.
assert rounds > 1 and ends <= {first, first + mmap.PAGESIZE}, (rounds, first, ends)
"""
    )
    assert result.returncode == 0, result.stderr
