"""Workers that offer to one another at random while much goes wrong; what must hold all the same.

Each worker is a process that has many operations in flight with the others: with bad addresses,
metadata that was used before or is of the dead, cancellations, refusals, and connectors that close
and are made anew. Meanwhile workers are killed and started again, and stopped for a while; the
first two are never killed. No byte of a complete operation may be wrong, nothing that is released
may change, every operation must end and let its memory go, no process may die by itself, and
those that live long must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any

os.environ.setdefault("UCX_NET_DEVICES", "lo")

import nixl_connect as nc
import numpy as np
from claims_peer import LIBC, holds, map_for_a_while

# Seconds beyond its deadline within which an operation must end, and after its end let go.
PATIENCE = 20.0
# How much one that lives long may grow after the first round.
MOST_DESCRIPTORS, MOST_MIB = 4, 24
NEVER_KILLED = 2
CONNECTORS = 2
REFILLED = 0
# What is freed is unmapped at once.
QUIET = {
    "UCX_LOG_LEVEL": "fatal",
    "NIXL_LOG_LEVEL": "FATAL",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "2",
}
Message = dict[str, Any]


class ChaosWorker:
    """One process of those that offer to one another. It says what it has to say in JSON lines."""

    def __init__(self, name: str, index: int, others: int, in_flight: int, seed: str) -> None:
        self.name = name
        self.index = index
        self.others = others
        self.in_flight = in_flight
        self.chance = random.Random(seed)
        self.connectors = [nc.Connector(self.name) for _ in range(CONNECTORS)]
        self.running = False
        self.clients: set[asyncio.Task[None]] = set()
        self.uses: set[asyncio.Task[None]] = set()
        self.outcomes: collections.Counter[str] = collections.Counter()

    def say(self, **message: Any) -> None:
        print(json.dumps({"from": self.index, **message}), flush=True)

    def fault(self, what: str) -> None:
        self.say(fault=f"{self.name}: {what}")

    async def ended(self, operation: Any, limit: float) -> bool:
        """Waits until it has ended and released its memory; whether it is complete."""
        name = type(operation).__name__
        outcome = "COMPLETE"
        try:
            await operation.wait_for_completion(limit + PATIENCE)
            outcome = operation.status.name
        except nc.TransferError as error:
            outcome = type(error).__name__
            if isinstance(error, nc.BackendError) and "not mapped" not in str(error):
                self.fault(str(error))
        except TimeoutError as error:
            self.fault(f"has not ended: {error}")
        self.outcomes[f"{name} {outcome}"] += 1
        try:
            await operation.wait_for_release(PATIENCE)
        except TimeoutError as error:
            self.fault(f"is not released: {error}, {outcome}")
        return outcome == "COMPLETE"

    async def client(self) -> None:
        while self.running:
            await self.checked(self.offer())

    async def checked(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            self.fault(f"raised {error!r}")

    async def offer(self) -> None:
        chance = self.chance
        reads = chance.random() < 0.5
        size = chance.choice([1, 4096, 65536, 1 << 20]) + chance.randrange(4096)
        if chance.random() < 0.01:
            size = 16 << 20
        value, places = chance.randrange(1, 256), chance.choice([1, 1, 1, 2, 3])
        limit = chance.uniform(0.5, 4)
        connector = chance.choice(self.connectors)
        bad = reads and chance.random() < 0.02
        memory = np.full(size, value if reads else 0, dtype=np.uint8)
        address = map_for_a_while(size) if bad else 0
        local = nc.Descriptor((address, size, "cpu", None) if bad else memory)
        try:
            if reads:
                passive: Any = await connector.create_readable(local, readers=places, timeout=limit)
            else:
                passive = await connector.create_writable(local, writers=places, timeout=limit)
            metadata = passive.metadata().model_dump()
        except (nc.ConnectorClosedError, nc.DeadlineExceededError):
            return
        finally:
            if bad:
                LIBC.munmap(address, size)
        for _ in range(places + (chance.random() < 0.2)):
            to = chance.randrange(self.others)
            message = {"metadata": metadata, "size": size, "value": value, "reads": reads}
            self.say(to=to, **message, bad=bad)
        if chance.random() < 0.1:
            await asyncio.sleep(chance.uniform(0, 0.02))
            passive.cancel()
        complete = await self.ended(passive, limit)
        if complete and (bad or not holds(memory, value)):
            self.fault(f"is complete with wrong bytes, or none: {passive!r}")
        await self.reuse(passive, memory)

    async def reuse(self, operation: Any, memory: np.ndarray[Any, Any]) -> None:
        if operation.released:
            memory[:] = REFILLED
            await asyncio.sleep(self.chance.choice([0, 0.01, 0.2]))
            if not holds(memory, REFILLED):
                self.fault(f"changed after its release: {operation!r}")

    async def use(self, message: Message) -> None:
        chance = self.chance
        metadata = nc.RdmaMetadata.model_validate(message["metadata"])
        value, reads = message["value"], message["reads"]
        connector = chance.choice(self.connectors)
        limit = chance.choice([0.05, 2, 4, 8])
        if chance.random() < 0.03:
            with contextlib.suppress(nc.TransferError):
                await connector.decline(metadata, "by chance", timeout=limit)
                self.outcomes["declined"] += 1
            return
        for _ in range(1 + (chance.random() < 0.05)):
            memory = np.full(message["size"], 0 if reads else value, dtype=np.uint8)
            local = nc.Descriptor(memory)
            try:
                if reads:
                    active: Any = await connector.begin_read(metadata, local, timeout=limit)
                else:
                    active = await connector.begin_write(local, metadata, timeout=limit)
            except nc.ConnectorClosedError:
                return
            if chance.random() < 0.05:
                await asyncio.sleep(chance.uniform(0, 0.005))
                active.cancel()
            complete = await self.ended(active, limit)
            if complete and (message["bad"] or not holds(memory, value)):
                self.fault(f"is complete with wrong bytes, or none: {active!r}")
            await self.reuse(active, memory)

    async def reopen(self) -> None:
        while self.running:
            await asyncio.sleep(self.chance.uniform(1, 4))
            which = self.chance.randrange(CONNECTORS)
            old, self.connectors[which] = self.connectors[which], nc.Connector(self.name)
            await old.aclose()
            self.outcomes["connectors closed"] += 1

    async def rest(self) -> None:
        """Ends what is under way; says what is left when the connectors are closed."""
        while self.uses:
            await asyncio.wait(self.uses)
        held = [c.stats() for c in self.connectors]
        waiting = sum(s.waiting + s.in_flight for s in held)
        if waiting > 0:
            self.fault(f"{waiting} operations are left")
        for connector in self.connectors:
            await connector.aclose()
        self.connectors = [nc.Connector(self.name) for _ in range(CONNECTORS)]
        gc.collect()
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        mib = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
        sizes = {"descriptors": len(os.listdir("/proc/self/fd")), "MiB": mib}
        # One that has not begun yet, on a busy machine, has not grown to its size.
        self.say(sizes=sizes if self.outcomes else {}, outcomes=self.outcomes)
        self.outcomes.clear()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        lines = asyncio.StreamReader(limit=1 << 24)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            message = json.loads(line)
            do = message.get("do")
            if do == "go":
                self.running = True
                self.clients = {loop.create_task(self.client()) for _ in range(self.in_flight)}
                self.clients.add(loop.create_task(self.reopen()))
            elif do == "pause":
                self.running = False

                async def pause() -> None:
                    await asyncio.gather(*self.clients)
                    self.say(idle=True)

                self.paused = loop.create_task(pause())
            elif do == "rest":
                await self.rest()
            else:
                task = loop.create_task(self.checked(self.use(message)))
                self.uses.add(task)
                task.add_done_callback(self.uses.discard)
        for connector in self.connectors:
            await connector.aclose()


class Handle:
    """A worker, from the outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.killed = False
        self.idle = asyncio.Event()
        self.sizes: asyncio.Future[dict[str, float]] = asyncio.get_running_loop().create_future()

    def tell(self, message: Message) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():
            self.process.stdin.write((json.dumps(message) + "\n").encode())


class Chaos:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.chance = random.Random(options.seed)
        self.lives: collections.Counter[int] = collections.Counter()
        self.workers: dict[int, Handle] = {}
        self.readers: set[asyncio.Task[None]] = set()
        self.faults: list[str] = []
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.samples: dict[int, list[dict[str, float]]] = collections.defaultdict(list)
        self.old: collections.deque[Message] = collections.deque(maxlen=256)

    async def start(self, index: int) -> None:
        self.lives[index] += 1
        name = f"worker{index}.{self.lives[index]}"
        options = self.options
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--worker", name, str(index)),
            *("--processes", str(options.processes), "--in-flight", str(options.in_flight)),
            *("--seed", str(options.seed)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
            env={**QUIET, **os.environ},
        )
        handle = self.workers[index] = Handle(process)
        self.readers.add(asyncio.create_task(self.listen(name, handle)))
        handle.tell({"do": "go"})

    async def listen(self, name: str, handle: Handle) -> None:
        assert handle.process.stdout is not None
        while line := await handle.process.stdout.readline():
            try:
                message = json.loads(line)
            except json.JSONDecodeError:
                # Half a line, of one that was killed.
                continue
            if "to" in message:
                self.forward(message)
            elif "fault" in message:
                self.faults.append(message["fault"])
                print(f"FAULT {message['fault']}", flush=True)
            elif "idle" in message:
                handle.idle.set()
            else:
                self.outcomes.update(message["outcomes"])
                handle.sizes.set_result(message["sizes"])
        status = await handle.process.wait()
        if status != (-signal.SIGKILL if handle.killed else 0):
            self.faults.append(f"{name} has ended by itself, with {status}")
            handle.idle.set()
            if not handle.sizes.done():
                handle.sizes.set_result({})

    def forward(self, message: Message) -> None:
        self.workers[message["to"]].tell(message)
        self.old.append(message)
        if self.chance.random() < 0.03:
            self.workers[message["to"]].tell(self.chance.choice(self.old))

    async def disturb(self, until: float) -> None:
        """Kills and stops workers."""
        while (left := until - time.monotonic()) > 0.5:
            await asyncio.sleep(min(left, self.chance.uniform(0.1, 0.6)))
            index = self.chance.randrange(self.options.processes)
            handle = self.workers[index]
            if self.chance.random() < 0.4 and index >= NEVER_KILLED:
                handle.killed = True
                handle.process.send_signal(signal.SIGKILL)
                await handle.process.wait()
                self.outcomes["processes killed"] += 1
                await self.start(index)
            else:
                # Where it has ended by itself `listen` says so, and how.
                with contextlib.suppress(ProcessLookupError):
                    handle.process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(self.chance.uniform(0.01, 0.7))
                    handle.process.send_signal(signal.SIGCONT)
                    self.outcomes["processes stopped"] += 1

    async def rest(self) -> None:
        """Has all workers end what they have, and takes their sizes."""
        handles = self.workers
        for handle in handles.values():
            handle.tell({"do": "pause"})
        await asyncio.gather(*[handle.idle.wait() for handle in handles.values()])
        for handle in handles.values():
            handle.tell({"do": "rest"})
        for index, handle in handles.items():
            self.samples[index].append(await handle.sizes)
            handle.idle.clear()
            handle.sizes = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        rounds = max(2, int(self.options.seconds / 15))
        for index in range(self.options.processes):
            await self.start(index)
        for number in range(rounds):
            await self.disturb(time.monotonic() + self.options.seconds / rounds)
            # Longer than the longest that anything may take, one after the other.
            await asyncio.wait_for(self.rest(), 6 * PATIENCE)
            for handle in self.workers.values():
                if number + 1 < rounds:
                    handle.tell({"do": "go"})
        for handle in self.workers.values():
            assert handle.process.stdin is not None
            handle.process.stdin.close()
        await asyncio.wait_for(asyncio.gather(*self.readers), PATIENCE)

    def end(self) -> None:
        """Nobody is left behind, whatever has happened."""
        for handle in self.workers.values():
            if handle.process.returncode is None:
                handle.process.send_signal(signal.SIGKILL)

    def report(self) -> int:
        for what, count in sorted(self.outcomes.items()):
            print(f"{count:8,} {what}")
        for index in range(min(NEVER_KILLED, self.options.processes)):
            print(f"worker {index}:", *self.samples[index], sep="\n  ")
            sizes = [sample for sample in self.samples[index] if sample] or [{}]
            for name, most in (("descriptors", MOST_DESCRIPTORS), ("MiB", MOST_MIB)):
                if sizes[-1].get(name, 0) - sizes[0].get(name, 0) > most:
                    self.faults.append(f"worker {index} has grown: {name}")
        if not any("COMPLETE" in what for what in self.outcomes):
            self.faults.append("nothing was complete")
        print(*self.faults or ["nothing has gone wrong that should not"], sep="\n")
        return 1 if self.faults else 0


async def chaos(options: argparse.Namespace) -> int:
    made = Chaos(options)
    try:
        await made.run()
    except asyncio.TimeoutError:
        made.faults.append("the workers have not come to rest")
    finally:
        made.end()
    return made.report()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=64, help="of each process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is None:
        return asyncio.run(chaos(options))
    name, index = options.worker
    sizes = (options.processes, options.in_flight)
    asyncio.run(ChaosWorker(name, int(index), *sizes, f"{options.seed} {name}").serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
