"""Scenarios, from files and in Python: what they may say, and errors that name the key and what is allowed."""

from __future__ import annotations

import dataclasses
import json

import pytest
from studies import SEPARATION

import jaxirls as ji
from jaxirls import study
from jaxirls.study.scenario import FAMILIES, LINKS

GOOD = """
n = 20
coefficients = [1.5, -1.0]
replicates = 100
seed = 418

[design]
kind = "normal"
scale = 1.5

[family]
name = "binomial"
"""


def test_scenario_from_toml(tmp_path):
    path = tmp_path / "scenario.toml"
    path.write_text(GOOD)
    scenario = study.Scenario.from_toml(path)
    assert scenario == dataclasses.replace(SEPARATION, replicates=100)
    assert study.Scenario.from_dict(scenario.to_dict()) == scenario
    json.dumps(scenario.to_dict())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_and_link_can_be_named(name: str):
    for link in LINKS:
        table = {"name": name, "link": link}
        scenario = study.Scenario.from_dict(dataclasses.replace(SEPARATION, seed=0).to_dict() | {"family": table})
        assert scenario.family_name == name
        assert scenario.link_name == link
        assert study.Scenario.from_dict(scenario.to_dict()) == scenario


def test_example_is_the_scenario_of_these_tests():
    scenario = study.Scenario.from_toml("examples/separation.toml")
    assert scenario == dataclasses.replace(SEPARATION, replicates=100_000)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 418", "sed = 418", r'sed is not a key of the scenario; did you mean "seed"\?; its keys are n, coeff'),
        ("scale = 1.5", "sclae = 1.5", r'design\.sclae is not a key of \[design\]; did you mean "scale"\?'),
        (
            "scale = 1.5",
            "low = 1.5",
            r"design\.low is not a key of \[design\]; its keys are intercept, redraw",
        ),
        ("n = 20", "", r"n is missing: expected a whole number of at least 1"),
        ("[design]", "[dessign]", r'dessign is not a key of the scenario; did you mean "design"\?'),
        ('kind = "normal"', "", r'design\.kind is missing: expected one of "normal", "uniform", "bernoulli"'),
        ('"normal"', '"nromal"', r'design\.kind = "nromal": expected one of .*; did you mean "normal"\?'),
        ("n = 20", "n = 20.5", r"n = 20\.5: expected a whole number of at least 1"),
        ("n = 20", "n = true", r"n = true: expected a whole number"),
        ("n = 20", "n = 1", r"n = 1: expected at least 2 for 2 coefficients"),
        ("[1.5, -1.0]", "[]", r"coefficients = \[\]: expected a list of finite numbers, at least one"),
        ("[1.5, -1.0]", '["a"]', r"coefficients = \['a'\]: expected a list of finite numbers"),
        ("[1.5, -1.0]", "[nan]", r"coefficients = \[nan\]: expected a list of finite numbers"),
        ("replicates = 100", "replicates = 0", r"replicates = 0: expected a whole number from 1"),
        ("seed = 418", "seed = -1", r"seed = -1: expected a whole number from 0 to 4294967295"),
        ("seed = 418", "seed = 1\nlevel = 95", r"level = 95: expected a number between 0 and 1"),
        ("seed = 418", "seed = 1\nchunk = 0", r"chunk = 0: expected a whole number from 1 to 2147483647"),
        ("seed = 418", 'seed = 1\ndtype = "float16"', r'dtype = "float16": expected one of "float32", "float64"'),
        ("scale = 1.5", "scale = -1", r"design\.scale = -1: expected a positive number"),
        ("scale = 1.5", "redraw = 1", r"design\.redraw = 1: expected true or false"),
        ('"normal"\nscale = 1.5', '"uniform"\nlow = 2', r"design\.high = 1\.0: expected a number above low = 2"),
        (
            '"normal"\nscale = 1.5',
            '"bernoulli"\nprobability = 1',
            r"design\.probability = 1: expected a number between",
        ),
        ('"binomial"', '"binomal"', r'family\.name = "binomal": expected .*; did you mean "binomial"\?'),
        (
            '"binomial"',
            '"binomial"\nlink = "logt"',
            r'family\.link = "logt": expected one of .*; did you mean "logit"\?',
        ),
        ('"binomial"', '"binomial"\ndispersion = 2.0', r"family\.dispersion is not a key of \[family\]; its keys are"),
        ('"binomial"', '"gaussian"\ndispersion = 0', r"family\.dispersion = 0: expected a positive number"),
        ('[family]\nname = "binomial"', "", r'family is missing: expected a table with name one of "binomial"'),
        ("n = 20", 'n = 20\nfamily = "binomial"', r"is not TOML"),
        ("n = 20", "n = ", r"is not TOML: .*line 2"),
    ],
)
def test_scenario_errors_name_the_key_and_what_is_allowed(tmp_path, old: str, new: str, message: str):
    path = tmp_path / "scenario.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(study.ScenarioError, match=message) as caught:
        study.Scenario.from_toml(path)
    assert str(caught.value).startswith(str(path))


def test_a_table_is_asked_for_where_a_name_was_given():
    table = dataclasses.replace(SEPARATION, seed=0).to_dict()
    with pytest.raises(study.ScenarioError, match=r'family = "binomial": expected a table with name one of "binomial"'):
        study.Scenario.from_dict(table | {"family": "binomial"})
    with pytest.raises(study.ScenarioError, match=r'design = "normal": expected a table with kind one of "normal"'):
        study.Scenario.from_dict(table | {"design": "normal"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": ji.Binomial(trials=3)}, "family = "),
        ({"dispersion": 2.0}, "the binomial family has none"),
        ({"n": 2, "family": ji.Gaussian()}, "n = 2: expected at least 3"),
        ({"design": "normal"}, "design = "),
    ],
)
def test_scenarios_made_in_python_are_checked_too(change: dict, message: str):
    with pytest.raises(study.ScenarioError, match=message):
        dataclasses.replace(SEPARATION, **change)


def test_unreadable_files_are_scenario_errors(tmp_path):
    with pytest.raises(study.ScenarioError, match="cannot be read"):
        study.Scenario.from_toml(tmp_path / "none.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# \xe9\n")
    with pytest.raises(study.ScenarioError, match="is not UTF-8"):
        study.Scenario.from_toml(path)
