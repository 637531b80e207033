r"""Designs: how X is laid out, and the one pass over it.

A design owns X for T datasets (lanes). The loop gives it ``beta (p, T)`` and an elementwise ``kernel``, and gets back
the sums over the rows; it never learns how X is stored:

    gram  = Σᵢ wᵢ xᵢ xᵢᵀ      (p, p, T)
    score = Σᵢ rᵢ xᵢ          (p, T)
    sums, minima              any further elementwise terms, each (T,)

``rows`` is any pytree of row data whose leaves are ``(n, T)``, ``(n, 1)`` (the same for every lane), ``(1, T)`` (the
same for every row) or ``(1, 1)``.
"""

from jaxirls.designs.base import Design, Kernel, Sums, Terms, UnsupportedError
from jaxirls.designs.by_block import SHARES, InOneKernel, LanesByBlock, Streamed
from jaxirls.designs.by_row import WIDTH, Folded, LanesByRow, SharedByRow, width
from jaxirls.designs.lanes import Lanes
from jaxirls.designs.matrices import Dense, Shared

__all__ = [
    "SHARES",
    "WIDTH",
    "Dense",
    "Design",
    "Folded",
    "InOneKernel",
    "Kernel",
    "Lanes",
    "LanesByBlock",
    "LanesByRow",
    "Shared",
    "SharedByRow",
    "Streamed",
    "Sums",
    "Terms",
    "UnsupportedError",
    "width",
]
