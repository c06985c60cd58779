from __future__ import annotations

import threading

import pytest
from camera.scripted import ScriptedClock

from edge_vit.camera.latest_queue import LatestQueue


def test_the_newest_of_a_live_source_takes_the_place_of_the_oldest():
    queue = LatestQueue(1)
    assert [queue.put(0, number, is_live=True) for number in (1, 2, 3)] == [None, 1, 2]
    assert queue.take() == [3]


def test_of_a_deeper_queue_the_oldest_is_lost():
    queue = LatestQueue(3)
    assert [queue.put(0, number, is_live=True) for number in range(5)] == [None, None, None, 0, 1]
    assert queue.take(limit=8) == [2, 3, 4]


def test_a_file_waits_for_room():
    queue, put = LatestQueue(1), threading.Event()
    queue.put(0, 1, is_live=False)
    thread = threading.Thread(target=lambda: (queue.put(0, 2, is_live=False), put.set()))
    thread.start()
    assert not put.wait(0.05)
    assert queue.take() == [1]
    assert put.wait(30)
    assert queue.take() == [2]
    thread.join()


def test_sources_come_in_turns():
    queue = LatestQueue(3)
    for number in range(3):
        queue.put(0, f"a{number}", is_live=True)
    queue.put(2, "c0", is_live=True)
    assert queue.take(limit=4) == ["a0", "c0", "a1", "a2"]
    queue.put(0, "a3", is_live=True)
    queue.put(1, "b0", is_live=True)
    assert queue.take() == ["a3"]
    assert queue.take() == ["b0"]


def test_a_batch_waits_until_it_is_full_or_its_time_is_up():
    clock = ScriptedClock()
    queue, taken = LatestQueue(4, clock), []
    queue.put(0, 1, is_live=True)
    thread = threading.Thread(target=lambda: taken.append(queue.take(4, wait_ns=10**9)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    queue.put(0, 2, is_live=True)
    clock.advance(0.5)
    thread.join(0.05)
    assert thread.is_alive()
    while thread.is_alive():  # it may begin to count after we have moved on
        clock.advance(0.6)
        thread.join(0.05)
    assert taken == [[1, 2]]


def test_what_is_queued_can_be_taken_after_the_end():
    queue = LatestQueue(2)
    queue.put(0, 1, is_live=True)
    queue.close()
    assert queue.put(0, 2, is_live=True) == 2
    assert queue.take() == [1]
    assert queue.take() == []


@pytest.mark.parametrize("is_live", [True, False])
def test_clearing_gives_back_what_nobody_took_and_lets_go_who_waits(is_live):
    queue = LatestQueue(1)
    queue.put(0, 1, is_live=is_live)
    lost = []
    thread = threading.Thread(target=lambda: lost.append(queue.put(0, 2, is_live=is_live)))
    thread.start()
    thread.join(0.05)
    left = queue.clear()
    thread.join(30)
    assert sorted([*left, *(item for item in lost if item is not None)]) == [1, 2]
    assert queue.take() == []
