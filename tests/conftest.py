"""Both precisions in one process: 64-bit types enabled, promotion strict, so that a slip of dtype or rank fails."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def compile_fast(monkeypatch):
    """For programs that run once: the layout, and the compiler's level, that compile fastest."""
    monkeypatch.setattr("jaxirls.engine.batch.LANES_COLUMNS", 0)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
