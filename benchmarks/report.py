"""What was measured as JSON, as markdown, and against the goals."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks.cases import CORES
from benchmarks.measure import Record

CPP, VMAP = "C++ OpenMP, datasets in SIMD lanes", "vmap(while_loop)"
LAST, OWN = "jaxirls, batch-last", "jaxirls"
# (case, dtype, peer, against, at least)
GOALS = (
    ("n200-p5", "float64", LAST, CPP, 0.8),
    ("n200-p5", "float64", LAST, VMAP, 7.0),
    ("n200-p5", "float64", OWN, CPP, 0.5),
    ("n200-p5", "float64", OWN, "statsmodels, a loop", 150.0),
    ("n200-p5", "float32", LAST, CPP, 0.8),
    ("n20-p2", "float64", OWN, VMAP, 5.0),
    ("n1000-p20", "float64", OWN, CPP, 0.5),
    ("bootstrap", "float64", OWN, "jaxirls, X repeated", 1.5),
    *(
        ("mix", dtype, name, f"{name}, none separated", 0.667)
        for dtype in ("float32", "float64")
        for name in (OWN, LAST)
    ),
    ("large", "float64", OWN, "statsmodels, a loop", 1.0),
    ("large", "float64", OWN, "scikit-learn, newton-cholesky", 1.0),
    ("large", "float64", OWN, "glum", 1.0),
)
# (case, dtype, whether the drawing counts, fits a second, times as fast as VMAP), of the fastest way of jaxirls
GPU_GOALS = (
    ("n200-p5", "float32", False, 50e6, 20.0),
    ("n200-p5", "float64", False, 20e6, 0.0),
    ("n200-p5", "float32", True, 10e6, 0.0),
    ("n1000-p20", "float32", False, 0.0, 10.0),
)
LIBRARIES = ("jax", "jaxlib", "numpy", "statsmodels", "scikit-learn", "glmax", "glum", "torch")


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for program in ("g++", "Rscript"):
        if shutil.which(program):
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
            versions[program] = (said.stdout + said.stderr).splitlines()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": CORES,
        "device": jax.devices()[0].device_kind,
        "versions": versions,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def save(path: Path, about: dict[str, Any], records: Iterable[Record]) -> None:
    """Write the results, one record a line."""
    rows = ",\n  ".join(json.dumps(dataclasses.asdict(record)) for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"machine": {json.dumps(about, indent=1)},\n "records": [\n  {rows}\n]}}\n')


def load(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """Read what ``save`` wrote."""
    whole = json.loads(path.read_text())
    return whole["machine"], [Record(**record) for record in whole["records"]]


def table(records: list[Record]) -> str:
    """One case in one precision as markdown; ratios are of fits a second, above one where the peer is faster."""
    first = records[0]
    named = {record.peer: record for record in records}
    against = {name: short for name, short in ((CPP, "/ C++"), (VMAP, "/ vmap")) if name in named}
    lines = [
        f"**{first.case}**, {first.dtype}: n = {first.n}, p = {first.p}, {first.batch:,} datasets",
        "",
        _line("", "fits/s", "a core", *against.values(), "compile s", "error"),
        _line("---", *["---:"] * (4 + len(against))),
    ]
    for record in records:
        ratios = [f"{record.over(named[name]):.3g}" for name in against]
        error = f"{record.error:.1e}" + (f" ({record.lost} lost)" if record.lost else "")
        rates = (f"{_round(rate)}" for rate in (record.rate, record.core_rate))
        lines.append(_line(record.peer, *rates, *ratios, f"{record.compile_seconds:.1f}", error))
    return "\n".join(lines) + "\n"


def goals(records: list[Record], device: str) -> str:
    """The goals whose sides were measured, as markdown."""
    named = {(record.case, record.dtype, record.peer): record for record in records}
    lines = [_line("case", "ratio", "measured", "goal", ""), _line("---", "---", "---:", "---:", "---")]
    if device == "gpu":
        return "\n".join(lines + _gpu_goals(records)) + "\n"
    for case, dtype, name, other, least in GOALS:
        if (case, dtype, name) in named and (case, dtype, other) in named:
            ratio = named[case, dtype, name].over(named[case, dtype, other])
            lines.append(_line(f"{case} {dtype}", f"{name} / {other}", f"{ratio:.3g}", least, _verdict(ratio >= least)))
    return "\n".join(lines) + "\n"


def _gpu_goals(records: list[Record]) -> list[str]:
    lines = []
    for case, dtype, drawn, rate, ratio in GPU_GOALS:
        own = [record for record in records if (record.case, record.dtype) == (case, dtype)]
        ours = [each for each in own if each.peer.startswith(OWN) and ("drawing" in each.peer) == drawn]
        if not ours:
            continue
        best = max(ours, key=lambda record: record.rate)
        if rate:
            met = _verdict(best.rate >= rate)
            lines.append(_line(f"{case} {dtype}", f"{best.peer}: fits/s", _round(best.rate), _round(rate), met))
        for other in own:
            if ratio and other.peer == VMAP:
                times = best.over(other)
                met = _verdict(times >= ratio)
                lines.append(_line(f"{case} {dtype}", f"{best.peer} / {VMAP}", f"{times:.3g}", ratio, met))
    return lines


def parts(measured: list[dict[str, Any]]) -> str:
    """What a fit is made of, each part by itself, as markdown; nothing where nothing was measured."""
    if not measured:
        return ""
    lines = [_line("case", "part", "datasets/s"), _line("---", "---", "---:")]
    lines += [
        _line(f"{each['case']} {each['dtype']}", name, _round(rate))
        for each in measured
        for name, rate in each["rates"].items()
    ]
    return "\n".join(lines) + "\n"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _round(rate: float) -> str:
    """Three digits, thousands set apart."""
    return f"{float(f'{rate:.3g}'):,.0f}" if rate >= 100 else f"{rate:.3g}"
