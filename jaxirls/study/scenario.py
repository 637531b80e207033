"""The scenario of a study: what is drawn, how often, and from which seed; its TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxirls.families import Binomial, Family, Gamma, Gaussian, InverseGaussian, Poisson
from jaxirls.links import LINKS as ALL_LINKS
from jaxirls.links import Link
from jaxirls.study.covariates import KINDS, Covariates
from jaxirls.study.schema import (
    POSITIVE,
    PROBABILITY,
    Rule,
    ScenarioError,
    build,
    check,
    must,
    number,
    one_of,
    reject_unknown,
    require,
    whole,
)

__all__ = ["FAMILIES", "LINKS", "Scenario"]

# The families and links that a name alone determines.
FAMILIES: dict[str, type[Family]] = {
    family.__name__.lower(): family for family in (Binomial, Gamma, Gaussian, InverseGaussian, Poisson)
}
LINKS: dict[str, type[Link]] = {name.lower(): link for name, link in ALL_LINKS.items() if not dataclasses.fields(link)}


def _numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(number, value))


def _drawable(value: Any) -> bool:
    return isinstance(value, tuple(FAMILIES.values())) and getattr(value, "trials", None) is None


COUNT = Rule("a whole number of at least 1", lambda value: whole(value, 1))
NUMBERS = Rule("a list of finite numbers, at least one", _numbers)
DESIGN = Rule(f"a table with kind {one_of(KINDS).allowed}", lambda value: isinstance(value, Covariates))
FAMILY = Rule(f"a table with name {one_of(FAMILIES).allowed}", _drawable)
REPLICATES = Rule("a whole number from 1 to 2147483647", lambda value: whole(value, 1, 2**31 - 1))
SEED = Rule("a whole number from 0 to 4294967295", lambda value: whole(value, 0, 2**32 - 1))
CHUNK = Rule(REPLICATES.allowed, lambda value: value is None or REPLICATES.holds(value))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    r"""One condition of a simulation study: datasets y ~ family(g(μ) = Xβ) of n rows, drawn anew for every replicate.

    Args:
      n: rows of a dataset.
      coefficients: the true β, the intercept's first where the design has one.
      design: how X is drawn: ``study.Normal(scale=1.5)``, ``study.Uniform(...)``, ``study.Bernoulli(...)``.
      family: ``ji.Binomial()`` (of one trial), ``ji.Poisson()``, ``ji.Gaussian()``, ``ji.Gamma()`` or
        ``ji.InverseGaussian()``, with their links: what is drawn, and what is fitted.
      dispersion: φ, so that the variance of a response is φ V(μ), in the families that have one; the fit estimates it.
      replicates: how many datasets.
      seed: replicate i is a function of the seed and i alone.
      level: nominal level of the Wald intervals whose coverage is measured, and one minus the level of the tests.
      dtype: precision in which datasets are drawn and fitted.
      chunk: replicates a compiled call; None chooses. No result depends on it.

    Raises:
      ScenarioError: where a value is not allowed; the message names it.

    Example:
      >>> import jaxirls as ji
      >>> from jaxirls import study
      >>> design = study.Normal(scale=1.5)
      >>> scenario = study.Scenario(
      ...     n=20, coefficients=[1.5, -1.0], design=design, family=ji.Binomial(), replicates=1000, seed=418
      ... )
      >>> scenario.names
      ('x1', 'x2')
    """

    n: int = field(metadata=must(COUNT))
    coefficients: tuple[float, ...] = field(metadata=must(NUMBERS))
    design: Covariates = field(metadata=must(DESIGN))
    family: Family = field(metadata=must(FAMILY))
    dispersion: float = field(default=1.0, metadata=must(POSITIVE))
    replicates: int = field(metadata=must(REPLICATES))
    seed: int = field(metadata=must(SEED))
    level: float = field(default=0.95, metadata=must(PROBABILITY))
    dtype: str = field(default="float64", metadata=must(one_of(("float32", "float64"))))
    chunk: int | None = field(default=None, metadata=must(CHUNK))

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "coefficients", tuple(map(float, self.coefficients)))
        least = self.p + self.family.has_dispersion
        if self.n < least:
            raise ScenarioError(f"n = {self.n}: expected at least {least} for {self.p} coefficients of this family")
        if self.dispersion != 1 and not self.family.has_dispersion:
            raise ScenarioError(f"dispersion = {self.dispersion}: the {self.family_name} family has none")

    @classmethod
    def from_toml(cls, path: str | Path) -> Scenario:
        """Read a scenario file.

        Raises:
          ScenarioError: where the file cannot be read, is not TOML, or names a key or value that is not allowed.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ScenarioError(f"{path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise ScenarioError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
        try:
            return cls.from_dict(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise ScenarioError(f"{path}: is not TOML: {error}") from None
        except ScenarioError as error:
            raise ScenarioError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Scenario:
        """Make a scenario from the keys and values of its file; ``to_dict`` gives them back."""
        reject_unknown(table, [f.name for f in dataclasses.fields(cls) if f.name != "dispersion"])
        values = dict(table)
        if isinstance(values.get("design"), Mapping):
            values["design"] = _read_design(values["design"])
        if isinstance(values.get("family"), Mapping):
            values["family"], dispersion = _read_family(values["family"])
            values |= dispersion
        return build(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """The keys and values of the scenario's file."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.chunk is None:
            del values["chunk"]
        family = {"name": self.family_name, "link": self.link_name}
        if self.family.has_dispersion:
            family["dispersion"] = values["dispersion"]
        del values["dispersion"]
        design = {"kind": self.design.kind} | dataclasses.asdict(self.design)
        return values | {"coefficients": list(self.coefficients), "design": design, "family": family}

    @property
    def law(self) -> Scenario:
        """The scenario with all set aside that does not change how one dataset is drawn from its keys."""
        return dataclasses.replace(self, replicates=1, seed=0, level=0.95, chunk=None)

    @property
    def p(self) -> int:
        """Number of coefficients."""
        return len(self.coefficients)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every coefficient: ``const`` for the intercept, then ``x1``, ``x2``, ..."""
        first = ("const",) if self.design.intercept else ()
        return first + tuple(f"x{j + 1}" for j in range(self.p - len(first)))

    @property
    def family_name(self) -> str:
        """The family as its file names it."""
        return type(self.family).__name__.lower()

    @property
    def link_name(self) -> str:
        """The link as its file names it."""
        return type(self.family.link).__name__.lower()


def _read_design(table: Mapping[str, Any]) -> Covariates:
    law = KINDS[_choice(table, "kind", KINDS, "design")]
    return build(law, {key: value for key, value in table.items() if key != "kind"}, "design")


def _read_family(table: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
    """The family, and the scenario's ``dispersion`` where the table names it."""
    family = FAMILIES[_choice(table, "name", FAMILIES, "family")]
    keys = ("name", "link", "dispersion") if family.has_dispersion else ("name", "link")
    reject_unknown(table, keys, "family")
    link = {"link": LINKS[_choice(table, "link", LINKS, "family")]()} if "link" in table else {}
    dispersion = {key: table[key] for key in ("dispersion",) if key in table}
    if dispersion:
        require(POSITIVE, "family.dispersion", table["dispersion"])
    return family(**link), dispersion


def _choice(table: Mapping[str, Any], key: str, names: Mapping[str, Any], where: str) -> str:
    rule = one_of(names)
    if key not in table:
        raise ScenarioError(f"{where}.{key} is missing: expected {rule.allowed}")
    require(rule, f"{where}.{key}", table[key])
    return table[key]
