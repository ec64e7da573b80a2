"""The C++ example whose other side is Python; the others are tests of CMake's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs/examples/cpp/with_python.py"
PROGRAMS = os.environ.get("NIXL_CONNECT_TEST_CPP_EXAMPLES")


@pytest.mark.skipif(PROGRAMS is None, reason="NIXL_CONNECT_TEST_CPP_EXAMPLES names no folder")
def test_python_and_cpp() -> None:
    from nixl_connect._library import nixl_library_candidates

    assert PROGRAMS is not None
    environment = {"NIXL_CONNECT_NIXL_LIBRARY": nixl_library_candidates()[0], **os.environ}
    result = subprocess.run(
        [sys.executable, EXAMPLE, Path(PROGRAMS, "with_python")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "Python read 64 buffers from C++, all right",
        "moved 64 buffers, all right",
    ]
