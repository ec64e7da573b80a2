"""Where NIXL's library may be, found without importing NIXL (which imports torch)."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from pathlib import Path

from ._loaded import find_package, loaded_torch

__all__ = ["load_cuda_runtime", "nixl_library_candidates"]

_VARIANTS = ("cu13", "cu12", "rocm")
# CUDA's runtime, and where NVIDIA's wheels have it.
_RUNTIMES = {
    "cu12": ("libcudart.so.12", "cuda_runtime/lib"),
    "cu13": ("libcudart.so.13", "cu13/lib"),
}


def _preferred_variant() -> str | None:
    """The CUDA that a loaded torch was built for, as a variant of NIXL's wheel."""
    version = getattr(getattr(loaded_torch(), "version", None), "cuda", None)
    return f"cu{version.split('.')[0]}" if version else None


def nixl_library_candidates() -> list[str]:
    """Paths of `libnixl_capi.so` in the installed wheels, the better one first."""
    preferred = _preferred_variant()
    paths = []
    for variant in sorted(_VARIANTS, key=lambda v: v != preferred):
        spec = find_package(f"nixl_{variant}")
        if spec is None or spec.origin is None:
            continue
        site = Path(spec.origin).parent.parent
        library = site / f".nixl_{variant}.mesonpy.libs" / "libnixl_capi.so"
        if library.exists():
            paths.append(str(library))
    return paths


def load_cuda_runtime(candidates: list[str]) -> None:
    """Loads the runtime library of the CUDA that NIXL's is of, from its wheel if need be.

    UCX needs it to tell a GPU's memory from the host's, and finds it only on the system's path, or
    where somebody, as torch does, has loaded it before.
    """
    _load_runtime_for(os.environ.get("NIXL_CONNECT_NIXL_LIBRARY") or next(iter(candidates), ""))


@functools.cache
def _load_runtime_for(library: str) -> None:
    variant = re.search(r"nixl_(cu\d+)", library)
    if variant is None or variant[1] not in _RUNTIMES:
        return
    import ctypes

    name, folder = _RUNTIMES[variant[1]]
    with contextlib.suppress(OSError):
        ctypes.CDLL(name, mode=os.RTLD_LAZY)
        return
    spec = find_package("nvidia")
    for site in (spec and spec.submodule_search_locations) or ():
        runtime = Path(site) / folder / name
        if runtime.exists():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(runtime), mode=os.RTLD_LAZY)
            return
