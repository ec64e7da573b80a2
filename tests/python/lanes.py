"""Runs pytest several times at once, each a fork of this process, which has imported what takes
long on an emulated machine. Usage: lanes.py [ARGUMENT... [-- ARGUMENT...]]

What each has said is printed when it has ended. The exit status is 1 when one failed.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import tempfile
from importlib import import_module

import pytest
from launcher import MODULES


def start(arguments: list[str], log: int) -> int:
    if (child := os.fork()) == 0:
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.exit(pytest.main(arguments))
    return child


def main() -> None:
    for module in MODULES:
        import_module(module)
    gc.freeze()
    groups = itertools.groupby(sys.argv[1:], "--".__eq__)
    lanes = [list(group) for ends, group in groups if not ends]
    logs = [tempfile.TemporaryFile("w+") for _ in lanes]  # noqa: SIM115 (until the end)
    children = [start(lane, log.fileno()) for lane, log in zip(lanes, logs, strict=True)]
    failed = False
    for child, log in zip(children, logs, strict=True):
        failed |= os.waitpid(child, 0)[1] != 0
        log.seek(0)
        print(log.read(), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
