"""The system's RDMA providers for NIXL's wheels.

NIXL's wheels bring a ``libibverbs`` of their own, with a provider for the NICs of mlx5 alone. A
provider of the system (for rxe, irdma, bnxt_re, hns, ...) asks for ``libibverbs.so.1``, so that the
loader gives it the system's, where it registers and UCX does not look. Where ``libibverbs.so.1`` is
found first by a name of the wheel's file, the loader sees that it has that file already, and the
provider registers with the wheel's. Both are of one private interface, the number in a provider's
name (``rdmav34``), or do not fit.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["ProvidersError", "find_bundled", "link_providers"]

_PROVIDER_FOLDERS = ("usr/lib/*/libibverbs", "usr/lib64/libibverbs", "usr/lib/libibverbs")
_INTERFACE = re.compile(rb"lib%s-rdmav(\d+)\.so")
_PROVIDER = re.compile(r"lib(\w+)-rdmav(\d+)\.so")
_LIBRARY = "libibverbs.so.1"


class ProvidersError(Exception):
    """Why the system's providers cannot be had; says what to do."""


def find_bundled(library: Path) -> Path | None:
    """The ``libibverbs`` that came with NIXL's library, if any did."""
    package = library.parent.name.removeprefix(".").removesuffix(".mesonpy.libs")
    found = sorted(library.parent.parent.glob(f"{package}.libs/libibverbs-*.so*"))
    return found[0] if found else None


def link_providers(folder: Path, library: Path, root: Path = Path("/")) -> list[str]:
    """Fill a folder that lets NIXL's wheel use the system's providers; which drivers they are for.

    `library` is NIXL's. A process that has the folder in ``LD_LIBRARY_PATH`` from its start uses
    them. Links alone are made, and what the folder had of them before is replaced. Raises
    `ProvidersError`.
    """
    bundled = find_bundled(library)
    if bundled is None:
        raise ProvidersError(
            f"{library} has no libibverbs beside it: it uses the system's, with its providers"
        )
    wanted = _INTERFACE.search(bundled.read_bytes())
    interface = wanted[1].decode() if wanted else "?"
    fitting: dict[str, Path] = {}
    others: set[str] = set()
    for pattern in _PROVIDER_FOLDERS:
        for path in sorted(root.glob(f"{pattern}/*")):
            named = _PROVIDER.fullmatch(path.name)
            if named and named[2] == interface:
                fitting.setdefault(named[1], path)
            elif named:
                others.add(named[2])
    if not fitting:
        raise ProvidersError(
            f"expected providers for rdmav{interface}, which {bundled.name} takes; the system has "
            + (
                f"rdmav{', rdmav'.join(sorted(others))}: build NIXL from source against it"
                if others
                else "none: install ibverbs-providers (Debian) or rdma-core"
            )
        )
    # The wheel has its own for mlx5, and UCX parts that are linked with that.
    for path in bundled.parent.glob("libmlx5-*.so*"):
        fitting["mlx5"] = path
    folder.mkdir(parents=True, exist_ok=True)
    links = {f"lib{driver}-rdmav{interface}.so": path for driver, path in fitting.items()}
    # What it needs itself, for programs that load it from here first.
    links |= {path.name: path for path in bundled.parent.glob("libnl-*.so*")}
    for name, target in {**links, _LIBRARY: bundled}.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return sorted(fitting)
