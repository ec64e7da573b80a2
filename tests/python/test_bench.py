"""The benchmarks run, and move the right bytes. What they measure is no test."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench/python"


def run(script: str, *options: str) -> str:
    environment = {**os.environ, "UCX_MODULES": "^efa", "NIXL_LOG_LEVEL": "ERROR"}
    result = subprocess.run(
        [sys.executable, script, *options],
        cwd=BENCH,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def worker(*options: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run("worker.py", *options).splitlines()[-1])
    return result


OURS = ("--backend=dynamo_api", "--library=nixl_connect")


@pytest.mark.parametrize(
    "options",
    [
        OURS,
        (*OURS, "--uvloop"),
        # What is measured on a GPU, with host memory in its place.
        (*OURS, "--device=cpu"),
        ("--backend=nixl_python", "--device=cpu", "--mover-device=cpu"),
        ("--backend=memcpy", "--device=cpu"),
        (*OURS, "--engines=3", "--size=5000000", "--huge"),
        ("--backend=dynamo_api", "--library=backends.null"),
        ("--backend=nixl_python",),
        ("--backend=unix_streams",),
        ("--backend=shared_memory",),
        ("--backend=memcpy",),
        ("--backend=zmq_messages",),
        ("--backend=ucxx_tags",),
        ("--backend=connex_engine",),
    ],
    ids=" ".join,
)
def test_workers(options: tuple[str, ...]) -> None:
    needs = {"zmq_messages": "zmq", "ucxx_tags": "ucxx", "connex_engine": "connex_rs"}
    module = needs.get(options[0].removeprefix("--backend="))
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"no module {module}; `make bench` installs it")
    figures = worker(*options, "--in-flight=3", "--warm-up=6", "--operations=12")
    assert figures["right"]
    assert len(figures["times"]) == 12
    assert figures["elapsed"] > 0


def side_by_side(written: Path, *options: str) -> dict[str, Any]:
    pytest.importorskip("matplotlib", reason="`make bench` installs it")
    run("side_by_side.py", "--rounds=1", "--scale=0.01", *options, f"--output={written.parent}")
    record: dict[str, Any] = json.loads(written.read_text())
    return record


def test_side_by_side(tmp_path: Path) -> None:
    record = side_by_side(tmp_path / "side_by_side.json", "--only=asyncio alone", "--only=memcpy")
    assert record["works"]["4 KiB, 1 in flight"]["memcpy"]["p50_us"] > 0
    assert (tmp_path / "one.svg").read_text().startswith("<?xml")


def test_side_by_side_on_a_device(tmp_path: Path) -> None:
    options = ("--device=cpu", "--work=device-large", "--only=nixl_connect", "--only=own copy")
    record = side_by_side(tmp_path / "devices.json", *options)
    assert record["works"]["64 MiB"]["the device's own copy"]["p50_us"] > 0
    assert record["works"]["64 MiB"]["nixl_connect"]["p50_us"] > 0


def test_manners(tmp_path: Path) -> None:
    run("manners.py", "--seconds=0.1", "--operations=10", "--only=waiting", f"--output={tmp_path}")
    record = json.loads((tmp_path / "manners.json").read_text())
    one = record["metadata as JSON, 1 operation alive"]["value"]
    many = record["metadata as JSON, 1,000 alive"]["value"]
    # Addresses and sizes have their digits.
    assert abs(many - one) < 20
