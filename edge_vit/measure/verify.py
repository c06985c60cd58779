"""Accuracy and latency of every precision of a bundle in one run, and the verdict on them."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_vit.bundle import TABLE, Bundle
from edge_vit.bundle.record import HalfProof
from edge_vit.data.bad_images import DEFAULT_MAX_BAD, MaxBad, noted
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.errors import BackendError, MissingDependencyError
from edge_vit.formats import REFERENCE, NumberFormat, find_format
from edge_vit.measure.accuracy import evaluate
from edge_vit.measure.environment import read_environment
from edge_vit.measure.evaluation import emulate_half
from edge_vit.measure.latency import measure_reopened, timed_images
from edge_vit.measure.limits import Limits
from edge_vit.measure.recorder import runs_needed
from edge_vit.measure.records import CalibrationImages
from edge_vit.measure.results import AccuracyReport, LatencyReport, VerifyReport
from edge_vit.measure.spending import LookHistory, read_history
from edge_vit.measure.verdict import choose_candidate, decide
from edge_vit.printable import one_line
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.backends import EVERYWHERE, available_backends
from edge_vit.runtime.session import DEFAULT_OPTIONS, Session, SessionOptions, open_session
from edge_vit.spec.table import CalibrationTable
from edge_vit.values import checked

_WARMUP = 10


@checked
def verify(
    bundle: Bundle | Path | str,
    source: str | Path | ImageSource,
    limits: Limits | None = None,
    *,
    backend: str = "auto",
    options: SessionOptions = DEFAULT_OPTIONS,
    iterations: int = 200,
    num_images: int | None = None,
    earlier: VerifyReport | None = None,
    max_bad: MaxBad = DEFAULT_MAX_BAD,
    look: int | None = None,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Return what every precision of `bundle` is worth on this machine, and which one to ship.

    The images of `source` should not be calibrated on: class folders give labels, a flat folder
    gives agreement only; `num_images` of them are spread evenly, and `max_bad` may be left out
    because they cannot be read. With the backend ``all``, for each that this machine has, the
    reference is fp32 on ONNX Runtime; one that cannot run a graph is left out, and a note says why.
    The candidate must not fall behind an `earlier` report. `look` is the number of this look at the
    same candidate, from 1; where None, it is counted from what `record_look` left in the bundle.

    Raises:
        SpecError: the bundle holds nothing to verify, or an option is out of range.
        ImageError: there are no images, or one cannot be read.
        ArtifactError: a file of the bundle is missing, truncated or edited.
        BackendError: a graph cannot be loaded or run, or its output is not finite.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    bundle.artifact(bundle.graph())
    choose_candidate(bundle.precisions)
    bundle_digest = bundle.digest
    spec = bundle.spec
    images = open_image_source(source, limit=num_images, max_bad=max_bad, spec=spec)
    table = bundle.read_table() if bundle.has(TABLE) else None
    history = LookHistory() if look else read_history(bundle)
    with contextlib.ExitStack() as stack:
        stack.enter_context(noted(images, progress))
        sessions, openers, left_out = _open_all(stack, bundle, backend, options, progress)
        accuracy = evaluate(
            sessions[0],
            sessions,
            spec,
            images,
            data=one_line(str(source)) if isinstance(source, str | Path) else type(source).__name__,
            calibrated_on=CalibrationImages.of(table),
            progress=progress,
        )
    latency = measure_reopened(
        openers,
        batch_size=spec.static_batch or 1,
        warmup=_WARMUP,
        iterations=iterations,
        images=timed_images(images, spec),
        progress=progress,
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    of_accuracy = dict.fromkeys(note for each in accuracy for note in each.notes)
    return VerifyReport(
        bundle=str(bundle.path),
        bundle_digest=bundle_digest,
        created=now.isoformat(timespec="seconds"),
        model=spec,
        verdict=decide(
            accuracy,
            latency,
            limits,
            earlier=earlier,
            look=look or history.number(bundle_digest, accuracy[0].data_digest),
        ),
        accuracy=accuracy,
        latency=latency,
        notes=(*of_accuracy, *left_out, *_notes(accuracy, latency, bundle, table)),
        environment=read_environment(),
    )


Opener = Callable[[], Session]


def _open_all(
    stack: contextlib.ExitStack,
    bundle: Bundle,
    backend: str,
    options: SessionOptions,
    progress: Progress,
) -> tuple[list[Session], list[Opener], list[str]]:
    """Open every precision on each backend, the reference first; say what is left out.

    With each session comes what opens one to time: FP16 answers as a GPU would, and not in its
    own time.
    """
    names = [backend]
    if backend == "all":
        names = sorted(available_backends(), key=lambda name: name != EVERYWHERE)
    sessions: list[Session] = []
    openers: list[Opener] = []
    left_out = []
    for name, precision in itertools.product(names, bundle.precisions):
        opener = functools.partial(open_session, bundle, precision, name, options, progress)
        try:
            session = stack.enter_context(opener())
            sessions.append(stack.enter_context(emulate_half(session, bundle, options)))
            openers.append(opener)
        except (BackendError, MissingDependencyError) as error:
            if backend != "all":
                raise
            left_out.append(f"{precision} on {name} is left out: {error}")
    if not sessions or sessions[0].precision != REFERENCE:
        raise BackendError(f"no backend here runs {REFERENCE}, the reference. {' '.join(left_out)}")
    if backend != "all":
        left_out += [f"Degraded: {s.degraded}." for s in sessions if s.degraded]
    return sessions, openers, left_out


def _notes(
    accuracy: Sequence[AccuracyReport],
    latency: Sequence[LatencyReport],
    bundle: Bundle,
    table: CalibrationTable | None,
) -> tuple[str, ...]:
    """What a reader of the numbers has to know."""
    data, notes = accuracy[0], []
    if table is None:
        notes.append(
            f"The bundle has no {TABLE}: whether images were also calibrated on was not checked."
        )
    elif table.image_digests and not table.image_signatures:
        notes.append(
            f"The bundle's {TABLE} tells calibration's images by their pixels alone: those encoded "
            "anew since are not found. Run: edgevit calibrate"
        )
    iterations, wanted = latency[0].iterations, runs_needed(99)
    if iterations < wanted:
        notes.append(
            f"p99 is not told: there were {iterations:,} timed runs, and {wanted:,} are wanted "
            f"(--iterations {wanted})."
        )
    on_cpu = dict.fromkeys(r.precision for r in latency if not r.is_on_gpu)
    emulated = (each for each in map(find_format, on_cpu) if each.emulate)
    notes += [_about_emulation(each, bundle) for each in emulated]
    notes.append(f"Evaluated on {data.num_images:,} images with SHA-256 {data.data_digest}.")
    return tuple(notes)


def _about_emulation(emulated: NumberFormat, bundle: Bundle) -> str:
    """What may be concluded about a GPU from a format that a CPU emulates."""
    speed = (
        f"{emulated.title} on a CPU is mostly float32 between casts: its speed says nothing about "
        "a GPU"
    )
    if not bundle.has(emulated.proof):
        return f"{speed}, and its accuracy does not prove that nothing overflows there."
    proof = HalfProof.from_bytes(bundle.read(emulated.proof))
    return (
        f"{speed}. That nothing overflows there was proven when it was written, node by node with "
        f"every output rounded to float16: {proof.num_images:,} images, cosine at least "
        f"{proof.cosine_min:.6f} with fp32."
    )
