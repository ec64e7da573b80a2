"""``python -m nixl_connect``, as the command ``nixl-connect``."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from .commands.cli import main as run
    except ImportError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("nixl-connect: needs typer and rich: pip install 'nixl-connect[cli]'")
    run()


if __name__ == "__main__":
    main()
