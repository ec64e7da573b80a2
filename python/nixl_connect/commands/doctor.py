"""What is installed, what works, and what to do about what does not.

Nothing here is needed to use the library. The findings are made without a connector in this
process: what might crash or hang runs in another one.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from .._library import nixl_library_candidates
from ._dynamo import find_dynamo
from ._finding import Finding
from ._rdma import find_rdma
from .probe import answers, command

__all__ = ["Finding", "examine", "verdict"]

_SECONDS = 60.0
_UCX = re.compile(r"UCX  INFO  Version (\S+) \(loaded from ([^\s),]*)")
_PACKAGES = ("nixl-connect", "nixl", "nixl-cu12", "nixl-cu13", "torch", "numpy", "uvloop")
_MIB = 1 << 20


def examine() -> list[Finding]:
    """Check everything. Takes a few seconds; makes transfers over loopback."""
    findings = [*_installed(), *find_dynamo(), *_library(), *_limits(), *_devices()]
    host = _probe("host")
    findings += _host(host)
    library = host.get("library")
    findings += find_rdma(_probe, Path(str(library)) if library else None)
    findings += _transports(host)
    findings += _gpu()
    return findings


def verdict(findings: list[Finding]) -> Finding:
    """The sum of it."""
    errors = [f for f in findings if f.state == "error"]
    warnings = [f for f in findings if f.state == "warning"]
    if errors:
        return Finding("verdict", "error", "nixl_connect does not work here", errors[0].advice)
    if warnings:
        advice = "; ".join(f.advice for f in warnings if f.advice)
        return Finding("verdict", "warning", "nixl_connect works here, with limits", advice)
    return Finding("verdict", "ok", "nixl_connect works here")


def _installed() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()}, {platform.platform()}")
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    yield Finding("packages", "ok", ", ".join(found))


def _library() -> Iterator[Finding]:
    variable = os.environ.get("NIXL_CONNECT_NIXL_LIBRARY")
    if variable:
        state = "ok" if Path(variable).exists() else "error"
        yield Finding(
            "NIXL_CONNECT_NIXL_LIBRARY",
            state,
            variable if state == "ok" else f"{variable}: no such file",
            "" if state == "ok" else "correct the variable, or unset it",
        )
    candidates = nixl_library_candidates()
    yield Finding(
        "NIXL's wheels",
        "ok" if candidates else "absent",
        ", ".join(candidates) or "none installed; the system's libnixl_capi.so is tried",
    )


def _limits() -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        yield Finding("locked memory", "ok", "unlimited")
    else:
        needed = Path("/dev/infiniband").exists()
        yield Finding(
            "locked memory",
            "warning" if needed else "ok",
            f"{soft // 1024} KiB" + ("" if needed else "; enough without RDMA hardware"),
            "raise the limit (ulimit -l unlimited): RDMA registers memory by locking it"
            if needed
            else "",
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft < 1024
    yield Finding(
        "open files",
        "warning" if few else "ok",
        f"{soft} (at most {hard})",
        "raise the limit (ulimit -n): each peer needs two descriptors or more" if few else "",
    )


def _devices() -> Iterator[Finding]:
    interfaces = sorted(path.name for path in Path("/sys/class/net").glob("*"))
    chosen = os.environ.get("UCX_NET_DEVICES")
    yield Finding(
        "network interfaces",
        "ok",
        ", ".join(interfaces) + (f"; UCX_NET_DEVICES={chosen}" if chosen else "; UCX may use all"),
    )


def _probe(kind: str, **environment: str) -> dict[str, object]:
    """What another process finds of a kind of memory, and what UCX says meanwhile."""
    with subprocess.Popen(
        command(kind),
        env={**os.environ, "UCX_LOG_LEVEL": "info", "UCX_LOG_FILE": "stderr", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            # With what it has started itself.
            os.killpg(process.pid, signal.SIGKILL)
            return {"error": f"did not end within {_SECONDS:.0f} s", "log": ""}
    for answer in answers(output):
        return {**answer, "log": errors, "status": process.returncode}
    last = errors.strip().splitlines()
    return {"error": last[-1] if last else f"exit status {process.returncode}", "log": errors}


def _host(host: dict[str, object]) -> Iterator[Finding]:
    log = str(host["log"])
    if "error" in host:
        missing = "NixlNotFoundError" in str(host["error"]) or "NixlNotFoundError" in log
        yield Finding(
            "transfer of host memory",
            "error",
            str(host["error"]),
            "pip install nixl-connect[cu12] or nixl-connect[cu13]"
            if missing
            else "run with UCX_LOG_LEVEL=debug and read what UCX says",
        )
        return
    library = Path(str(host["library"]))
    yield Finding("NIXL", "ok", str(library))
    plugins = (library.parent / "plugins").glob("libplugin_*.so")
    others = sorted({path.stem.removeprefix("libplugin_") for path in plugins} - {"UCX"})
    yield Finding(
        "backends",
        "ok",
        "UCX, tried below" + (f"; there, and not tried: {', '.join(others)}" if others else ""),
    )
    if version := _UCX.search(log):
        yield Finding("UCX", "ok", f"{version[1]}, {version[2]}")
    yield _moved("transfer of host memory", host)
    if host["status"] != 0:
        yield Finding(
            "exit of a process",
            "error",
            f"status {host['status']} after a transfer that went well",
            "set UCX_MODULES=^efa, or remove the system's libefa",
        )


def _moved(subject: str, probe: dict[str, object]) -> Finding:
    seconds = float(str(probe["seconds"]))
    size = int(str(probe["bytes"]))
    detail = f"{size // _MIB} MiB in {seconds * 1e3:.1f} ms ({size / seconds / 1e9:.1f} GB/s)"
    return Finding(subject, "ok", detail)


def _exists(path: str, name: str) -> Callable[[], str]:
    return lambda: "" if Path(path).exists() else f"no {name}: {path} is not there"


def _no_gpu() -> str:
    found = _gpus()
    return str(found.get("absent") or found.get("error") or "")


@functools.cache
def _gpus() -> dict[str, object]:
    return _probe("devices")


# What UCX needs for each transport: a module of its own, and something of the host. What it makes
# of it shows in what it says of its endpoints.
_NEEDS: dict[str, tuple[str, str, Callable[[], str]]] = {
    "rc": ("RDMA between hosts", "ib", _exists("/dev/infiniband", "RDMA device")),
    "cma": ("between processes of a host", "cma", lambda: _no_ptrace()),
    "xpmem": ("between processes of a host", "xpmem", _exists("/dev/xpmem", "xpmem module")),
    "cuda_copy": ("GPU memory", "cuda", _no_gpu),
    "cuda_ipc": ("between processes with GPUs", "cuda", _no_gpu),
    "gdr_copy": ("small GPU memory", "cuda_gdrcopy", _exists("/dev/gdrdrv", "gdrcopy module")),
}


def _no_ptrace() -> str:
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        return ""
    return f"ptrace_scope is {scope}: only for a parent and its children" if scope > 0 else ""


def _transports(host: dict[str, object]) -> Iterator[Finding]:
    log = str(host["log"])
    used = _transports_used(log)
    if used:
        yield Finding("transports in use", "ok", ", ".join(used))
    for transport, (what_for, module, missing) in _NEEDS.items():
        if any(name == transport or name.startswith(f"{transport}_") for name in used):
            continue
        reason = missing() or _no_ucx_module(module, log)
        yield Finding(
            f"transport {transport}",
            "absent",
            f"{what_for}; {reason or 'possible here, and not chosen for host memory'}",
        )


def _no_ucx_module(name: str, log: str) -> str:
    """Why UCX, which says in its log where it is, has no such module."""
    ucx = _UCX.search(log)
    modules = Path(ucx[2]).parent / "ucx" if ucx else None
    if modules is None or not modules.is_dir() or any(modules.glob(f"libuct_{name}.so*")):
        return ""
    return f"UCX has no module for it: libuct_{name}.so is not in {modules}"


def _transports_used(log: str) -> list[str]:
    """By the endpoints that UCX says in its log it has made."""
    endpoints = "\n".join(re.findall(r"cfg#\d+ (.*)", log))
    return sorted(set(re.findall(r"\b(\w+)/[\w:.]+", endpoints)))


def _gpu_direct(sys_fs: Path, proc_fs: Path) -> Iterator[Finding]:
    """Whether network cards reach a GPU's memory."""
    if not any((sys_fs / "class/infiniband").glob("*")):
        return
    if (sys_fs / "module/nvidia_peermem").exists():
        yield Finding("GPU memory over RDMA", "ok", "nvidia_peermem is loaded")
    elif "Open" in _text(proc_fs / "driver/nvidia/version"):
        yield Finding("GPU memory over RDMA", "ok", "by dma-buf, of the open kernel driver")
    else:
        yield Finding(
            "GPU memory over RDMA",
            "warning",
            "neither nvidia_peermem nor the open kernel driver is loaded",
            "load nvidia_peermem, or copies to and from host memory go before and after RDMA",
        )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _gpu() -> Iterator[Finding]:
    found = _gpus()
    if "absent" in found:
        yield Finding("GPU", "absent", str(found["absent"]))
        return
    if "error" in found:
        advice = "check the driver's installation"
        yield Finding("GPU", "warning", str(found["error"]), advice)
        return
    devices = cast("list[tuple[str, int]]", found["devices"])
    names = "; ".join(f"{name}, {size // _MIB} MiB" for name, size in devices)
    yield Finding("GPU", "ok", f"{names}; driver of CUDA {found['version']}")
    yield from _gpu_direct(Path("/sys"), Path("/proc"))
    probe = _probe("cuda")
    if "seconds" not in probe:
        reason = probe.get("error") or probe.get("absent")
        yield Finding(
            "transfer of GPU memory",
            "warning",
            str(reason),
            "install the variant of NIXL's wheel that fits the driver's CUDA (cu12, cu13)",
        )
        return
    yield _moved("read of GPU memory", probe)
    yield _moved("write of GPU memory", {**probe, "seconds": probe["write_seconds"]})
    used = _transports_used(str(probe["log"]))
    yield Finding("transports for GPU memory", "ok", ", ".join(used))
    if "cuda_ipc" not in used:
        yield Finding(
            "GPU memory between processes",
            "warning",
            "UCX does not use CUDA IPC, so it goes through host memory",
            "check that the processes share an IPC namespace, and that UCX_TLS, if set, names "
            "cuda_ipc and cuda_copy",
        )
