"""Every example runs, and finds what it says that it finds: each ends with an error where it does not."""

import runpy
from pathlib import Path

import jax
import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_example(script, capsys):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out
