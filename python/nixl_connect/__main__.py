"""``python -m nixl_connect``, as the command ``nixl-connect``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    try:
        from .commands.cli import main as run
    except ImportError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("nixl-connect: needs typer and rich: pip install 'nixl-connect[cli]'")
    run()


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
