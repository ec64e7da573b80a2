"""What the processes of the commands have in common: whose standard output is, and what children
import."""

from __future__ import annotations

import fcntl
import os
import sys

import nixl_connect as nc

__all__ = ["child", "take_standard_output"]


def take_standard_output() -> None:
    """Keep standard output for what Python prints: what native libraries write goes to standard
    error.

    UCX writes its log to descriptor 1. To be called before NIXL is loaded, once a process.
    """
    if sys.stdout is None:  # closed by who started this
        return
    sys.stdout.flush()
    own = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)  # not 2, where that is closed
    try:
        os.dup2(2, 1)
    except OSError:  # there is no standard error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = open(own, "w", encoding=encoding, errors=errors)  # noqa: SIM115


def child(code: str, *arguments: str) -> list[str]:
    """The command line of a process that runs `code` with `sys.argv[1:]` of `arguments`.

    It finds modules where this process does, and so the same nixl_connect; in the current folder,
    which Python would search first, only what this process was told to find there.
    """
    here = os.getcwd()
    ours_is_here = os.path.dirname(nc.__path__[0]) == here
    path = [entry or here for entry in sys.path if entry or ours_is_here]
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}", *arguments]
