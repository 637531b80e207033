"""Both precisions in one process: 64-bit types enabled, promotion strict, so that a slip of dtype or rank fails.

Most of the time of these tests is compilation, of programs that run once. They are compiled without optimization,
unless XLA_FLAGS is set: an empty one gives what users have.
"""

import os

import jax
import pytest

FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
FAST += " --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    FAST += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FAST)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def _release_programs():
    """Every compiled program holds memory maps, of which a process may have 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture
def on_cpu():
    """As where there is no other device."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.fixture
def compile_fast(monkeypatch):
    """The layout and the rounds that compile fastest."""
    monkeypatch.setattr("jaxirls.engine.batch.LANES_COLUMNS", 0)
    monkeypatch.setattr("jaxirls.engine.batch.ROWS_COLUMNS", 0)
    # The first round runs to the end: only what is then without a proof needs a second program.
    monkeypatch.setattr("jaxirls.rounds.FIRST_PASSES", 100)
