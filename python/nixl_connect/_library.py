"""Where NIXL's library may be, found without importing NIXL (which imports torch)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

__all__ = ["nixl_library_candidates"]

_VARIANTS = ("cu13", "cu12", "rocm")


def _preferred_variant() -> str | None:
    """The CUDA that a loaded torch was built for, as a variant of NIXL's wheel."""
    torch = sys.modules.get("torch")
    version = getattr(getattr(torch, "version", None), "cuda", None)
    return f"cu{version.split('.')[0]}" if version else None


def nixl_library_candidates() -> list[str]:
    """Paths of `libnixl_capi.so` in the installed wheels, the better one first."""
    preferred = _preferred_variant()
    paths = []
    for variant in sorted(_VARIANTS, key=lambda v: v != preferred):
        spec = importlib.util.find_spec(f"nixl_{variant}")
        if spec is None or spec.origin is None:
            continue
        site = Path(spec.origin).parent.parent
        library = site / f".nixl_{variant}.mesonpy.libs" / "libnixl_capi.so"
        if library.exists():
            paths.append(str(library))
    return paths
