"""Batches: tiles of lanes, compaction of the lanes that need more, chunks over the machine's cores, the fallback."""

from jaxirls.engine.dispatch import is_concrete
from jaxirls.engine.fallback import Outcome, fit_with_fallback

__all__ = ["Outcome", "fit_with_fallback", "is_concrete"]
