"""A progress bar on stderr: tqdm's where it is installed, else one line that counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(total: int, shown: bool | None = None) -> Iterator[Callable[[int], object] | None]:
    """A function to call with 0 when compilation is over and then with the number of fits newly done; None: no bar.

    Args:
      total: fits in all.
      shown: whether to show it; None shows it where stderr is a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield _count(total)
        print(file=sys.stderr)
        return
    with tqdm(total=total, desc="compiling", unit="fit", unit_scale=True, dynamic_ncols=True, file=sys.stderr) as bar:

        def update(new: int) -> None:
            if new:
                bar.update(new)
            else:
                bar.reset()
                bar.set_description("fitting")

        yield update


def _count(total: int) -> Callable[[int], None]:
    done = 0

    def update(new: int) -> None:
        nonlocal done
        done += new
        print(f"\r{done:,} of {total:,} fits ({done / total:.0%})", end="", file=sys.stderr, flush=True)

    return update
