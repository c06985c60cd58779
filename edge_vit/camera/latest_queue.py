"""Frames between two stages: the newest of a live source, every one of a file."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from edge_vit.camera.threads import SYSTEM_CLOCK, Clock

T = TypeVar("T")


class LatestQueue(Generic[T]):
    """One short queue for each source, emptied in turns, so that no source starves another.

    In a full queue of a live source the newest item replaces the oldest; of another `put` waits for
    room. They hold `depth` and `file_depth` (default: `depth`) items.
    """

    def __init__(
        self,
        is_live: Sequence[bool],
        depth: int,
        clock: Clock = SYSTEM_CLOCK,
        *,
        file_depth: int | None = None,
    ) -> None:
        self._is_live = tuple(is_live)
        self._depths = [depth if live else file_depth or depth for live in is_live]
        self._clock = clock
        self._queues: list[deque[T]] = [deque() for _ in is_live]
        self._changed = threading.Condition()
        self._next = 0  # the queue whose turn it is
        self._is_closed = False

    def put(self, place: int, item: T) -> T | None:
        """Queue `item` of source `place`; return what is lost by it, `item` itself after the end.

        Waits for room where the source is not live.
        """
        with self._changed:
            queue, depth = self._queues[place], self._depths[place]
            while len(queue) >= depth and not self._is_live[place] and not self._is_closed:
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
            while not any(self._queues):
                if self._is_closed:
                    return []
                self._changed.wait()
            until_ns = self._clock.now_ns() + wait_ns
            while sum(map(len, self._queues)) < limit and not self._is_closed:
                if self._clock.now_ns() >= until_ns:
                    break
                self._clock.wait(self._changed, until_ns)
            items = [self._pop() for _ in range(min(limit, sum(map(len, self._queues))))]
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
            left = [item for queue in self._queues for item in queue]
            for queue in self._queues:
                queue.clear()
        self.close()
        return left

    def _pop(self) -> T:
        """The oldest item of the next queue that has one."""
        while not self._queues[self._next]:
            self._next = (self._next + 1) % len(self._queues)
        item = self._queues[self._next].popleft()
        self._next = (self._next + 1) % len(self._queues)
        return item
