"""How the answers of each precision compare with the reference's: one pass for all of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence, Set

import numpy as np

from edge_vit.errors import BackendError, ImageError, SpecError
from edge_vit.images import ImageSource
from edge_vit.measure.comparison import Comparison, DataFacts
from edge_vit.measure.environment import read_environment
from edge_vit.measure.metrics import FloatArray, nearest_neighbours
from edge_vit.measure.results import AccuracyReport
from edge_vit.measure.worst import SeenImage
from edge_vit.preprocess import digest, preprocess
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.session import Session, run_batch
from edge_vit.spec import ModelSpec


def evaluate(
    reference: Session,
    candidates: Sequence[Session],
    spec: ModelSpec,
    source: ImageSource,
    *,
    data: str = "",
    calibration_digests: Set[str] = frozenset(),
    num_worst: int = 12,
    batch_size: int = 1,
    progress: Progress = SILENT,
) -> tuple[AccuracyReport, ...]:
    """Return how each of `candidates` compares with `reference`, in their order.

    Every image is decoded and preprocessed once and goes through each session once. Memory does not
    grow with the images beyond a digest each; for `features` the feature vectors of every session
    are kept too, since a nearest neighbour can only be found among all images.

    Args:
        reference: usually fp32. It may be one of `candidates` as well: its own accuracy, agreement
            1.
        candidates: sessions of the same model.
        spec: the model.
        source: the images; labels count where it has some and the task has classes.
        data: where the images are from, for the report.
        calibration_digests: `edge_vit.preprocess.digest` of each image that was calibrated on.
        num_worst: how many of the worst disagreements to keep.
        batch_size: images per run.
        progress: is told of each batch.

    Raises:
        ImageError: there are no images, or one cannot be read.
        SpecError: a label is none of the model's classes, or one image has no neighbour to find.
        BackendError: an output is not finite; the message names the image and the precision.
    """
    _check_options(batch_size, num_worst)
    comparisons = [Comparison(spec, num_worst) for _ in candidates]
    digests: list[str] = []
    gallery: list[FloatArray] = []
    with progress.step("evaluating", len(source)) as advance:
        for images in _batches(source, spec, batch_size):
            digests += [digest(image.pixels) for image in images]
            expected = _run(reference, images)
            if spec.task == "features":
                gallery.append(expected)
            for session, comparison in zip(candidates, comparisons, strict=True):
                outputs = expected if session is reference else _run(session, images)
                comparison.add(images, expected, outputs)
            advance(len(images))
    if not digests:
        raise ImageError("images to evaluate on: got none, expected at least 1")
    if spec.task == "features":
        _find_neighbours(comparisons, np.concatenate(gallery))
    facts = DataFacts(
        data=data,
        data_digest=_digest_of_all(digests),
        num_calibrated_on=sum(value in calibration_digests for value in digests),
        labels=source.labels,
    )
    name, environment = f"{reference.precision} {reference.backend}", read_environment()
    return tuple(
        comparison.report((session.backend, session.precision), name, facts, environment)
        for session, comparison in zip(candidates, comparisons, strict=True)
    )


def _batches(source: ImageSource, spec: ModelSpec, batch_size: int) -> Iterator[list[SeenImage]]:
    """The images of `source` as the model sees them, `batch_size` at a time, at last fewer."""
    images = (
        SeenImage(index, item.name, preprocess(item.pixels, spec.preprocess), item.label)
        for index, item in enumerate(source)
    )
    while batch := list(itertools.islice(images, batch_size)):
        for image in batch:
            _check_label(image, spec)
        yield batch


def _run(session: Session, images: Sequence[SeenImage]) -> FloatArray:
    """The session's outputs, (images, values), all of them finite."""
    outputs = run_batch(session, np.stack([image.pixels for image in images]))
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        image = images[int(np.argmin(finite))]
        raise BackendError(
            f"image {image.name}: {session.precision} on {session.backend} gave NaN or infinity, "
            "expected finite numbers. See which layers are to blame: edgevit inspect"
        )
    return outputs


def _find_neighbours(comparisons: Sequence[Comparison], gallery: FloatArray) -> None:
    if len(gallery) < 2:
        raise SpecError(
            "images to evaluate on: got 1, expected at least 2, since features are judged by their "
            "nearest neighbour among the other images"
        )
    nearest = nearest_neighbours(gallery, gallery)
    for comparison in comparisons:
        comparison.find_neighbours(gallery, nearest)


def _digest_of_all(digests: Sequence[str]) -> str:
    """SHA-256 of the images, whatever their order: a renamed file does not make it other data."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _check_label(image: SeenImage, spec: ModelSpec) -> None:
    label = image.label
    if spec.task == "classification" and label is not None and not 0 <= label < spec.num_outputs:
        raise SpecError(
            f"image {image.name}: got label {label}, expected 0 to {spec.num_outputs - 1}, one of "
            f"the classes of {spec.name}. Check that the class folders are the model's"
        )


def _check_options(batch_size: int, num_worst: int) -> None:
    if batch_size < 1:
        raise SpecError(f"batch_size: got {batch_size}, expected at least 1")
    if num_worst < 0:
        raise SpecError(f"num_worst: got {num_worst}, expected 0 or more")
