"""Tens of thousands of frames with everything that goes wrong; a million: benchmarks/."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

from camera.soak import problems, soak

from edge_vit.camera.values import Counts

NUM_FRAMES = 20_000

ALONE = """
import pickle, sys
sys.path[:0] = sys.argv[2:]
from camera.soak import soak
sys.stdout.buffer.write(pickle.dumps(soak(int(sys.argv[1]))))
"""
"""A process of its own: what other tests left in this one is not the loop's memory."""


def soak_alone(num_frames):
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", ALONE, str(num_frames), str(tests), str(tests.parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return pickle.loads(done.stdout)


def test_every_frame_is_accounted_for_and_memory_stays_flat():
    result = soak_alone(NUM_FRAMES)
    assert problems(result) == []
    assert sum(result.given.values()) == NUM_FRAMES
    steady, reordered, file = result.summary.sources
    assert min(steady.num_reopened, reordered.num_reopened) > 3
    assert file.counts.dropped == 0
    assert file.counts.failed > 0  # runs that were meant to fail
    assert result.summary.counts.dropped > 0
    early = max(result.memory_mib[: len(result.memory_mib) // 2])
    assert result.memory_mib[-1] <= early + 4


def test_would_notice_a_frame_that_got_lost():
    result = soak(500, samples=2)
    assert problems(result) == []
    (first, *others) = result.summary.sources
    wrong = dataclasses.replace(first, counts=Counts(captured=first.counts.captured + 1))
    summary = dataclasses.replace(result.summary, sources=(wrong, *others))
    assert problems(dataclasses.replace(result, summary=summary))
