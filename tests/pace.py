"""Tests of time that a busy machine cannot fail: how it grows, the best of some; what is over, in a while."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil


def seconds(call: Callable, *given) -> float:
    """Returns the CPU seconds of one call."""
    began = time.process_time()
    call(*given)
    return time.process_time() - began


def linear(call: Callable, make: Callable[[int], object], size: int, tries: int = 5) -> bool:
    """Returns whether an input four times as long takes at most eight times as long, where a square would take 16.

    Less than 20 ms for the short one counts as 20 ms: below that a machine's own moods are larger than any growth.
    """
    short, long = make(size // 4), make(size)
    return any(seconds(call, long) < 8 * max(seconds(call, short), 0.02) for _ in range(tries))


def many(unit: str, head: str = "", tail: str = "x") -> Callable[[int], str]:
    """Returns what makes a text of about so many characters, a piece again and again."""
    return lambda size: head + unit * (size // len(unit)) + tail


def gone(processes: Iterable[psutil.Process], within: float = 10.0) -> bool:
    """Returns whether they end within so many seconds; what nobody waited for is left as a zombie."""

    def alive(one: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
        return False

    end = time.monotonic() + within
    while any(map(alive, processes)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, processes))
