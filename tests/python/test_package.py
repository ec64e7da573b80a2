from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nixl_connect as nc
import pytest
from conftest import run_python
from nixl_connect import _core

ROOT = Path(__file__).parents[2]


def test_is_typed() -> None:
    assert Path(nc.__file__).with_name("py.typed").exists()


def test_the_program_that_type_checkers_see_is_right() -> None:
    """`make lint` checks it with mypy and pyright."""
    program = ROOT / "tests/typing/user.py"
    text = program.read_text()
    assert [name for name in nc.__all__ if f"nc.{name}" not in text] == []
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("every type as it says\n")


def test_stub_is_up_to_date(tmp_path: Path) -> None:
    """`make stubs` writes it."""
    made = tmp_path / "_core.pyi"
    subprocess.run(
        [sys.executable, "-m", "nanobind.stubgen", "-q", "-P", "-m", _core.__name__, "-o", made],
        check=True,
    )
    assert made.read_text() == (ROOT / "python/nixl_connect/_core.pyi").read_text()


def test_public_names_are_dynamos_and_more() -> None:
    dynamos = {
        "AbstractOperation",
        "ActiveOperation",
        "Connection",
        "Connector",
        "Descriptor",
        "Device",
        "DeviceKind",
        "OperationKind",
        "OperationStatus",
        "PassiveOperation",
        "RdmaMetadata",
        "ReadOperation",
        "ReadableOperation",
        "Remote",
        "SerializedDescriptor",
        "WritableOperation",
        "WriteOperation",
    }
    assert dynamos <= set(nc.__all__)
    assert all(hasattr(nc, name) for name in nc.__all__)
    assert sorted(nc.__all__) == list(nc.__all__) or len(set(nc.__all__)) == len(nc.__all__)


LOADED = "print([name for name in ('pydantic', 'nixl_connect.metadata') if name in sys.modules])"


@pytest.mark.parametrize("use", ["nc.RdmaMetadata", "nc.SerializedDescriptor", "nc.metadata"])
def test_the_models_are_loaded_when_they_are_asked_for(use: str) -> None:
    """Pydantic takes longer to import than all the rest."""
    run = run_python(f"import sys, nixl_connect as nc\n{LOADED}\n{use}\n{LOADED}")
    assert run.stdout == "[]\n['pydantic', 'nixl_connect.metadata']\n", run.stderr


@pytest.mark.parametrize("start", ["connector._wait_started()", "asyncio.run(connector.warmup())"])
def test_the_first_request_finds_the_models_loaded(start: str) -> None:
    made = "import asyncio, sys, nixl_connect as nc\nconnector = nc.Connector('a')"
    run = run_python(f"{made}\n{LOADED}\n{start}\n{LOADED}\nconnector.close()")
    assert run.stdout == "[]\n['pydantic', 'nixl_connect.metadata']\n", run.stderr


def test_names_that_are_loaded_late_are_seen() -> None:
    assert set(nc.__all__) <= set(dir(nc))
    star = run_python("from nixl_connect import *; print(RdmaMetadata(operation_kind=1))")
    assert star.stdout.startswith("descriptors=[]"), star.stderr
    with pytest.raises(AttributeError, match="'nixl_connect' has no attribute 'Rdma'"):
        nc.Rdma  # type: ignore[attr-defined]
