"""Frozen option objects whose fields carry their own rule, and the reading of a plain table into one.

A dataclass is its own schema: ``must`` gives a field the rule that its value must satisfy, ``check`` enforces the rules
where the object is made, and ``build`` makes one from a table of keys and values, as a TOML file holds it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

__all__ = [
    "FLAG",
    "NUMBER",
    "POSITIVE",
    "PROBABILITY",
    "Rule",
    "ScenarioError",
    "build",
    "check",
    "must",
    "number",
    "one_of",
    "reject_unknown",
    "require",
    "whole",
]

Options = TypeVar("Options")


class ScenarioError(ValueError):
    """A scenario that cannot be run; the message names the key, what was found and what is allowed."""


class Rule(NamedTuple):
    """What a value must be, in words and as a predicate."""

    allowed: str
    holds: Callable[[Any], bool]


def whole(value: Any, low: int, high: float = math.inf) -> bool:
    """Whether the value is an integer between the bounds, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def number(value: Any) -> bool:
    """Whether the value is a finite real number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


FLAG = Rule("true or false", lambda value: isinstance(value, bool))
NUMBER = Rule("a finite number", number)
POSITIVE = Rule("a positive number", lambda value: number(value) and value > 0)
PROBABILITY = Rule("a number between 0 and 1, both excluded", lambda value: number(value) and 0 < value < 1)


def one_of(names: Iterable[str]) -> Rule:
    """The rule that a value is one of the names."""
    allowed = tuple(names)
    return Rule(f"one of {_listed(allowed)}", lambda value: isinstance(value, str) and value in allowed)


def must(rule: Rule) -> dict[str, Rule]:
    """The metadata of a dataclass field whose values must satisfy the rule."""
    return {"rule": rule}


def check(options: Any) -> None:
    """Raise a ScenarioError for the first field that breaks its rule."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        require(field.metadata["rule"], field.name, value)


def require(rule: Rule, key: str, value: Any) -> None:
    """Raise a ScenarioError unless the value of the key satisfies the rule."""
    if not rule.holds(value):
        hint = _suggestion(value, _quoted(rule.allowed)) if isinstance(value, str) else ""
        raise ScenarioError(f"{key} = {_shown(value)}: expected {rule.allowed}{hint}")


def build(kind: type[Options], table: Mapping[str, Any], where: str = "") -> Options:
    """Make the options from a table of keys and values.

    Args:
      kind: a dataclass whose fields have a rule.
      table: the keys and values.
      where: the table's name, in front of the keys in messages; empty for the top level.

    Raises:
      ScenarioError: for a key that does not exist, one that is missing, or a value that breaks its rule.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    reject_unknown(table, fields, where)
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in table:
            raise ScenarioError(f"{_path(where, name)} is missing: expected {field.metadata['rule'].allowed}")
    try:
        return kind(**table)
    except ScenarioError as error:
        raise ScenarioError(_path(where, str(error))) from None


def reject_unknown(table: Mapping[str, Any], allowed: Iterable[str], where: str = "") -> None:
    """Raise a ScenarioError for the first key of the table that is not allowed."""
    names = tuple(allowed)
    for key in table:
        if key not in names:
            place = f"[{where}]" if where else "the scenario"
            raise ScenarioError(
                f"{_path(where, key)} is not a key of {place}{_suggestion(key, names)}; its keys are {', '.join(names)}"
            )


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _suggestion(name: str, names: Iterable[str]) -> str:
    close = [match for match in difflib.get_close_matches(name, tuple(names), n=1) if match != name]
    return f'; did you mean "{close[0]}"?' if close else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _quoted(text: str) -> list[str]:
    return text.split('"')[1::2]


def _shown(value: Any) -> str:
    """The value as TOML would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
