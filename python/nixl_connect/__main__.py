"""``python -m nixl_connect``, as the command ``nixl-connect``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1] in _PATHS:
        print(_PATHS[sys.argv[1]]())
        return
    try:
        from .commands.cli import main as run
    except ImportError as error:
        if error.name not in ("prometheus_client", "rich", "typer"):
            raise
        sys.exit(f"nixl-connect: needs {error.name}: pip install 'nixl-connect[cli]'")
    run()


def _cmake_dir() -> str:
    """Where CMake finds the C++ library that this package brings."""
    folder = os.path.join(os.path.dirname(__file__), "lib", "cmake", "nixl_connect")
    if not os.path.isdir(folder):
        sys.exit(
            f"nixl-connect: expected the C++ library in {folder}: install the package with pip"
        )
    return folder


def _nixl_library() -> str:
    """The libnixl_capi.so that a connector of this process would load, for other programs."""
    from ._library import nixl_library_candidates

    given = os.environ.get("NIXL_CONNECT_NIXL_LIBRARY")
    found = given or next(iter(nixl_library_candidates()), None)
    if found is None:
        sys.exit(
            "nixl-connect: NIXL has no wheel here: pip install 'nixl-connect[cu12]', or [cu13]"
        )
    return found


# What needs no extra.
_PATHS = {"--cmake-dir": _cmake_dir, "--nixl-library": _nixl_library}


def _forget_current_folder() -> None:
    """Search it no more, which ``-m`` has put first: files of any name may be there. The children
    of commands search where this process does."""
    here = os.getcwd()
    ours = os.path.dirname(os.path.dirname(__file__))
    if not getattr(sys.flags, "safe_path", False) and here != ours and sys.path[:1] == [here]:
        del sys.path[0]


if __name__ == "__main__":
    _forget_current_folder()
    main()
