"""A cable between two network namespaces that loses and delays what goes over it.

Opens a TAP device in each namespace and carries Ethernet frames between the two. For kernels
without netem. Usage: relay.py NAMESPACE NAMESPACE DEVICE LOSS DELAY, loss as a fraction and
delay in seconds. Says "ready" when both devices exist, which is for as long as it runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
# From Linux's <linux/if_tun.h>.
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
LONGEST_FRAME = 65536


def enter(namespace: str) -> None:
    with open(f"/var/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def open_tap(namespace: str, device: str) -> int:
    enter(namespace)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def main() -> None:
    left, right, device = sys.argv[1:4]
    loss, delay = float(sys.argv[4]), float(sys.argv[5])
    taps = [open_tap(left, device), open_tap(right, device)]
    other = dict(zip(taps, taps[::-1], strict=True))
    print("ready", flush=True)
    chance = random.Random(1)
    on_the_way: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        now = time.monotonic()
        while on_the_way and on_the_way[0][0] <= now:
            _, _, to, frame = heapq.heappop(on_the_way)
            # A device that is down loses what is sent to it, as a cable does at one end.
            with contextlib.suppress(OSError):
                os.write(to, frame)
        wait = on_the_way[0][0] - now if on_the_way else None
        for tap in select.select(taps, [], [], wait)[0]:
            try:
                frame = os.read(tap, LONGEST_FRAME)
            except OSError:
                continue
            if chance.random() >= loss:
                number += 1
                heapq.heappush(on_the_way, (time.monotonic() + delay, number, other[tap], frame))


if __name__ == "__main__":
    main()
