"""The worked examples, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(example: str, *arguments: str) -> str:
    """Its output, when it has ended well."""
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    assert "Warning" not in ended.stderr, ended.stderr
    return ended.stdout


def test_threads() -> None:
    output = run("threads.py")
    assert "200 tensors offered and read by 8 threads each, problems=[]" in output
    assert "Not yet:  TimeoutError:" in output
    assert "Too late: DeadlineExceededError:" in output
    assert "Mistaken: ValueError:" in output
