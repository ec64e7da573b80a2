"""A bounded run of the soak; `make soak` runs the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.parametrize(
    "options",
    [
        ["--operations", "20000"],
        ["--operations", "200", "--size", str(8 << 20), "--in-flight", "4"],
    ],
)
def test_nothing_grows(options: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, SOAK, *options], capture_output=True, text=True, check=False, timeout=110
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
