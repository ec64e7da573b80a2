"""Checks that layers include only what is below them, and that no file is too long.

Run from the repository's root: ``python tests/check_layers.py``. ``--python`` and ``--cpp`` check
one half. Prints a line for each offence; the exit status is 1 when there is any.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST_FILE = 400
GENERATED = ("_core.pyi",)

PACKAGE = "nixl_connect"
PYTHON = Path("python") / PACKAGE
# From the bottom up. A module imports from lower layers only: those of one layer stand side by side.
PYTHON_LAYERS = {
    "bottom": ("_core", "_loaded", "replace", "stats"),
    "basics": ("errors", "_default", "_library"),
    "arguments": ("_arguments",),
    "device": ("device",),
    "memory": ("_memory",),
    "kinds of memory": ("_arrays", "_tensors"),
    "inspect": ("_inspect",),
    "descriptor": ("descriptor",),
    "metadata": ("_local", "metadata"),
    "forms of metadata": ("_wire",),
    "services": ("_signing", "_streams", "_tracing", "_asyncio", "_offload"),
    "connection": ("connection",),
    "operation": ("_operation", "_remote"),
    "sides": ("_sides",),
    "operations": ("operations", "_call", "_worker"),
    "connector": ("connector", "_totals"),
    "integrations": ("metrics", "trio"),
    "package": ("__init__",),
    "commands: parts": (
        "commands",
        "commands._console",
        "commands._cuda",
        "commands._finding",
        "commands._process",
        "commands.providers",
        "commands.bench_work",
        "commands.run",
    ),
    "commands: sides": (
        "commands._dynamo",
        "commands._rdma",
        "commands.bench_peer",
        "commands.bench_plot",
        "commands.bench_serve",
        "commands.probe",
        "commands.top",
    ),
    "commands": ("commands.bench", "commands.bench_report", "commands.doctor"),
    "commands: benchmarks": ("commands.bench_cli",),
    "command line": ("commands.cli",),
    "entry": ("__main__",),
}
# A descriptor can be made of a model and the reverse, so each names the other; but a descriptor loads
# the models only when it makes one.
TOGETHER = {("descriptor", "metadata")}

CPP = Path("cpp/src")
PUBLIC_HEADERS = Path("cpp/include")
# From the bottom up. A file includes from its own folder, from lower ones, and public headers.
CPP_LAYERS = ("system", "wire", "claims", "cuda", "agent", "engine", "api")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]*)"', re.MULTILINE)


def python_offences(root: Path) -> Iterator[str]:
    files = sorted((root / PYTHON).rglob("*.py"))
    modules = {_module_of(path.relative_to(root / PYTHON)): path for path in files}
    layer_of = {module: name for name, layer in PYTHON_LAYERS.items() for module in layer}
    heights = {name: height for height, name in enumerate(PYTHON_LAYERS)}
    for module, path in modules.items():
        where = path.relative_to(root)
        if module not in layer_of:
            yield f"{where}:1: {module} is in no layer: give it one in tests/check_layers.py"
            continue
        layer = layer_of[module]
        is_package = path.name == "__init__.py"
        for line, imported in _imports(path, module, is_package, {*modules, *layer_of}):
            other = layer_of.get(imported)
            if other is None:
                yield f"{where}:{line}: {module} (layer {layer}) imports {imported}: in no layer"
            elif (
                imported != module
                and heights[other] >= heights[layer]
                and (module, imported) not in TOGETHER
            ):
                yield (
                    f"{where}:{line}: {module} (layer {layer}) must not import "
                    f"{imported} (layer {other})"
                )


def _module_of(path: Path) -> str:
    """``commands.bench``; ``commands`` for its ``__init__``; ``__init__`` for the package's own."""
    parts = path.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "__init__"


def _imports(
    path: Path, module: str, is_package: bool, known: set[str]
) -> Iterator[tuple[int, str]]:
    """Every import of the package's modules, wherever in the file it stands."""
    inside = [] if module == "__init__" else module.split(".")
    home = [PACKAGE, *(inside if is_package else inside[:-1])]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _own(node.lineno, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                # `from . import device` names a module, `from .device import Device` what it has.
                is_module = ".".join([*base[1:], alias.name]) in known
                yield from _own(node.lineno, [*base, alias.name] if is_module else base)


def _own(line: int, name: list[str]) -> Iterator[tuple[int, str]]:
    if name[0] == PACKAGE:
        yield line, ".".join(name[1:]) or "__init__"


def cpp_offences(root: Path) -> Iterator[str]:
    for path in sorted((root / CPP).rglob("*")):
        if not path.is_file():
            continue
        where = path.relative_to(root)
        folder, *deeper = path.relative_to(root / CPP).parts
        layer = folder if len(deeper) == 1 and folder in CPP_LAYERS else None
        if layer is None:
            yield f"{where}:1: {path.name} is in no layer: the folders are {', '.join(CPP_LAYERS)}"
        text = path.read_text(encoding="utf-8")
        for found in INCLUDE.finditer(text):
            line = text.count("\n", 0, found.start(1)) + 1
            offence = _include_offence(path.name, layer, found[1])
            if offence:
                yield f"{where}:{line}: {offence}"


def _include_offence(name: str, layer: str | None, included: str) -> str:
    folder, slash, _ = included.partition("/")
    if not slash:
        return f'"{included}" names no folder: expected "<folder>/<file>.h"'
    if folder == PACKAGE:
        return ""
    if folder not in CPP_LAYERS or included.count("/") != 1:
        return f'"{included}" is of no layer, and no public header'
    if layer is not None and CPP_LAYERS.index(folder) > CPP_LAYERS.index(layer):
        return f"{name} (layer {layer}) must not include {included} (layer {folder})"
    return ""


def long_files(folder: Path, root: Path) -> Iterator[str]:
    for path in sorted((root / folder).rglob("*")):
        skipped = path.suffix in (".so", ".pyc") or path.name in GENERATED
        if skipped or not path.is_file():
            continue
        lines = len(path.read_bytes().splitlines())
        if lines > LONGEST_FILE:
            where = path.relative_to(root)
            yield f"{where}:{LONGEST_FILE + 1}: {lines} lines: expected {LONGEST_FILE} at most"


def offences(root: Path, python: bool, cpp: bool) -> Iterator[str]:
    for folder in (PYTHON,) * python + (CPP, PUBLIC_HEADERS) * cpp:
        if not (root / folder).is_dir():
            yield f"{folder}:1: no such folder: run this from the repository's root"
        yield from long_files(folder, root)
    if python:
        yield from python_offences(root)
    if cpp:
        yield from cpp_offences(root)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="store_true", help="check the Python package alone")
    parser.add_argument("--cpp", action="store_true", help="check the C++ library alone")
    options = parser.parse_args()
    both = options.python == options.cpp
    found = list(offences(Path(), both or options.python, both or options.cpp))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
