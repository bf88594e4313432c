"""What was made last, kept as far as a number of bytes goes.

Why: a clip is asked about many times, and reading it costs more than a small model's answer. But a data set of long
clips does not fit into memory: one of 30 frames at 81,920 pixels takes 29 MB. So what was used longest ago goes first.
Used by `cookbook.data.encoder` and, in the engine's processes, by `cookbook.engine.video_reader`.

    clips = Recent(4 * 2**30)
    clip = clips.get(path, lambda: read(path))
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any


class Recent:
    """A cache of values that have `nbytes`, or tuples of them. Safe in threads; what it holds must not be changed."""

    def __init__(self, limit: int) -> None:
        """`limit` is in bytes; a value that is larger is not kept."""
        self.limit, self.bytes, self.kept, self._lock = limit, 0, OrderedDict(), Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns what is kept under the key, else what `make` returns, and keeps that."""
        with self._lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        found = make()  # outside the lock: two threads may make the same, and both are right
        with self._lock:
            if key not in self.kept and size(found) <= self.limit:
                self.kept[key] = found
                self.bytes += size(found)
                while self.bytes > self.limit:
                    self.bytes -= size(self.kept.popitem(last=False)[1])
        return found


def size(value: Any) -> int:
    """Returns the bytes of a value, or of all in a tuple; 0 for what has no `nbytes`."""
    return sum(map(size, value)) if isinstance(value, tuple) else getattr(value, "nbytes", 0)
