"""Whatever is raised, in whatever thread: the loop ends or goes on, with the reason, in time."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time

import numpy as np
import pytest
from camera.scripted import Recorder, ScriptedClock, ScriptedSource, scripted_maker
from camera.scripted_loops import NEVER_SILENT, SPEC, unhurried

from edge_vit.camera.capture import SourceCapture
from edge_vit.camera.collect import collect_frames
from edge_vit.camera.loop import CameraLoop
from edge_vit.camera.sources.source import SourceMaker
from edge_vit.camera.stages import LoopOptions
from edge_vit.camera.systemd import Notifier
from edge_vit.errors import EdgeVitError, ImageError, ShapeError, SourceError
from edge_vit.runtime.fake import FakeSession

WITHIN_S = 120
FAULTS = (RuntimeError("broken"), SystemExit(3), MemoryError(), OSError(5, "broken"))


class Fault:
    """Raises from the call of number `first` on, as often as `times` says."""

    def __init__(self, error, first=0, times=10**9):
        self.error, self.first, self.times, self.calls = error, first, times, 0

    def __call__(self):
        self.calls += 1
        if self.first < self.calls <= self.first + self.times:
            raise self.error

    def before(self, function):
        def faulty(*arguments, **named):
            self()
            return function(*arguments, **named)

        return faulty


@pytest.fixture(autouse=True)
def no_thread_dies_silently(monkeypatch):
    """Fail where an exception leaves a thread: it would be printed and forgotten."""
    escaped = []
    monkeypatch.setattr(threading, "excepthook", escaped.append)
    yield
    assert escaped == []


def build(fault, where, *, is_live):
    """Return a loop one of whose callables is faulty, and its sink."""
    clock, sink, session = ScriptedClock(), Recorder(), FakeSession(SPEC)
    notifier, steps = Notifier(None), []
    script = iter(range(10**9 if is_live else 60))
    if where == "capture.pause":
        script = itertools.chain([SourceError("unplugged")], script)
    maker = scripted_maker(script, clock, is_live=is_live)

    def make():
        source = maker.make()
        for name in ("open", "read", "close", "abort"):
            if where == f"source.{name}":
                setattr(source, name, fault.before(getattr(source, name)))
        return source

    if where == "source.make":
        make = fault.before(make)
    if where.startswith("sink."):
        name = where.partition(".")[2]
        setattr(sink, name, fault.before(getattr(sink, name)))
    if where == "session":
        session._run = fault.before(session._run)
    if where == "step":
        steps = [fault.before(lambda prediction: prediction)]
    if where.startswith("notifier."):
        name = where.partition(".")[2]
        setattr(notifier, name, fault.before(getattr(notifier, name)))
    loop = CameraLoop(
        [SourceMaker(maker.name, is_live, make)],
        session,
        SPEC,
        sinks=[sink],
        steps=steps,
        notifier=notifier,
        options=LoopOptions(
            prediction_timeout_s=0,
            retry=dataclasses.replace(NEVER_SILENT, first_retry_s=0.01, max_retry_s=0.05),
        ),
        clock=clock,
    )
    insides = {
        "prepare": (loop._stages, "_prepare_pixels"),
        "captured.take": (loop._stages.captured, "take"),
        "ready.take": (loop._stages._ready, "take"),
        "ready.put": (loop._stages._ready, "put"),
        "inferred.take": (loop._stages._inferred, "take"),
        "inferred.put": (loop._stages._inferred, "put"),
        "meter.add": (loop._metrics, "add"),
        "capture.deliver": (loop._captures[0], "_deliver"),
        "capture.check": (loop._captures[0], "check"),
        "capture.pause": (loop._captures[0], "_chance"),
        "emit": (loop._stages, "_emit"),
    }
    if where in insides:
        owner, name = insides[where]
        setattr(owner, name, fault.before(getattr(owner, name)))
    return loop, sink, clock


def run(loop, clock, stop_when=None):
    """Return what `loop.run` raised, or its summary; fail where it does not end in time."""
    outcome = []

    def work():
        try:
            outcome.append(loop.run())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    with clock.passing(), unhurried():
        thread.start()
        deadline = time.monotonic() + WITHIN_S
        while thread.is_alive() and time.monotonic() < deadline:
            if stop_when is not None and stop_when():
                loop.stop()
            thread.join(0.01)
    assert not thread.is_alive(), "the loop hangs"
    return outcome[0]


def assert_reasoned(outcome, loop):
    """Assert that the loop ended with a reason and a status, and that its counts add up."""
    assert isinstance(outcome, EdgeVitError), outcome
    assert outcome.exit_status in (1, 4)
    assert len(str(outcome)) > 10 and "\n" not in str(outcome)
    counts = loop.summary().counts
    assert counts.captured == counts.answered + counts.dropped + counts.failed + counts.in_flight


EVERYWHERE = (
    *("source.make", "source.open", "source.read"),
    *("prepare", "session", "step", "sink.open", "sink.write"),
    *("captured.take", "ready.take", "ready.put", "inferred.take", "inferred.put"),
    *("meter.add", "capture.deliver", "capture.check", "emit"),
    "notifier.alive",
)


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("where", EVERYWHERE)
def test_a_file_whose_way_breaks_ends_with_the_reason(where, first):
    if where in ("source.make", "source.open", "sink.open"):
        first = 0  # called once
    if where in ("capture.check", "notifier.alive"):
        first = min(first, 1)  # called a few times
    loop, _, clock = build(Fault(RuntimeError("broken"), first), where, is_live=False)
    outcome = run(loop, clock)
    assert_reasoned(outcome, loop)
    assert "broken" in str(outcome) or "have no answer" in str(outcome)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("where", ["source.read", "prepare", "session", "sink.write", "ready.take"])
def test_it_does_not_matter_what_is_raised(where, fault):
    loop, _, clock = build(Fault(fault, 7), where, is_live=False)
    assert_reasoned(run(loop, clock), loop)


@pytest.mark.parametrize("where", ["source.close", "source.abort", "notifier.ready"])
def test_what_fails_beside_the_answers_is_logged_and_costs_none(where, caplog):
    loop, sink, clock = build(Fault(RuntimeError("broken")), where, is_live=False)
    outcome = run(loop, clock)
    assert not isinstance(outcome, BaseException), outcome
    assert sink.numbers == list(range(60))
    if where != "source.abort":  # of a file that has ended it is called, or not
        assert any("broken" in message for message in caplog.messages)


@pytest.mark.parametrize("is_live", [True, False])
def test_a_sink_that_cannot_finish_ends_the_loop_with_its_reason(is_live):
    loop, sink, clock = build(Fault(RuntimeError("broken")), "sink.close", is_live=is_live)
    outcome = run(loop, clock, lambda: is_live and len(sink.predictions) >= 10)
    assert str(outcome) == "closing sink recorder failed: RuntimeError: broken"
    assert is_live or sink.numbers == list(range(60))


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    "where", ["source.make", "source.open", "source.read", "prepare", "session", "sink.write"]
)
def test_a_camera_goes_on_after_a_fault(where, times):
    fault = Fault(RuntimeError("broken"), 0, times)
    loop, sink, clock = build(fault, where, is_live=True)
    outcome = run(loop, clock, lambda: len(sink.predictions) >= 10)
    assert not isinstance(outcome, BaseException), outcome
    assert len(sink.predictions) >= 10 and fault.calls > times


@pytest.mark.parametrize(
    "where", ["captured.take", "ready.take", "inferred.put", "emit", "capture.pause"]
)
def test_a_camera_whose_own_stages_break_ends_with_the_reason(where):
    loop, _, clock = build(Fault(RuntimeError("broken")), where, is_live=True)
    outcome = run(loop, clock)
    assert_reasoned(outcome, loop)
    assert "broken" in str(outcome)


class Rows(FakeSession):
    """A session that gives another number of rows than it got images."""

    def __init__(self, rows):
        super().__init__(SPEC)
        self.rows = rows

    def _run(self, feeds):
        return {"logits": np.zeros((self.rows, 10), np.float32)}


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize(("rows", "batch_size"), [(1, 4), (2, 1), (0, 1), (3, 4)])
def test_a_model_with_another_number_of_rows_ends_the_loop(rows, batch_size, is_live):
    clock = ScriptedClock()
    loop = CameraLoop(
        [scripted_maker(iter(range(10**6)), clock, is_live=is_live)],
        Rows(rows),
        SPEC,
        sinks=[Recorder()],
        options=LoopOptions(batch_size=batch_size, deadline_ms=50, prediction_timeout_s=0),
        clock=clock,
    )
    outcome = run(loop, clock)
    assert isinstance(outcome, ShapeError)
    assert rf"got shape ({rows}, 10) for a batch of" in str(outcome)


def test_a_thread_that_cannot_be_started_is_a_reason(monkeypatch):
    loop, _, clock = build(Fault(RuntimeError("unused")), "nowhere", is_live=False)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    ours = threading.Thread.start

    def start(thread):
        (refuse if thread.name == "infer" else ours)(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    outcome = run(loop, clock)
    assert_reasoned(outcome, loop)
    assert "can't start new thread" in str(outcome)


def test_the_first_frame_of_a_camera_may_be_broken():
    clock, sink = ScriptedClock(), Recorder()
    script = iter(range(10**6))
    openings = []

    class Broken(ScriptedSource):
        def open(self):
            openings.append(self)
            if len(openings) < 4:
                raise ImageError("a frame is damaged")
            return super().open()

    loop = CameraLoop(
        [SourceMaker("camera", True, lambda: Broken(script, clock, 1 / 30))],
        FakeSession(SPEC),
        SPEC,
        sinks=[sink],
        options=LoopOptions(prediction_timeout_s=0, retry=NEVER_SILENT),
        clock=clock,
    )
    outcome = run(loop, clock, lambda: len(sink.predictions) >= 5)
    assert not isinstance(outcome, BaseException), outcome
    assert len(openings) == 4
    assert dataclasses.asdict(outcome.sources[0])["last_error"] == "a frame is damaged"


class TestCollecting:
    """Frames for calibration: one source, and the caller's thread."""

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
    @pytest.mark.parametrize("name", ["open", "read", "close"])
    def test_a_fault_is_a_try_more(self, name, fault, tmp_path):
        clock = ScriptedClock()
        maker = scripted_maker((number * 40 % 251 for number in range(10**9)), clock, rate=2)
        faulty = Fault(fault, 0, 2)

        def make():
            source = maker.make()
            setattr(source, name, faulty.before(getattr(source, name)))
            return source

        retry = dataclasses.replace(NEVER_SILENT, first_retry_s=0.01, max_retry_s=0.05)
        with clock.passing():
            paths = collect_frames(
                SourceMaker("camera", True, make), tmp_path, 1, clock=clock, retry=retry
            )
        assert len(paths) == 1

    def test_a_thread_that_ends_is_the_reason(self, tmp_path, monkeypatch):
        monkeypatch.setattr(SourceCapture, "_explain", Fault(RuntimeError("broken")).before(None))
        clock = ScriptedClock()
        maker = scripted_maker([SourceError("unplugged")], clock)
        with clock.passing(), pytest.raises(EdgeVitError, match="broken"):
            collect_frames(maker, tmp_path, 3, clock=clock)
