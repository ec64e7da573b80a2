"""Which Dynamo is installed, what its programs get for ``dynamo.nixl_connect``, and whether this
library has all that it has."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import _nixl_connect_replace as _replace

import nixl_connect as nc

from ._finding import Finding
from .run import find_startup_file

__all__ = ["TESTED", "find_dynamo", "missing_names"]

TESTED = ("0.7.1", "0.9.1", "1.0.2", "1.3.1", "1.6.1", "1.7.0.dev20261026")
"""The versions whose workers and tests run on this library in its own tests."""

# Public by name, and of no use but to Dynamo's own `Remote`.
_INSIDE = ("Connection.acquire_remote_ref", "Connection.release_remote_ref")
_PACKAGES = ("ai-dynamo", "ai-dynamo-runtime")
_SOURCE = "dynamo/nixl_connect/__init__.py"
_IMPORT_TIMEOUT = 60


def find_dynamo() -> Iterator[Finding]:
    """What the doctor says of it."""
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    yield _active(versions)
    version = versions.get("ai-dynamo-runtime")
    if version is None or version in TESTED:
        return
    tested = f"tested with {', '.join(TESTED)}"
    try:
        missing = missing_names(_source())
    except (OSError, SyntaxError):
        detail = f"{version} is not among those {tested}; its module could not be looked at"
        yield Finding("Dynamo's version", "warning", detail)
        return
    if missing:
        detail = f"{version} has what this library lacks: {', '.join(missing)}; {tested}"
        yield Finding("Dynamo's version", "warning", detail, "look for a newer nixl-connect")
    else:
        detail = f"{version} is not among those {tested}; this library has all its names"
        yield Finding("Dynamo's version", "warning", detail)


def _active(versions: dict[str, str]) -> Finding:
    subject = "dynamo.nixl_connect"
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    if _replace.is_installed():
        return Finding(
            subject, "ok", f"this library, by {_replace.VARIABLE}; {found or 'no Dynamo'}"
        )
    if _replace.is_wanted() and find_startup_file() is None:
        return Finding(
            subject,
            "warning",
            f"{_replace.VARIABLE} is set, and Python reads no file of nixl-connect at its start",
            "install nixl-connect with pip into the environment of the programs",
        )
    if not versions:
        return Finding(subject, "absent", "no Dynamo is installed")
    advice = f"{_replace.VARIABLE}=1 or `nixl-connect run` has it be this library"
    if (problem := _problem_with_nixl()) is not None:
        detail = f"Dynamo's own, {found}, which cannot load NIXL: {problem}"
        needs = "Dynamo's own needs the package nixl, and NIXL's wheel for the CUDA of torch"
        return Finding(subject, "warning", detail, f"{needs}; {advice}")
    return Finding(subject, "ok", f"Dynamo's own, {found}; {advice}")


def _problem_with_nixl() -> str | None:
    """Why NIXL's Python package, which Dynamo's own module uses, cannot be imported, if so."""
    command = [sys.executable, "-c", "import nixl._api"]
    try:
        tried = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_IMPORT_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"its import has not ended after {_IMPORT_TIMEOUT} s"
    if tried.returncode == 0:
        return None
    return (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]


def missing_names(source: str) -> list[str]:
    """Public classes, their members, and functions of a ``dynamo.nixl_connect`` that this library
    has not."""
    missing = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        ours = getattr(nc, node.name, None)
        if ours is None:
            missing.append(node.name)
            continue
        fields = getattr(ours, "model_fields", {})
        for name in _members(node) if isinstance(node, ast.ClassDef) else ():
            if not hasattr(ours, name) and name not in fields:
                missing.append(f"{node.name}.{name}")
    return [name for name in missing if name not in _INSIDE]


def _members(node: ast.ClassDef) -> Iterator[str]:
    for member in node.body:
        name = getattr(member, "name", None)
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
            name = member.target.id
        validates = any("validator" in ast.dump(d) for d in getattr(member, "decorator_list", ()))
        if name and not name.startswith("_") and not validates:
            yield name


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source() -> str:
    files = importlib.metadata.files("ai-dynamo-runtime") or []
    for file in files:
        if str(file) == _SOURCE:
            return Path(str(file.locate())).read_text(encoding="utf-8")
    raise FileNotFoundError(_SOURCE)
