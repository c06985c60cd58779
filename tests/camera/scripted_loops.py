"""Ways to run the production loop on scripted frames."""

from __future__ import annotations

import threading
from unittest.mock import patch

from camera.scripted import ScriptedClock, scripted_maker, tiny_spec

from edge_vit.camera import loop as loop_module
from edge_vit.camera.capture import RetryPolicy
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.stages import LoopOptions
from edge_vit.runtime.fake import FakeSession

SPEC = tiny_spec()

# Scripted time passes while a thread waits for a core: it is not taken for silence.
NEVER_SILENT = RetryPolicy(stale_after_s=10**7, open_timeout_s=10**7)


def unhurried():
    """Let stages and sinks end in their own time when a loop is stopped: a busy machine is slow."""
    return patch.multiple(loop_module, _STAGES_END_NS=60 * 10**9, _SINKS_END_NS=60 * 10**9)


def run_loop(makers, clock, sinks=(), session=None, **options):
    loop = CameraLoop(
        makers,
        session or FakeSession(SPEC),
        SPEC,
        sinks=sinks,
        options=LoopOptions(**options),
        clock=clock,
    )
    return loop.run()


class Faulty(FakeSession):
    """A session that raises what it is told to, on the runs that it is told to."""

    def __init__(self, errors):
        super().__init__(SPEC)
        self._errors, self._runs = errors, 0

    def _run(self, feeds):
        self._runs += 1
        if self._runs - 1 in self._errors:
            raise self._errors[self._runs - 1]
        return super()._run(feeds)


def endless(stop_at=10**9):
    yield from range(stop_at)


def stop_after(loop, sink, count):
    """Let a sink stop the loop when it has taken `count` answers."""
    write = sink.write

    def write_and_stop(prediction):
        write(prediction)
        if len(sink.predictions) == count:
            threading.Thread(target=loop.stop).start()

    sink.write = write_and_stop


def live_loop(events, sink, count, clock=None, session=None, **options):
    """Run a live source until `sink` has `count` answers; return the summary."""
    clock = clock or ScriptedClock()
    options.setdefault("prediction_timeout_s", 0)  # scripted time flies
    options.setdefault("retry", NEVER_SILENT)
    loop = CameraLoop(
        [scripted_maker(events, clock)],
        session or FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        options=LoopOptions(**options),
        clock=clock,
    )
    stop_after(loop, sink, count)
    with clock.passing(), unhurried():
        return loop.run()
