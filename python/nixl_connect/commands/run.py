"""A program, with this library in the place of ``dynamo.nixl_connect``."""

from __future__ import annotations

import os
import shutil
import signal
import site
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import _nixl_connect_replace as _replace

__all__ = ["RunError", "find_startup_file", "run"]

_STARTUP_FILE = "nixl_connect_replace.pth"


class RunError(Exception):
    """Why a program cannot be run."""


def find_startup_file() -> Path | None:
    """What Python reads at its start, if it is where Python reads it."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    files = [Path(folder) / _STARTUP_FILE for folder in folders]
    return next((file for file in files if file.exists()), None)


def run(arguments: list[str]) -> NoReturn:
    """Become the program, with the same process number.

    What Python itself would be given (``-m module``, ``-c code``, a script), or a command. Raises
    `RunError`.
    """
    if find_startup_file() is None:
        raise RunError(
            f"{_STARTUP_FILE} is in none of Python's folders of packages: install nixl-connect "
            "with pip, or call nixl_connect.install() in the program itself"
        )
    command = _command(arguments)
    environment = {**os.environ, _replace.VARIABLE: "1"}
    if sys.stdout is not None:
        # This process has kept its descriptor 1 elsewhere.
        sys.stdout.flush()
        os.dup2(sys.stdout.fileno(), 1)
    # As Python found them, and not as it leaves them to what it becomes.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execve(command[0], command, environment)
    except OSError as error:
        raise RunError(f"{command[0]}: {error.strerror}") from None


def _command(arguments: list[str]) -> list[str]:
    first = arguments[0]
    path = Path(first)
    found = None if first.startswith("-") or path.suffix == ".py" else shutil.which(first)
    if found is not None:
        return [found, *arguments[1:]]
    if first.startswith("-") or path.is_file() or (path / "__main__.py").exists():
        return [sys.executable, *subprocess._args_from_interpreter_flags(), *arguments]  # type: ignore[attr-defined]
    raise RunError(f"{first}: expected a script, a command in PATH, or -m and a module")
