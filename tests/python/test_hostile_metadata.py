from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = Path(__file__).with_name("hostile.py")


def can_unshare() -> bool:
    probe = ["unshare", "-n", "true"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a network namespace")
def test_what_passes_the_check_crashes_no_process() -> None:
    result = subprocess.run(
        ["unshare", "-n", sys.executable, HOSTILE, "8", "1"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_it_runs_in_an_empty_network_only() -> None:
    result = subprocess.run(
        [sys.executable, HOSTILE, "1", "1"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "not an empty network namespace" in result.stderr
