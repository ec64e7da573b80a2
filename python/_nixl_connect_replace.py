"""Has ``dynamo.nixl_connect`` be ``nixl_connect``, in this process and in those that it starts.

A module of its own, and quick to import: every Python process does so at its start where the
environment variable is set, by ``nixl_connect_replace.pth``. Programs use `nixl_connect.install`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType

__all__ = ["VARIABLE", "install", "is_installed", "is_wanted", "start", "uninstall"]

VARIABLE = "NIXL_CONNECT_REPLACE_DYNAMO"
_PARENT = "dynamo"
_CHILD = "nixl_connect"
_REPLACED = f"{_PARENT}.{_CHILD}"
_OFF = ("", "0", "false", "no", "off")

# The module that somebody had imported before, if any.
_original: ModuleType | None = None


class _Finder:
    """Finds this library under the other's name, before anybody else finds that one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == _REPLACED or name.startswith(_REPLACED + "."):
            if name != _REPLACED and importlib.util.find_spec(_ours(name)) is None:
                return None
            return ModuleSpec(name, self, origin=_CHILD)  # type: ignore[arg-type]
        if name == _CHILD:
            # The one beside this file: another of the name comes first where somebody searches
            # Dynamo's own folder, as pytest does for Dynamo's tests.
            return PathFinder.find_spec(name, [os.path.dirname(__file__)])
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The real one, whole: other threads get it as soon as it has the other name."""
        module = importlib.import_module(_ours(spec.name))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run. Only its spec has been changed by who has asked for it."""
        spec = module.__spec__
        if spec is not None and isinstance(spec.loader, _Finder):
            module.__spec__ = spec.loader_state


class _ParentFinder:
    """Makes the package above it where Dynamo is not installed; asked after all others."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _PARENT:
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            if spec := finder.find_spec(name, path, target):
                return spec
        return ModuleSpec(_PARENT, None, is_package=True)


def _ours(name: str) -> str:
    return name.removeprefix(_PARENT + ".")


_finder = _Finder()
_parent_finder = _ParentFinder()


def is_installed() -> bool:
    """Whether ``dynamo.nixl_connect`` is this library here."""
    return _finder in sys.meta_path


def install() -> None:
    """As `nixl_connect.install`."""
    global _original
    os.environ[VARIABLE] = "1"
    if is_installed():
        return
    sys.meta_path.insert(0, _finder)
    sys.meta_path.append(_parent_finder)
    _original = sys.modules.pop(_REPLACED, None)
    if _original is None:
        return
    holders = _holders(_original)
    _put(importlib.import_module(_REPLACED))
    if holders:
        warnings.warn(
            f"{_REPLACED} was imported before nixl_connect.install(), and is still used by "
            f"{', '.join(holders)}: install it before they are imported",
            RuntimeWarning,
            stacklevel=3,
        )


def uninstall() -> None:
    """As `nixl_connect.uninstall`."""
    global _original
    os.environ.pop(VARIABLE, None)
    if not is_installed():
        return
    sys.meta_path.remove(_finder)
    sys.meta_path.remove(_parent_finder)
    for name in [name for name in sys.modules if f"{name}.".startswith(_REPLACED + ".")]:
        del sys.modules[name]
    _put(_original)
    _original = None
    parent = sys.modules.get(_PARENT)
    if parent is not None and getattr(parent.__spec__, "submodule_search_locations", None) == []:
        # The one that was made here.
        del sys.modules[_PARENT]


def start() -> None:
    """At the start of a process: as the environment says."""
    if is_wanted():
        install()


def is_wanted() -> bool:
    """Whether the environment says so."""
    return os.environ.get(VARIABLE, "").strip().lower() not in _OFF


def _put(module: ModuleType | None) -> None:
    """Where an import of it finds it, or none."""
    parent = sys.modules.get(_PARENT)
    if module is not None:
        sys.modules[_REPLACED] = module
        if parent is not None:
            setattr(parent, _CHILD, module)
    elif parent is not None and hasattr(parent, _CHILD):
        delattr(parent, _CHILD)


def _holders(module: ModuleType) -> list[str]:
    """The modules that have it, or something of it. Runs no code of theirs: it may load others."""
    found = []
    for name, other in list(sys.modules.items()):
        if other is module or name in (_PARENT, __name__) or type(other) is not ModuleType:
            continue
        if any(value is module or _is_of_it(value) for value in list(vars(other).values())):
            found.append(name)
    return sorted(found)


def _is_of_it(value: object) -> bool:
    kind = type(value)
    if issubclass(kind, type):
        own = type.__getattribute__(value, "__dict__")
        return bool(own.get("__module__") == _REPLACED)
    return kind is FunctionType and value.__module__ == _REPLACED
