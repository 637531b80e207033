"""Timing: peers take turns, so that what else the machine does falls on all of them; ratios are taken turn by turn.

A call is timed after another of the same peer, so that what the peer before left in caches and memory falls on none.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.cases import Data
from benchmarks.peers import PEERS, Fits, Run

# Seconds from which on a call is its own warming up.
LONG = 1.0


@dataclass(frozen=True)
class Record:
    """What came of one peer in one case."""

    case: str
    n: int
    p: int
    batch: int
    dtype: str
    peer: str
    count: int  # datasets a call
    compile_seconds: float  # what the first call took beyond the median of the rest
    seconds: list[float]  # of each turn
    core_seconds: list[float]
    error: float  # largest |difference| of a coefficient from the reference
    compared: int  # datasets behind it
    lost: int  # of these, without finite coefficients

    @property
    def rate(self) -> float:
        """Fits a second."""
        return self.count / statistics.median(self.seconds)

    @property
    def core_rate(self) -> float:
        """Fits a second of processor time."""
        return self.count / statistics.median(self.core_seconds)

    def over(self, other: Record) -> float:
        """How many times as fast as ``other``: the median of the ratios within a turn."""
        pairs = zip(self.seconds, other.seconds, strict=False)
        return statistics.median((theirs / other.count) / (own / self.count) for own, theirs in pairs)


def measure(data: Data, names: list[str], rounds: int, budget: float, deadline: float) -> list[Record]:
    """Run the peers in turns; one that has used up ``budget`` seconds rests for the remaining turns.

    A peer that fails (for want of memory, say) is named and left out, as is one that the deadline leaves no time for.
    """
    runs: dict[str, Run] = {}
    firsts: dict[str, Fits] = {}
    for name in names:
        if time.monotonic() > deadline:
            print(f"{name}: left out, no time", file=sys.stderr)
            continue
        try:
            run = PEERS[name].prepare(data)
            firsts[name] = run.fits()
            runs[name] = run
        except (RuntimeError, MemoryError) as error:
            print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        print(f"{name}: first call {firsts[name].seconds:.1f} s", file=sys.stderr)
    turns: dict[str, list[Fits]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            if not turn or (sum(each.seconds for each in turns[name]) <= budget and time.monotonic() <= deadline):
                turns[name].append(_warm(run))
    return [_record(data, name, runs[name], firsts[name], turns[name]) for name in runs]


def _warm(run: Run) -> Fits:
    fits = run.fits()
    return fits if fits.seconds > LONG else run.fits()


def _record(data: Data, name: str, run: Run, first: Fits, turns: list[Fits]) -> Record:
    seconds = [turn.seconds for turn in turns]
    reference = data.reference[: run.count] if run.reference is None else run.reference()
    params = turns[-1].params[: len(reference)]
    known = ~np.isnan(reference).any(1)
    finite = np.isfinite(params).all(1)
    differences = np.abs(params - reference)[known & finite]
    case = data.case
    return Record(
        case=case.name,
        n=case.n,
        p=case.p,
        batch=case.batch,
        dtype=np.dtype(data.dtype).name,
        peer=name,
        count=run.count,
        compile_seconds=max(0.0, first.seconds - statistics.median(seconds)),
        seconds=seconds,
        core_seconds=[turn.core_seconds for turn in turns],
        error=float(differences.max(initial=0.0)),
        compared=int(known.sum()),
        lost=int((known & ~finite).sum()),
    )
