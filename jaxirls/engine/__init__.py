"""Batches: tiles of lanes, compaction of the lanes that need more, chunks over the machine's cores."""

from jaxirls.engine.dispatch import fit_batch, is_concrete

__all__ = ["fit_batch", "is_concrete"]
