r"""Data frames: X and y by a formula, and one model for every group of rows.

Needs pandas and formulaic: ``pip install 'jaxirls[frames]'``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxirls.config import IRLS, Algorithm
from jaxirls.families import Family
from jaxirls.fit import fit as fit_arrays
from jaxirls.penalties import Penalty
from jaxirls.results import Fit

if TYPE_CHECKING:
    import pandas as pd
    from formulaic import ModelSpec

__all__ = ["FrameFit", "fit"]

# Elements of X by which a batch may be padded to save a batch of its own, which costs a compilation.
CHEAP = 2**22


@dataclass(frozen=True)
class FrameFit:
    """One fit of a data frame, or one a group.

    Attributes:
      fit: a ``ji.Fit``; with groups its batch axis is theirs, in the order of ``groups``.
      groups: the values of ``by`` that occur, sorted, one a fit; None without ``by``.
      names: of the coefficients.
      spec: formulaic's ``ModelSpec`` of the right-hand side, with the levels and knots of the whole frame.
    """

    fit: Fit
    groups: pd.Index | None
    names: list[str]
    spec: ModelSpec
    by: list[str]
    yname: str
    offset: str | None

    def __getitem__(self, group: Any) -> Fit:
        """The fit of one group: by its value of ``by``, or the tuple of its values."""
        if self.groups is None:
            raise TypeError("this is one fit, not one a group: it cannot be indexed; see .fit")
        return self.fit[self.groups.get_loc(group)]

    @property
    def params(self) -> pd.DataFrame:
        """The coefficients, a row a group and a column a coefficient; a series where there are no groups."""
        pd, values = _optional("pandas"), np.asarray(self.fit.params)
        if self.groups is None:
            return pd.Series(values, self.names)
        return pd.DataFrame(values, self.groups, self.names)

    def matrix(self, data: pd.DataFrame) -> np.ndarray:
        """X for the rows of a frame, ``(rows, p)``: with it ``ji.influence``, ``ji.covariance`` and so on take a fit.

        Raises:
          ValueError: for a category that the frame of the fit did not have.
        """
        return _matrix(self.spec, data)

    def predict(self, data: pd.DataFrame, *, offset: ArrayLike | None = None, linear: bool = False) -> pd.Series:
        """Fitted mean of every row, by the fit of its group; or the linear predictor.

        Args:
          data: new rows, with the columns of the formula, ``by``, and ``offset`` where that was the name of a column.
          offset: known part of the linear predictor, in place of the column that the fit had.
          linear: whether to give the linear predictor.

        Raises:
          ValueError: for a group that was not fitted.
        """
        pd = _optional("pandas")
        column = _column("offset", self.offset if offset is None else offset, data)
        X, shift = self.matrix(data)[:, None], None if column is None else column[:, None]
        if self.groups is None:
            values = self.fit.predict(X[:, 0], offset=column, linear=linear)
        else:
            places = self.groups.get_indexer(_keys(data, self.by))
            if (places < 0).any():
                raise ValueError(f"data: row {int(np.argmax(places < 0))} is of a group that was not fitted")
            own = dataclasses.replace(self.fit, root=None)  # which is p² numbers a row
            values = own[places].predict(X, offset=shift, linear=linear)[:, 0]
        return pd.Series(np.asarray(values), data.index)

    def summary(self, alpha: float = 0.05) -> str:
        """``fit.summary()`` with the names of the columns."""
        return self.fit.summary(self.names, self.yname, alpha)

    def to_dataframe(self, alpha: float = 0.05) -> pd.DataFrame:
        """``fit.to_dataframe()``, with the columns of ``by`` in place of the number of the fit."""
        table = self.fit.to_dataframe(self.names, alpha)
        if self.groups is None:
            return table
        keys = self.groups.to_frame(index=False).iloc[table.pop("batch")].reset_index(drop=True)
        return keys.join(table)


def fit(
    formula: str,
    data: pd.DataFrame,
    family: Family,
    *,
    by: str | Sequence[str] | None = None,
    offset: ArrayLike | str | None = None,
    freq_weights: ArrayLike | str | None = None,
    var_weights: ArrayLike | str | None = None,
    penalty: Penalty | None = None,
    fallback: Penalty | None = None,
    scale: ArrayLike | str | None = None,
    config: Algorithm = IRLS(),  # noqa: B008 (frozen)
) -> FrameFit:
    r"""Fit a formula to a data frame, or to each of its groups of rows, all in few calls.

    Levels of categories and knots of splines are those of the whole frame, so that coefficients mean the same in every
    group; where a group lacks a level, its column is aliased there. A row with a missing value in a column that the
    formula uses makes its own group INVALID_DATA: leave such rows out by ``data.dropna()``.

    Args:
      formula: in the language of R and formulaic, ``"y ~ x + C(site)"``; an intercept is added unless it has ``- 1``.
        It sees the columns of ``data`` alone.
      data: one row an observation.
      family: as in ``ji.fit``; parameters of rows, ``Binomial(trials=...)``, with one value a row.
      by: the column, or columns, whose values make the groups; None fits one model to all rows.
      offset, freq_weights, var_weights: as in ``ji.fit``: names of columns, or one value a row.
      penalty, fallback, scale, config: as in ``ji.fit``, for all groups.

    Returns:
      A ``FrameFit``; ``.fit`` is the ``ji.Fit``, with a status for every group.

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
    pd, formulaic = _optional("pandas"), _optional("formulaic")
    if not isinstance(data, pd.DataFrame):
        raise ValueError(f"data must be a pandas DataFrame, got {type(data).__name__}")
    parts = formulaic.model_matrix(formula, data, na_action="ignore", context={})
    if not isinstance(parts, formulaic.ModelMatrices) or parts.lhs.shape[1] != 1:
        found = "none" if isinstance(parts, formulaic.ModelMatrix) else f"{list(parts.lhs.columns)}"
        raise ValueError(f"formula: the response must be one column of numbers, as in 'y ~ x'; {formula!r} has {found}")
    rows = {
        "X": _numbers(parts.rhs, data),
        "y": _numbers(parts.lhs, data)[:, 0],
        "offset": _column("offset", offset, data),
        "freq_weights": _column("freq_weights", freq_weights, data),
        "var_weights": _column("var_weights", var_weights, data),
    }
    per_row = {name: getattr(family, name) for name in family.row_parameters if np.ndim(getattr(family, name))}
    rows |= {name: _column(f"family: {name}", values, data) for name, values in per_row.items()}
    options = {"penalty": penalty, "fallback": fallback, "scale": scale, "config": config}
    keys = [] if by is None else [by] if isinstance(by, str) else list(by)
    if keys:
        codes, groups = _keys(data, keys).factorize(sort=True)
        groups = groups.set_names(keys)
        whole = _fit_groups(rows, family, codes, len(groups), options)
    else:
        groups, whole = None, _fit_rows(rows, family, options)
    spec, named = parts.rhs.model_spec, offset if isinstance(offset, str) else None
    return FrameFit(whole, groups, list(spec.column_names), spec, keys, parts.lhs.columns[0], named)


def _fit_rows(rows: dict[str, Any], family: Family, options: dict[str, Any]) -> Fit:
    """``ji.fit`` of arguments by name, those among them that are parameters of the family too."""
    own = {name: rows[name] for name in family.row_parameters if name in rows}
    rest = {name: values for name, values in rows.items() if name not in own}
    family = dataclasses.replace(family, **own)  # type: ignore[type-var]
    return fit_arrays(family=family, **rest, **options)


def _fit_groups(rows: dict[str, Any], family: Family, codes: np.ndarray, count: int, options: dict[str, Any]) -> Fit:
    """The fits of groups, ``codes`` telling the group of every row, in their order."""
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes, minlength=count)
    first = np.cumsum(sizes) - sizes
    found, places = [], []
    for members in _batches(sizes, rows["X"].shape[1]):
        length = max(sizes[members].max(), rows["X"].shape[1])  # of fewer rows than columns ``ji.fit`` takes none
        at = np.arange(length)
        absent = at >= sizes[members, None]
        taken = order[np.minimum(first[members, None] + at, len(order) - 1)]
        own = {name: None if values is None else values[taken] for name, values in rows.items()}
        if absent.any():
            weights = own["freq_weights"]
            own["freq_weights"] = np.where(absent, 0.0, 1.0 if weights is None else weights)
        found.append(_fit_rows(own, family, options))
        places.append(members)
    back = np.argsort(np.concatenate(places))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back] if jnp.ndim(leaves[0]) else leaves[0], *found)


def _batches(sizes: np.ndarray, p: int) -> Iterator[np.ndarray]:
    """The groups that are fitted together: those whose sizes have the same power of two above them, or few."""
    powers = np.ceil(np.log2(sizes)).astype(int)
    pending = np.zeros(0, int)
    for power in range(powers.max() + 1):
        pending = np.union1d(pending, np.flatnonzero(powers == power))
        if power == powers.max() or pending.size * 2**power * p > CHEAP:
            yield pending
            pending = pending[:0]


def _matrix(spec: ModelSpec, data: pd.DataFrame) -> np.ndarray:
    mismatch = _optional("formulaic.errors").DataMismatchWarning
    with warnings.catch_warnings():
        warnings.simplefilter("error", mismatch)
        try:
            return _numbers(spec.get_model_matrix(data, context={}), data)
        except mismatch as error:
            raise ValueError(f"data: a category that was not in the frame of the fit: {error}") from None


def _numbers(matrix: Any, data: pd.DataFrame) -> np.ndarray:
    """The numbers of a model matrix; NaN in rows where a column of the formula has no value.

    Formulaic makes of a missing category the first one.
    """
    lacking = data[sorted(matrix.model_spec.required_variables)].isna().any(axis=1)
    return np.where(lacking.to_numpy()[:, None], np.nan, np.asarray(matrix, float))


def _column(name: str, value: ArrayLike | str | None, data: pd.DataFrame) -> np.ndarray | None:
    """An argument with one value a row."""
    if value is None:
        return None
    if isinstance(value, str):
        value = _columns(name, [value], data)[value]
    if isinstance(value, _optional("pandas").Series) and not value.index.equals(data.index):
        raise ValueError(f"{name}: its index is not that of data; give an array, or a column of data by name")
    array = np.asarray(value, float)
    if array.shape != (len(data),):
        raise ValueError(f"{name} has shape {array.shape}: expected one value a row of data, ({len(data)},)")
    return array


def _columns(name: str, wanted: list[str], data: pd.DataFrame) -> pd.DataFrame:
    absent = [column for column in wanted if column not in data]
    if absent:
        raise ValueError(f"{name}: {absent[0]!r} is no column of data; there are {', '.join(map(str, data.columns))}")
    return data[wanted]


def _keys(data: pd.DataFrame, by: list[str]) -> pd.Index:
    """What tells the group of every row."""
    pd, columns = _optional("pandas"), _columns("by", by, data)
    lacking = columns.isna().any(axis=1)
    if lacking.any():
        raise ValueError(f"by: {lacking.sum()} rows of data belong to no group: {', '.join(by)} is missing there")
    return pd.Index(columns[by[0]]) if len(by) == 1 else pd.MultiIndex.from_frame(columns)


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise ImportError(f"jaxirls.frames needs {package}: pip install 'jaxirls[frames]'") from None
