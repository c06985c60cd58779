"""The latency of one precision of a bundle, with its parts and energy."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path

from edge_vit.bundle import Bundle
from edge_vit.data.bad_images import DEFAULT_MAX_BAD, MaxBad, noted
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.preprocess import UInt8Array, preprocess
from edge_vit.device import EnergyMeter, EnergyReport, open_telemetry
from edge_vit.measure.latency import NUM_TIMED_IMAGES, Plan, time_session, timed_images
from edge_vit.measure.recorder import stage_of
from edge_vit.measure.results import Energy, LatencyReport, Stage, TimingWarning
from edge_vit.printable import one_line
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.options import DEFAULT_OPTIONS, SessionOptions
from edge_vit.runtime.session import Session, open_session, run_images
from edge_vit.spec import ModelSpec, Precision
from edge_vit.tasks import task_of
from edge_vit.values import checked

_NUM_STAGE_RUNS = 50
_ORDER = (
    *("decode", "preprocess", "host-to-device", "GPU", "device-to-host"),
    *("run", "end-to-end"),
)


@checked
def benchmark(
    bundle: Bundle | Path | str,
    precision: Precision | None = None,
    backend: str = "auto",
    options: SessionOptions = DEFAULT_OPTIONS,
    plan: Plan = Plan(),  # noqa: B008  # frozen
    *,
    images: Path | str | ImageSource | None = None,
    max_bad: MaxBad = DEFAULT_MAX_BAD,
    progress: Progress = SILENT,
) -> LatencyReport:
    """Return the latency of one precision of `bundle`, its parts and energy."""
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    precision = precision or bundle.smallest_precision
    spec, source, pixels = bundle.spec, None, None
    if images is not None:
        source = open_image_source(
            images, limit=NUM_TIMED_IMAGES, has_truth=False, max_bad=max_bad, spec=spec
        )
        with noted(source, progress):
            pixels = timed_images(source, spec)
    batch_size = plan.batch_size or spec.static_batch or 1
    options = dataclasses.replace(options, batch_size=batch_size)
    with open_session(bundle, precision, backend, options, progress) as session:
        report = _time(session, plan, pixels, progress)
        if report.remark:  # of larger batches it is known when one has run
            progress.note(report.remark)
        stages = report.stages
        if source is not None:
            stages = (*_time_stages(session, spec, source, progress), *stages)
    return dataclasses.replace(
        report,
        stages=tuple(sorted(stages, key=lambda stage: _ORDER.index(stage.name))),
        timed_on="noise" if images is None else one_line(str(images)),
    )


def _time_stages(
    session: Session, spec: ModelSpec, source: ImageSource, progress: Progress
) -> tuple[Stage, ...]:
    items = itertools.chain.from_iterable(itertools.repeat(source))
    times: dict[str, list[float]] = {"decode": [], "preprocess": [], "end-to-end": []}
    with progress.step("timing from image to answer", _NUM_STAGE_RUNS) as advance:
        for _ in range(_NUM_STAGE_RUNS):
            start = time.perf_counter()
            pixels = next(items).pixels
            decoded = time.perf_counter()
            model_input = preprocess(pixels, spec.preprocess)
            preprocessed = time.perf_counter()
            task_of(spec).decode(spec, run_images(session, model_input[None]))
            end = time.perf_counter()
            times["decode"].append(1000 * (decoded - start))
            times["preprocess"].append(1000 * (preprocessed - decoded))
            times["end-to-end"].append(1000 * (end - decoded))
            advance(1)
    return tuple(stage_of(name, samples) for name, samples in times.items())


def _time(
    session: Session, plan: Plan, pixels: UInt8Array | None, progress: Progress
) -> LatencyReport:
    """Time the scenario, with the power measured where the machine tells it."""
    with open_telemetry() as reader:
        if reader.read().power_w is None:
            return time_session(session, plan, images=pixels, progress=progress)
        meter = EnergyMeter(reader.read)
        report = time_session(session, plan, images=pixels, meter=meter, progress=progress)
        return add_energy(report, meter.report)


def add_energy(report: LatencyReport, measured: EnergyReport) -> LatencyReport:
    """Return `report` with what its timed runs drew, and a warning where they were slowed down."""
    warnings = report.warnings
    if measured.was_throttled:
        why = ", ".join(measured.throttling) or f"{measured.num_throttle_events} events"
        sentence = (
            f"The machine was slowed down while it was timed ({why}): cool it, or allow it "
            "more power, and measure again."
        )
        warnings = (*warnings, TimingWarning("throttled", sentence))
    energy = None
    if measured.joules is not None and measured.mean_w is not None:
        # Power is known for `measured_s` of the block; what it drew on average it drew throughout.
        joules = measured.mean_w * measured.duration_s
        num_images = report.iterations * report.batch_size
        energy = Energy(joules / num_images, measured.mean_w, measured.power_source)
    return dataclasses.replace(report, energy=energy, warnings=warnings)
