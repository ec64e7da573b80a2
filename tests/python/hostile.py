"""Damaged metadata given to real NIXL, where it can do no harm: run this with ``unshare -n``.

Mutated metadata can hold any address. So it runs in an empty network namespace, which is
checked, with no transport but shared memory. What passes the strict check is really used, in
processes of its own, none of which may crash.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import random
import socket
import struct
import subprocess
import sys
import zlib

os.environ.update(
    UCX_TLS="posix,sysv,cma,self",
    UCX_NET_DEVICES="lo",
    UCX_LOG_LEVEL="fatal",
    NIXL_LOG_LEVEL="FATAL",
)

import nixl_connect as nc

EACH = 8
# From Linux's <linux/sockios.h> and <net/if.h>.
SIOCGIFFLAGS = 0x8913
IFF_UP = 1
# Shared memory has no peer error handling.
OPTIONS = {"backend_parameters": {"ucx_error_handling_mode": "none"}}


def check_that_the_network_is_empty() -> None:
    interfaces = [name for _, name in socket.if_nameindex()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anything:
        reply = fcntl.ioctl(anything, SIOCGIFFLAGS, struct.pack("16s16x", b"lo"))
    lo_is_up = struct.unpack("16xH14x", reply)[0] & IFF_UP
    if interfaces != ["lo"] or lo_is_up:
        raise SystemExit(f"not an empty network namespace: {interfaces}, lo up: {bool(lo_is_up)}")


def victim() -> None:
    """Uses each line of metadata; prints how many passed the check."""
    connector = nc.Connector("victim", **OPTIONS)  # type: ignore[arg-type]
    passed = 0
    for line in sys.stdin:
        metadata = nc.RdmaMetadata.model_validate_json(line)
        try:
            read = connector.begin_read_blocking(
                metadata, nc.Descriptor(bytearray(64)), timeout=0.2
            )
        except nc.RejectedMetadataError:
            continue
        passed += 1
        with contextlib.suppress(nc.TransferError, TimeoutError):
            read.wait(1)
    print(passed, flush=True)
    os._exit(0)


def damaged(operation: nc.ReadableOperation, chance: random.Random) -> str:
    metadata = operation.metadata()
    blob = bytearray(zlib.decompress(base64.b64decode(metadata.nixl_metadata[4:])))
    for _ in range(chance.randint(1, 3)):
        blob[chance.randrange(len(blob))] ^= 1 << chance.randrange(8)
    text = "b64:" + base64.b64encode(zlib.compress(bytes(blob))).decode()
    return metadata.model_copy(update={"nixl_metadata": text}).model_dump_json()


def main() -> int:
    check_that_the_network_is_empty()
    if "--victim" in sys.argv:
        victim()
    runs, seed = int(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(seed)
    owner = nc.Connector("owner", **OPTIONS)  # type: ignore[arg-type]
    passed = 0
    for _ in range(runs):
        offers = [owner.create_readable_blocking(nc.Descriptor(bytearray(64))) for _ in range(EACH)]
        lines = [damaged(offer, chance) for offer in offers]
        result = subprocess.run(
            [sys.executable, __file__, "--victim"],
            input="\n".join(lines) + "\n",
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        if result.returncode != 0:
            print(f"a process ended with {result.returncode}: {result.stderr[-500:]}", *lines)
            os._exit(1)
        passed += int(result.stdout.split()[-1])
    print(f"{passed} of {runs * EACH} passed the check")
    os._exit(0 if passed else 2)


if __name__ == "__main__":
    main()
