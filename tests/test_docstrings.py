"""The examples in the docstrings hold in the mode that most users are in: without 64-bit types."""

import doctest
import importlib
import pkgutil

import jax
import pytest

import jaxirls

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jaxirls.__path__, "jaxirls.") if not module.name.endswith("cli")
)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("compile_fast")
def test_examples(name):
    module = importlib.import_module(name)
    if not any(test.examples for test in doctest.DocTestFinder().find(module)):
        pytest.skip("no examples")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        assert doctest.testmod(module).failed == 0
