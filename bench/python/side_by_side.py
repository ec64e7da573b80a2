"""The same work through each library, alternating in one run, so that a noisy machine hurts all
alike. Prints tables, and writes figures as JSON and plots as SVG; ratios are taken within the run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

HERE = Path(__file__).parent
WHOLE_OPERATION = HERE.parents[1] / "build/release/bench/cpp/whole_operation"
MIB = 1 << 20


@dataclass(frozen=True)
class Backend:
    name: str
    worker: tuple[str, ...] = ()
    """Options of worker.py; none for the C++ program."""
    program: tuple[str, ...] = ()
    """Options of the C++ program."""
    modules: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    speed: float = 1.0
    """How many operations to measure, over what a fast one gets."""
    isolated: bool = False
    """Listens on every interface: runs in a network namespace with nothing but loopback."""
    only: tuple[str, ...] = ()
    """The works that it is measured at; all when empty."""
    devices: bool = False
    """Moves memory of GPUs too."""

    def missing(self) -> str | None:
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"no module {module}"
        if self.program and not WHOLE_OPERATION.exists():
            return "bench/cpp is not built"
        if self.isolated and (os.geteuid() != 0 or shutil.which("ip") is None):
            return "needs a network namespace of its own: root and the command ip"
        return None

    def command(self, work: "Work", devices: list[str]) -> list[str]:
        # Each slot at least twice, so that its bytes can be checked.
        operations = max(5, 2 * work.in_flight, int(work.operations * self.speed))
        common = [
            f"--size={work.size}",
            f"--in-flight={work.in_flight}",
            f"--operations={operations}",
            f"--warm-up={2 * work.in_flight + min(50, operations)}",
            *(["--huge"] if work.huge else []),
        ]
        if self.program:
            return [str(WHOLE_OPERATION), *self.program, *common]
        command = [sys.executable, str(HERE / "worker.py"), *self.worker, *common, *devices]
        if self.isolated:
            script = 'ip link set lo up && exec "$@"'
            return ["unshare", "-n", "sh", "-c", script, "sh", *command]
        return command


@dataclass(frozen=True)
class Work:
    name: str
    title: str
    size: int
    in_flight: int
    operations: int
    huge: bool = False


WORKS = [
    Work("one", "4 KiB, 1 in flight", 4096, 1, 3000),
    Work("many", "4 KiB, 256 in flight", 4096, 256, 15_000),
    Work("large", "64 MiB, 4 KiB pages", 64 * MIB, 1, 40),
    Work("huge", "64 MiB, huge pages", 64 * MIB, 1, 40, huge=True),
]
# Of memory on a device.
DEVICE_WORKS = [
    Work("device-one", "4 KiB, 1 in flight", 4096, 1, 3000),
    Work("device-many", "4 KiB, 256 in flight", 4096, 256, 15_000),
    Work("device-large", "64 MiB", 64 * MIB, 1, 200),
    Work("device-giant", "1 GiB", 1024 * MIB, 1, 20),
]


def ours(*options: str) -> tuple[str, ...]:
    return ("--backend=dynamo_api", "--library=nixl_connect", *options)


NIXL = ("nixl", "torch")
SMALL = ("one", "many")
LARGE = ("large", "huge")
BACKENDS = [
    Backend("nixl_connect", ours(), devices=True),
    Backend("nixl_connect, uvloop", ours("--uvloop"), modules=("uvloop",), devices=True),
    Backend("nixl_connect, bytes", ours("--wire"), only=SMALL),
    Backend("nixl_connect, engines=3", ours("--engines=3"), only=LARGE),
    Backend("nixl_connect, C++", program=("--library=ours",)),
    Backend("nixl_connect, C++ polling", program=("--library=ours-polling",)),
    Backend("nixl_connect, C++ engines=3", program=("--library=ours", "--engines=3"), only=LARGE),
    Backend("nixl_connect, C++ blocking", program=("--library=ours-blocking",), only=("one",)),
    Backend("nixl_connect, C++ coroutines", program=("--library=ours-coroutine",), only=SMALL),
    Backend("nixl_connect, C++ Asio", program=("--library=ours-asio",), only=SMALL),
    Backend("nixl_connect, C++ libuv", program=("--library=ours-uv",), only=SMALL),
    Backend("NIXL, C interface", program=("--library=raw",)),
    Backend("NIXL, Python", ("--backend=nixl_python",), modules=NIXL, devices=True),
    Backend(
        "NIXL, Python, its thread",
        ("--backend=nixl_python",),
        modules=NIXL,
        environment=(("BENCH_NIXL_THREAD", "1"),),
        speed=0.3,
        devices=True,
    ),
    Backend(
        "dynamo.nixl_connect",
        ("--backend=dynamo_api", "--library=dynamo.nixl_connect"),
        modules=("dynamo", *NIXL),
        speed=0.08,
        devices=True,
    ),
    Backend(
        "null (asyncio alone)", ("--backend=dynamo_api", "--library=backends.null"), only=SMALL
    ),
    Backend("UCXX", ("--backend=ucxx_tags",), modules=("ucxx",)),
    Backend(
        "UCXX, shared memory",
        ("--backend=ucxx_tags",),
        modules=("ucxx",),
        environment=(("BENCH_UCXX_ERRORS", "0"),),
        speed=0.5,
    ),
    Backend(
        "Mooncake", ("--backend=mooncake_engine",), modules=("mooncake",), speed=0.5, isolated=True
    ),
    Backend("connex-rs", ("--backend=connex_engine",), modules=("connex_rs", "libucx"), speed=0.2),
    Backend("pyzmq", ("--backend=zmq_messages",), modules=("zmq",), speed=0.5),
    Backend("asyncio streams", ("--backend=unix_streams",), speed=0.5),
    Backend("shared memory, pipe", ("--backend=shared_memory",)),
    Backend("memcpy", ("--backend=memcpy",)),
    Backend(
        "the device's own copy",
        ("--backend=memcpy",),
        only=tuple(work.name for work in DEVICE_WORKS),
        devices=True,
    ),
]
PACKAGES = (
    "nixl-connect",
    "nixl-cu12",
    "nixl-cu13",
    "torch",
    "ai-dynamo-runtime",
    "ucxx-cu12",
    "libucx-cu12",
    "mooncake-transfer-engine-non-cuda",
    "connex-rs",
    "pyzmq",
    "uvloop",
    "numpy",
)


@dataclass
class Figures:
    """Of one backend at one work; times in seconds, a value for each round but for `times`."""

    times: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return statistics.median(self.medians)

    @property
    def p99(self) -> float:
        return sorted(self.times)[int(len(self.times) * 0.99)]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def cpu_per_operation(self) -> float:
        return statistics.median(self.cpu)


def nixl_library() -> str:
    from nixl_connect._library import nixl_library_candidates

    return next(iter(nixl_library_candidates()), "")


class BenchmarkError(Exception):
    """A backend did not do the work, or not in time, or moved wrong bytes."""


def measure(backend: Backend, work: Work, devices: list[str], into: Figures) -> None:
    environment = {
        **os.environ,
        "UCX_NET_DEVICES": "lo",
        # Without UCX's EFA module bare NIXL exits in order on hosts that have libefa.
        "UCX_MODULES": "^efa",
        "NIXL_LOG_LEVEL": "ERROR",
        # Standard output is for figures.
        "UCX_LOG_FILE": "stderr",
        **dict(backend.environment),
    }
    if devices:
        # Else what UCX knows of GPUs is not loaded.
        del environment["UCX_MODULES"]
    environment.setdefault("NIXL_CONNECT_NIXL_LIBRARY", nixl_library())
    try:
        result = subprocess.run(
            backend.command(work, devices),
            cwd=HERE,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"not done after {error.timeout:g} s") from None
    lines = [line for line in result.stdout.splitlines() if line.startswith('{"times"')]
    if result.returncode != 0 or not lines:
        raise BenchmarkError(result.stderr[-4000:])
    figures: dict[str, Any] = json.loads(lines[-1])
    if not figures["right"]:
        raise BenchmarkError("wrong bytes")
    times = figures["times"]
    into.times += times
    into.medians.append(statistics.median(times))
    into.rates.append(len(times) / figures["elapsed"])
    into.cpu.append(figures["cpu"] / len(times))


def show(console: Console, work: Work, figures: dict[str, Figures]) -> None:
    table = Table(title=work.title)
    large = work.size >= MIB
    headings = ("", "p50", "p99", "GB/s" if large else "operations/s", "CPU/operation, both sides")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    limit = figures.get("the device's own copy") if large else None
    if limit is not None:
        table.add_column("of the copy's speed", justify="right")
    for name, f in figures.items():
        rate = f"{work.size / f.p50 / 1e9:,.1f}" if large else f"{f.rate:,.0f}"
        table.add_row(
            name,
            f"{f.p50 * 1e6:,.0f} µs",
            f"{f.p99 * 1e6:,.0f} µs",
            rate,
            f"{f.cpu_per_operation * 1e6:,.0f} µs",
            *([] if limit is None else [f"{limit.p50 / f.p50:.2f}"]),
        )
    console.print(table)


def plot(work: Work, figures: dict[str, Figures], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "nixl_connect"
    import matplotlib.pyplot as plt

    many = work.in_flight > 1
    large = work.size >= MIB
    values = {
        name: work.size / f.p50 / 1e9 if large else f.rate if many else f.p50 * 1e6
        for name, f in figures.items()
        if large or name != "memcpy"
    }
    values = dict(sorted(values.items(), key=lambda item: item[1], reverse=large or many))
    fig, axes = plt.subplots(figsize=(8, 0.32 * len(values) + 1.2))
    colors = ["#2a7f3f" if "nixl_connect" in n and "dynamo" not in n else "#9aa5b1" for n in values]
    bars = axes.barh(list(values), list(values.values()), color=colors)
    axes.bar_label(bars, fmt="{:,.1f}" if large else "{:,.0f}", padding=3, fontsize=8)
    axes.invert_yaxis()
    if not large and not many:
        axes.set_xscale("log")
    unit = "GB/s, more is better" if large else "operations/s, more is better"
    axes.set_xlabel(unit if large or many else "µs for a whole operation (p50), less is better")
    axes.set_title(work.title)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "packages": versions(),
    }


def gpus() -> dict[str, Any]:
    from nixl_connect.commands._cuda import CudaError, Driver

    try:
        driver = Driver()
    except CudaError:
        return {}
    return {"gpus": [name for name, _ in driver.devices()], "cuda": driver.version}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of operations")
    parser.add_argument("--only", action="append", help="backends with this in their name")
    parser.add_argument("--work", action="append", choices=[w.name for w in WORKS + DEVICE_WORKS])
    parser.add_argument("--device", help="measures memory of this device, as cuda:0")
    parser.add_argument("--mover-device", help="the mover's, when it is another one")
    parser.add_argument("--output", type=Path, help="a folder for figures (JSON) and plots (SVG)")
    options = parser.parse_args()

    console = Console(width=120)
    devices = [f"--device={options.device}"] if options.device else []
    if options.mover_device:
        devices.append(f"--mover-device={options.mover_device}")
    backends = []
    for backend in BACKENDS:
        if devices and not backend.devices:
            continue
        if options.only and not any(part in backend.name for part in options.only):
            continue
        if reason := backend.missing():
            console.print(f"{backend.name}: skipped: {reason}")
        else:
            backends.append(backend)
    works = [
        Work(**{**asdict(w), "operations": int(w.operations * options.scale)})
        for w in (DEVICE_WORKS if devices else WORKS)
        if not options.work or w.name in options.work
    ]
    doers = {w: [b for b in backends if not b.only or w.name in b.only] for w in works}
    figures = {w.name: {b.name: Figures() for b in of} for w, of in doers.items()}
    failed: set[tuple[Work, Backend]] = set()
    total = options.rounds * sum(map(len, doers.values()))

    columns = (
        TextColumn("{task.description}", table_column=None),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total)
        for _ in range(options.rounds):
            # In another order each time: pages that a process has left are the next one's, and
            # which these are decides how fast large memory is copied.
            turns = [(w, b) for w, of in doers.items() for b in random.sample(of, len(of))]
            for work, backend in turns:
                progress.update(bar, description=f"{work.title}: {backend.name}".ljust(50))
                if (work, backend) not in failed:
                    try:
                        measure(backend, work, devices, figures[work.name][backend.name])
                    except BenchmarkError as failure:
                        words = f"{backend.name} failed at {work.title}: {failure}"
                        if backend.name.startswith("nixl_connect"):
                            raise SystemExit(words) from None
                        console.print(words, markup=False)
                        failed.add((work, backend))
                        del figures[work.name][backend.name]
                progress.advance(bar)

    for work in works:
        show(console, work, figures[work.name])
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": machine() | (gpus() if devices else {}),
        "devices": devices,
        "rounds": options.rounds,
        "works": {
            work.title: {
                name: {
                    "p50_us": round(f.p50 * 1e6, 1),
                    "p99_us": round(f.p99 * 1e6, 1),
                    "operations_per_second": round(f.rate, 1),
                    "cpu_us_per_operation": round(f.cpu_per_operation * 1e6, 1),
                }
                for name, f in figures[work.name].items()
            }
            for work in works
        },
    }
    name = "devices.json" if devices else "side_by_side.json"
    (options.output / name).write_text(json.dumps(record, indent=1) + "\n")
    for work in works:
        plot(work, figures[work.name], options.output / f"{work.name}.svg")


if __name__ == "__main__":
    main()
