r"""A program over lanes with every row of every array a vector of its own.

The loop is written for arrays whose last axis are the lanes, ``(p, p, T)`` and ``(p, T)``. A kernel has no such arrays:
it has vectors of one element a thread, in registers. ``evaluate`` runs a program of the first kind on values of the
second. An array of shape ``(*lead, T)`` becomes a NumPy array of objects of shape ``(*lead, 1)``, each entry a
vector or, where it is the same for every lane, a scalar. Elementwise operations act on the entries; operations
that move entries about move objects and cost nothing; sums over leading axes are chains of additions.

So the kernel computes what the program computes, with its formulas and in its order, but nothing twice: an operation
on values that it has had gives what it gave then, as every operation more takes time to compile. Row data stay in
memory (``Stored``) and are read a row at a time. What cannot be done so raises ``UnsupportedError``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr

from jaxirls.designs import UnsupportedError

__all__ = ["Cells", "Stored", "Vectors", "evaluate"]

Value = Any  # a vector, a traced scalar, or a NumPy scalar that is known now
Cells = np.ndarray  # of values


@dataclass(frozen=True)
class Stored:
    """An array in memory; ``read`` gives the value at an index of its axes but the last.

    The ``kept`` first rows are at hand as well, by ``read_kept``.
    """

    read: Callable[..., Value]
    kept: int = 0
    read_kept: Callable[..., Value] | None = None

    def rows(self, start: int, stop: int) -> Stored:
        """Some rows, from where they are at hand."""
        read = self.read_kept if self.read_kept is not None and stop <= self.kept else self.read
        return Stored(lambda i, *rest: read(i + start if start else i, *rest))

    def cells(self, first: Sequence[Value], sizes: tuple[int, ...]) -> Cells:
        """The cells from index ``first`` on."""
        out = np.empty((*sizes[:-1], 1), object)
        for at in np.ndindex(*sizes[:-1]):
            out[(*at, 0)] = self.read(*(i + k if k else i for i, k in zip(first, at, strict=False)))
        return out


Operand = Cells | Stored


@dataclass(frozen=True)
class Vectors:
    """The vectors of a kernel: T, how a scalar becomes one, and what a named axis of the program is to them."""

    count: int
    spread: Callable[[Value, Any], Array]  # of a scalar and a dtype
    across: Callable[[Callable[..., Array], Array], Array]  # a reduction over the axis, and what every place has then
    place: Callable[[], Value]  # on the axis

    def vector(self, value: Value, dtype: Any) -> Array:
        return value if np.shape(value) else self.spread(value, dtype)


def evaluate(program: core.ClosedJaxpr, lanes: Vectors, arguments: Sequence[Operand]) -> list[Cells]:
    """The results of a program traced with ``lanes.count`` lanes, the length of the last axis of no other array."""
    used, _ = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), instantiate=True)
    return _Evaluation(lanes, [{}]).run(used, program.consts, arguments)


@dataclass(frozen=True)
class _Evaluation:
    """The rules, for the vectors of one kernel."""

    lanes: Vectors
    had: list[dict[Hashable, tuple[Any, Any]]]  # results and operands of operations, for every loop that this is in

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Operand]) -> list[Any]:
        known = dict(zip(jaxpr.constvars, map(self.constant, consts), strict=True))
        known |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Operand:
            return self.constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for equation in jaxpr.eqns:
            results = self.apply(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def constant(self, value: Any) -> Cells:
        array = np.asarray(value)
        return _each(lambda entry: array.dtype.type(entry), array[..., :1] if self.is_laned(array) else array)

    def is_laned(self, aval: Any) -> bool:
        return aval.shape[-1:] == (self.lanes.count,)

    def shape(self, aval: Any) -> tuple[int, ...]:
        """Of the cells of an array."""
        return (*aval.shape[:-1], 1) if self.is_laned(aval) else tuple(aval.shape)

    def apply(self, equation: Any, operands: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        avals = [atom.aval for atom in equation.invars]
        if name in INLINED:
            inner = params[INLINED[name]]
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        if name == "while":
            return self.loop(params, operands, equation.outvars)
        if name == "scan":
            return self.unrolled(params, operands, equation)
        if name == "dynamic_slice" and isinstance(operands[0], Stored):
            return [operands[0].cells([index[()] for index in operands[1:]], params["slice_sizes"])]
        if name == "slice" and isinstance(operands[0], Stored) and _is_of_rows(params, avals[0].shape):
            some = operands[0].rows(params["start_indices"][0], params["limit_indices"][0])
            (size, *entry), first = equation.outvars[0].aval.shape, [0] * avals[0].ndim
            return [some.cells(first, (1, *entry)) if size == 1 else some]
        if any(isinstance(operand, Stored) for operand in operands):
            raise UnsupportedError(f"{name} of all rows at once")
        if name == "optimization_barrier":
            return operands
        if name == "axis_index":
            return [_each(lambda _: self.lanes.place(), np.empty((), object))]
        if name in ACROSS:
            return [self.joined(ACROSS[name], cells, aval) for cells, aval in zip(operands, avals, strict=True)]
        if name in FOLDS:
            return [self.fold(FOLDS[name], operands[0], avals[0], params["axes"])]
        bound = partial(equation.primitive.bind, **params)
        if name in ELEMENTWISE:
            dtypes = [aval.dtype for aval in avals]
            other = ELEMENTWISE[name]
            operation = name, *(str(params[key]) for key in sorted(params))
            function = partial(self.entry, bound if other is None else partial(other, **params), dtypes, operation)
            shape = self.shape(equation.outvars[0].aval)
            return [_each(function, *(np.broadcast_to(operand, shape) for operand in operands))]
        if name in MOVES:
            return [self.moved(MOVES[name], operands, equation)]
        if name == "gather":
            return [self.gathered(bound, operands, avals)]
        if not operands:
            with jax.ensure_compile_time_eval():
                return [self.constant(bound())]
        raise UnsupportedError(name)

    def entry(self, function: Callable[..., Any], dtypes: list, operation: tuple[str, ...], *values: Value) -> Value:
        """One entry of an elementwise operation; now, if all that it takes is known now."""
        name = operation[0]
        if name == "select_n" and isinstance(values[0], np.generic):
            return values[1 + int(values[0])]
        if all(isinstance(value, np.generic) for value in values):
            if name in NOW:
                return NOW[name](*values)
            with jax.ensure_compile_time_eval():
                return np.asarray(function(*map(jnp.asarray, values)))[()]
        if any(np.shape(value) for value in values):
            return self.once(function, operation, *map(self.vector, values, dtypes))
        return self.once(function, operation, *map(jnp.asarray, values, dtypes))

    def vector(self, value: Value, dtype: Any) -> Array:
        if np.shape(value):
            return value
        return self.once(lambda value: self.lanes.vector(value, dtype), ("vector", str(dtype)), value)

    def once(self, function: Callable[..., Any], operation: tuple[str, ...], *values: Value) -> Value:
        """``function(*values)``, the operation's result for them, if it is not at hand."""
        key = operation, *((v.dtype, v.tobytes()) if isinstance(v, np.generic) else id(v) for v in values)
        for had in self.had:
            if key in had:
                return had[key][0]
        result = function(*values)
        self.had[-1][key] = result, values  # while these are kept no other has their identity
        return result

    def inside(self) -> _Evaluation:
        """The same in a loop, outside of which nothing of it is at hand."""
        return _Evaluation(self.lanes, [*self.had, {}])

    def fold(self, how: tuple[Callable, Callable | None], cells: Cells, aval: Any, axes: Sequence[int]) -> Cells:
        """A reduction: entry by entry over leading axes, and over the lanes where that can be."""
        pair, across = how
        over_lanes = self.is_laned(aval) and aval.ndim - 1 in axes
        add = partial(self.entry, pair, [aval.dtype] * 2, (pair.__name__,))
        for axis in sorted(set(axes) - ({aval.ndim - 1} if over_lanes else set()), reverse=True):
            cells = functools.reduce(partial(_each, add), np.moveaxis(cells, axis, 0))
        if not over_lanes:
            return cells
        if across is None:
            raise UnsupportedError("a sum over lanes")
        return _each(lambda value: across(self.vector(value, aval.dtype)), cells[..., 0])

    def joined(self, reduce: Callable[..., Array], cells: Cells, aval: Any) -> Cells:
        """A reduction over the named axis, entry by entry."""
        return _each(lambda value: self.lanes.across(reduce, self.vector(value, aval.dtype)), cells)

    def moved(self, move: Callable[..., Cells], operands: list[Cells], equation: Any) -> Cells:
        """An operation that moves entries. Where the last axis are the lanes, it stays whole and last."""
        shape = self.shape(equation.outvars[0].aval)
        try:
            moved = move(equation.params, shape, *operands)
        except ValueError:
            moved = None
        if moved is None or moved.shape != shape:
            raise UnsupportedError(f"{equation.primitive.name} of lanes")
        return moved

    def gathered(self, gather: Callable[..., Any], operands: list[Cells], avals: list) -> Cells:
        """Number the entries, let the operation move the numbers, and put the entries where theirs have gone."""
        cells, places = operands
        numbers = np.arange(cells.size, dtype=np.int32).reshape(cells.shape)
        with jax.ensure_compile_time_eval():
            found = gather(jnp.asarray(np.broadcast_to(numbers, avals[0].shape)), jnp.asarray(_known(places)))
        found = np.asarray(found)
        return _each(cells.ravel().tolist().__getitem__, found[..., :1] if self.is_laned(found) else found)

    def loop(self, params: dict[str, Any], operands: list[Any], results: Sequence[Any]) -> list[Cells]:
        """A ``while`` whose carry is every entry of every array."""
        avals = [variable.aval for variable in results]
        counts = params["cond_nconsts"], params["body_nconsts"]
        of_cond, of_body, start = operands[: counts[0]], operands[counts[0] : sum(counts)], operands[sum(counts) :]
        if any(isinstance(operand, Stored) for operand in start):
            raise UnsupportedError("row data carried by a loop")

        def flat(here: _Evaluation, arrays: Sequence[Cells]) -> list[Array]:
            return [
                here.vector(entry, aval.dtype) if self.is_laned(aval) else jnp.asarray(entry, aval.dtype)
                for cells, aval in zip(arrays, avals, strict=True)
                for entry in cells.ravel()
            ]

        def arrays(entries: Sequence[Array]) -> list[Cells]:
            rest = iter(entries)
            return [_each(lambda _: next(rest), np.empty(self.shape(aval), object)) for aval in avals]

        def cond(entries: Sequence[Array]) -> Any:
            closed = params["cond_jaxpr"]
            return self.inside().run(closed.jaxpr, closed.consts, [*of_cond, *arrays(entries)])[0][()]

        def body(entries: Sequence[Array]) -> Sequence[Array]:
            closed, here = params["body_jaxpr"], self.inside()
            return flat(here, here.run(closed.jaxpr, closed.consts, [*of_body, *arrays(entries)]))

        return arrays(lax.while_loop(cond, body, flat(self, start)))

    def unrolled(self, params: dict[str, Any], operands: list[Any], equation: Any) -> list[Cells]:
        """A ``scan``, whose length is known, as straight-line code."""
        inner = params["jaxpr"]
        inner, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
        over = sum(a.aval.shape != b.aval.shape for a, b in zip(inner.invars, equation.invars, strict=True))
        if any(a.aval.shape != b.aval.shape for a, b in zip(inner.outvars, equation.outvars, strict=True)):
            raise UnsupportedError("a scan that stacks")
        last = len(operands) - over
        first = last - len(inner.outvars)
        turns = range(params["length"])
        for i in reversed(turns) if params["reverse"] else turns:
            own = [cells[i] for cells in operands[last:]]
            operands = [*operands[:first], *self.run(inner, consts, [*operands[:last], *own]), *operands[last:]]
        return operands[first:last]


def _each(function: Callable[..., Any], *arrays: np.ndarray) -> Cells:
    """``function`` of the entries of arrays of one shape."""
    out = np.empty(arrays[0].shape, object)
    for at in np.ndindex(out.shape):
        out[at] = function(*(array[at] for array in arrays))
    return out


def _is_of_rows(params: dict[str, Any], shape: tuple[int, ...]) -> bool:
    """Whether a slice is one of whole rows."""
    whole = not any(params["start_indices"][1:]) and tuple(params["limit_indices"][1:]) == shape[1:]
    return whole and params["strides"] is None


def _known(cells: Cells) -> np.ndarray:
    """The numbers of cells that are known now."""
    if not all(isinstance(entry, np.generic) for entry in cells.flat):
        raise UnsupportedError("an index that is not known before")
    return np.array(cells.tolist())


def _broadcast(params: dict[str, Any], shape: tuple[int, ...], cells: Cells) -> Cells:
    sizes = [1] * len(shape)
    for size, axis in zip(cells.shape, params["broadcast_dimensions"], strict=True):
        sizes[axis] = size
    return np.broadcast_to(cells.reshape(sizes), shape)


def _slice(params: dict[str, Any], shape: tuple[int, ...], cells: Cells) -> Cells:
    steps = params["strides"] or (1,) * len(shape)
    return cells[tuple(map(slice, params["start_indices"], params["limit_indices"], steps))]


def _slice_at(params: dict[str, Any], shape: tuple[int, ...], cells: Cells, *first: Cells) -> Cells:
    # As of JAX's own, the slice is moved to where it fits.
    sizes = zip(first, cells.shape, shape, strict=True)
    places = [min(max(int(_known(at)), 0), whole - size) for at, whole, size in sizes]
    return cells[tuple(slice(at, at + size) for at, size in zip(places, shape, strict=True))]


def _is_finite(x: Array) -> Array:
    """False for NaN too."""
    return jnp.abs(x) < jnp.inf


def _integer_pow(x: Array, y: int) -> Array:
    power = functools.reduce(lax.mul, [x] * abs(y), jnp.ones_like(x))
    return power if y >= 0 else 1 / power


def _expm1(x: Array, **_: Any) -> Array:
    """By the quotient (u-1)/log(u) at the rounded u = eˣ, likewise."""
    u = jnp.exp(x)
    near, far = u == 1, (u < 0.5) | (u > 2)
    ratio = (u - 1) / jnp.where(near | far, 1.0, jnp.log(jnp.where(far, 2.0, u)))
    return jnp.where(near, x, jnp.where(far, u - 1, x * ratio))


def _log1p(x: Array, **_: Any) -> Array:
    """By the quotient log(u)/(u-1) at the rounded u = 1+x, whose error cancels (Kahan; Goldberg 1991, theorem 4)."""
    u = 1 + x
    near = u == 1
    ratio = jnp.log(u) / jnp.where(near, 1.0, u - 1)
    return jnp.where(near, x, jnp.where(u < jnp.inf, x * ratio, u))


def _polynomial(x: Array, *coefficients: Array, **_: Any) -> Array:
    """Of the coefficients from the constant on, by Horner's rule."""
    return functools.reduce(lambda value, c: value * x + c, reversed(coefficients))


def _select_n(which: Array, *cases: Array) -> Array:
    """Two at a time."""
    if len(cases) == 2:
        return lax.select_n(which, *cases)
    chosen = cases[-1]
    for k, case in reversed(list(enumerate(cases[:-1]))):
        chosen = lax.select_n(which == k, chosen, case)
    return chosen


def _any(x: Array) -> Array:
    found = jnp.where(x, 1.0, 0.0).astype(jnp.float32)
    return functools.reduce(lambda some, _: jnp.max(some, 0), x.shape, found) > 0


def _words(*lines: str) -> list[str]:
    return " ".join(lines).split()


# Primitives that are other programs: where each keeps its own.
INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}
# Those that act entry by entry, and what takes the place of one that a kernel has not.
ELEMENTWISE: dict[str, Callable[..., Any] | None] = {
    "add_any": lax.add,
    "expm1": _expm1,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "log1p": _log1p,
    "polynomial": _polynomial,
    "select_n": _select_n,
    **dict.fromkeys(
        _words(
            "add sub mul div max min and or not neg sign abs exp log sqrt rsqrt square",
            "eq ne lt le gt ge convert_element_type copy",
            "bitcast_convert_type shift_left shift_right_logical",
        )
    ),
}
# Of these, what NumPy computes as JAX does, and sooner: with numbers of rows and columns.
NOW: dict[str, Callable[..., Any]] = {
    **{"add": np.add, "sub": np.subtract, "and": np.bitwise_and, "or": np.bitwise_or, "eq": np.equal},
    **{"ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal},
}
# Reductions: of two entries, and of a vector.
FOLDS: dict[str, tuple[Callable, Callable | None]] = {
    "reduce_sum": (lax.add, None),
    "reduce_max": (lax.max, None),
    "reduce_min": (lax.min, None),
    "reduce_and": (lax.bitwise_and, None),
    "reduce_or": (lax.bitwise_or, _any),
}
# Reductions over the named axis.
ACROSS: dict[str, Callable[..., Array]] = {"psum": jnp.sum, "pmin": jnp.min}
# Those that move entries, of parameters, the shape of the result, and cells.
MOVES: dict[str, Callable[..., Cells]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda params, _, *cells: np.concatenate(cells, params["dimension"]),
    "dynamic_slice": _slice_at,
    "reshape": lambda _, shape, cells: cells.reshape(shape),
    "slice": _slice,
    "squeeze": lambda _, shape, cells: cells.reshape(shape),
    "stack": lambda params, _, *cells: np.stack(cells, params["axis"]),
    "transpose": lambda params, _, cells: cells.transpose(params["permutation"]),
}
