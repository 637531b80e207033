"""The machine's cores: threads that take tasks from one queue, to which what they end may add."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["cores", "once_compiled", "work_through"]

T = TypeVar("T")


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_through(
    tasks: Iterable[T],
    begin: Callable[[T], Any],
    end: Callable[[T, Any], None],
    home: jax.Device,
    more: Callable[[int], Iterable[T]] = lambda free: (),
) -> None:
    """Every task, and those that come of them, on as many threads as there are cores, or tasks.

    A core goes from one call to the next without a pause: that has begun before the one before it is waited for.

    Args:
      tasks: in their order.
      begin: what begins a task, and does not wait for it.
      end: takes in a task and what ``begin`` has given for it.
      home: the device.
      more: the tasks to add, asked for after every ``end``, by one thread at a time, given how many have no other.

    Raises:
      Exception: what the functions raise; then no more tasks are begun.
    """
    left, change = deque(tasks), threading.Condition()
    begun, idle, failed = 0, 0, False
    wide = jnp.result_type(float) == jnp.float64  # a scope may have set it for this thread alone

    def called(waits: bool) -> tuple[T, Any] | None:
        """The next task, begun; if that ``waits``, also one that another thread is yet to add."""
        nonlocal begun, idle
        with change:
            while waits and not left and begun and not failed:
                idle += 1
                change.wait()
                idle -= 1
            if failed or not left:
                return None
            task = left.popleft()
            begun += 1
        return task, begin(task)

    def work() -> None:
        nonlocal begun, failed
        try:
            with jax.enable_x64(wide), jax.default_device(home):
                while call := called(waits=True):
                    while call:
                        ahead = called(waits=False)
                        end(*call)
                        with change:
                            left.extend(more(0 if left else idle + (ahead is None)))
                            begun -= 1
                            change.notify_all()
                        call = ahead
        except BaseException:
            with change:
                failed = True
                change.notify_all()
            raise

    helpers = min(cores(), len(left)) - 1
    with ThreadPoolExecutor(max(helpers, 1)) as pool:  # which starts no thread before it has work
        others = []
        with suppress(RuntimeError):  # at Python's end no thread can start: then this one does it all
            others += [pool.submit(work) for _ in range(helpers)]
        work()
    for other in others:
        other.result()


def once_compiled(program: Callable[..., T]) -> Callable[..., T]:
    """The program, of which other threads wait for the first call: that compiles it."""
    first, compiled = threading.Lock(), threading.Event()

    def call(*args: Any) -> T:
        if compiled.is_set():
            return program(*args)
        with first:
            result = program(*args)
            compiled.set()
            return result

    return call
