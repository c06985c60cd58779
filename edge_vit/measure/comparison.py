"""One precision against the reference, while images stream by: totals, and the worst images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_vit.measure import metrics
from edge_vit.measure.metrics import BoolArray, FloatArray, IntArray
from edge_vit.measure.records import AGREES, CANDIDATE_RIGHT, REFERENCE_RIGHT
from edge_vit.measure.results import Disagreement
from edge_vit.measure.tally import Tally
from edge_vit.measure.worst import Kept, SeenImage, WorstImages, thumbnail_png
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import named

_NUM_ANSWERS = 3  # of each model, beside an image where they differ


class Comparison:
    """One candidate's outputs against the reference's.

    Args:
        spec: the model.
        labels: class names of the data by index; the model's own where empty.
        num_worst: how many of the most different images to keep.
        tally: of images that were counted before; it is counted on.
        kept: the worst of those images.
        outcomes: of those images: see `edge_vit.measure.records`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        labels: Sequence[str],
        num_worst: int,
        tally: Tally | None = None,
        kept: Sequence[Kept] = (),
        outcomes: bytes = b"",
    ) -> None:
        self._spec = spec
        self._labels = labels
        self.tally = tally or Tally()
        self._worst = WorstImages(num_worst, kept)
        self._features: list[FloatArray] = []
        self.outcomes = bytearray(outcomes)

    @property
    def worst(self) -> tuple[Kept, ...]:
        """The worst images so far, worst first."""
        return self._worst.worst_first()

    def add(
        self, images: Sequence[SeenImage], reference: FloatArray, candidate: FloatArray
    ) -> None:
        """Count the images of one batch.

        Args:
            images: of the batch.
            reference: its outputs, (images, values).
            candidate: its outputs, (images, values). For `features` they are kept.
        """
        divergence = self.tally.add(reference, candidate)
        labels = np.array([-1 if image.label is None else image.label for image in images])
        if self._spec.task == "features":
            self._features.append(candidate)
        else:
            divergence = self.tally.add_predictions(self._spec, reference, candidate, labels)
            agrees = self._same(reference, candidate)
            right, candidate_right = (
                metrics.top1(side) == labels for side in (reference, candidate)
            )
            bits = AGREES * agrees + REFERENCE_RIGHT * right + CANDIDATE_RIGHT * candidate_right
            self.outcomes += bits.astype(np.uint8).tobytes()
        for row, image in enumerate(images):
            value = float(divergence[row])
            self._worst.offer(
                value,
                image,
                lambda row=row, image=image, value=value: self._show(  # type: ignore[misc]
                    image, value, reference[row], candidate[row]
                ),
            )

    def find_neighbours(self, gallery: FloatArray, own: IntArray, nearest: IntArray) -> None:
        """Look each image up among the reference's features of the others, as a search index would.

        Args:
            gallery: the reference's features of each different picture, (pictures, channels).
            own: row of `gallery` that shows each image's picture, (images,).
            nearest: the reference's own nearest neighbour of each image, (images,).
        """
        found = metrics.nearest_neighbours(np.concatenate(self._features), gallery, own)
        same = found == nearest
        self.tally.num_agreeing = int(np.count_nonzero(same))
        self.outcomes = bytearray((AGREES * same).astype(np.uint8).tobytes())
        kept = [
            dataclasses.replace(
                entry, shown=dataclasses.replace(entry.shown, agrees=bool(same[entry.index]))
            )
            for entry in self.worst
        ]
        self._worst = WorstImages(len(kept), kept)

    def _same(self, reference: FloatArray, candidate: FloatArray) -> BoolArray:
        rows = (named(self._spec, each) for each in (reference, candidate))
        return task_of(self._spec).same(self._spec, *rows)

    def _show(
        self, image: SeenImage, divergence: float, reference: FloatArray, candidate: FloatArray
    ) -> Disagreement:
        label = None
        if image.label is not None:
            label = self._labels[image.label] if self._labels else self._spec.label(image.label)
        ours, theirs = (
            task_of(self._spec).decode(self._spec, named(self._spec, row[None]), top=_NUM_ANSWERS)[
                0
            ]
            for row in (reference, candidate)
        )
        return Disagreement(
            image=image.name,
            thumbnail_png=thumbnail_png(image.pixels),
            label=label,
            reference=ours.names,
            candidate=theirs.names,
            divergence=divergence,
            agrees=bool(self._same(reference[None], candidate[None])[0]),
            reference_scores=ours.numbers[:_NUM_ANSWERS],
            candidate_scores=theirs.numbers[:_NUM_ANSWERS],
        )
