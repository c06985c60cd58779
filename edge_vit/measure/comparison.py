"""One precision against the reference, while images stream by: totals, and the worst images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_vit.measure import metrics
from edge_vit.measure.measured import collect
from edge_vit.measure.metrics import IntArray
from edge_vit.measure.records import AGREES, CANDIDATE_RIGHT, REFERENCE_RIGHT
from edge_vit.measure.results import Disagreement
from edge_vit.measure.tally import Tally
from edge_vit.measure.worst import Kept, SeenImage, WorstImages, thumbnail_png
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Outputs

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
        self._spec, self._task = spec, task_of(spec)
        self._labels = labels
        self.tally = tally or Tally()
        self._worst = WorstImages(num_worst, kept)
        self._outputs: list[Outputs] = []
        self.outcomes = bytearray(outcomes)

    @property
    def worst(self) -> tuple[Kept, ...]:
        """The worst images so far, worst first."""
        return self._worst.worst_first()

    def add(self, images: Sequence[SeenImage], reference: Outputs, candidate: Outputs) -> None:
        """Count the images of one batch.

        Args:
            images: of the batch.
            reference: its outputs, a row for each image.
            candidate: likewise; kept where images are judged by each other.
        """
        spec, task = self._spec, self._task
        self.tally.add(reference, candidate)
        truth = [each.label if each.truth is None else each.truth for each in images]
        collect(self.tally.measured, spec, reference, candidate, truth)
        divergence = task.divergence(spec, reference, candidate)
        if task.needs_all_images:
            self._outputs.append(candidate)
        else:
            same = task.same(spec, reference, candidate)
            labels = np.array([-1 if image.label is None else image.label for image in images])
            self.tally.add_predictions(spec, reference, candidate, same, divergence, labels)
            bits = AGREES * same
            if task.has_classes:
                ours, theirs = (
                    metrics.top1(task.values(spec, each)) == labels
                    for each in (reference, candidate)
                )
                bits = bits + REFERENCE_RIGHT * ours + CANDIDATE_RIGHT * theirs
            self.outcomes += bits.astype(np.uint8).tobytes()
        for row, image in enumerate(images):
            value = float(divergence[row])
            self._worst.offer(
                value,
                image,
                lambda row=row, image=image, value=value: self._show(  # type: ignore[misc]
                    image, value, row_of(reference, row), row_of(candidate, row)
                ),
            )

    def judge_all(self, gallery: Outputs, own: IntArray, found: IntArray) -> None:
        """Judge each image among all: see `Task.found_among`.

        Args:
            gallery: the reference's outputs of each different picture.
            own: row of `gallery` that shows each image's picture, (images,).
            found: what the reference finds for each image, (images,).
        """
        queries = join_outputs(self._outputs)
        same = self._task.found_among(self._spec, queries, gallery, own) == found
        self.tally.num_agreeing = int(np.count_nonzero(same))
        self.outcomes = bytearray((AGREES * same).astype(np.uint8).tobytes())
        kept = [
            dataclasses.replace(
                entry, shown=dataclasses.replace(entry.shown, agrees=bool(same[entry.index]))
            )
            for entry in self.worst
        ]
        self._worst = WorstImages(len(kept), kept)

    def _show(
        self, image: SeenImage, divergence: float, reference: Outputs, candidate: Outputs
    ) -> Disagreement:
        label = None
        if image.label is not None:
            label = self._labels[image.label] if self._labels else self._spec.label(image.label)
        (ours,), (theirs,) = (
            self._task.decode(self._spec, each, top=_NUM_ANSWERS) for each in (reference, candidate)
        )
        return Disagreement(
            image=image.name,
            thumbnail_png=thumbnail_png(image.pixels),
            label=label,
            reference=ours.names,
            candidate=theirs.names,
            divergence=divergence,
            agrees=bool(self._task.same(self._spec, reference, candidate)[0]),
            reference_scores=ours.numbers[:_NUM_ANSWERS],
            candidate_scores=theirs.numbers[:_NUM_ANSWERS],
        )


def row_of(outputs: Outputs, row: int) -> Outputs:
    """Return the outputs of one image, still a batch."""
    return {name: output[row : row + 1] for name, output in outputs.items()}


def join_outputs(batches: Sequence[Outputs]) -> Outputs:
    """Return the outputs of all batches, one after the other."""
    return {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}
