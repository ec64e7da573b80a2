"""In the place of ``dynamo.nixl_connect``, for programs that import that one."""

from __future__ import annotations

import _nixl_connect_replace as _replace

__all__ = ["install", "uninstall"]


def install() -> None:
    """Have ``dynamo.nixl_connect`` be this library, whether Dynamo is installed or not.

    In this process and in the Python processes that it starts, which know by the environment
    variable ``NIXL_CONNECT_REPLACE_DYNAMO``: this sets it to 1. Set for a container or a shell, it
    does the same without a call. What is imported from then on gets this library; a module that
    has imported the other one before keeps that, and a `RuntimeWarning` names it. May be called
    again.

    Thread safety: call it before other threads import anything of Dynamo.
    """
    _replace.install()


def uninstall() -> None:
    """Take back `install`, and the environment variable's effect here.

    Modules that have this library already keep it. May be called again.
    """
    _replace.uninstall()
