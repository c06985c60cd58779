"""How the predictions of each precision compare with the reference's: one pass for all of them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edge_vit.data.bad_images import NUM_NAMED, TolerantSource, bad_of, notes_of, positions
from edge_vit.data.images import ImageItem, ImageSource
from edge_vit.data.perceptual import signature
from edge_vit.data.preprocess import digest, preprocess
from edge_vit.errors import BackendError, ImageError, SpecError
from edge_vit.formats import find_format
from edge_vit.measure.accuracy_report import report_of
from edge_vit.measure.comparison import Comparison, flatten, join_outputs, label_of, set_answers
from edge_vit.measure.environment import read_environment
from edge_vit.measure.partial import PartialAccuracy, SeenImage, Subject
from edge_vit.measure.records import (
    RECORD,
    CalibrationImages,
    find_clusters,
    make_records,
    pack,
    unpack,
)
from edge_vit.measure.results import AccuracyReport
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.session import Session, run_images
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.memo import KeptOutputs
from edge_vit.values import checked

Save = Callable[[tuple[PartialAccuracy, ...]], None]
"""Takes what is known so far, one for each candidate, after a whole number of images."""

NO_IMAGES = CalibrationImages()

SECONDS_BETWEEN_SAVES = 10.0
NUM_WORST = 12  # disagreements that a report shows


@checked
def evaluate(
    reference: Session,
    candidates: Sequence[Session],
    spec: ModelSpec,
    source: ImageSource,
    *,
    data: str = "",
    calibrated_on: CalibrationImages = NO_IMAGES,
    num_worst: int = NUM_WORST,
    progress: Progress = SILENT,
) -> tuple[AccuracyReport, ...]:
    """Return how each of `candidates` compares with `reference`, in their order.

    Every image goes through each session once, and a short record of it is kept; for `features` the
    feature vectors too, since a nearest neighbour can only be found among all images. The reference
    may be one of the candidates. `data` is where the images are from, for the report; those of
    `calibrated_on` do not decide.

    Raises:
        ImageError: there are no images, or one cannot be read.
        SpecError: a label is none of the model's classes, or one image has no neighbour to find.
        BackendError: an output is not finite; the message names the image and the precision.
    """
    parts = evaluate_part(
        reference,
        candidates,
        spec,
        source,
        data=data,
        calibrated_on=calibrated_on,
        num_worst=num_worst,
        progress=progress,
    )
    if not all(part.num_images for part in parts):
        raise ImageError("images to evaluate on: got none, expected at least 1")
    return tuple(map(report_of, parts))


def evaluate_part(
    reference: Session,
    candidates: Sequence[Session],
    spec: ModelSpec,
    source: ImageSource,
    *,
    data: str = "",
    bundle_digest: str = "",
    part: tuple[int, int] = (1, 1),
    calibrated_on: CalibrationImages = NO_IMAGES,
    num_worst: int = NUM_WORST,
    start: Sequence[PartialAccuracy] = (),
    save: Save | None = None,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
    progress: Progress = SILENT,
) -> tuple[PartialAccuracy, ...]:
    """Return what is known of each of `candidates` over the images of `source`, which may be none.

    As `evaluate`, of one `part` of the images (which of how many). `save` is called now and then
    with what is known so far; `start` is what it was called with last, to go on from there.
    """
    if num_worst < 0:
        raise SpecError(f"num_worst: got {num_worst}, expected 0 or more")
    task = task_of(spec)
    if task.needs_all_images and (part != (1, 1) or save is not None or start):
        raise SpecError(
            f"{spec.name} gives {spec.outputs[0].name}, which are judged by their nearest "
            "neighbour among all images: evaluate them in one piece, without --shard and --resume"
        )
    subjects = [
        subject_of(reference, session, spec, source, data, bundle_digest, num_worst)
        for session in candidates
    ]
    earlier: Sequence[PartialAccuracy | None] = start or [None] * len(candidates)
    environment = read_environment()
    comparisons = [
        Comparison(spec, subject.labels, num_worst, old)
        for subject, old in zip(subjects, earlier, strict=True)
    ]
    num_bad, bad_before = (start[0].num_bad, start[0].bad) if start else (0, ())
    num_done = start[0].num_images + num_bad if start else 0
    records = bytearray(unpack(start[0].records, RECORD).tobytes() if start else b"")
    max_bad = source.num_allowed if isinstance(source, TolerantSource) else 0
    gallery: list[Outputs] = []
    saved_at = time.monotonic()

    def known() -> tuple[PartialAccuracy, ...]:
        bad, packed = bad_of(source), pack(records)
        notes = source.source_notes if isinstance(source, TolerantSource) else notes_of(source)
        return tuple(
            PartialAccuracy(
                subject=subject,
                part=part,
                environment=environment,
                records=packed,
                outcomes=pack(each.outcomes),
                measured=each.measured,
                worst=each.worst,
                num_bad=num_bad + len(bad),
                bad=tuple(sorted((*bad_before, *bad.values())))[:NUM_NAMED],
                max_bad=max_bad,
                notes=(*notes, *filter(None, (session.remark,))),
            )
            for subject, each, session in zip(subjects, comparisons, candidates, strict=True)
        )

    with progress.step("evaluating", len(source)) as advance:
        if num_done:
            advance(num_done)
        for index, item in positions(source, num_done, num_bad):
            image = _see(index, item, spec)  # alone: no image can depend on others
            expected, path = _run(reference, spec, image)
            if task.needs_all_images:
                gallery.append(expected)
            for session, comparison in zip(candidates, comparisons, strict=True):
                outputs = expected
                if session is not reference:
                    outputs, _ = _run(session, spec, image, path)
                comparison.add(image, expected, outputs)
            records += _record(image, expected, spec, calibrated_on)
            if save is not None and time.monotonic() - saved_at >= seconds_between_saves:
                save(known())
                saved_at = time.monotonic()
            advance(1)
    if gallery:
        clusters, every = find_clusters(pack(records)), join_outputs(gallery)
        # Among different images: a copy would always find its original.
        different = {name: output[clusters.leaders] for name, output in every.items()}
        found = task.found_among(spec, every, different, clusters.cluster_of)
        for comparison in comparisons:
            comparison.judge_all(different, clusters.cluster_of, found)
    return known()


def subject_of(
    reference: Session,
    candidate: Session,
    spec: ModelSpec,
    source: ImageSource,
    data: str,
    bundle_digest: str,
    num_worst: int = NUM_WORST,
) -> Subject:
    """Return what an evaluation is about; the arguments are those of `evaluate_part`."""
    return Subject(
        bundle_digest=bundle_digest,
        task=spec.task,
        backend=candidate.backend,
        precision=candidate.precision,
        reference=f"{reference.precision} {reference.backend}",
        labels=tuple(source.labels if task_of(spec).reads_class_folders else ()) or spec.labels,
        data=data,
        num_worst=num_worst,
        activation=spec.activation or "none",
        num_outputs=spec.num_outputs,
        model_labels=spec.labels,
        threshold=spec.threshold or 0.0,
    )


def _record(
    image: SeenImage, outputs: Outputs, spec: ModelSpec, calibrated_on: CalibrationImages
) -> bytes:
    label, found = label_of(image), signature(image.pixels)
    is_seen = calibrated_on.include(image.digest, found)
    rows = make_records([image.digest], [found], [label], flatten(outputs), [is_seen])
    if task_of(spec).has_classes:
        set_answers(rows, spec, outputs, label)
    return rows.tobytes()


def _see(index: int, item: ImageItem, spec: ModelSpec) -> SeenImage:
    pixels = preprocess(item.pixels, spec.preprocess)
    # A folder names one class: what else is on in its images is not known, and no score is.
    label = item.label if task_of(spec).reads_class_folders else None
    count = task_of(spec).num_classes(spec)
    if count is not None and label is not None and not 0 <= label < count:
        raise SpecError(
            f"image {item.name}: got label {label}, expected 0 to {count - 1}, one of "
            f"the classes of {spec.name}. Check that the class folders are the model's"
        )
    return SeenImage(index, item.name, pixels, label, digest(pixels), item.truth)


def _run(
    session: Session, spec: ModelSpec, image: SeenImage, path: Any = None
) -> tuple[Outputs, Any]:
    """The session's outputs, one row, all of it finite, and what led to it."""
    run = functools.partial(run_images, session)
    outputs, path = task_of(spec).evaluate(spec, run, image.pixels[None], path)
    if not np.isfinite(flatten(outputs)).all():
        raise BackendError(
            f"image {image.name}: {session.precision} on {session.backend} gave NaN or infinity, "
            f"expected finite numbers. {find_format(session.precision).not_finite}"
        )
    return KeptOutputs(outputs), path
