"""The worked examples, run as a user runs them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import DYNAMO, OURS, StartPeer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(example: str, *arguments: str, complains: bool = False) -> str:
    """Its output, when it has ended well, and without a complaint unless it may."""
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if not complains:
        assert "Traceback" not in ended.stderr, ended.stderr
        assert "Warning" not in ended.stderr, ended.stderr
    return ended.stdout


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def test_pipeline_and_workers_that_die() -> None:
    options = "--requests 40 --video 1 --kill image prefill decode"
    output = run("pipeline/main.py", *options.split())
    assert "40 answers equal to a single process's, 0 not" in output
    assert output.count("died") == 3
    for name in ("image-0", "prefill-0", "decode-0"):
        assert f"{name} is gone" in output


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("--image 1 --prefill 2 --kill prefill-0", {OURS}),
        ("--image 1 --prefill 1 --requests 24 --original image decode", {OURS, DYNAMO}),
    ],
    ids=["a worker is killed", "half of it is Dynamo's own"],
)
def test_workers_on_dynamo_s_runtime(options: str, names: set[str]) -> None:
    pytest.importorskip("dynamo.runtime", reason="needs the package ai-dynamo-runtime")
    # Who loses a peer says so, in words that are Dynamo's; the answers must be right all the same.
    output = run(
        "dynamo/main.py", "--video=1", "--decode=1", *options.split(), complains="--kill" in options
    )
    assert {line.split()[-1] for line in output.splitlines() if " serves with " in line} == names
    (figures,) = [line for line in output.splitlines() if " ms " in line]
    count, right, retries = (int(cell) for cell in figures.replace("│", " ").split()[:3])
    assert count == right >= 24
    if "--kill" in options:
        assert "prefill-0 was killed, and is started again" in output
        assert output.count("prefill-0 serves with") in (1, 2)
    else:
        assert retries == 0


def test_threads() -> None:
    output = run("threads.py")
    assert "200 tensors offered and read by 8 threads each, problems=[]" in output
    assert "Not yet:  WaitTimeoutError:" in output
    assert "Too late: DeadlineExceededError:" in output
    assert "Mistaken: ValueError:" in output


@needs("fastapi", "uvicorn", "httpx")
def test_fastapi_service() -> None:
    assert "100 transfers, 0 wrong" in run("fastapi_service.py")


@needs("fastapi", "uvicorn", "httpx")
async def test_a_client_that_hangs_up_cancels_its_read(
    start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    monkeypatch.syspath_prepend(str(EXAMPLES))
    import fastapi_service

    # TCP, over which a peer that is stopped does not let itself be read.
    monkeypatch.setenv("UCX_TLS", "tcp")
    stuck = await start_peer(UCX_TLS="tcp")
    offer = (await stuck.ask("offer", kind="read", sizes=[4096], seed=1))["metadata"]
    stuck.process.send_signal(signal.SIGSTOP)
    with fastapi_service.started() as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.post("/sums", json=offer, timeout=1)
            for _ in range(600):
                reads = (await http.get("/stats")).json()["operations"]["read"]
                if reads["cancelled"] == 1:
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail(f"not cancelled: {reads}")
            for wrong in ({"nixl_metadata": "b64:eA=="}, {"operation_kind": 2}):
                assert (await http.post("/sums", json={**offer, **wrong})).status_code == 422


# Ray takes workers for dead that a busy machine starves.
@pytest.mark.alone
@needs("ray")
@pytest.mark.skipif(os.environ.get("NIXL_CONNECT_TEST_RAY") == "0", reason="told not to")
def test_ray_pipeline() -> None:
    assert "30 answers equal to a single process's, 0 not" in run("ray_pipeline.py")
