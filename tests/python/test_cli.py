"""The command `nixl-connect`, as a user runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nixl_connect as nc
import pytest
from nixl_connect.commands import bench, bench_peer, bench_report, bench_serve, bench_work, doctor

ENVIRONMENT_NIXL = "NIXL_CONNECT_NIXL_LIBRARY"


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nixl_connect", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        **options,
    )


def test_the_doctor_finds_a_host_that_works() -> None:
    result = run("doctor", "--json")
    assert result.returncode == 0, result.stderr
    findings = {row["subject"]: row for row in json.loads(result.stdout)}
    assert findings["verdict"]["state"] == "ok", findings
    assert findings["NIXL"]["detail"].endswith("libnixl_capi.so")
    assert findings["UCX"]["detail"][0].isdigit()
    assert "16 MiB in" in findings["transfer of host memory"]["detail"]
    assert "tcp" in findings["transports in use"]["detail"]
    assert "UCX_NET_DEVICES=lo" in findings["network interfaces"]["detail"]


def test_the_doctor_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Neither a line's end nor what looks like markup comes into a path.
    missing = tmp_path / "[bold]" / ("long" * 30) / "libnixl_capi.so"
    monkeypatch.setenv(ENVIRONMENT_NIXL, str(missing))
    result = run("doctor")
    assert result.returncode == 1
    assert str(missing) in result.stdout
    assert "does not work here" in result.stdout
    assert "correct the variable, or unset it" in result.stdout


def test_the_doctor_survives_a_probe_that_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    findings = {finding.subject: finding for finding in doctor.examine()}
    assert findings["transfer of host memory"].state == "error"
    assert findings["transfer of host memory"].detail == "exit status 1"
    assert doctor.verdict(list(findings.values())).state == "error"


def test_the_doctor_says_which_module_ucx_lacks(tmp_path: Path) -> None:
    log = f"UCX  INFO  Version 1.21.0 (loaded from {tmp_path}/libucs-1.so.0)"
    modules = tmp_path / "ucx"
    modules.mkdir()
    (modules / "libuct_cma.so.0").touch()
    findings = {f.subject: f for f in doctor._transports({"log": log})}
    assert "UCX has no module" not in findings["transport cma"].detail
    modules.joinpath("libuct_cma.so.0").unlink()
    findings = {f.subject: f for f in doctor._transports({"log": log})}
    assert "UCX has no module for it: libuct_cma.so" in findings["transport cma"].detail


def test_the_doctor_says_whether_rdma_reaches_a_gpu(tmp_path: Path) -> None:
    def found() -> list[str]:
        return [f.state for f in doctor._gpu_direct(tmp_path / "sys", tmp_path / "proc")]

    assert found() == []
    (tmp_path / "sys/class/infiniband/mlx5_0").mkdir(parents=True)
    assert found() == ["warning"]
    driver = tmp_path / "proc/driver/nvidia"
    driver.mkdir(parents=True)
    (driver / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64")
    assert found() == ["ok"]
    (driver / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module")
    (tmp_path / "sys/module/nvidia_peermem").mkdir(parents=True)
    assert found() == ["ok"]


def test_a_probe_of_a_gpu_without_one_is_skipped() -> None:
    pytest.importorskip("torch")
    result = subprocess.run(
        [sys.executable, "-m", "nixl_connect.commands.probe", "cuda"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    answer = json.loads(result.stdout)
    assert "absent" in answer or answer["seconds"] > 0


def test_bench_measures_here(tmp_path: Path) -> None:
    plot = tmp_path / "out.svg"
    options = ["--sizes", "4K,1M", "--in-flight", "1,4", "--seconds", "0.05"]
    result = run("bench", *options, "--json", "--plot", str(plot))
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert [(f["size"], f["in_flight"]) for f in figures] == [
        (4096, 1),
        (1 << 20, 1),
        (4096, 4),
        (1 << 20, 4),
    ]
    for f in figures:
        assert f["reads"] >= 2
        assert f["p99_us"] >= f["p50_us"] > 0
    assert "<svg" in plot.read_text()
    table = run("bench", "--sizes", "4K", "--in-flight", "1", "--seconds", "0.01")
    assert "4 KiB" in table.stdout


def test_bench_writes_a_page_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # or headings break where figures are long
    options = ["--in-flight", "1", "--seconds", "0.02"]
    before = run("bench", "--sizes", "4K", *options, "--html", "before.html", cwd=tmp_path)
    assert before.returncode == 0, before.stderr
    options += ["--compare", "before.html"]
    now = run("bench", "--sizes", "4K,64K", *options, "--html", "now.html", cwd=tmp_path)
    assert now.returncode == 0, now.stderr
    assert "rate over before" in " ".join(now.stdout.split())
    page = (tmp_path / "now.html").read_text()
    assert page.count("<svg") == 2
    assert "before (20" in page
    assert "rate over before" in page
    run_now = bench_report.Run.load(tmp_path / "now.html")
    run_before = bench_report.Run.load(tmp_path / "before.html")
    assert run_now.machine["reads from"] == "this host"
    assert run_now.machine["UCX_NET_DEVICES"] == "lo"
    (_, first), (_, second) = bench_report.compared(run_now, run_before)
    rates = [run.figures[0]["reads_per_second"] for run in (run_now, run_before)]
    assert first == rates[0] / rates[1]
    assert second is None


def test_a_page_needs_nothing_from_elsewhere_and_escapes_what_it_shows(tmp_path: Path) -> None:
    figures = [{"size": 4096, "in_flight": 1, "kind": "cpu", "reads": 5, "p50_us": 1.0}]
    figures[0] |= {"p99_us": 2.0, "reads_per_second": 3.0, "gigabytes_per_second": 0.1}
    hostile = "</script><script>alert('x')</script>"
    page = tmp_path / "page.html"
    bench_report.write(page, bench_report.Run(hostile, {hostile: hostile}, figures))
    text = page.read_text()
    assert "<script>" not in text
    assert text.count("</script>") == 1
    # The names of XML's languages are no addresses that a browser asks.
    links = set(re.findall(r"(?:src|href)=.([^\"'>]+)", text)) - {""}
    assert all(link.startswith("#") for link in links), links
    assert bench_report.Run.load(page).machine == {hostile: hostile}


@pytest.mark.parametrize("text", ["", "[1]", "{}", '[{"size": 1}]', "<html></html>"])
def test_only_a_run_can_be_compared_with(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(bench_report.ReportError, match="expected a page of --html"):
        bench_report.Run.load(path)


@pytest.mark.usefixtures("ctrl_c")
def test_bench_between_a_server_and_a_client() -> None:
    command = [sys.executable, "-m", "nixl_connect", "bench", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split()[-1]
        options = ["--port", port, "--sizes", "64K", "--in-flight", "2", "--seconds", "0.05"]
        for _ in range(2):
            result = run("bench", "connect", "127.0.0.1", *options, "--json")
            assert result.returncode == 0, result.stderr
            assert json.loads(result.stdout)[0]["reads"] >= 2
        refused = run("bench", "connect", "127.0.0.1", *options, "--kind", "cuda:0")
        assert refused.returncode == 1 or "64 KiB" in refused.stdout
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
    gone = run("bench", "connect", "127.0.0.1", *options)
    assert gone.returncode == 1
    assert f"127.0.0.1 cannot be reached at port {port}" in gone.stderr.replace("\n", " ")
    assert "Traceback" not in gone.stderr


@pytest.mark.usefixtures("ctrl_c")
def test_bench_stops_at_ctrl_c() -> None:
    command = [sys.executable, "-m", "nixl_connect", "bench", "--seconds", "60", "--sizes", "4K"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as measuring:
        # Once it has started its serving process it is past its imports.
        children = Path(f"/proc/{measuring.pid}/task/{measuring.pid}/children")
        for _ in range(600):
            if children.read_text():
                break
            time.sleep(0.1)
        time.sleep(0.5)
        measuring.send_signal(signal.SIGINT)
        _, said = measuring.communicate(timeout=60)
    assert measuring.returncode == 130
    assert "Traceback" not in said


async def test_bench_refuses_another_version() -> None:
    service = bench_serve._Service(None, None)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"expected version .* which is installed here, got 0\.0\.9"
    ):
        await service._do({"what": "prepare", "version": "0.0.9", "size": 1, "slots": 1})


def test_bench_serve_hangs_up_on_what_is_no_client() -> None:
    command = [sys.executable, "-m", "nixl_connect", "bench", "serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().split()[-1])
        assert "for other hosts: --host" in server.stdout.readline()
        for said in (b"GET / HTTP/1.0\r\n", b"[]\n", b"{}\n"):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(said)
                assert stranger.recv(1) == b""
            assert server.stdout.readline() == "127.0.0.1 has come\n"
            assert "is no `nixl-connect bench connect`: hung up" in server.stdout.readline()
        server.terminate()
        assert server.communicate(timeout=30)[1] == ""


async def test_bench_connect_waits_for_no_firewall(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", never)
    monkeypatch.setattr(bench_peer, "_CONNECT_TIMEOUT", 0.01)
    with pytest.raises(bench_work.PeerError, match=r"no answer in 0\.01 s, as behind a firewall"):
        async with bench_peer.Server("127.0.0.1", 1).connected():
            pass


async def test_bench_asks_nobody_who_has_gone() -> None:
    reader = asyncio.StreamReader()
    reader.feed_eof()
    lines = bench_peer.Lines(reader, None)  # type: ignore[arg-type]
    await lines.listen()
    with pytest.raises(bench_work.PeerError, match="has gone"):
        await lines.ask(what="offer", slot=0)


@pytest.mark.parametrize("goes", [True, False])
async def test_bench_blames_no_offer_of_a_side_that_has_gone(goes: bool) -> None:
    class Withdrawing(bench_serve._Service):
        async def _do(self, question: dict[str, Any]) -> Any:
            if question["what"] == "are you there" and goes:
                self._writer.transport.abort()
            value = await super()._do(question)
            if question["what"] == "offer":
                self._offers[question["slot"]].cancel()
            return value

    async with nc.Connector() as connector:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await Withdrawing(connector, writer).answer_all(reader)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        there = bench_peer.Server("127.0.0.1", server.sockets[0].getsockname()[1])
        work = bench_work.Work(size=4096, in_flight=1, seconds=0.01, kind="cpu")
        error = bench_work.PeerError if goes else nc.OfferClosedError
        with pytest.raises(error, match="the serving side has gone" if goes else "withdrawn"):
            await bench.measure(there, [work], lambda _: None, lambda _: None)
        server.close()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("serve", "--host", "192.0.2.1"), 1, "192.0.2.1 port 7654 cannot be listened on"),
        (("--kind", "tape"), 2, "got 'tape'"),
        (("--plot", "plot.txt"), 2, "expected a .svg, .png or .pdf"),
        (("--plot", "missing/plot.svg"), 2, "a folder that is there"),
        (("--html", "page.svg"), 2, "expected a .html or .htm"),
        (("--compare", "missing"), 2, "expected a page of --html"),
    ],
    ids=["address", "kind", "format", "folder", "page", "other"],
)
def test_bench_says_at_once_what_is_wrong(
    arguments: tuple[str, ...], status: int, said: str, tmp_path: Path
) -> None:
    result = run("bench", *arguments, cwd=tmp_path)
    assert result.returncode == status
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("bench",), ("bench", "serve", "--port", "0")])
def test_bench_without_nixl(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_NIXL, str(tmp_path / "[/missing]"))
    result = run(*command)
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_bench_tells_what_is_wrong() -> None:
    nobody = run("bench", "connect", "127.0.0.1", "--port", "1", "--seconds", "0.01")
    assert nobody.returncode == 1
    assert "error" in nobody.stderr
    wrong = run("bench", "--sizes", "4X")
    assert wrong.returncode == 2
    assert "expected 1 to 16G" in wrong.stderr


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("1", [1]), ("4K,64k", [4096, 65536]), ("1MiB, 2 G".replace(" ", ""), [1 << 20, 2 << 30])],
)
def test_sizes(text: str, sizes: list[int]) -> None:
    assert bench_work.parse_sizes(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "K", "-1", "1.5M", "17G", "4K,", "x"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected 1 to 16G"):
        bench_work.parse_sizes(text)


@pytest.mark.parametrize("text", ["", "0", "4097", "x", "1,"])
def test_wrong_counts(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers"):
        bench_work.parse_counts(text)
