"""``logit.cpp`` compiled on the spot, for one number of columns and one precision, and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

SPEED = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fopenmp"]
FLAGS = ["-std=c++17", "-shared", "-fPIC", *SPEED]


@functools.cache
def register() -> int:
    """Bytes of this machine's SIMD registers."""
    command = ["g++", "-march=native", "-dM", "-E", "-x", "c++", "/dev/null"]
    macros = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sizes = {"__AVX512F__": 64, "__AVX__": 32}
    return next((size for macro, size in sizes.items() if macro in macros), 16)


@functools.cache
def _library(p: int, dtype: np.dtype) -> ctypes.CDLL:
    real = {"float32": "float", "float64": "double"}[dtype.name]
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "logit.so")
        source = str(Path(__file__).with_name("logit.cpp"))
        given = [f"-DCOLUMNS={p}", f"-DREAL={real}", f"-DBYTES={register()}"]
        subprocess.run(["g++", *FLAGS, *given, source, "-o", target], check=True)
        # Threads that wait for the next loop spin, by default, into the turn of the peer that comes next.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        return ctypes.CDLL(target)


def tiles(batch: np.ndarray) -> np.ndarray:
    """``(B, ...)`` as ``(tiles, ..., L)``, L datasets to a SIMD register; the last one is repeated to fill a tile."""
    lanes = register() // batch.itemsize
    padded = np.pad(batch, [(0, -len(batch) % lanes)] + [(0, 0)] * (batch.ndim - 1), mode="edge")
    return np.ascontiguousarray(np.moveaxis(padded.reshape(-1, lanes, *batch.shape[1:]), 1, -1))


def fit_lanes(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, batch: int) -> np.ndarray:
    """Coefficients ``(B, p)`` of datasets in tiles; an ``x`` of two axes is shared by all."""
    shared = x.ndim == 2
    p, (count, n, lanes) = x.shape[1 if shared else 2], y.shape
    out = np.empty((count, p, lanes), x.dtype)
    _library(p, x.dtype).fit_lanes(*map(_pointer, (x, y, weights, out)), n, ctypes.c_long(count), int(shared))
    return np.moveaxis(out, 1, -1).reshape(-1, p)[:batch]


def fit_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients ``(B, p)`` of datasets ``(B, n, p)``."""
    batch, n, p = x.shape
    out = np.empty((batch, p), x.dtype)
    _library(p, x.dtype).fit_rows(*map(_pointer, (x, y, out)), n, ctypes.c_long(batch))
    return out


def _pointer(array: np.ndarray | None) -> ctypes.c_void_p:
    assert array is None or array.flags.c_contiguous
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
