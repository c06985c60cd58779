"""Tens of thousands of frames with everything that goes wrong; a million: benchmarks/."""

from __future__ import annotations

import dataclasses

from camera.soak import problems, soak

from edge_vit.camera.values import Counts

NUM_FRAMES = 50_000


def test_every_frame_is_accounted_for_and_memory_stays_flat():
    result = soak(NUM_FRAMES)
    assert problems(result) == []
    assert sum(result.given.values()) == NUM_FRAMES
    steady, reordered, file = result.summary.sources
    assert min(steady.num_reopened, reordered.num_reopened) > 3
    assert file.counts.dropped == 0
    assert file.counts.failed > 0  # runs that were meant to fail
    assert result.summary.counts.dropped > 0
    early = max(result.memory_mib[: len(result.memory_mib) // 2])
    assert result.memory_mib[-1] <= early + 8


def test_would_notice_a_frame_that_got_lost():
    result = soak(500, samples=2)
    assert problems(result) == []
    (first, *others) = result.summary.sources
    wrong = dataclasses.replace(first, counts=Counts(captured=first.counts.captured + 1))
    summary = dataclasses.replace(result.summary, sources=(wrong, *others))
    assert problems(dataclasses.replace(result, summary=summary))
