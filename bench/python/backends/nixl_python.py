"""NIXL's own Python API: memory registered anew for each operation, as a worker must that does
not own its tensors, and everything polled. BENCH_NIXL_THREAD=1 turns NIXL's progress thread on.
"""

from __future__ import annotations

import base64
import itertools
import os
from typing import Any

os.environ.setdefault("UCX_NET_DEVICES", "lo")

from nixl._api import nixl_agent, nixl_agent_config

from backends.memory import Buffer, address, nixl_place

STYLE = "spin"
NOTIFIES = True
THREAD = os.environ.get("BENCH_NIXL_THREAD", "0") == "1"


def new_agent(name: str) -> Any:
    return nixl_agent(name, nixl_agent_config(enable_prog_thread=THREAD))


def register(agent: Any, buffer: Buffer) -> Any:
    device, memory = nixl_place(buffer)
    region = (address(buffer), buffer.nbytes, device, "")
    return agent.register_memory([region], mem_type=memory)


class Owner:
    def __init__(self, buffers: list[Buffer]) -> None:
        self._buffers = buffers
        self._agent = new_agent("owner")
        # Nothing is registered yet, so that this tells how to connect and no more.
        self.hello = {"agent": base64.b64encode(self._agent.get_agent_metadata()).decode()}
        self._keys = itertools.count()
        self._slots: dict[bytes, int] = {}
        self._registered: dict[int, Any] = {}

    def offer(self, slot: int) -> dict[str, Any]:
        buffer = self._buffers[slot]
        registered = register(self._agent, buffer)
        self._registered[slot] = registered
        key = b"%032d" % next(self._keys)
        self._slots[key] = slot
        metadata = self._agent.get_partial_agent_metadata(registered)
        return {
            "address": address(buffer),
            "place": nixl_place(buffer),
            "key": key.decode(),
            "metadata": base64.b64encode(metadata).decode(),
        }

    def poll(self) -> list[int]:
        notes = self._agent.get_new_notifs()
        return [self._slots.pop(key) for keys in notes.values() for key in keys]

    def release(self, slot: int) -> None:
        self._agent.deregister_memory(self._registered.pop(slot))

    def close(self) -> None:
        del self._agent


class Mover:
    def __init__(self, buffers: list[Buffer], hello: dict[str, Any]) -> None:
        self._buffers = buffers
        self._agent = new_agent("mover")
        self._agent.add_remote_agent(base64.b64decode(hello["agent"]))
        self._flights: dict[int, tuple[Any, Any]] = {}

    def begin(self, slot: int, message: dict[str, Any]) -> None:
        agent = self._agent
        buffer = self._buffers[slot]
        registered = register(agent, buffer)
        agent.add_remote_agent(base64.b64decode(message["metadata"]))
        (device, memory), (remote_device, remote_memory) = nixl_place(buffer), message["place"]
        size = buffer.nbytes
        local = agent.get_xfer_descs([(address(buffer), size, device)], mem_type=memory)
        remote = agent.get_xfer_descs(
            [(message["address"], size, remote_device)], mem_type=remote_memory
        )
        key = message["key"].encode()
        handle = agent.initialize_xfer("READ", local, remote, "owner", key)
        if agent.transfer(handle) == "ERR":
            raise RuntimeError("NIXL did not start a transfer")
        self._flights[slot] = (handle, registered)

    def poll(self) -> list[int]:
        done = []
        for slot, (handle, _) in self._flights.items():
            state = self._agent.check_xfer_state(handle)
            if state == "ERR":
                raise RuntimeError("NIXL's transfer failed")
            if state == "DONE":
                done.append(slot)
        for slot in done:
            handle, registered = self._flights.pop(slot)
            self._agent.release_xfer_handle(handle)
            self._agent.deregister_memory(registered)
        if not self._flights:
            # Connections are made in such calls only.
            self._agent.get_new_notifs()
        return done

    def close(self) -> None:
        del self._agent
