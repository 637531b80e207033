r"""Designs: how X is laid out, and the one pass over it.

A design owns X for T datasets (lanes). The loop gives it ``beta (p, T)`` and an elementwise ``kernel``, and gets back
the sums over the rows; it never learns how X is stored:

    gram  = Σᵢ wᵢ xᵢ xᵢᵀ      (p, p, T)
    score = Σᵢ rᵢ xᵢ          (p, T)
    sums, minima              any further elementwise terms, each (T,)

``rows`` is any pytree of row data whose leaves are ``(n, T)``, ``(n, 1)`` (the same for every lane), ``(1, T)`` (the
same for every row) or ``(1, 1)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxirls.trees import pytree, varying

Rows = Any

# Slabs of rows that are added elementwise before the slab itself is summed.
SLABS = 4
# Lanes that the rows of few datasets are spread over.
WIDTH = 64
# Rows whose weighted copy is made at a time, at least, by matrix products.
DENSE_ROWS = 256


class Terms(NamedTuple):
    """What a kernel returns for rows: the weight w, the residual r, and terms to be summed or minimized.

    Of an ``excess`` e in [0, 1] the pass sums log(1+e), by products of 1+e over rows.
    """

    weight: Array
    residual: Array
    sums: tuple[Array, ...] = ()
    minima: tuple[Array, ...] = ()
    excess: Array | None = None


Kernel = Callable[[Array, Rows], Terms]  # (eta, rows) -> Terms, elementwise


class Sums(NamedTuple):
    """The result of one pass."""

    gram: Array  # (p, p, T)
    score: Array  # (p, T)
    sums: tuple[Array, ...]  # each (T,)
    minima: tuple[Array, ...]  # each (T,)
    log_excess: Array | float = 0.0  # (T,), Σ log(1+e)


class Design(Protocol):
    """What the loop needs of a layout."""

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        """The layout of X given as (n, p, T), or (n, p, 1) for all T = ``count`` lanes."""
        ...

    @property
    def n(self) -> int: ...
    @property
    def p(self) -> int: ...
    def lanes(self, count: int) -> Array:
        """X as (n, p, T)."""
        ...

    def predict(self, beta: Array) -> Array:
        """Xβ, (n, T)."""
        ...

    def pull(self, residual: Array) -> Array:
        """Xᵀr of r (n, T), (p, T)."""
        ...

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        """One pass over the data at ``beta``; η = Xβ is what the kernel receives."""
        ...

    def total(self, rows: Rows, term: Callable[[Rows], Array], count: int) -> Array:
        """Σᵢ of an elementwise term of the row data, (T,)."""
        return _row_sum(term(rows), self.n, count)


@pytree
class Lanes(Design):
    """One X a dataset, datasets last: ``x (n, p, T)``. Lanes are SIMD lanes; no operation crosses them."""

    x: Array

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(_repeated(x, count))

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def p(self) -> int:
        return self.x.shape[1]

    def lanes(self, count: int) -> Array:
        return self.x

    def predict(self, beta: Array) -> Array:
        return _combine(self.x, beta)

    def pull(self, residual: Array) -> Array:
        return (self.x * residual[:, None]).sum(0)

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        n, p, lanes = self.x.shape
        # The barriers keep XLA from computing the kernel, or a product, again for every sum that uses it.
        terms = lax.optimization_barrier(kernel(_combine(self.x, beta), rows))
        weight, residual = (jnp.broadcast_to(term, (n, lanes)) for term in (terms.weight, terms.residual))
        columns = [self.x[:, j] for j in range(p)]
        weighted = [weight * column for column in columns]
        products = [weighted[j] * columns[k] for j in range(p) for k in range(j + 1)]
        products += [residual * column for column in columns]
        products += [jnp.broadcast_to(term, (n, lanes)) for term in terms.sums]
        sums = iter(_fold_rows(products, jnp.add, jnp.sum))
        gram = _symmetric([jnp.stack([next(sums) for _ in range(j + 1)]) for j in range(p)])
        score = jnp.stack([next(sums) for _ in range(p)])
        lowest = [jnp.broadcast_to(term, (n, lanes)) for term in terms.minima]
        return Sums(
            gram, score, tuple(sums), tuple(_fold_rows(lowest, jnp.minimum, jnp.min)), _log_excess(terms.excess)
        )


@pytree
class LanesByRow(Lanes):
    """The same layout, read a few rows a turn into running sums that stay in cache."""

    @property
    def rows(self) -> int:
        """Rows a turn, for which the running sums are read and written once."""
        return min(self.n, 2 if self.p <= 8 else 4)

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        n, p, lanes = self.n, self.p, beta.shape[1]
        whole, rest = divmod(n, self.rows)
        block = _factors(self.x.dtype) // self.rows

        def terms_of(start: Array | int, size: int) -> tuple[Array, Terms]:
            x, own = lax.dynamic_slice_in_dim(self.x, start, size), _slice(rows, start, size)
            # The barriers keep XLA from computing the predictor, and the kernel, again for every sum that uses them.
            eta = lax.optimization_barrier(_combine(x, beta))
            terms = lax.optimization_barrier(kernel(eta, own))
            return x, jax.tree.map(lambda term: jnp.broadcast_to(term, (size, lanes)), terms)

        def add(start: Array | int, carry: _Running, size: int = self.rows) -> _Running:
            x, terms = terms_of(start, size)

            def joined(pair: Callable[[Array, Array], Array], each: Callable[[int], Array]) -> Array:
                return functools.reduce(pair, [each(i) for i in range(size)])

            def row(term: Array) -> Callable[[int], Array]:
                return lambda i: term[i : i + 1]

            def products(j: int) -> Array:
                return joined(jnp.add, lambda i: (terms.weight[i : i + 1] * x[i, j : j + 1]) * x[i, : j + 1])

            return _Running(
                tuple(part + products(j) for j, part in enumerate(carry.triangle)),
                carry.score + joined(jnp.add, lambda i: terms.residual[i : i + 1] * x[i]),
                tuple(part + joined(jnp.add, row(term)) for part, term in zip(carry.sums, terms.sums, strict=True)),
                tuple(
                    jnp.minimum(part, joined(jnp.minimum, row(term)))
                    for part, term in zip(carry.minima, terms.minima, strict=True)
                ),
                carry.product if terms.excess is None else carry.product * joined(jnp.multiply, row(1 + terms.excess)),
                carry.log_excess,
            )

        def turns(first: Array, last: Array, carry: _Running) -> _Running:
            return lax.fori_loop(first, last, lambda i, carry: add(i * self.rows, carry), carry)

        def turns_and_log(i: Array, carry: _Running) -> _Running:
            return _logged(turns(i * block, jnp.minimum((i + 1) * block, whole), carry))

        _, shapes = jax.eval_shape(lambda: terms_of(0, 1))
        zero = jnp.zeros((1, lanes), self.x.dtype)
        carry = _Running(
            tuple(jnp.zeros((j + 1, lanes), self.x.dtype) for j in range(p)),
            jnp.zeros((p, lanes), self.x.dtype),
            (zero,) * len(shapes.sums),
            (zero + jnp.inf,) * len(shapes.minima),
            zero + 1,
            zero,
        )
        carry = varying(carry, self.x, rows, beta)
        if rest:
            carry = _logged(add(n - rest, carry, rest))
        if shapes.excess is None:
            carry = turns(jnp.int32(0), jnp.int32(whole), carry)
        else:
            carry = lax.fori_loop(jnp.int32(0), jnp.int32(-(-whole // block)), turns_and_log, carry)
        sums, minima, log_excess = jax.tree.map(lambda leaf: leaf[0], (carry.sums, carry.minima, carry.log_excess))
        return Sums(_unpacked(jnp.concatenate(carry.triangle), p), carry.score, sums, minima, log_excess)


@pytree
class SharedByRow(LanesByRow):
    """One X for all lanes, read row by row likewise: ``x (n, p, 1)``."""

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(x)

    def lanes(self, count: int) -> Array:
        return _repeated(self.x, count)


@pytree
class Folded(Design):
    """One X a dataset, for T datasets of many rows, T below ``WIDTH``: f = WIDTH // T rows of each are f lanes.

    Row i f + a of dataset t is at ``x[i, :, a T + t]``, the last n - m f rows are in ``rest``.
    """

    x: Array  # (m, p, f T)
    rest: Array  # (n - m f, p, T)

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        n, p, _ = x.shape
        fold = max(1, min(WIDTH // count, n))
        whole = n - n % fold
        x = _repeated(x, count)
        folded = x[:whole].reshape(-1, fold, p, count).swapaxes(1, 2).reshape(-1)
        return cls(lax.optimization_barrier(folded).reshape(-1, p, fold * count), x[whole:])

    @property
    def n(self) -> int:
        return self._whole + self.rest.shape[0]

    @property
    def p(self) -> int:
        return self.x.shape[1]

    @property
    def _fold(self) -> int:
        return self.x.shape[2] // self.rest.shape[2]

    @property
    def _whole(self) -> int:
        """Rows that are folded."""
        return self.x.shape[0] * self._fold

    def lanes(self, count: int) -> Array:
        folded = self.x.reshape(-1, self.p, self._fold, count).swapaxes(1, 2)
        return jnp.concatenate([folded.reshape(-1, self.p, count), self.rest])

    def predict(self, beta: Array) -> Array:
        folded = _combine(self.x, self._spread(beta)).reshape(-1, beta.shape[1])
        return jnp.concatenate([folded, _combine(self.rest, beta)])

    def pull(self, residual: Array) -> Array:
        folded = Lanes(self.x).pull(self._folded(residual))
        return self._total(folded, jnp.add) + Lanes(self.rest).pull(self._left(residual))

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        found = LanesByRow(self.x).accumulate(self._spread(beta), jax.tree.map(self._folded, rows), kernel)
        minima = tuple(self._total(lowest, jnp.minimum) for lowest in found.minima)
        sums = jax.tree.map(lambda leaf: self._total(leaf, jnp.add), found._replace(minima=()))._replace(minima=minima)
        if not self.rest.shape[0]:
            return sums
        rest = Dense.of(self.rest, beta.shape[1])
        return _merge(sums, rest.accumulate(beta, jax.tree.map(self._left, rows), kernel))

    def _spread(self, beta: Array) -> Array:
        """(p, T) as (p, f T)."""
        return jnp.tile(beta, (1, self._fold))

    def _folded(self, leaf: Array) -> Array:
        """The row data of the folded rows, (m, f T)."""
        if leaf.shape[0] == 1:
            return self._spread(leaf) if leaf.shape[1] > 1 else leaf
        count = self.rest.shape[2]
        return jnp.broadcast_to(leaf[: self._whole], (self._whole, count)).reshape(-1, self._fold * count)

    def _left(self, leaf: Array) -> Array:
        """The row data of the rest, (n - m f, T)."""
        return leaf if leaf.shape[0] == 1 else leaf[self._whole :]

    def _total(self, leaf: Array, pair: Callable[[Array, Array], Array]) -> Array:
        """(..., f T) reduced to (..., T), in halves, which vectorizes."""
        leaf = leaf.reshape(*leaf.shape[:-1], self._fold, -1)
        while (count := leaf.shape[-2]) > 1:
            half = count // 2
            joined = pair(leaf[..., :half, :], leaf[..., half : 2 * half, :])
            leaf = joined if count % 2 == 0 else jnp.concatenate([joined, leaf[..., -1:, :]], -2)
        return leaf[..., 0, :]


@pytree
class LanesByBlock(Lanes):
    """The same layout, a block of rows a turn by straight-line code: on a GPU one kernel, every sum in a register."""

    @property
    def block(self) -> int:
        """Rows a turn."""
        return 8

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        n, p, lanes = self.x.shape

        def row(i: Array) -> tuple[tuple[Array, ...], tuple[Array, ...], Array | None]:
            """What row i adds to the sums, its minima, and its excess."""

            x = _row(self.x, i)
            terms = kernel(_combine(x, beta), jax.tree.map(lambda leaf: _row(leaf, i), rows))
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
        gram = _symmetric([[next(totals) for _ in range(j + 1)] for j in range(p)])
        score = jnp.stack([next(totals) for _ in range(p)])
        return Sums(gram, score, tuple(totals), carry.minima, carry.log)


@pytree
class InOneKernel(LanesByBlock):
    """The same, its first passes in one kernel, see ``kernel``."""


@pytree
class Streamed(LanesByBlock):
    """The same inside a kernel, which holds no column of rows at once."""

    @property
    def block(self) -> int:
        return 16 // self.x.dtype.itemsize  # up to eight columns then fit in 255 registers

    def total(self, rows: Rows, term: Callable[[Rows], Array], count: int) -> Array:
        def add(i: Array, total: Array) -> Array:
            return total + term(jax.tree.map(lambda leaf: _row(leaf, i), rows))

        return lax.fori_loop(jnp.int32(0), jnp.int32(self.n), add, jnp.zeros((1, count), self.x.dtype))[0]


class _Block(NamedTuple):
    """The sums of the rows seen so far, each (1, T)."""

    sums: tuple[Array, ...]
    minima: tuple[Array, ...]
    log: Array


class _Running(NamedTuple):
    """The sums of the rows seen so far."""

    triangle: tuple[Array, ...]  # row j of the Gram matrix up to the diagonal, (j + 1, T)
    score: Array  # (p, T)
    sums: tuple[Array, ...]  # each (1, T)
    minima: tuple[Array, ...]
    product: Array  # of 1+e over the rows since the last logarithm
    log_excess: Array


def _logged(carry: _Running) -> _Running:
    return carry._replace(product=jnp.ones_like(carry.product), log_excess=carry.log_excess + jnp.log(carry.product))


@pytree
class Shared(Design):
    """One X for all lanes: ``x (n, p)``. All Gram matrices are one product ``Zᵀ W``, Z the products of columns."""

    x: Array

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(x[..., 0])

    @property
    def n(self) -> int:
        return self.x.shape[0]

    @property
    def p(self) -> int:
        return self.x.shape[1]

    def lanes(self, count: int) -> Array:
        return _repeated(self.x[:, :, None], count)

    def predict(self, beta: Array) -> Array:
        return _dot(self.x, beta)

    def pull(self, residual: Array) -> Array:
        return _dot(self.x.T, residual)

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        p = self.p
        terms = kernel(self.predict(beta), rows)
        n, lanes = self.n, beta.shape[1]
        row, column = np.tril_indices(p)
        products = self.x[:, row] * self.x[:, column]
        packed = _dot(products.T, jnp.broadcast_to(terms.weight, (n, lanes)))
        score = _dot(self.x.T, jnp.broadcast_to(terms.residual, (n, lanes)))
        return Sums(_unpacked(packed, p), score, *_reduce(terms, lanes))


@pytree
class Dense(Design):
    """One X a dataset, datasets first: ``x (T, n, p)``, for many columns or rows: matrix products by blocks of rows."""

    x: Array

    @classmethod
    def of(cls, x: Array, count: int) -> Design:
        return cls(jnp.moveaxis(_repeated(x, count), -1, 0))

    @property
    def n(self) -> int:
        return self.x.shape[1]

    @property
    def p(self) -> int:
        return self.x.shape[2]

    def lanes(self, count: int) -> Array:
        return self.x.transpose(1, 2, 0)

    def predict(self, beta: Array) -> Array:
        return jnp.einsum("tnp,pt->nt", self.x, beta, precision=lax.Precision.HIGHEST)

    def pull(self, residual: Array) -> Array:
        return jnp.einsum("tnp,nt->pt", self.x, residual, precision=lax.Precision.HIGHEST)

    def accumulate(self, beta: Array, rows: Rows, kernel: Kernel) -> Sums:
        block = min(self.n, max(DENSE_ROWS, 2**22 // (self.p * self.x.shape[0])))
        whole = self.n // block

        def part(start: Array | int, size: int) -> Sums:
            x, own = lax.dynamic_slice_in_dim(self.x, start, size, 1), _slice(rows, start, size)
            terms = kernel(jnp.einsum("tnp,pt->nt", x, beta, precision=lax.Precision.HIGHEST), own)
            lanes = beta.shape[1]
            weight = jnp.broadcast_to(terms.weight, (size, lanes))
            residual = jnp.broadcast_to(terms.residual, (size, lanes))
            weighted = x * weight.T[:, :, None]
            gram = jnp.einsum("tnp,tnq->pqt", weighted, x, precision=lax.Precision.HIGHEST)
            score = jnp.einsum("tnp,nt->pt", x, residual, precision=lax.Precision.HIGHEST)
            return Sums(gram, score, *_reduce(terms, lanes))

        total = part(0, block)
        total = lax.fori_loop(1, whole, lambda i, carry: _merge(carry, part(i * block, block)), total)
        rest = self.n - whole * block
        return _merge(total, part(whole * block, rest)) if rest else total


def _repeated(x: Array, count: int) -> Array:
    """X for every lane, (n, p, T)."""
    return jnp.broadcast_to(x, (*x.shape[:-1], count))


def _slice(rows: Rows, start: Array | int, size: int) -> Rows:
    """Some rows of row data; what is the same for every row stays."""
    return jax.tree.map(lambda a: a if a.shape[0] == 1 else lax.dynamic_slice_in_dim(a, start, size), rows)


def _row(leaf: Array, i: Array) -> Array:
    """Row i of row data, (1, T); what is the same for every row stays."""
    return leaf if leaf.shape[0] == 1 else lax.dynamic_slice_in_dim(leaf, i, 1, allow_negative_indices=False)


def _combine(x: Array, beta: Array) -> Array:
    """Σⱼ x[:, j] β[j] over (n, p, T) and (p, T), in the order of the columns, elementwise over lanes."""
    eta = x[:, 0] * beta[:1]
    for j in range(1, x.shape[1]):
        eta = eta + x[:, j] * beta[j : j + 1]
    return eta


def _symmetric(triangle: Sequence[Array | list[Array]]) -> Array:
    """The symmetric (p, p, T) matrix of a lower triangle given by rows."""
    p = len(triangle)
    return jnp.stack([jnp.stack([triangle[max(j, k)][min(j, k)] for k in range(p)]) for j in range(p)])


def _unpacked(triangle: Array, p: int) -> Array:
    """The same of its rows in one array (p(p+1)/2, T), by one gather, where p² slices would take long to compile."""
    row, column = np.indices((p, p))
    first, second = np.maximum(row, column), np.minimum(row, column)
    return triangle[first * (first + 1) // 2 + second]


def _log_excess(excess: Array | None) -> Array | float:
    """Σ log(1+e) over the rows of an (n, T), by products of slabs."""
    if excess is None:
        return 0.0
    n = excess.shape[0]
    size = min(n, _factors(excess.dtype))
    slab = -(-n // size)
    padded = jnp.pad(1 + excess, ((0, slab * size - n), (0, 0)), constant_values=1.0)
    return jnp.log(padded.reshape(size, slab, -1).prod(0)).sum(0)


def _factors(dtype: jnp.dtype) -> int:
    """How many numbers up to 2 are multiplied before the logarithm is taken: far from the largest of their type."""
    return jnp.finfo(dtype).maxexp // 4


def _fold_rows(
    terms: list[Array], pair: Callable[[Array, Array], Array], reduce: Callable[[Array, int], Array]
) -> list[Array]:
    """Reduce each (n, T) over its rows: first ``SLABS`` slabs of rows elementwise, which vectorizes, then the slab."""
    n = terms[0].shape[0] if terms else 0
    slab = n // SLABS

    def fold(term: Array) -> Array:
        parts = [term[i * slab : (i + 1) * slab] for i in range(SLABS)]
        return functools.reduce(pair, parts)

    if not slab:
        return [reduce(term, 0) for term in terms]
    slabs = lax.optimization_barrier([fold(term) for term in terms])
    rest = slab * SLABS
    totals = [reduce(part, 0) for part in slabs]
    return totals if rest == n else [pair(a, reduce(term[rest:], 0)) for a, term in zip(totals, terms, strict=True)]


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def _row_sum(term: Array, n: int, count: int) -> Array:
    return jnp.broadcast_to(term, (n, count)).sum(0)


def _reduce(terms: Terms, lanes: int) -> tuple[tuple[Array, ...], tuple[Array, ...], Array | float]:
    sums = tuple(_row_sum(s, s.shape[0], lanes) for s in terms.sums)
    minima = tuple(jnp.broadcast_to(s, (s.shape[0], lanes)).min(0) for s in terms.minima)
    return sums, minima, _log_excess(terms.excess)


def _merge(a: Sums, b: Sums) -> Sums:
    return Sums(
        a.gram + b.gram,
        a.score + b.score,
        jax.tree.map(jnp.add, a.sums, b.sums),
        jax.tree.map(jnp.minimum, a.minima, b.minima),
        a.log_excess + b.log_excess,
    )
