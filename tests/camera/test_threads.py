from __future__ import annotations

import logging
import time

from edge_vit.camera.threads import RateLimitedWarnings


def test_the_same_complaint_is_told_once_a_minute_with_a_count(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    warnings = RateLimitedWarnings(logging.getLogger("edge_vit.test"))
    for number in range(5):
        warnings.warn("lost", f"frame {number}: lost")
        now[0] += 10
    warnings.warn("late", "frame 5: late")
    warnings.warn("lost", "frame 6: lost")
    now[0] += 61
    warnings.warn("lost", "frame 7: lost")
    assert caplog.messages == [
        "frame 0: lost",
        "frame 5: late",
        "frame 7: lost (5 more of them in between)",
    ]


def test_complaints_that_take_turns_are_told_once_a_minute_too(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    warnings = RateLimitedWarnings(logging.getLogger("edge_vit.test"))
    for number in range(100):
        warnings.warn("lost" if number % 2 else "late", f"frame {number}")
        now[0] += 0.1
    assert caplog.messages == ["frame 0", "frame 1"]


def test_a_thing_that_is_worded_anew_each_time_does_not_fill_the_log(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    warnings = RateLimitedWarnings(logging.getLogger("edge_vit.test"))
    for number in range(120):
        warnings.warn(f"frame {number} is bad", f"frame {number} is bad")
        now[0] += 1
    assert len(caplog.messages) == 2 * 16
