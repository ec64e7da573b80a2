"""In the place of ``dynamo.nixl_connect``, for programs that import that one."""

from __future__ import annotations

import _nixl_connect_replace as _replace

__all__ = ["install", "uninstall"]


def install() -> None:
    """Have ``dynamo.nixl_connect`` be this library, whether Dynamo is installed or not.

    This holds in this process and in the Python processes that it starts: the call sets the
    environment variable ``NIXL_CONNECT_REPLACE_DYNAMO`` to 1, and those processes read it. The
    variable does the same without a call when it is set for a container or a shell. Imports from
    then on get this library. A module that has imported Dynamo's before keeps that one, and a
    `RuntimeWarning` names the module. May be called again.

    Thread safety: call it before other threads import anything of Dynamo.
    """
    _replace.install()


def uninstall() -> None:
    """Undo `install`, and the environment variable's effect in this process.

    Modules that have this library already keep it. May be called again.
    """
    _replace.uninstall()
