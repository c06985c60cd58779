"""How the answers of each precision compare with the reference's: one pass for all of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edge_vit.data.bad_images import NUM_NAMED, TolerantSource, bad_of, notes_of, positions
from edge_vit.data.images import ImageItem, ImageSource
from edge_vit.data.perceptual import signature
from edge_vit.data.preprocess import digest, preprocess
from edge_vit.errors import BackendError, ImageError, SpecError
from edge_vit.formats import find_format
from edge_vit.measure.calibrated import CalibrationImages
from edge_vit.measure.comparison import Comparison, join_outputs
from edge_vit.measure.environment import read_environment
from edge_vit.measure.exact import add_digest
from edge_vit.measure.partial import PartialAccuracy, Subject, report_of
from edge_vit.measure.records import (
    RecordKeeper,
    find_clusters,
    pack_outcomes,
    unpack_outcomes,
)
from edge_vit.measure.results import AccuracyReport
from edge_vit.measure.tally import flatten
from edge_vit.measure.worst import SeenImage
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.session import Session, run_images
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Outputs

Save = Callable[[tuple[PartialAccuracy, ...]], None]
"""Is told of the totals so far, one for each candidate, after a whole number of batches."""

NO_IMAGES = CalibrationImages()

SECONDS_BETWEEN_SAVES = 10.0
NUM_WORST = 12
"""Disagreements that a report shows."""


def evaluate(
    reference: Session,
    candidates: Sequence[Session],
    spec: ModelSpec,
    source: ImageSource,
    *,
    data: str = "",
    calibrated_on: CalibrationImages = NO_IMAGES,
    num_worst: int = NUM_WORST,
    batch_size: int = 1,
    progress: Progress = SILENT,
) -> tuple[AccuracyReport, ...]:
    """Return how each of `candidates` compares with `reference`, in their order.

    Every image is decoded and preprocessed once and goes through each session once. Memory does not
    grow with the images; only for `features` the feature vectors of every session are kept, since a
    nearest neighbour can only be found among all images.

    Args:
        reference: usually fp32. It may be one of `candidates` as well: its own accuracy, agreement
            1.
        candidates: sessions of the same model.
        spec: the model.
        source: the images; labels count where it has some and the task has classes.
        data: where the images are from, for the report.
        calibrated_on: the images that calibration saw, which do not decide.
        num_worst: how many of the worst disagreements to keep.
        batch_size: images per run. With 1, the default, an image's outputs cannot depend on others.
        progress: is told of each batch.

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
        batch_size=batch_size,
        progress=progress,
    )
    if not all(part.tally.num_images for part in parts):
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
    batch_size: int = 1,
    start: Sequence[PartialAccuracy] = (),
    save: Save | None = None,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
    progress: Progress = SILENT,
) -> tuple[PartialAccuracy, ...]:
    """Return the totals of each of `candidates` over the images of `source`, which may be none.

    Args:
        reference: as in `evaluate`; likewise `candidates`, `spec` and `source`.
        candidates: sessions of the same model.
        spec: the model.
        source: the images of this part.
        data: where the images are from.
        calibrated_on: the images that calibration saw.
        num_worst: how many of the worst disagreements to keep.
        batch_size: images per run; parts add up to the same whole only with 1.
        progress: is told of each batch.
        bundle_digest: SHA-256 of the manifest of the bundle that the sessions came from.
        part: which of how many parts of the images `source` is.
        start: what `save` was told last, to go on from there.
        save: is told of the totals now and then; not for `features`.
        seconds_between_saves: at least.

    Raises:
        SpecError: as `evaluate`; or `features` in parts: a neighbour is found among all images.
        ImageError: an image cannot be read.
        BackendError: as `evaluate`.
    """
    _check_options(batch_size, num_worst)
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
        Comparison(
            spec,
            subject.labels,
            num_worst,
            *((old.tally, old.worst, unpack_outcomes(old.outcomes).tobytes()) if old else ()),
        )
        for subject, old in zip(subjects, earlier, strict=True)
    ]
    images, num_calibrated_on, num_done, num_bad = 0, 0, 0, 0
    bad_before: tuple[str, ...] = ()
    if start:
        images, num_calibrated_on = start[0].images, start[0].num_calibrated_on
        num_bad, bad_before = start[0].num_bad, start[0].bad
        num_done = start[0].tally.num_images + num_bad
    max_bad = source.num_allowed if isinstance(source, TolerantSource) else 0
    records = RecordKeeper(start[0].records if start else "")
    gallery: list[Outputs] = []
    saved_at = time.monotonic()

    def totals() -> tuple[PartialAccuracy, ...]:
        bad = bad_of(source)
        notes = source.source_notes if isinstance(source, TolerantSource) else notes_of(source)
        packed = records.packed
        return tuple(
            PartialAccuracy(
                subject=subject,
                part=part,
                environment=environment,
                images=images,
                num_calibrated_on=num_calibrated_on,
                tally=each.tally,
                worst=each.worst,
                records=packed,
                outcomes=pack_outcomes(each.outcomes),
                num_bad=num_bad + len(bad),
                bad=tuple(sorted((*bad_before, *bad.values())))[:NUM_NAMED],
                max_bad=max_bad,
                notes=notes,
            )
            for subject, each in zip(subjects, comparisons, strict=True)
        )

    with progress.step("evaluating", len(source)) as advance:
        if num_done:
            advance(num_done)
        for batch in _batches(positions(source, num_done, num_bad), spec, batch_size):
            expected = _run(reference, batch)
            if task.needs_all_images:
                gallery.append(expected)
            for session, comparison in zip(candidates, comparisons, strict=True):
                outputs = expected if session is reference else _run(session, batch)
                comparison.add(batch, expected, outputs)
            for image in batch:
                images = add_digest(images, image.digest)
            num_calibrated_on += _record(records, batch, expected, calibrated_on)
            if save is not None and time.monotonic() - saved_at >= seconds_between_saves:
                save(totals())
                saved_at = time.monotonic()
            advance(len(batch))
    if gallery:
        clusters, every = find_clusters(records.packed), join_outputs(gallery)
        # Among different images: a copy would always find its original.
        different = {name: output[clusters.leaders] for name, output in every.items()}
        found = task.found_among(spec, every, different, clusters.cluster_of)
        for comparison in comparisons:
            comparison.judge_all(different, clusters.cluster_of, found)
    return totals()


def _record(
    records: RecordKeeper,
    images: Sequence[SeenImage],
    outputs: Outputs,
    calibrated_on: CalibrationImages,
) -> int:
    """Keep the record of each image; return how many of them calibration saw."""
    signatures = [signature(image.pixels) for image in images]
    seen = [
        calibrated_on.include(image.digest, value)
        for image, value in zip(images, signatures, strict=True)
    ]
    labels = [-1 if image.label is None else image.label for image in images]
    records.add([image.digest for image in images], signatures, labels, flatten(outputs), seen)
    return sum(seen)


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
    )


def _batches(
    source: Iterator[tuple[int, ImageItem]], spec: ModelSpec, batch_size: int
) -> Iterator[list[SeenImage]]:
    """The images as the model sees them, `batch_size` at a time; each comes with its index."""
    images = (_see(index, item, spec) for index, item in source)
    while batch := list(itertools.islice(images, batch_size)):
        yield batch


def _see(index: int, item: ImageItem, spec: ModelSpec) -> SeenImage:
    pixels = preprocess(item.pixels, spec.preprocess)
    # A folder names one class: what else is on in its images is not known, and no score is.
    label = item.label if task_of(spec).reads_class_folders else None
    image = SeenImage(index, item.name, pixels, label, digest(pixels), item.truth)
    _check_label(image, spec)
    return image


def _run(session: Session, images: Sequence[SeenImage]) -> Outputs:
    """The session's outputs, a row for each image, all of them finite."""
    outputs = run_images(session, np.stack([image.pixels for image in images]))
    finite = np.isfinite(flatten(outputs)).all(axis=1)
    if not finite.all():
        image = images[int(np.argmin(finite))]
        raise BackendError(
            f"image {image.name}: {session.precision} on {session.backend} gave NaN or infinity, "
            f"expected finite numbers. {find_format(session.precision).not_finite}"
        )
    return outputs


def _check_label(image: SeenImage, spec: ModelSpec) -> None:
    label, count = image.label, task_of(spec).num_classes(spec)
    if count is not None and label is not None and not 0 <= label < count:
        raise SpecError(
            f"image {image.name}: got label {label}, expected 0 to {count - 1}, one of "
            f"the classes of {spec.name}. Check that the class folders are the model's"
        )


def _check_options(batch_size: int, num_worst: int) -> None:
    if batch_size < 1:
        raise SpecError(f"batch_size: got {batch_size}, expected at least 1")
    if num_worst < 0:
        raise SpecError(f"num_worst: got {num_worst}, expected 0 or more")
