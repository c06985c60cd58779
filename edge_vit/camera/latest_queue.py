"""Queues between two threads of the loop: the newest of a live source, every item of a file."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from edge_vit.camera.threads import SYSTEM_CLOCK, Clock

T = TypeVar("T")


class LatestQueue(Generic[T]):
    """One short queue for each source, emptied in turns, so that no source starves another.

    In a full queue of a live source the newest item replaces the oldest; of another `put` waits for
    room. They hold `depth` and `file_depth` (default: `depth`) items.
    """

    def __init__(
        self, depth: int, clock: Clock = SYSTEM_CLOCK, *, file_depth: int | None = None
    ) -> None:
        self._depth, self._file_depth, self._clock = depth, file_depth or depth, clock
        self._queues: dict[Hashable, deque[T]] = {}  # by source, that whose turn it is first
        self._changed = threading.Condition()
        self._is_closed = False

    def put(self, source: Hashable, item: T, *, is_live: bool) -> T | None:
        """Queue `item`; return what is lost by it, `item` itself after the end."""
        depth = self._depth if is_live else self._file_depth
        with self._changed:
            queue = self._queues.setdefault(source, deque())
            while len(queue) >= depth and not is_live and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return item
            lost = queue.popleft() if len(queue) >= depth else None
            queue.append(item)
            self._changed.notify_all()
            return lost

    def take(self, limit: int = 1, wait_ns: int = 0) -> list[T]:
        """Return 1 to `limit` items, one of each source in turn; none after the end.

        Waits `wait_ns` for others once the first is there.
        """
        with self._changed:
            while not any(self._queues.values()):
                if self._is_closed:
                    return []
                self._changed.wait()
            until_ns = self._clock.now_ns() + wait_ns
            while self._count() < limit and not self._is_closed:
                if self._clock.now_ns() >= until_ns:
                    break
                self._clock.wait(self._changed, until_ns)
            items = [self._pop() for _ in range(min(limit, self._count()))]
            self._changed.notify_all()
            return items

    def close(self) -> None:
        """Take nothing more; what is queued can still be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def clear(self) -> list[T]:
        """Close it, and return what was not taken."""
        with self._changed:
            left = [item for queue in self._queues.values() for item in queue]
            self._queues.clear()
            self._is_closed = True
            self._changed.notify_all()
        return left

    def _count(self) -> int:
        return sum(map(len, self._queues.values()))

    def _pop(self) -> T:
        """The oldest item of the next source that has one, whose turn then is the last."""
        source = next(source for source, queue in self._queues.items() if queue)
        queue = self._queues[source] = self._queues.pop(source)
        return queue.popleft()
