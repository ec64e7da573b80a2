"""What a process lives in: signals, executors, multiprocessing, sandboxes, locales, other users of
UCX, other interpreters."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OURS, StartPeer, run_python

MOVE = """
import asyncio, os, signal, sys, threading, time
import nixl_connect as nc

async def move(owner, mover):
    target = bytearray(3)
    async with owner.create_readable(b"abc") as offer:
        async with mover.begin_read(offer.metadata(), target) as read:
            await asyncio.gather(read.wait_for_completion(60), offer.wait_for_completion(60))
    assert target == b"abc"
"""

INTERRUPTED = (
    MOVE
    + """
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupted(call):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        call()
    except KeyboardInterrupt:
        return
    raise AssertionError("not interrupted")

source, target = bytearray(1 << 28), bytearray(1 << 28)
owner, mover = nc.Connector(), nc.Connector()
asyncio.run(move(owner, mover))
# The engine copies for longer than the call is let wait.
offers = [owner.create_readable_blocking(source) for _ in range(8)]
reads = [mover.begin_read_blocking(offer.metadata(), target) for offer in offers]
"""
)
CALLS = {
    "register": """
interrupted(lambda: nc.Descriptor(bytearray(9)).register_with_connector(mover))
for read in reads:
    read.wait(60)
""",
    "metadata": """
interrupted(lambda: mover._shared_connection.metadata)
for read in reads:
    read.wait(60)
""",
    "close": "interrupted(mover.close); assert mover._core.closed",
    "close, and leave": "interrupted(mover.close); sys.exit(0)",
}


@pytest.mark.alone
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_is_heard_while_the_engine_is_busy(call: str) -> None:
    result = run_python(INTERRUPTED + CALLS[call])
    assert result.returncode == 0, result.stderr


def test_ctrl_c_is_heard_during_the_start() -> None:
    result = run_python(
        """
import os, signal, sys, threading, time
import nixl_connect as nc
signal.signal(signal.SIGINT, signal.default_int_handler)
connector = nc.Connector()
connector._core.start()
time.sleep(0)
try:
    os.kill(os.getpid(), signal.SIGINT)
    connector._core.wait_started()
    time.sleep(1)
except KeyboardInterrupt:
    print("interrupted")
connector.create_readable_blocking(b"goes on").cancel()
"""
    )
    assert (result.returncode, result.stdout) == (0, "interrupted\n"), result.stderr


def test_a_keyboard_interrupt_stays_one_when_the_core_raises() -> None:
    result = run_python(
        """
import ctypes, signal
import nixl_connect as nc
signal.signal(signal.SIGINT, signal.default_int_handler)
connector = nc.Connector()
connector.close()
caught = set()
for _ in range(200):
    try:
        # The signal is pending, and Python has not looked yet, when the core raises.
        ctypes.pythonapi.PyErr_SetInterrupt()
        connector.create_readable_blocking(b"closed")
    except KeyboardInterrupt:
        caught.add("interrupt")
    except nc.ConnectorClosedError as error:
        caught.add("closed")
    try:
        for _ in range(10):
            pass
    except KeyboardInterrupt:
        caught.add("interrupt")
assert "interrupt" in caught and caught <= {"interrupt", "closed"}, caught
"""
    )
    assert result.returncode == 0, result.stderr


def test_a_handler_that_raises_loses_no_completion() -> None:
    result = run_python(
        MOVE
        + """
async def begin(count):
    offers = [await owner.create_readable(b"abc") for _ in range(count)]
    targets = [bytearray(3) for _ in offers]
    reads = [await mover.begin_read(o.metadata(), t) for o, t in zip(offers, targets)]
    return [asyncio.ensure_future(each.wait_for_completion()) for each in [*offers, *reads]]

class Future(asyncio.Future):
    "Is interrupted, as by a signal's handler, in the nth of its methods that the bridge calls."
    left = -1
    def interrupt(self):
        Future.left -= 1
        if Future.left == 0:
            raise KeyboardInterrupt
    def done(self):
        self.interrupt()
        return super().done()
    def set_result(self, result):
        self.interrupt()
        super().set_result(result)

class Loop(asyncio.SelectorEventLoop):
    def create_future(self):
        return Future(loop=self)

owner, mover = nc.Connector(inline_limit=0), nc.Connector(inline_limit=0)
loop = Loop()
loop.run_until_complete(move(owner, mover))
interrupted = 0
for call in range(1, 20):
    waiting = loop.run_until_complete(begin(3))
    Future.left = call
    try:
        loop.run_until_complete(asyncio.wait(waiting, timeout=30))
    except KeyboardInterrupt:
        interrupted += 1
    Future.left = -1
    loop.run_until_complete(asyncio.wait(waiting, timeout=30))
    late = [task for task in waiting if not task.done()]
    assert not late, (call, len(late))
print(interrupted > 5)
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "True\n"


def test_aclose_needs_no_executor() -> None:
    result = run_python(
        MOVE
        + """
from concurrent.futures import ThreadPoolExecutor

async def main():
    full, shut_down = nc.Connector(), nc.Connector()
    await move(full, shut_down)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    release = threading.Event()
    loop.run_in_executor(None, release.wait)
    await asyncio.wait_for(full.aclose(), 30)
    release.set()
    await loop.shutdown_default_executor()
    await asyncio.wait_for(shut_down.aclose(), 30)
    assert full._core.closed and shut_down._core.closed
    # One that is cancelled goes on.
    third = nc.Connector()
    await third.create_readable(b"abc")
    closing = asyncio.create_task(third.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    while not third._core.closed:
        await asyncio.sleep(0.001)

asyncio.run(main())
"""
    )
    assert result.returncode == 0, result.stderr


OWNER = """
import json, sys
import nixl_connect as nc

owner = nc.Connector("owner")
offers = [owner.create_readable_blocking(bytes(4096), timeout=30) for _ in range(128)]
print(json.dumps([offer.metadata().model_dump_json() for offer in offers]), flush=True)
sys.stdin.readline()
for offer in offers:
    offer.wait(30)
print("told of all", flush=True)
"""
CHILDREN = """
import json, multiprocessing, sys
import nixl_connect as nc

def child(requests):
    reader = made_before or nc.Connector("child")
    reads = [
        reader.begin_read_blocking(nc.RdmaMetadata.model_validate_json(request), bytearray(4096))
        for request in requests
    ]
    for read in reads:
        read.wait(30)

made_before = nc.Connector("made before") if sys.argv[2:] else None
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    process = context.Process(target=child, args=(json.loads(sys.stdin.readline()),))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", "fork, made before"])
def test_children_of_multiprocessing_tell_of_every_end(method: str, tmp_path: Path) -> None:
    """They leave without `atexit`."""
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    with subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "UCX_LOG_FILE": "stderr"},
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        requests = owner.stdout.readline()
        children = subprocess.run(
            [sys.executable, str(script), *method.split(", ")],
            input=requests,
            text=True,
            timeout=60,
            check=False,
        )
        assert children.returncode == 0
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stdout.readline() == "told of all\n"


def test_a_child_of_another_user_of_ucx_is_told() -> None:
    pytest.importorskip("nixl._api", reason="needs NIXL's Python package")
    result = run_python(
        """
import os
import re
import nixl._api as api
agent = api.nixl_agent("bare", api.nixl_agent_config(backends=["UCX"]))
import nixl_connect as nc
child = os.fork()
if child == 0:
    status = 1
    try:
        connector = nc.Connector()
        try:
            connector.create_readable_blocking(bytes(10), timeout=10)
        except nc.ForkedProcessError as error:
            assert "by another library" in str(error), error
            status = 0
        connector.close()
    finally:
        os._exit(status)
assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
    )
    assert result.returncode == 0, result.stderr


def test_in_a_sandbox_without_getrandom() -> None:
    result = run_python(
        MOVE
        + """
import ctypes, platform, struct

def refuse(number):
    "Linux refuses this process the system call from now on, with EPERM."
    libc = ctypes.CDLL(None, use_errno=True)
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x00050001), (6, 0, 0, 0x7FFF0000)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
    made = Program(len(steps), ctypes.addressof(program))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(made), 0, 0):
        sys.exit(77)
    # The call itself: newer glibc takes numbers from memory that the kernel shares.
    assert libc.syscall(number, ctypes.create_string_buffer(8), 8, 0) == -1

refuse({"x86_64": 318, "aarch64": 278}[platform.machine()])
asyncio.run(move(nc.Connector(), nc.Connector()))
"""
    )
    if result.returncode == 77:
        pytest.skip("filters of system calls are not to be had here")
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(
    not Path("/usr/share/i18n/locales/de_DE").exists() or shutil.which("localedef") is None,
    reason="needs the distribution's sources of locales",
)
def test_where_the_decimal_sign_is_a_comma(tmp_path: Path) -> None:
    made = tmp_path / "de_DE.UTF-8"
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(made)], check=True)
    result = run_python(
        """
import locale
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
assert locale.localeconv()["decimal_point"] == ","
"""
        + MOVE
        + """
owner = nc.Connector()
asyncio.run(move(owner, nc.Connector()))
try:
    owner.create_readable_blocking(bytes(3), timeout=0.25).wait()
except nc.DeadlineExceededError as error:
    assert "0.25 s" in str(error), error
""",
        LOCPATH=str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert "Invalid" not in result.stdout + result.stderr


def test_a_subinterpreter_is_refused_and_the_main_one_works() -> None:
    names = ("_interpreters", "_xxsubinterpreters")
    result = run_python(
        MOVE
        + f"""
import importlib
for name in {names}:
    try:
        interpreters = importlib.import_module(name)
        break
    except ImportError:
        pass
else:
    sys.exit(77)
other = interpreters.create()
try:
    raised = interpreters.run_string(other, "import nixl_connect")
except Exception as error:
    raised = error
assert "interpreter" in str(getattr(raised, "msg", raised)), raised
asyncio.run(move(nc.Connector(), nc.Connector()))
try:
    nc.Connector().create_readable_blocking([])
except ValueError:
    print("whole")
"""
    )
    if result.returncode == 77:
        pytest.skip("this Python has no subinterpreters to import")
    assert (result.returncode, result.stdout) == (0, "whole\n"), result.stderr


@pytest.mark.parametrize("transports", ["all", "tcp"])
def test_children_inherit_no_descriptor_of_ucx(transports: str) -> None:
    result = run_python(
        MOVE
        + """
def open_here():
    return {int(number) for number in os.listdir("/proc/self/fd")}

before = open_here()
owner, mover = nc.Connector(), nc.Connector()
asyncio.run(move(owner, mover))
asyncio.run(move(mover, owner))
late = nc.Connector()
asyncio.run(move(late, owner))
made = []
for number in open_here() - before:
    try:
        made.append((number, os.readlink(f"/proc/self/fd/{number}"), os.get_inheritable(number)))
    except OSError:
        pass
assert sum("socket" in name for _, name, _ in made) > 2, made
assert not any(inheritable for *_, inheritable in made), made
""",
        UCX_TLS=transports,
    )
    assert result.returncode == 0, result.stderr


async def test_a_killed_worker_s_child_does_not_keep_it_alive(start_peer: StartPeer) -> None:
    """Its peers hear of its death at once, though what it has started goes on."""
    tcp = {"UCX_TLS": "tcp", "UCX_LOG_LEVEL": "fatal", "NIXL_LOG_LEVEL": "FATAL"}
    owner, mover = await asyncio.gather(start_peer(OURS, **tcp), start_peer(OURS, **tcp))
    warm = (await owner.ask("offer", kind="read", sizes=[4096], seed=1))["metadata"]
    assert (await mover.ask("begin", kind="read", sizes=[4096], seed=1, metadata=warm))["right"]
    child = (await owner.ask("start_child"))["pid"]
    large = [1 << 28]
    metadata = (await owner.ask("offer", kind="read", sizes=large, seed=1))["metadata"]
    owner.process.send_signal(signal.SIGSTOP)
    reading = asyncio.create_task(
        mover.ask("begin", kind="read", sizes=large, seed=1, metadata=metadata, timeout=50)
    )
    await asyncio.sleep(0.3)
    owner.process.send_signal(signal.SIGKILL)
    reply = await asyncio.wait_for(reading, 60)
    os.kill(child, signal.SIGKILL)
    # Its deadline would be another error.
    assert reply.get("error") in ("PeerDisconnectedError", "PeerUnreachableError"), reply


START = """
import os, sys
import nixl_connect as nc
connector = nc.Connector()
try:
    connector.create_readable_blocking(bytes(10))
except nc.BackendError as error:
    print(error)
"""
AGAIN = """
os.environ["UCX_TLS"], os.environ["UCX_NET_DEVICES"] = "all", "lo"
offer = connector.create_readable_blocking(bytes(10))
target = bytearray(10)
nc.Connector().begin_read_blocking(offer.metadata(), target).wait()
print("started")
"""


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"UCX_TLS": "sm"}, "UCX_TLS is 'sm', .*: add tcp"),
        ({"UCX_TLS": "nosuch"}, "UCX_TLS is 'nosuch', .*: add tcp"),
        ({"UCX_NET_DEVICES": "nosuch0"}, "UCX_NET_DEVICES is 'nosuch0', .*interfaces: .*lo"),
    ],
)
def test_a_failed_start_says_what_to_do_and_may_be_tried_again(
    environment: dict[str, str], says: str
) -> None:
    result = run_python(START + AGAIN, UCX_LOG_FILE="/dev/null", **environment)
    assert result.returncode == 0, result.stderr
    failed, started = result.stdout.splitlines()
    assert re.search(says, failed)
    assert started == "started"


async def test_a_failed_start_may_be_tried_again_by_tasks() -> None:
    result = run_python(
        MOVE
        + """
os.environ["UCX_TLS"] = "nosuch"
async def main():
    owner, mover = nc.Connector(), nc.Connector()
    calls = [owner.create_readable(bytes(3)) for _ in range(20)]
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(each, nc.BackendError) for each in failures), failures
    os.environ["UCX_TLS"] = "all"
    await move(owner, mover)
    await owner.aclose()
    await mover.aclose()
asyncio.run(main())
""",
        UCX_LOG_FILE="/dev/null",
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs the rights to make a network namespace")
def test_a_start_without_a_network_says_so() -> None:
    environment = {**os.environ, "UCX_LOG_FILE": "/dev/null"}
    result = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", START],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=False,
    )
    assert "no network interface is up, not even lo" in result.stdout, result.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="needs the rights to become another user")
def test_a_home_that_may_not_be_looked_into(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "home").mkdir(parents=True)
    closed.chmod(0o700)
    # What is imported late is, on some hosts, in a folder that the other user may not read either.
    late = "import asyncio, ctypes, encodings.idna, socket, nixl_connect.metadata\n"
    script = late + START.replace(
        "connector =",
        f"os.environ['HOME'] = {str(closed / 'home')!r}; os.setuid(65534); connector =",
    )
    result = run_python(script)
    assert re.search("HOME is '.*', which may not be looked into", result.stdout), result


def test_descriptors_of_peers_that_have_gone_are_bounded_in_all() -> None:
    """NIXL keeps some of each peer that it could not load; see `FailedPeers`."""
    count = 12
    owner = "import sys, nixl_connect as nc\nowners = [nc.Connector() for _ in range(12)]\n" + (
        "for owner in owners:\n"
        "    offer = owner.create_readable_blocking(bytes(10))\n"
        "    print(offer.metadata().model_dump_json(), flush=True)\n"
        "sys.stdin.readline()\n"
    )
    # Where a peer's process may be asked after nothing is loaded at all.
    quiet = {"NIXL_CONNECT_CLAIMS": "messages", "UCX_LOG_LEVEL": "fatal", "NIXL_LOG_LEVEL": "FATAL"}
    with subprocess.Popen(
        [sys.executable, "-c", owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **quiet},
    ) as process:
        assert process.stdout is not None
        requests = "".join(process.stdout.readline() for _ in range(count))
        process.kill()
    result = run_python(
        f"""
import os, time
import nixl_connect as nc
reader = nc.Connector()
reader.create_readable_blocking(bytes(10)).cancel()
requests = [nc.RdmaMetadata.model_validate_json(line) for line in {requests!r}.splitlines()]
before = len(os.listdir("/proc/self/fd"))
begun = time.monotonic()
tries = 0
while tries < 10 * len(requests) or time.monotonic() < begun + 3:
    for request in requests:
        tries += 1
        try:
            reader.begin_read_blocking(request, bytearray(10)).wait()
            raise AssertionError("read from a peer that has gone")
        except nc.PeerUnreachableError as error:
            assert "could not be reached" in str(error), error
    time.sleep(0.01)
print(len(os.listdir("/proc/self/fd")) - before)
""",
        **quiet,
    )
    assert result.returncode == 0, result.stderr
    # The first tries, eight more at once, and one now and then.
    assert int(result.stdout) < 3 * count, result.stdout
