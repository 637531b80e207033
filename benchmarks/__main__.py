"""Measure jaxirls against its alternatives, in one run.

    python -m benchmarks                          every case in float32 and float64 on all cores of the CPU
    python -m benchmarks --cases n200-p5 mix      some of them (n20-p2 n200-p5 n1000-p20 bootstrap mix large)
    python -m benchmarks --quick                  small batches and few turns: a rehearsal, nothing to quote
    python -m benchmarks --device gpu             on the GPU, against vmap, einsum + cholesky and PyTorch: 6 minutes
    python -m benchmarks --table FILE ...         markdown of earlier results

Every table shows fits a second, fits a second of processor time (which other work on the machine does not stretch),
how many times as fast as the C++ loop and as vmap(while_loop), the seconds of compiling (the first call's, apart), and
the largest difference of a coefficient from a float64 reference solved to rounding. Peers run in turns, and ratios are
taken within a turn. Peers that are not on the machine are left out. Results go to ``benchmarks/results/``, or where
``--out`` says; those of ``--quick`` only where ``--out`` says.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import groupby
from pathlib import Path

import jax
import numpy as np

from benchmarks import devices, report
from benchmarks.cases import CASES, GPU_CASES, Data
from benchmarks.measure import Record, measure
from benchmarks.peers import PEERS

RESULTS = Path(__file__).with_name("results")
GPU_SECONDS = 400  # until the last peer begins


def main(argv: list[str] | None = None) -> list[Record]:
    """Run the command line."""
    options = _parser().parse_args(argv)
    if options.table:
        for path in options.table:
            about, records = report.load(path)
            _show(about, records)
        return []
    if options.device == "gpu":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the memory
    if options.device == "gpu" and jax.default_backend() != "gpu" and not options.quick:
        raise SystemExit("--device gpu: JAX finds no GPU here; with --quick the same code runs on what there is")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all that the device has")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--batch", type=int, help="datasets of a --quick case")
    parser.add_argument("--turns", type=int, help="timed calls of each peer; default 7, with --quick 2")
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE")
    return parser


def _run(options: argparse.Namespace) -> list[Record]:
    about, records = report.machine() | {"platform": options.device, "parts": []}, []
    deadline = time.monotonic() + (GPU_SECONDS if options.device == "gpu" else float("inf"))
    out = options.out
    if out is None and not options.quick:
        out = RESULTS / f"{options.device}-jax-{jax.__version__}.json"
    if options.device == "gpu":
        about["copy GB/s"] = round(devices.copy_bandwidth(2**24 if options.quick else 2**32) / 1e9, 1)
    print(_headline(about), end="\n\n", flush=True)
    cases = CASES if options.device == "cpu" else GPU_CASES
    for name in options.cases or cases:
        case = cases[name].quick(options.batch) if options.quick else cases[name]
        for dtype in map(np.dtype, options.dtypes):
            data = Data(case, dtype, options.device)
            names = [name for name, peer in PEERS.items() if peer.applies(data) and peer.available()]
            turns = options.turns or (2 if options.quick else 7)
            budget = 2.0 if options.quick else 20.0 if options.device == "cpu" else 4.0
            fresh = measure(data, names, turns, budget, deadline)
            records += fresh
            if fresh:
                print(report.table(fresh), flush=True)
            if options.device == "gpu" and time.monotonic() < deadline:
                about["parts"].append({"case": case.name, "dtype": dtype.name, "rates": devices.parts(data)})
                print(report.parts(about["parts"][-1:]), flush=True)
            if out:
                report.save(out, about, records)
    print(report.goals(records, options.device))
    return records


def _show(about: dict, records: list[Record]) -> None:
    print(_headline(about), end="\n\n")
    for _, group in groupby(records, key=lambda record: (record.case, record.dtype)):
        print(report.table(list(group)))
    print(report.parts(about.get("parts", [])))
    print(report.goals(records, about.get("platform", "cpu")))


def _headline(about: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    bandwidth = f"; copy {about['copy GB/s']} GB/s" if "copy GB/s" in about else ""
    return f"{about['date']}; {about['cpu']}, {about['cores']} cores; {about['device']}{bandwidth}; {versions}"


if __name__ == "__main__":
    main(sys.argv[1:])
