r"""Data frames: X and y by a formula, and one model for every group of rows.

Needs pandas and formulaic: ``pip install 'jaxirls[frames]'``.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxirls.config import IRLS, Algorithm
from jaxirls.families import Family, check_family
from jaxirls.fit import fit as fit_arrays
from jaxirls.penalties import Penalty
from jaxirls.results import Fit

if TYPE_CHECKING:
    import pandas as pd
    from formulaic import ModelMatrix, ModelSpec

__all__ = ["FrameFit", "fit"]

# Elements of X by which a batch may be padded to save a batch of its own, which costs a compilation.
CHEAP = 2**22


@dataclass(frozen=True, eq=False)
class FrameFit:
    """One fit of a data frame, or one a group.

    Attributes:
      fit: a ``ji.Fit``; with groups its batch axis is theirs, in the order of ``groups``.
      groups: the values of ``by`` that occur, sorted, one a fit; None without ``by``.
      spec: formulaic's ``ModelSpec`` of the right-hand side, with the levels, knots and means of the whole frame.
      kinds: what the columns of the right-hand side held: "numbers", "truth values" or "categories".
      unseen: which columns of X are zero in all rows of a group, ``(groups, p)``; without ``by`` in all, ``(1, p)``.
      yname: name of the response.
      offset: the column that was the offset, if one was.
    """

    fit: Fit
    groups: pd.Index | None
    spec: ModelSpec
    kinds: dict[str, str]
    unseen: np.ndarray
    yname: str
    offset: str | None

    def __getitem__(self, group: Any) -> Fit:
        """The fit of one group: by its value of ``by``, or the tuple of its values.

        Raises:
          KeyError: for what is no group.
          TypeError: where there are no groups.
        """
        if self.groups is None:
            raise TypeError("this is one fit, not one a group: it cannot be indexed; see .fit")
        place = self.groups.get_indexer([group])[0]
        if place < 0:
            raise KeyError(f"{group!r} is no group; .groups has the {len(self.groups)} there are")
        return self.fit[int(place)]

    @property
    def names(self) -> list[str]:
        """Of the coefficients."""
        return list(self.spec.column_names)

    @property
    def by(self) -> list[Hashable]:
        """The columns that make the groups."""
        return [] if self.groups is None else list(self.groups.names)

    @property
    def params(self) -> pd.DataFrame:
        """The coefficients, a row a group and a column a coefficient; a series where there are no groups."""
        pd, values = _optional("pandas"), np.asarray(self.fit.params)
        if self.groups is None:
            return pd.Series(values, self.names)
        return pd.DataFrame(values, self.groups, self.names)

    def matrix(self, data: pd.DataFrame) -> np.ndarray:
        """X for the rows of a frame, ``(rows, p)``: with it ``ji.influence``, ``ji.covariance`` and so on take a fit.

        NaN in rows where a column of the formula has no value.

        Raises:
          ValueError: for a category that the frame of the fit did not have, or numbers where that had categories.
        """
        data = _checked(data)
        for name, kind in _kinds(data, self.kinds).items():
            if kind != self.kinds[name]:
                raise ValueError(f"data: {name!r} holds {kind}, in the frame of the fit it held {self.kinds[name]}")
        spec = copy.deepcopy(self.spec)  # which formulaic writes to
        rows = _complete_rows(data, list(self.kinds))
        with _known_categories():
            return _numbers(spec.get_model_matrix(rows, context={}), len(data))

    def predict(self, data: pd.DataFrame, *, offset: ArrayLike | None = None, linear: bool = False) -> pd.Series:
        """Fitted mean of every row, by the fit of its group; or the linear predictor.

        NaN where a column of the formula has no value, and where a row has a level that its group never had.

        Args:
          data: new rows, with the columns of the formula, ``by``, and ``offset`` where that was the name of a column.
          offset: known part of the linear predictor, one value a row, in place of the column that the fit had. Where
            the fit was given an array, none is taken unless it is given again.
          linear: whether to give the linear predictor.

        Raises:
          ValueError: for a group that was not fitted, and as ``matrix``.
        """
        pd, X = _optional("pandas"), self.matrix(data)
        column = _column("offset", self.offset if offset is None else offset, data)
        places = np.zeros(len(data), int)
        if self.groups is not None:
            places = self.groups.get_indexer(_keys(data, self.by))
            if (places < 0).any():
                raise ValueError(f"data: row {int(np.argmax(places < 0))} is of a group that was not fitted")
        X = np.where(((X != 0) & self.unseen[places]).any(1)[:, None], np.nan, X)
        if self.groups is None:
            values = self.fit.predict(X, offset=column, linear=linear)
        else:
            own = dataclasses.replace(self.fit, root=None)[places]  # without p² numbers a row
            shift = None if column is None else column[:, None]
            values = own.predict(X[:, None], offset=shift, linear=linear)[:, 0]
        return pd.Series(np.asarray(values), data.index)

    def summary(self, alpha: float = 0.05) -> str:
        """``fit.summary()`` with the names of the columns."""
        return self.fit.summary(self.names, self.yname, alpha)

    def to_dataframe(self, alpha: float = 0.05) -> pd.DataFrame:
        """``fit.to_dataframe()``, with the columns of ``by`` in place of the number of the fit.

        Raises:
          ValueError: where a column of ``by`` has the name of one of the table.
        """
        table = self.fit.to_dataframe(self.names, alpha)
        if self.groups is None:
            return table
        taken = [name for name in self.by if name in table]
        if taken:
            raise ValueError(f"by: the table has a column {taken[0]!r} of its own; rename that of data, and fit again")
        keys = self.groups.to_frame(index=False).iloc[table.pop("batch")].reset_index(drop=True)
        return keys.join(table)


def fit(
    formula: str,
    data: pd.DataFrame,
    family: Family,
    *,
    by: Hashable | list[Hashable] | None = None,
    offset: ArrayLike | str | None = None,
    freq_weights: ArrayLike | str | None = None,
    var_weights: ArrayLike | str | None = None,
    penalty: Penalty | None = None,
    fallback: Penalty | None = None,
    scale: ArrayLike | str | None = None,
    config: Algorithm = IRLS(),  # noqa: B008 (frozen)
) -> FrameFit:
    r"""Fit a formula to a data frame, or to each of its groups of rows, all in few calls.

    What a formula takes from the data, levels of categories, knots of splines, means to center by, it takes from the
    whole frame, so that coefficients mean the same in every group; and ``lag`` runs on from one group to the next.
    Where a group lacks a level, its column is aliased there. A row in which a column of the formula has no value makes
    its own group INVALID_DATA, and is otherwise as if it were not there: leave such rows out by ``data.dropna()``.

    Args:
      formula: in the language of R and formulaic, ``"y ~ x + C(site)"``; an intercept is added unless it has ``- 1``,
        and Python goes into ``I(...)`` or braces. It sees the columns of ``data`` alone.
      data: one row an observation.
      family: as in ``ji.fit``; parameters of rows, ``Binomial(trials=...)``, as one value a row or a column's name.
      by: the column whose values make the groups, or a list of columns; None fits one model to all rows.
      offset, freq_weights, var_weights: as in ``ji.fit``: names of columns, or one value a row.
      penalty, fallback, scale, config: as in ``ji.fit``, the same for all groups.

    Returns:
      A ``FrameFit``; ``.fit`` is the ``ji.Fit``, with a status for every group, a group of too few rows among them. It
      is in float64, or without ``jax_enable_x64`` in float32.

    Raises:
      ValueError: for a response that is not one column of numbers, for rows without a group, and as ``ji.fit``.
      ImportError: where pandas or formulaic, optional dependencies, are missing.

    Groups of about the same size are fitted as one batch, filled up by rows of weight zero.

    Example:
      >>> import pandas as pd
      >>> import jaxirls as ji
      >>> data = pd.DataFrame({"store": list("aaaabbbb"), "week": [0.0, 1, 2, 3] * 2, "sold": [1, 3, 4, 9, 8, 5, 3, 1]})
      >>> found = ji.frames.fit("sold ~ week", data, ji.Poisson(), by="store")
      >>> print(found.params.loc["b"].round(2).to_string())
      Intercept    2.13
      week        -0.59
      >>> [ji.Status(int(code)).name for code in found.fit.status]
      ['CONVERGED', 'CONVERGED']
    """
    check_family(family)
    y, X, spec, yname = _variables(formula, data)
    keys = [] if by is None else by if isinstance(by, list) else [by]
    groups = _keys(data, keys) if keys else None
    of_rows = {"offset": offset, "freq_weights": freq_weights, "var_weights": var_weights}
    rows: dict[str, Any] = {"X": X, "y": y}
    rows |= {name: _column(name, values, data) for name, values in of_rows.items()}
    parameters: dict[str, Any] = {}
    for name in family.row_parameters:
        values = getattr(family, name)
        if np.ndim(values) or isinstance(values, str):
            parameters[name] = _column(f"family: {name}", values, data)
    options: dict[str, Any] = {"penalty": penalty, "fallback": fallback, "scale": scale, "config": config}

    def fitted(taken: np.ndarray | slice, absent: np.ndarray | None = None) -> Fit:
        """Of these rows, those that are ``absent`` in the weights alone."""
        own: dict[str, Any] = {name: None if values is None else values[taken] for name, values in rows.items()}
        if absent is not None:
            weights = own["freq_weights"]
            own["freq_weights"] = np.where(absent, 0.0, 1.0 if weights is None else weights)
        its = {name: values[taken] for name, values in parameters.items()}
        return fit_arrays(family=family.with_parameters(**its), **own, **options)

    codes = np.zeros(len(data), int)
    if groups is None:
        whole = fitted(slice(None))
    else:
        codes, groups = groups.factorize(sort=True)
        groups = groups.set_names(keys)
        _refuse_own(family, options, X.shape[1])
        whole = _fit_groups(fitted, codes, X.shape[1])
    seen = np.stack([np.bincount(codes, column != 0) for column in X.T], axis=1)
    named = offset if isinstance(offset, str) else None
    return FrameFit(whole, groups, spec, _kinds(data, spec.required_variables), seen == 0, yname, named)


def _variables(formula: str, data: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, ModelSpec, str]:
    """y, X, how it is made, and the name of y."""
    formulaic, data = _optional("formulaic"), _checked(data)

    def matrices(rows: pd.DataFrame, na_action: str) -> list[ModelMatrix]:
        try:
            parts = formulaic.model_matrix(formula, rows, na_action=na_action, context={})
        except TypeError as error:  # as of dates
            raise ValueError(f"formula: {formula!r} makes no numbers of these columns: {error}") from None
        lhs, rhs = (cast(Any, getattr(parts, side, None)) for side in ("lhs", "rhs"))
        if not all(isinstance(part, formulaic.ModelMatrix) for part in (lhs, rhs)):
            raise ValueError(f"formula: expected a response and one right-hand side, as in 'y ~ x', got {formula!r}")
        if lhs.shape[1] != 1 or lhs.model_spec.factor_contrasts:
            raise ValueError(
                f"formula: the response must be one column of numbers, got {list(lhs.columns)}; "
                "of text or truth values make numbers first, as in 'I(y == \"yes\") ~ x'"
            )
        return [lhs, rhs]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _mismatch())  # what is made of missing categories is not used
        used = {name for part in matrices(data, "ignore") for name in part.model_spec.required_variables}
    rows = _complete_rows(data, sorted(used))
    with _known_categories():
        lhs, rhs = matrices(rows, "drop")
    return _numbers(lhs, len(data))[:, 0], _numbers(rhs, len(data)), rhs.model_spec, lhs.columns[0]


def _complete_rows(data: pd.DataFrame, used: list[str]) -> pd.DataFrame:
    """The rows that have a value in every column used.

    Formulaic itself makes of a missing category the first one, and of a mean over a missing number none.
    """
    complete = _columns("formula", used, data).notna().all(axis=1)
    if not complete.any():
        raise ValueError(f"data: no row has a value in each of {', '.join(used)}")
    return data[complete]


@contextmanager
def _known_categories() -> Iterator[None]:
    """A ValueError for a category that formulaic does not know, of which it would make the first one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", _mismatch())
        try:
            yield
        except _mismatch() as error:
            raise ValueError(f"data: a category that the formula, or the frame of the fit, lacks: {error}") from None


def _numbers(matrix: ModelMatrix, count: int) -> np.ndarray:
    """The numbers of a model matrix for all rows of a frame; NaN in those that it lacks."""
    for name, dtype in matrix.dtypes.items():
        _refuse_other_than_numbers(f"formula: {name}", dtype)
    whole = np.full((count, matrix.shape[1]), np.nan)
    whole[matrix.index] = np.asarray(matrix, float)
    return whole


def _fit_groups(fitted: Callable[[np.ndarray, np.ndarray | None], Fit], codes: np.ndarray, p: int) -> Fit:
    """The fits of groups, ``codes`` telling the group of every row, in their order."""
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes)
    first = np.cumsum(sizes) - sizes
    found, places = [], []
    for members in _batches(sizes, p):
        # A group is filled up by its own last row. Of fewer rows than columns ``ji.fit`` takes none.
        at, last = np.arange(max(sizes[members].max(), p)), sizes[members, None] - 1
        absent = at > last
        found.append(fitted(order[first[members, None] + np.minimum(at, last)], absent if absent.any() else None))
        places.append(members)
    back = np.argsort(np.concatenate(places))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back] if jnp.ndim(leaves[0]) else leaves[0], *found)


def _batches(sizes: np.ndarray, p: int) -> Iterator[np.ndarray]:
    """The groups that are fitted together: those whose sizes have the same power of two above them, or few."""
    powers = np.ceil(np.log2(np.maximum(sizes, p))).astype(int)
    pending = np.zeros(0, int)
    for power in range(powers.max() + 1):
        pending = np.union1d(pending, np.flatnonzero(powers == power))
        if pending.size and (power == powers.max() or pending.size * 2**power * p > CHEAP):
            yield pending
            pending = pending[:0]


def _refuse_own(family: Family, options: dict[str, Any], p: int) -> None:
    """Refuse options that differ between groups, whose order is not known beforehand."""
    given = {name: (value, 0) for name, value in vars(family).items() if name not in family.row_parameters}
    given["scale"] = options["scale"], 0
    for name in ("penalty", "fallback"):
        if isinstance(options[name], Penalty):  # of which a value has the axis of the coefficients
            given[name] = options[name].bound(p, np.dtype(float)), 1
    for name, (value, rank) in given.items():
        if any(np.ndim(leaf) > rank for leaf in jax.tree.leaves(value)):
            raise ValueError(f"{name} has a batch axis: with by= it must be the same for all groups")


def _checked(data: pd.DataFrame) -> pd.DataFrame:
    """The frame with its rows numbered, and its text as Python's, which formulaic knows to be categories."""
    pd = _optional("pandas")
    if not isinstance(data, pd.DataFrame):
        raise ValueError(f"data must be a pandas DataFrame, got {type(data).__name__}")
    if not len(data):
        raise ValueError("data has no rows")
    text = {name: object for name, dtype in data.dtypes.items() if isinstance(dtype, pd.StringDtype)}
    return data.astype(text).reset_index(drop=True) if data.columns.is_unique else data.reset_index(drop=True)


def _kinds(data: pd.DataFrame, names: Iterable[str]) -> dict[str, str]:
    """What the columns hold."""
    return {name: _kind(dtype) for name, dtype in _columns("data", sorted(names), data).dtypes.items()}


def _kind(dtype: Any) -> str:
    types = _optional("pandas").api.types
    if types.is_bool_dtype(dtype):
        return "truth values"
    return "numbers" if types.is_numeric_dtype(dtype) else "categories"


def _column(name: str, value: ArrayLike | str | None, data: pd.DataFrame) -> np.ndarray | None:
    """An argument with one value a row."""
    if value is None:
        return None
    if isinstance(value, str):
        value = _columns(name, [value], data)[value]
    pd = _optional("pandas")
    if not isinstance(value, pd.Series):
        value = np.asarray(value)
    elif not value.index.equals(data.index):
        raise ValueError(f"{name}: its index is not that of data; give an array, or a column of data by name")
    if value.shape != (len(data),):
        raise ValueError(f"{name} has shape {value.shape}: expected one value a row of data, ({len(data)},)")
    column = pd.Series(value)
    _refuse_other_than_numbers(name, column.dtype)
    return column.to_numpy(float, na_value=np.nan)


def _refuse_other_than_numbers(name: str, dtype: Any) -> None:
    if _kind(dtype) == "categories" or _optional("pandas").api.types.is_complex_dtype(dtype):
        raise ValueError(f"{name} is of dtype {dtype}: expected real numbers")


def _columns(name: str, wanted: list[Any], data: pd.DataFrame) -> pd.DataFrame:
    """Some columns of the frame."""
    for column in wanted:
        found = list(data.columns).count(column) if isinstance(column, Hashable) else 0
        if found != 1:
            there = "there are several of that name" if found else f"there are {', '.join(map(str, data.columns))}"
            raise ValueError(f"{name}: {column!r} is no column of data; {there}")
    return data[wanted]


def _keys(data: pd.DataFrame, by: list[Hashable]) -> pd.Index:
    """What tells the group of every row."""
    pd, columns = _optional("pandas"), _columns("by", by, data)
    if len(set(by)) < len(by):
        raise ValueError(f"by: {by} names a column twice")
    lacking = columns.isna().any(axis=1).sum()
    if lacking:
        raise ValueError(
            f"by: {lacking} rows of data belong to no group, as a value of {by} is missing: leave them out"
        )
    return pd.Index(columns[by[0]]) if len(by) == 1 else pd.MultiIndex.from_frame(columns)


def _mismatch() -> type[Warning]:
    """Formulaic's word for a category that it does not know."""
    return _optional("formulaic.errors").DataMismatchWarning


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ImportError(f"jaxirls.frames needs {package}: pip install 'jaxirls[frames]'") from None
