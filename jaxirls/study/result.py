"""What a study found: its measures and rates, as a text table, as rows, as CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
import platform
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxirls.status import Status
from jaxirls.study.measures import Measure, Rate, Tally, performance, rates
from jaxirls.study.scenario import Scenario

__all__ = ["Replicates", "StudyResult", "Timing"]

COLUMNS_A_BLOCK = 4
ALWAYS_SHOWN = (Status.CONVERGED, Status.SEPARATED)


class Timing(NamedTuple):
    """Seconds of wall time: compiling, and then drawing, fitting and measuring."""

    compile_seconds: float
    run_seconds: float


class Replicates(NamedTuple):
    """Replicates of a study, in their order. In a tile of lanes, where these are arrays of JAX, they are last."""

    estimates: Any  # (R, p)
    standard_errors: Any  # (R, p)
    status: Any  # (R,)


@dataclass(frozen=True)
class StudyResult:
    """The result of ``study.run``.

    Attributes:
      scenario: what was run.
      total: the sums and counts that the measures are made of.
      timing: wall time.
      replicates: every replicate, where ``keep=True`` asked for them, else None.

    ``result["coverage", "x1"]`` is one measure of one coefficient, with its ``estimate`` and ``mcse``.
    """

    scenario: Scenario
    total: Tally
    timing: Timing
    replicates: Replicates | None = None

    @cached_property
    def measures(self) -> list[Measure]:
        """Every measure of every coefficient, over the fits with a finite maximum likelihood estimate."""
        return performance(self.total, np.asarray(self.scenario.coefficients))

    @cached_property
    def rates(self) -> list[Rate]:
        """The rate of every status, over all replicates."""
        return rates(self.total)

    @property
    def fits_per_second(self) -> float:
        """Replicates drawn, fitted and measured a second, compile time apart."""
        return self.total.replicates / self.timing.run_seconds

    def __getitem__(self, name: tuple[str, str]) -> Measure:
        measure, coefficient = name
        for found in self.measures:
            if (found.name, self.scenario.names[found.coefficient]) == (measure, coefficient):
                return found
        known = ", ".join(dict.fromkeys(m.name for m in self.measures))
        raise KeyError(f"no measure {name!r}; measures: {known}; coefficients: {', '.join(self.scenario.names)}")

    def rows(self) -> list[dict[str, Any]]:
        """One row a measure and coefficient, then one a status: the tidy table that ``measures.csv`` holds.

        ``count`` is the number of replicates that the row is computed over.
        """
        names, truth = self.scenario.names, self.scenario.coefficients
        return [
            {
                "measure": m.name,
                "coefficient": names[m.coefficient],
                "truth": truth[m.coefficient],
                "estimate": m.estimate,
                "mcse": m.mcse,
                "count": self.total.used,
            }
            for m in self.measures
        ] + [
            {
                "measure": f"rate {rate.status.name}",
                "coefficient": "",
                "truth": "",
                "estimate": rate.estimate,
                "mcse": rate.mcse,
                "count": self.total.replicates,
            }
            for rate in self.rates
        ]

    def to_dict(self) -> dict[str, Any]:
        """Scenario, results, timing and versions, ready for JSON: what is not a finite number is None."""
        names, truth = self.scenario.names, self.scenario.coefficients
        return {
            "scenario": self.scenario.to_dict(),
            "replicates": self.total.replicates,
            "replicates_measured": self.total.used,
            "statuses": {
                rate.status.name: {"count": rate.fits, "rate": _finite(rate.estimate), "mcse": _finite(rate.mcse)}
                for rate in self.rates
            },
            "measures": [
                {
                    "measure": m.name,
                    "coefficient": names[m.coefficient],
                    "truth": truth[m.coefficient],
                    "estimate": _finite(m.estimate),
                    "mcse": _finite(m.mcse),
                }
                for m in self.measures
            ],
            "timing": self.timing._asdict() | {"fits_per_second": self.fits_per_second},
            "versions": {
                "jaxirls": _version(),
                "jax": jax.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "device": jax.devices()[0].device_kind,
            },
        }

    def write(self, directory: str | Path) -> tuple[Path, Path]:
        """Write ``measures.csv`` and ``study.json`` into the directory, made where it is missing."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        table, study = folder / "measures.csv", folder / "study.json"
        rows = self.rows()
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        study.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return table, study

    def table(self) -> str:
        """Statuses, measures and time, as text; Monte Carlo standard errors in parentheses."""
        return "\n".join([*self._heading(), "", *self._statuses(), "", *self._performance(), "", self._time()])

    def __repr__(self) -> str:
        return f"StudyResult({self.total.replicates} replicates, {self.total.used} with a finite estimate)"

    def _heading(self) -> list[str]:
        s = self.scenario
        design = f"{s.design.kind} design" + (" with intercept" if s.design.intercept else "")
        drawn = "redrawn each replicate" if s.design.redraw else "the same in every replicate"
        return [
            f"{s.replicates:,} replicates of n = {s.n}, p = {s.p}, {s.dtype}, seed {s.seed}",
            f"{s.family_name} family, {s.link_name} link; {design}, {drawn}",
            "Monte Carlo standard errors in parentheses.",
        ]

    def _statuses(self) -> list[str]:
        shown = [rate for rate in self.rates if rate.fits or rate.status in ALWAYS_SHOWN]
        cells = [
            (r.status.name.lower().replace("_", " "), f"{r.fits:,}", _with_mcse(r.estimate, r.mcse)) for r in shown
        ]
        lines = [f"{'status':<18}{'fits':>14}{'rate':>22}", "-" * 54]
        return lines + [f"{name:<18}{count:>14}{rate:>22}" for name, count, rate in cells]

    def _performance(self) -> list[str]:
        used, left = self.total.used, self.total.replicates - self.total.used
        lines = [f"Measures over the {used:,} fits that converged to a finite maximum likelihood estimate."]
        if left:
            lines.append(f"The other {left:,} have no estimate to measure: they are counted above and left out below.")
        names, truth = self.scenario.names, self.scenario.coefficients
        for block in range(0, self.scenario.p, COLUMNS_A_BLOCK):
            picked = range(block, min(block + COLUMNS_A_BLOCK, self.scenario.p))
            heads = [f"{names[j]} = {truth[j]:g}" for j in picked]
            rows = []
            for name in dict.fromkeys(m.name for m in self.measures):
                label = f"coverage of {100 * self.scenario.level:g}% intervals" if name == "coverage" else name
                rows.append((label, [_with_mcse(*self[name, names[j]][2:]) for j in picked]))
            room = max(22, *(len(cell) + 2 for cell in (*heads, *(cell for _, cells in rows for cell in cells))))
            table = [("measure", heads), *rows]
            lines += ["", *(f"{label:<32}" + "".join(f"{cell:>{room}}" for cell in cells) for label, cells in table)]
            lines.insert(-len(rows), "-" * (32 + room * len(heads)))
        return lines

    def _time(self) -> str:
        compile_seconds, run_seconds = self.timing
        return (
            f"{run_seconds:.2f} s to draw, fit and measure, {self.fits_per_second:,.0f} fits/s; "
            f"compile time apart: {compile_seconds:.2f} s"
        )


def _with_mcse(estimate: float, mcse: float) -> str:
    """An estimate to the second significant digit of its standard error, which follows in parentheses."""
    if not math.isfinite(estimate):
        return "undefined"
    if not math.isfinite(mcse):
        return f"{estimate:.6g} (undefined)"
    digits = 5 if mcse == 0 else max(0, min(12, 1 - math.floor(math.log10(mcse))))
    return f"{estimate:.{digits}f} ({mcse:.{digits}f})"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _version() -> str:
    try:
        return metadata.version("jaxirls")
    except metadata.PackageNotFoundError:
        return "not installed"
