"""Both precisions in one process: 64-bit types enabled, promotion strict, so that a slip of dtype or rank fails."""

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
