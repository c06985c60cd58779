from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from camera.scripted import ScriptedClock, ScriptedSource, scripted_maker
from camera.scripted_loops import NEVER_SILENT
from PIL import Image

from edge_vit.camera.collect import collect_frames
from edge_vit.errors import MissingDependencyError, SourceError, SpecError


def collect(events, folder, count, clock=None, **settings):
    clock = clock or ScriptedClock()
    settings.setdefault("retry", NEVER_SILENT)
    with clock.passing():
        return collect_frames(
            scripted_maker(events, clock, rate=1000), folder, count, clock=clock, **settings
        )


def spaced(levels):
    """Yield each level of gray for some hundredths of a second of real time."""

    def shown(level):
        def show(source):
            time.sleep(0.001)
            return level

        return show

    for level in levels:
        yield from [shown(level)] * 20


def levels_of(paths):
    return [int(np.asarray(Image.open(path))[0, 0, 0]) for path in paths]


def test_takes_frames_that_lie_apart_in_time(tmp_path):
    levels = (number // 100 * 10 % 250 for number in range(10**7))
    paths = collect(levels, tmp_path / "frames", 5, interval_s=1)
    assert len(paths) == 5
    # A thousand frames a second of the script's time.
    assert min(np.diff([int(path.stem) for path in paths])) >= 500
    assert sorted(tmp_path.joinpath("frames").iterdir()) == paths


def test_near_duplicates_are_left_out(tmp_path):
    events = spaced([10, 11, 10, 12, *range(10, 250, 8), 11, 12] * 5)
    paths = collect(events, tmp_path / "frames", 4, interval_s=0.001)
    levels = levels_of(paths)
    assert len(levels) == 4
    assert min(np.diff(sorted(levels))) >= 3


def test_a_scene_that_stands_still_ends_early_and_says_so(tmp_path):
    class Notes:
        def __init__(self):
            self.notes = []

        def step(self, name, total=None):
            import contextlib

            return contextlib.nullcontext(lambda count: None)

        def note(self, text):
            self.notes.append(text)

    notes = Notes()
    paths = collect(iter(lambda: 7, None), tmp_path / "frames", 5, interval_s=2, progress=notes)
    assert levels_of(paths) == [7]
    assert notes.notes[0].startswith("1 of 5 frames: the scene showed nothing else")


def test_a_source_that_is_lost_is_taken_up_again(tmp_path):
    events = iter([10, SourceError("script: unplugged"), *spaced([60, 120] * 30)])
    paths = collect(
        events,
        tmp_path / "f",
        3,
        interval_s=0.001,
        retry=dataclasses.replace(NEVER_SILENT, first_retry_s=0.01),
    )
    assert sorted(levels_of(paths)) in ([10, 60, 120], [60, 120])


def test_a_source_that_gives_nothing_is_an_error(tmp_path):
    def refusing():
        while True:
            yield SourceError("script: refused")

    with pytest.raises(SourceError, match="script gave no frame: script: refused"):
        collect(refusing(), tmp_path / "f", 2)


def test_a_source_that_can_never_work_is_its_own_error(tmp_path):
    with pytest.raises(MissingDependencyError, match="needs av"):
        collect(iter([MissingDependencyError("it needs av")]), tmp_path / "f", 2)


@pytest.mark.parametrize(("count", "interval_s"), [(0, 1), (1, 0), (1, float("nan"))])
def test_refuses_impossible_numbers(tmp_path, count, interval_s):
    with pytest.raises(SpecError, match="expected both above 0"):
        collect([], tmp_path / "f", count, interval_s=interval_s)


def test_a_file_is_no_camera(tmp_path):
    clock = ScriptedClock()
    maker = scripted_maker(range(3), clock, is_live=False)
    with pytest.raises(SpecError, match="script is no camera: its frames are taken with --calib"):
        collect_frames(maker, tmp_path / "f", 3)
    assert ScriptedSource(iter([]), clock, 1).read() is None
