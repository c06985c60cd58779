from __future__ import annotations

import logging
import time

from edge_vit.camera.complaints import Complaints


def test_the_same_complaint_is_told_once_a_minute_with_a_count(monkeypatch, caplog):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    complaints = Complaints(logging.getLogger("edge_vit.test"))
    for number in range(5):
        complaints.tell("lost", f"frame {number}: lost")
        now[0] += 10
    complaints.tell("late", "frame 5: late")
    complaints.tell("lost", "frame 6: lost")
    now[0] += 61
    complaints.tell("lost", "frame 7: lost")
    assert caplog.messages == [
        "frame 0: lost",
        "frame 5: late (4 more like the last one)",
        "frame 6: lost",
        "frame 7: lost",
    ]
