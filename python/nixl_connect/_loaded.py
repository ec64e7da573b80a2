"""Packages that somebody has imported: asked for, never imported here."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

__all__ = ["find_package", "loaded_numpy", "loaded_torch"]

# What is used of a module; whoever has not all of it is half imported, or a stub.
_OF_TORCH = ("Tensor", "Stream", "cuda", "strided", "version")
_OF_NUMPY = ("ndarray", "ascontiguousarray")

_whole: dict[str, Any] = {}


def _loaded(name: str, parts: tuple[str, ...], a_class: str) -> Any:
    module = sys.modules.get(name)
    if module is None or _whole.get(name) is module:
        return module
    if getattr(getattr(module, "__spec__", None), "_initializing", False):
        return None
    if not isinstance(getattr(module, a_class, None), type):
        return None
    if not all(hasattr(module, part) for part in parts):
        return None
    _whole[name] = module
    return module


def loaded_torch() -> Any:
    """torch; None while it is not imported to its end, or a stub stands for it."""
    return _loaded("torch", _OF_TORCH, "Tensor")


def loaded_numpy() -> Any:
    """NumPy; None while it is not imported to its end, or a stub stands for it."""
    return _loaded("numpy", _OF_NUMPY, "ndarray")


def find_package(name: str) -> ModuleSpec | None:
    """Where a package would be imported from; None where it is not, or a stub stands for it."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
