"""Each version of Dynamo that is supported: its own workers, and its own tests, on this library; and
this library with its module on the wire.

`tools/dynamo` gets the wheels, into build/dynamo; where they cannot be had these are skipped.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import nixl_connect as nc
import pytest
from conftest import DYNAMO, OURS, Peer, StartPeer, run_forked
from nixl_connect.commands._dynamo import TESTED, missing_names

ROOT = Path(__file__).parents[2]
WHEELS = Path(os.environ.get("NIXL_CONNECT_TEST_DYNAMO_DIR", ROOT / "build/dynamo"))
HELPERS = ROOT / "tests/dynamo"
KiB = 1 << 10

OLD = ("trtllm", "sglang", "vllm")
SHARED = ("trtllm", "embeddings", "media")
NEW = (*SHARED, "keyword arguments", "omni")
# The workers of each version whose code uses the module itself.
CALLERS = {
    "0.7.1": OLD,
    "0.9.1": OLD,
    "1.0.2": (*SHARED, "sglang"),
    "1.3.1": (*SHARED, "keyword arguments"),
    "1.6.1": NEW,
    "1.7.0.dev20261026": NEW,
}


@pytest.fixture(params=TESTED)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not (WHEELS / name).is_dir():
        pytest.skip(f"no wheels of Dynamo {name}: tools/dynamo gets them")
    return name


def environment_of(version: str, ours: bool) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (WHEELS / version, HELPERS, WHEELS / "packages"))),
        "NIXL_CONNECT_REPLACE_DYNAMO": "1" if ours else "0",
        "UCX_NET_DEVICES": "lo",
    }


async def embed(kind: str, encode: Peer, prefill: Peer, seed: int) -> None:
    async def ask(peer: Peer, do: str, **request: Any) -> dict[str, Any]:
        return await asyncio.wait_for(peer.ask(do, kind=kind, **request), 60)

    sent = await ask(encode, "send", seed=seed)
    assert "payload" in sent, (kind, sent)
    got = await ask(prefill, "receive", payload=sent["payload"], seed=seed)
    assert got.get("right"), (kind, got)
    ended = await ask(encode, "sent")
    assert "error" not in ended, (kind, ended)


async def test_its_workers(version: str, start_peer: StartPeer) -> None:
    """From one process to another, both on this library, or one on Dynamo's own."""

    def start(ours: bool) -> Any:
        return start_peer(OURS, HELPERS / "caller.py", **environment_of(version, ours))

    encode, prefill, original = await asyncio.gather(start(True), start(True), start(False))
    said = await asyncio.gather(*[peer.ask("kinds") for peer in (encode, prefill, original)])
    assert [it["library"] for it in said] == [OURS, OURS, DYNAMO]
    for it in said:
        assert sorted(it["kinds"]) == sorted(CALLERS[version])
    for kind in CALLERS[version]:
        pairs = [(encode, prefill), (encode, original), (original, prefill)]
        if kind == "media":
            # The frontend needs neither library.
            pairs.remove((encode, original))
        for number, (sender, receiver) in enumerate(pairs):
            for repeat in range(3):
                await embed(kind, sender, receiver, 3 * number + repeat)


async def test_its_module_on_the_wire(version: str, start_peer: StartPeer) -> None:
    """All four operations, each side being either library."""
    ours, theirs = await asyncio.gather(
        start_peer(OURS), start_peer(DYNAMO, **environment_of(version, False))
    )
    for owner, mover in ((ours, theirs), (theirs, ours)):
        for seed, kind in enumerate(("read", "write")):
            for sizes in ([1], [64 * KiB], [1, 4097, 100_000]):
                offer = await owner.ask("offer", kind=kind, sizes=sizes, seed=seed)
                metadata = offer["metadata"]
                waiting = asyncio.create_task(
                    owner.ask(
                        "wait",
                        key=metadata["notification_key"],
                        seed=seed if kind == "write" else None,
                    )
                )
                moved = await mover.ask(
                    "begin", kind=kind, sizes=sizes, seed=seed, metadata=metadata
                )
                assert (moved.get("status"), moved.get("right")) == ("DONE", True), moved
                waited = await waiting
                assert (waited.get("status"), waited.get("right")) == ("DONE", True), waited


def test_its_names_and_arguments(version: str) -> None:
    """Whatever its callers may call it with, this library takes."""
    (source,) = (WHEELS / version / "dynamo").glob("nixl_connect/__init__.py")
    assert missing_names(source.read_text()) == []
    code = """
import inspect, json, dynamo.nixl_connect as it
from pydantic import BaseModel
found = {}
for name, cls in vars(it).items():
    if not inspect.isclass(cls) or cls.__module__ != it.__name__ or name.startswith("_"): continue
    for member, value in vars(cls).items():
        if member.startswith("_") and member != "__init__": continue
        value = getattr(value, "__func__", value)
        if issubclass(cls, BaseModel) and member == "__init__": continue
        if inspect.isabstract(cls) or not inspect.isfunction(value): continue
        found[f"{name}.{member}"] = [
            (p.name, p.kind.value, p.default is p.empty)
            for p in inspect.signature(value).parameters.values()
        ]
print(json.dumps(found))
"""
    result = run_forked(code, **environment_of(version, False))
    theirs = json.loads(result.stdout)
    assert len(theirs) > 25
    for name, parameters in theirs.items():
        owner, _, member = name.partition(".")
        if name in ("Connection.acquire_remote_ref", "Connection.release_remote_ref"):
            continue
        if "validate" in member:
            continue
        function = inspect.getattr_static(getattr(nc, owner), member)
        ours = list(inspect.signature(getattr(function, "__func__", function)).parameters.values())
        for (argument, kind, required), mine in zip(parameters, ours, strict=False):
            assert (argument, kind) == (mine.name, mine.kind.value), name
            assert required or mine.default is not mine.empty, (name, argument)
        assert len(parameters) <= len(ours), name
        for mine in ours[len(parameters) :]:
            assert mine.default is not mine.empty, (name, mine)


# Dynamo's own tests of what moves by the module, but for those that have another in its place.
TESTS = (
    "common/tests/multimodal/test_audio_loader.py",
    "common/tests/multimodal/test_image_loader.py",
    "common/tests/multimodal/test_mm_kwargs_transfer.py",
    "common/tests/multimodal/test_nixl_warmup.py",
    "common/tests/multimodal/test_video_loader.py",
)
# They need vLLM's own serializer, which has no stand-in, and fail without on either library.
NEED_VLLM = (
    "TestMmKwargsShmTransfer",
    "TestMsgpackDecodeRestrictions",
    "test_cleanup_handles_file_not_found",
)
# They put something in the place of NIXL's Python package, which this library does not use.
NO_NIXL_API = "has no attribute 'nixl_api'"


def test_its_tests(version: str, tmp_path: Path) -> None:
    folder = WHEELS / version
    tests = [test for test in TESTS if (folder / "dynamo" / test).exists()]
    if not tests:
        pytest.skip(f"Dynamo {version} has none")
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "engines", "-c", os.devnull, "-p", "no:cacheprovider", "-W", "ignore"]
    options += [f"--rootdir={folder}", f"--junitxml={report}"]
    options += ["-k", " and ".join(f"not {name}" for name in NEED_VLLM)]
    code = f"import os, sys, pytest; os.chdir({str(folder)!r}); sys.exit(pytest.main(sys.argv[1:]))"
    files = [f"dynamo/{test}" for test in tests]
    result = run_forked(code, *options, *files, timeout=100, **environment_of(version, True))
    passed, failed = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        faults = [fault for tag in ("failure", "error") for fault in case.iter(tag)]
        if not faults:
            passed += 1
        elif not all(NO_NIXL_API in str(fault.get("message")) for fault in faults):
            failed.append(case.get("name"))
    assert failed == [], result.stdout[-4_000:]
    assert passed >= {"1.3.1": 30, "1.6.1": 100, "1.7.0.dev20261026": 130}[version], passed


def test_its_sender_s_memory_is_bounded(version: str) -> None:
    """A payload that nobody reads goes with `cleanup`, and not after a while."""
    if "keyword arguments" not in CALLERS[version] or version == "1.3.1":
        pytest.skip(f"the sender of Dynamo {version} does not release what is not read")
    code = """
import asyncio, gc, os, weakref
os.environ["DYN_MM_NIXL_CLEANUP_TIMEOUT_S"] = "0.01"
import engines, torch
from dynamo.common.multimodal.mm_kwargs_transfer import MmKwargsNixlSender

async def main():
    sender = MmKwargsNixlSender()
    kept = []
    made = torch.frombuffer
    def watched(*arguments, **named):
        tensor = made(*arguments, **named)
        kept.append(weakref.ref(tensor))
        return tensor
    torch.frombuffer = watched
    for _ in range(40):
        spec, item = await sender._encode_item(0, bytes(8 << 20))
        await sender.cleanup([item])
        del item
    await asyncio.sleep(0.2)
    gc.collect()
    print(len(kept), sum(ref() is not None for ref in kept))

asyncio.run(main())
"""
    result = run_forked(code, **environment_of(version, True))
    assert result.stdout == "40 0\n", result.stdout + result.stderr
