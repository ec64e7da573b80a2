"""The CUDA driver, for the doctor, the tests and the benchmarks."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

__all__ = ["Buffer", "CudaError", "Driver"]

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_POINTER, _NUMBER, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_ARGUMENTS: dict[str, list[Any]] = {
    "cuInit": [ctypes.c_uint],
    "cuDriverGetVersion": [_POINTER],
    "cuGetErrorName": [_NUMBER, _POINTER],
    "cuDeviceGetCount": [_POINTER],
    "cuDeviceGetName": [_POINTER, _NUMBER, _NUMBER],
    "cuDeviceTotalMem_v2": [_POINTER, _NUMBER],
    "cuDevicePrimaryCtxRetain": [_POINTER, _NUMBER],
    "cuCtxPushCurrent_v2": [_POINTER],
    "cuCtxPopCurrent_v2": [_POINTER],
    "cuCtxSynchronize": [],
    "cuMemAlloc_v2": [_POINTER, _SIZE],
    "cuMemFree_v2": [_POINTER],
    "cuMemcpyHtoD_v2": [_POINTER, _POINTER, _SIZE],
    "cuMemcpyDtoH_v2": [_POINTER, _POINTER, _SIZE],
    "cuMemcpyPeer": [_POINTER, _POINTER, _POINTER, _POINTER, _SIZE],
}


class CudaError(RuntimeError):
    """There is no driver, no GPU, or the driver refuses."""

    def __init__(self, words: str, absent: bool = False) -> None:
        super().__init__(words)
        self.absent = absent
        """Whether there is no driver or no GPU: nothing is wrong then."""


class Driver:
    """The functions of `libcuda.so.1`, initialised. Thread safe."""

    def __init__(self) -> None:
        path = os.environ.get("NIXL_CONNECT_CUDA_LIBRARY") or "libcuda.so.1"
        try:
            self.library = ctypes.CDLL(path)
        except OSError as error:
            raise CudaError(f"no NVIDIA driver: {error}", absent=True) from None
        for name, arguments in _ARGUMENTS.items():
            getattr(self.library, name).argtypes = arguments
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the driver; raises `CudaError` when it returns an error."""
        error = getattr(self.library, name)(*arguments)
        if error:
            word = ctypes.c_char_p()
            self.library.cuGetErrorName(error, ctypes.byref(word))
            text = f"{name}: {(word.value or b'error').decode()} ({error})"
            raise CudaError(text, absent=error == _NO_DEVICE)

    @property
    def count(self) -> int:
        """How many devices there are."""
        count = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(count))
        return count.value

    @property
    def version(self) -> str:
        """The CUDA that the driver is of, as ``"12.9"``."""
        version = ctypes.c_int()
        self.call("cuDriverGetVersion", ctypes.byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def devices(self) -> list[tuple[str, int]]:
        """Each device's name, and its memory in bytes."""
        return [self._describe(device) for device in range(self.count)]

    def _describe(self, device: int) -> tuple[str, int]:
        name, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
        self.call("cuDeviceGetName", name, len(name), device)
        self.call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        return name.value.decode(), size.value

    def context(self, device: int) -> ctypes.c_void_p:
        """The device's primary context, which is made if nobody has yet."""
        if device not in self._contexts:
            context = ctypes.c_void_p()
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._contexts[device] = context
        return self._contexts[device]

    @contextlib.contextmanager
    def on(self, device: int) -> Iterator[None]:
        """With the device's primary context."""
        self.call("cuCtxPushCurrent_v2", self.context(device))
        try:
            yield
        finally:
            self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


class Buffer:
    """Bytes on a device, as other libraries' arrays are."""

    def __init__(self, driver: Driver, size: int, device: int = 0) -> None:
        self._driver, self.nbytes, self.device = driver, size, device
        address = ctypes.c_ulonglong()
        with driver.on(device):
            driver.call("cuMemAlloc_v2", ctypes.byref(address), size)
        self.address = address.value

    def __del__(self) -> None:
        if hasattr(self, "address"):
            with self._driver.on(self.device):
                self._driver.call("cuMemFree_v2", self.address)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": (self.nbytes,),
            "typestr": "|u1",
            "data": (self.address, False),
            "version": 3,
            "stream": 1,
        }

    def set(self, data: bytes) -> None:
        with self._driver.on(self.device):
            self._driver.call("cuMemcpyHtoD_v2", self.address, data, self.nbytes)

    def get(self) -> bytes:
        data = ctypes.create_string_buffer(self.nbytes)
        with self._driver.on(self.device):
            self._driver.call("cuMemcpyDtoH_v2", data, self.address, self.nbytes)
        return data.raw

    def copy_from(self, source: Buffer) -> None:
        """The device's own copy; returns when it is done."""
        context = self._driver.context
        with self._driver.on(self.device):
            self._driver.call(
                "cuMemcpyPeer",
                self.address,
                context(self.device),
                source.address,
                context(source.device),
                self.nbytes,
            )
            self._driver.call("cuCtxSynchronize")
