"""Lanes read a block of rows a turn by straight-line code, for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxirls.designs.base import Design, Kernel, RowData, Sums, UnsupportedError, masked, repeated, some_rows
from jaxirls.designs.lanes import Lanes, combine, unpacked
from jaxirls.designs.matrices import Dense
from jaxirls.trees import pytree, varying

# Columns up to which a row's products are straight-line code of XLA's: more would take long to compile.
STRAIGHT = 8
# Bytes of X that a kernel reads a turn, at most, and of each column: enough to wait for memory together, and so few
# that the sums stay in registers.
TURN, COLUMN = 160, 16
SHARES = "shares"  # the axis over which a kernel shares out the rows of a dataset


@pytree
class LanesByBlock(Lanes):
    """``Lanes`` read a block of rows a turn by straight-line code: on a GPU one kernel, every sum in a register."""

    @property
    def block(self) -> int:
        """Rows a turn."""
        return 8

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        return _sums(self.p, _added(_nothing(self.x, beta, rows, kernel), self.x, beta, rows, kernel, self.block))


@pytree
class InOneKernel(LanesByBlock):
    """The same, in one kernel where a program can be one, see ``kernel``. One X for all lanes stays one."""

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(x)

    def lanes(self, count: int) -> Array:
        return repeated(self.x, count)

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        if self.p > STRAIGHT:
            return Dense.of(self.x, beta.shape[1]).accumulate(beta, rows, kernel)
        return super().accumulate(beta, rows, kernel)


@pytree
class Streamed(Design):
    """The same inside a kernel, which holds no column of rows at once: ``x (m, p, T)`` is one of f shares of the rows.

    A dataset has a lane in every share, on the axis ``SHARES``. Row i of share a is the dataset's row i f + a; but the
    last rows of all shares are the dataset's last f, some of which are then among the rows before.
    """

    x: Array
    count: int = field(metadata={"static": True})  # n
    kept: int = field(metadata={"static": True})  # rows, the first, that the kernel has at hand

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(x, x.shape[0], 0)

    @property
    def n(self) -> int:
        return self.count

    @property
    def p(self) -> int:
        return self.x.shape[1]

    @property
    def block(self) -> int:
        size = self.x.dtype.itemsize
        return max(1, min(COLUMN // size, TURN // (self.p * size)))

    def accumulate(self, beta: Array, rows: RowData, kernel: Kernel) -> Sums:
        found = _nothing(self.x, beta, rows, kernel)
        for part, is_new in self._parts():
            x, own = _cut((self.x, rows), part)
            if is_new is None:
                found = _added(found, x, beta, own, kernel, self.block)
            else:
                found = _added(found, x, beta, (own, is_new), masked(kernel), self.block)
        found = _Block(lax.psum(found.sums, SHARES), lax.pmin(found.minima, SHARES), lax.psum(found.log, SHARES))
        return _sums(self.p, found)

    def total(self, rows: RowData, term: Callable[[RowData], Array], count: int) -> Array:
        def added(found: Array, own: RowData, size: int, is_new: Array | None) -> Array:
            def add(i: Array, found: Array) -> Array:
                value = term(some_rows(own, i, 1))
                return found + (value if is_new is None else jnp.where(is_new, value, 0.0))

            return lax.fori_loop(jnp.int32(0), jnp.int32(size), add, found)

        found = jnp.zeros((1, count), self.x.dtype)
        for part, is_new in self._parts():
            found = added(found, _cut(rows, part), part.stop - part.start, is_new)
        return lax.psum(found, SHARES)[0]

    def _all_rows(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedError("all rows at once")

    lanes = predict = pull = whitened = squares = fold = _all_rows

    def _parts(self) -> Iterator[tuple[slice, Array | None]]:
        """The rows that are kept, the others, and the last if it is not new in all shares; and where it is, (1, 1)."""
        rows = self.x.shape[0]
        twice = rows * lax.axis_size(SHARES) - self.n
        whole = rows - (twice > 0)
        kept = min(self.kept, whole)
        if kept:
            yield slice(0, kept), None
        if kept < whole:
            yield slice(kept, whole), None
        if twice:
            yield slice(whole, rows), (lax.axis_index(SHARES) >= twice)[None, None]


class _Block(NamedTuple):
    """The sums of the rows seen so far, each (1, T)."""

    sums: tuple[Array, ...]
    minima: tuple[Array, ...]
    log: Array


def _row_terms(
    row: tuple[Array, RowData], beta: Array, kernel: Kernel
) -> tuple[tuple[Array, ...], tuple[Array, ...], Array | None]:
    """What a row, X's ``(1, p, T)`` and its data, adds to the sums, its minima, and its excess."""
    x, rows = row
    terms = kernel(combine(x, beta), rows)
    columns = [x[:, j] for j in range(x.shape[1])]
    weighted = [terms.weight * column for column in columns]
    sums = [weighted[j] * columns[k] for j in range(len(columns)) for k in range(j + 1)]
    sums += [terms.residual * column for column in columns]
    return (*sums, *terms.sums), terms.minima, terms.excess


def _nothing(x: Array, beta: Array, rows: RowData, kernel: Kernel) -> _Block:
    """The sums of no rows."""
    zero = jnp.zeros((1, beta.shape[1]), x.dtype)
    sums, minima, _ = jax.eval_shape(lambda: _row_terms(some_rows((x, rows), 0, 1), beta, kernel))
    return varying(_Block((zero,) * len(sums), (zero + jnp.inf,) * len(minima), zero), x, rows, beta)


def _added(found: _Block, x: Array, beta: Array, rows: RowData, kernel: Kernel, block: int) -> _Block:
    """The sums with those of more rows, a ``block`` a turn."""

    def turn(i: Array | int, found: _Block, size: int = block) -> _Block:
        product = None
        for k in range(size):
            sums, minima, excess = _row_terms(some_rows((x, rows), i * block + k, 1), beta, kernel)
            found = _Block(
                tuple(map(jnp.add, found.sums, sums)), tuple(map(jnp.minimum, found.minima, minima)), found.log
            )
            if excess is not None:
                product = 1 + excess if product is None else product * (1 + excess)
        return found if product is None else found._replace(log=found.log + jnp.log(product))

    whole, rest = divmod(x.shape[0], block)
    return turn(whole, lax.fori_loop(jnp.int32(0), jnp.int32(whole), turn, found), rest)


def _sums(p: int, found: _Block) -> Sums:
    found = jax.tree.map(lambda leaf: leaf[0], found)
    return Sums(*unpacked(jnp.stack(found.sums), p), found.minima, found.log)


def _cut(tree: Any, part: slice) -> Any:
    """Some rows of row data; what is the same for every row stays."""
    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == 1 else leaf[part], tree)
