"""The check of layers finds each kind of offence, and none in this repository."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
offences = runpy.run_path(str(ROOT / "tests/check_layers.py"))["offences"]
PACKAGE = "python/nixl_connect"


def check(root: Path, *halves: str) -> tuple[int, list[str]]:
    of = halves or ("--python", "--cpp")
    found = list(offences(root, "--python" in of, "--cpp" in of))
    return int(bool(found)), found


def run(root: Path, *halves: str) -> tuple[int, list[str]]:
    """As `check`, by the command."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests/check_layers.py"), *halves],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository without an offence."""
    write(tmp_path, f"{PACKAGE}/__init__.py", "from .connector import Connector\n")
    write(tmp_path, f"{PACKAGE}/_core.pyi", "\n" * 500)
    write(tmp_path, f"{PACKAGE}/errors.py", "import enum\n")
    write(tmp_path, f"{PACKAGE}/connector.py", "from . import _core\nfrom .errors import E\n")
    write(tmp_path, f"{PACKAGE}/commands/__init__.py", "")
    write(tmp_path, f"{PACKAGE}/commands/cli.py", "import nixl_connect\nfrom . import doctor\n")
    write(tmp_path, f"{PACKAGE}/commands/doctor.py", "from .. import errors\n")
    write(tmp_path, "cpp/include/nixl_connect/error.h", '#include "nixl_connect/api.h"\n')
    write(tmp_path, "cpp/src/wire/blob.h", '#include <string>\n#include "nixl_connect/error.h"\n')
    write(tmp_path, "cpp/src/wire/blob.cpp", '#include "wire/blob.h"\n')
    write(tmp_path, "cpp/src/api/connector.cpp", '#include "wire/blob.h"\n')
    assert check(tmp_path) == (0, [])
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


UPWARDS = "must not import connector (layer connector)"
PYTHON_OFFENCES = {
    "relative": ("errors.py", "from .connector import Connector\n", 1, UPWARDS),
    "of the package": ("errors.py", "from . import _core, connector\n", 1, UPWARDS),
    "absolute": ("errors.py", "import sys\nimport nixl_connect.connector\n", 2, UPWARDS),
    "from absolute": ("errors.py", "from nixl_connect.connector import Connector\n", 1, UPWARDS),
    "module from absolute": ("errors.py", "from nixl_connect import connector\n", 1, UPWARDS),
    "in a function": ("errors.py", "def f():\n    from .connector import Connector\n", 2, UPWARDS),
    "for types": (
        "errors.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .connector import C\n",
        3,
        "errors (layer basics) " + UPWARDS,
    ),
    "the whole package": (
        "errors.py",
        "import nixl_connect as nc\n",
        1,
        "must not import __init__ (layer package)",
    ),
    "a name of the package": (
        "connector.py",
        "from . import Connector\n",
        1,
        "must not import __init__ (layer package)",
    ),
    "side by side": ("_default.py", "from .errors import E\n", 1, "must not import errors"),
    "a command": (
        "connector.py",
        "from .commands import doctor\n",
        1,
        "must not import commands.doctor (layer commands)",
    ),
    "between commands": (
        "commands/doctor.py",
        "from .cli import main\n",
        1,
        "must not import commands.cli (layer command line)",
    ),
    "from a command's package": (
        "commands/_cuda.py",
        "from ..commands import cli\n",
        1,
        "must not import commands.cli (layer command line)",
    ),
    "no layer": ("mystery.py", "import sys\n", 1, "mystery is in no layer"),
    "of no layer": ("connector.py", "import nixl_connect.mystery\n", 1, "mystery: in no layer"),
    "too long": ("errors.py", "\n" * 401, 401, "401 lines: expected 400 at most"),
}


@pytest.mark.parametrize(
    ("name", "text", "line", "said"), PYTHON_OFFENCES.values(), ids=PYTHON_OFFENCES
)
def test_an_offence_in_python(tree: Path, name: str, text: str, line: int, said: str) -> None:
    write(tree, f"{PACKAGE}/{name}", text)
    for halves in ((), ("--python",)):
        status, (found,) = check(tree, *halves)
        assert status == 1
        assert found.startswith(f"{PACKAGE}/{name}:{line}: ")
        assert said in found
    assert check(tree, "--cpp") == (0, [])


CPP_OFFENCES = {
    "upwards": (
        "src/wire/blob.cpp",
        '#include <string>\n#include "cuda/driver.h"\n',
        2,
        "blob.cpp (layer wire) must not include cuda/driver.h (layer cuda)",
    ),
    "in a condition": (
        "src/agent/agent.h",
        '#ifdef X\n  #  include "api/connector.h"\n#endif\n',
        2,
        "agent.h (layer agent) must not include api/connector.h (layer api)",
    ),
    "no folder": ("src/wire/blob.cpp", '#include "blob.h"\n', 1, '"blob.h" names no folder'),
    "another folder": ("src/api/a.cpp", '#include "misc/b.h"\n', 1, '"misc/b.h" is of no layer'),
    "by dots": ("src/api/a.cpp", '#include "../wire/blob.h"\n', 1, "is of no layer"),
    "deep": ("src/api/a.cpp", '#include "wire/detail/blob.h"\n', 1, "is of no layer"),
    "flat": ("src/agent.cpp", '#include "wire/blob.h"\n', 1, "agent.cpp is in no layer"),
    "a folder of no layer": ("src/misc/a.cpp", "", 1, "a.cpp is in no layer"),
    "a folder in a layer": ("src/wire/detail/a.h", "", 1, "a.h is in no layer"),
    "too long": ("src/wire/long.cpp", "\n" * 401, 401, "401 lines: expected 400 at most"),
    "too long, public": ("include/nixl_connect/a.h", "\n" * 401, 401, "401 lines"),
}


@pytest.mark.parametrize(("name", "text", "line", "said"), CPP_OFFENCES.values(), ids=CPP_OFFENCES)
def test_an_offence_in_cpp(tree: Path, name: str, text: str, line: int, said: str) -> None:
    write(tree, f"cpp/{name}", text)
    for halves in ((), ("--cpp",)):
        status, (found,) = check(tree, *halves)
        assert status == 1
        assert found.startswith(f"cpp/{name}:{line}: ")
        assert said in found
    assert check(tree, "--python") == (0, [])


def test_descriptors_and_models_name_each_other(tree: Path) -> None:
    write(tree, f"{PACKAGE}/metadata.py", "from .descriptor import Descriptor\n")
    write(tree, f"{PACKAGE}/descriptor.py", "def f():\n    from .metadata import M\n")
    assert check(tree) == (0, [])
    write(tree, f"{PACKAGE}/device.py", "from .metadata import M\n")
    status, (found,) = check(tree)
    assert status == 1
    assert "device (layer device) must not import metadata (layer metadata)" in found


def test_each_offence_has_a_line(tree: Path) -> None:
    write(tree, f"{PACKAGE}/errors.py", "from . import connector, trio\n\n\nimport nixl_connect\n")
    write(tree, "cpp/src/flat.cpp", '#include "blob.h"\n')
    status, found = run(tree)
    assert status == 1
    assert [line.split(": ")[0] for line in found] == [
        f"{PACKAGE}/errors.py:1",
        f"{PACKAGE}/errors.py:1",
        f"{PACKAGE}/errors.py:4",
        "cpp/src/flat.cpp:1",
        "cpp/src/flat.cpp:1",
    ]


def test_elsewhere_than_at_the_root(tmp_path: Path) -> None:
    status, found = check(tmp_path)
    assert status == 1
    assert len(found) == 3
    assert all("no such folder" in line for line in found)


def test_the_python_package() -> None:
    assert run(ROOT, "--python") == (0, [])


def test_the_cpp_library() -> None:
    assert run(ROOT, "--cpp") == (0, [])
