"""The examples in the docstrings hold in the mode that most users are in: without 64-bit types."""

import doctest
import importlib
import pkgutil

import jax
import pytest

import jaxirls


def documented():
    """The modules whose docstrings hold examples."""
    modules = (importlib.import_module(module.name) for module in pkgutil.walk_packages(jaxirls.__path__, "jaxirls."))
    return [m for m in modules if any(test.examples for test in doctest.DocTestFinder().find(m))]


@pytest.mark.parametrize("module", documented(), ids=lambda module: module.__name__)
@pytest.mark.usefixtures("compile_fast")
def test_examples(module):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        assert doctest.testmod(module).failed == 0
