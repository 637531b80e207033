"""How a fit ended: one code a dataset."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Status"]


RUNNING = -1  # in place of a code: there is none yet


class Status(IntEnum):
    """How a fit ended. Where several hold, the first of this order is reported:

    INVALID_DATA, SEPARATED, CONVERGED, BOUNDARY, STALLED, MAX_ITERATIONS.

    They tell of the coefficients that are not aliased (``fit.aliased``). RANK_DEFICIENT stands in the place of
    CONVERGED where there are aliased ones: the fit of the others converged.

    Example:
      >>> import jaxirls as ji
      >>> ji.Status(3)
      <Status.BOUNDARY: 3>
      >>> ji.Status.SEPARATED.explain.split(":")[0]
      'No finite maximum likelihood estimate exists'
    """

    CONVERGED = 0
    MAX_ITERATIONS = 1
    SEPARATED = 2
    BOUNDARY = 3
    RANK_DEFICIENT = 4
    STALLED = 5
    INVALID_DATA = 6

    @property
    def explain(self) -> str:
        """What the code means and what to do about it."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Status.CONVERGED: (
        "The maximum likelihood estimate (where fit.penalized, the penalized one) exists and was reached: the "
        "Newton decrement, its distance in standard errors, is within tolerance, or within rounding. Where a "
        "likelihood is not concave, it is a local maximum: the observed information is positive definite there."
    ),
    Status.MAX_ITERATIONS: (
        "The iterations ran out before a proof of convergence or of separation was found. Raise IRLS(max_iter=...), "
        "or give a start or a fallback penalty."
    ),
    Status.SEPARATED: (
        "No finite maximum likelihood estimate exists: a direction of recession was found along which the likelihood "
        "rises forever. Use a penalty (ji.Jeffreys or ji.Ridge) as penalty= or fallback=, or drop the columns that "
        "separate."
    ),
    Status.BOUNDARY: (
        "The estimate lies on the edge of the family's domain for this link (a mean of zero, say), where standard "
        "errors do not apply. Use the canonical link, or read the coefficients as a boundary solution. Where "
        "NegativeBinomial() estimates alpha: the data are not overdispersed, alpha is 0 and the fit is Poisson's."
    ),
    Status.RANK_DEFICIENT: (
        "Columns of X are, on rows of positive weight, linear combinations of the ones before them: fit.aliased says "
        "which. Their coefficients are NaN, and the rest is the converged fit of the other columns (none under "
        "IRLS(solver='cholesky')). Drop the aliased columns, or use penalty=ji.Ridge(...)."
    ),
    Status.STALLED: (
        "The search ended where the optimum is not proven: as a rule the working precision is exhausted; or the score "
        "is zero and the likelihood rises from there all the same. Use float64, rescale the columns, or give a start."
    ),
    Status.INVALID_DATA: (
        "A row of positive weight holds a value that is not finite, a response outside the family's support, or a "
        "negative weight; or the dataset's scale, start, penalty or a parameter of its family is no number that can be "
        "one. The dataset was not fitted; its numbers are NaN."
    ),
}
