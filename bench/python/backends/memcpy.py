"""One core's memcpy, in one process: what no copy by one thread is faster than."""

from __future__ import annotations

import ctypes

import numpy as np

STYLE = "local"


def copy(source: np.ndarray, target: np.ndarray) -> None:
    ctypes.memmove(target.ctypes.data, source.ctypes.data, source.nbytes)
