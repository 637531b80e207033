"""Lanes read a block of rows a turn by straight-line code, for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls.designs.base import Design, Kernel, Rows, Sums, repeated
from jaxirls.designs.lanes import Lanes, combine, symmetric
from jaxirls.designs.matrices import Dense
from jaxirls.trees import pytree, varying

# Columns up to which a row's products are straight-line code of XLA's: more would take long to compile.
STRAIGHT = 8
# Bytes of X that a kernel reads a turn, at most, and of each column: enough to wait for memory together, and so few
# that the sums stay in registers.
TURN, COLUMN = 160, 16


@pytree
class LanesByBlock(Lanes):
    """``Lanes`` read a block of rows a turn by straight-line code: on a GPU one kernel, every sum in a register."""

    @property
    def block(self) -> int:
        """Rows a turn."""
        return 8

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        n, p, lanes = self.n, self.p, beta.shape[1]

        def row(i: Array) -> tuple[tuple[Array, ...], tuple[Array, ...], Array | None]:
            """What row i adds to the sums, its minima, and its excess."""

            x = _row(self.x, i)
            terms = kernel(combine(x, beta), jax.tree.map(lambda leaf: _row(leaf, i), rows))
            columns = [x[:, j] for j in range(p)]
            weighted = [terms.weight * column for column in columns]
            sums = [weighted[j] * columns[k] for j in range(p) for k in range(j + 1)]
            sums += [terms.residual * column for column in columns]
            return (*sums, *terms.sums), terms.minima, terms.excess

        def turn(i: Array | int, carry: _Block, size: int = self.block) -> _Block:
            product = None
            for k in range(size):
                sums, minima, excess = row(jnp.int32(i * self.block + k))
                carry = _Block(
                    tuple(map(jnp.add, carry.sums, sums)), tuple(map(jnp.minimum, carry.minima, minima)), carry.log
                )
                if excess is not None:
                    product = 1 + excess if product is None else product * (1 + excess)
            return carry if product is None else carry._replace(log=carry.log + jnp.log(product))

        zero = jnp.zeros((1, lanes), self.x.dtype)
        sums, minima, _ = jax.eval_shape(row, jnp.int32(0))
        carry = _Block((zero,) * len(sums), (zero + jnp.inf,) * len(minima), zero)
        whole, rest = divmod(n, self.block)
        carry = lax.fori_loop(jnp.int32(0), jnp.int32(whole), turn, varying(carry, self.x, rows, beta))
        carry = jax.tree.map(lambda leaf: leaf[0], turn(whole, carry, rest))
        totals = iter(carry.sums)
        gram = symmetric([[next(totals) for _ in range(j + 1)] for j in range(p)])
        score = jnp.stack([next(totals) for _ in range(p)])
        return Sums(gram, score, tuple(totals), carry.minima, carry.log)


@pytree
class InOneKernel(LanesByBlock):
    """The same, in one kernel where a program can be one, see ``kernel``. One X for all lanes stays one."""

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(x)

    def lanes(self, count: int) -> Array:
        return repeated(self.x, count)

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        if self.p > STRAIGHT:
            return Dense.of(self.x, beta.shape[1]).accumulate(beta, rows, kernel)
        return super().accumulate(beta, rows, kernel)


@pytree
class Streamed(LanesByBlock):
    """The same inside a kernel, which holds no column of rows at once."""

    @property
    def block(self) -> int:
        size = self.x.dtype.itemsize
        return max(1, min(COLUMN // size, TURN // (self.p * size)))

    def total(self, rows: Rows, term: Callable[[Rows], Array], count: int) -> Array:
        def add(i: Array, total: Array) -> Array:
            return total + term(jax.tree.map(lambda leaf: _row(leaf, i), rows))

        return lax.fori_loop(jnp.int32(0), jnp.int32(self.n), add, jnp.zeros((1, count), self.x.dtype))[0]


class _Block(NamedTuple):
    """The sums of the rows seen so far, each (1, T)."""

    sums: tuple[Array, ...]
    minima: tuple[Array, ...]
    log: Array


def _row(leaf: Array, i: Array) -> Array:
    """Row i of row data, (1, T); what is the same for every row stays."""
    return leaf if leaf.shape[0] == 1 else lax.dynamic_slice_in_dim(leaf, i, 1, allow_negative_indices=False)
