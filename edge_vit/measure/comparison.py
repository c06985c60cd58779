"""One precision against the reference, while images stream by; in the end it becomes a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_vit.answers import top_answers
from edge_vit.measure import metrics
from edge_vit.measure.metrics import BoolArray, FloatArray, IntArray
from edge_vit.measure.results import AccuracyReport, Answer, Disagreement, Environment
from edge_vit.measure.tally import AnswerTally, Tally
from edge_vit.measure.worst import Divergent, SeenImage, WorstImages, thumbnail_png
from edge_vit.spec import ModelSpec, Precision

_NUM_ANSWERS = 3  # of each model, beside an image where they differ


@dataclass(frozen=True)
class DataFacts:
    """What every report says of the data, as `AccuracyReport` defines it.

    Attributes:
        data: where the images are from.
        data_digest: of all images as the model saw them.
        num_calibrated_on: how many were also calibrated on.
        labels: class names by index; empty where they are not known.
    """

    data: str
    data_digest: str
    num_calibrated_on: int
    labels: tuple[str, ...]


class Comparison:
    """One candidate's outputs against the reference's.

    Args:
        spec: the model.
        num_worst: how many of the most different images to keep.
    """

    def __init__(self, spec: ModelSpec, num_worst: int) -> None:
        self._spec = spec
        self._totals = Tally()
        self._answers = AnswerTally()
        self._features: list[FloatArray] = []
        self._worst = WorstImages(num_worst)
        self._same_neighbour: BoolArray | None = None

    def add(
        self, images: Sequence[SeenImage], reference: FloatArray, candidate: FloatArray
    ) -> None:
        """Count the images of one batch.

        Args:
            images: of the batch.
            reference: its outputs, (images, values).
            candidate: its outputs, (images, values). For `features` they are kept.
        """
        self._totals.add(reference, candidate)
        if self._spec.task == "features":
            self._features.append(candidate)
            divergence = 1 - metrics.cosine_rows(reference, candidate)
        else:
            labels = [-1 if image.label is None else image.label for image in images]
            divergence = self._answers.add(reference, candidate, np.array(labels))
        for row, image in enumerate(images):
            self._worst.offer(float(divergence[row]), image, reference[row], candidate[row])

    def find_neighbours(self, gallery: FloatArray, nearest: IntArray) -> None:
        """Look each image up among the reference's features of the others, as a search index would.

        Args:
            gallery: the reference's features, (images, channels).
            nearest: the reference's own nearest neighbour of each image, (images,).
        """
        found = metrics.nearest_neighbours(np.concatenate(self._features), gallery)
        self._same_neighbour = found == nearest

    def report(
        self,
        place: tuple[str, Precision],
        reference: str,
        facts: DataFacts,
        environment: Environment,
    ) -> AccuracyReport:
        """Return all that was counted.

        Args:
            place: the candidate's backend and precision.
            reference: precision and backend of the reference.
            facts: of the data.
            environment: of the run.
        """
        backend, precision = place
        totals, answers = self._totals, self._answers
        labelled = answers.num_labelled
        if self._same_neighbour is None:
            agreeing, kl_mean = answers.num_agreeing, answers.kl_sum / totals.num_images
        else:
            agreeing, kl_mean = int(np.count_nonzero(self._same_neighbour)), None
        return AccuracyReport(
            backend=backend,
            precision=precision,
            reference=reference,
            num_images=totals.num_images,
            num_labelled=labelled,
            top1=answers.top1 / labelled if labelled else None,
            top5=answers.top5 / labelled if labelled else None,
            reference_top1=answers.reference_top1 / labelled if labelled else None,
            reference_top5=answers.reference_top5 / labelled if labelled else None,
            agreement=agreeing / totals.num_images,
            num_agreeing=agreeing,
            cosine_mean=totals.cosine_mean,
            cosine_min=totals.cosine_min,
            sqnr_db=totals.sqnr_db,
            kl_mean=kl_mean,
            num_lost=answers.num_lost,
            num_gained=answers.num_gained,
            data=facts.data,
            data_digest=facts.data_digest,
            num_calibrated_on=facts.num_calibrated_on,
            worst=tuple(self._disagreement(entry, facts) for entry in self._worst.worst_first()),
            environment=environment,
        )

    def _disagreement(self, entry: Divergent, facts: DataFacts) -> Disagreement:
        image, label = entry.image, None
        if image.label is not None:
            label = facts.labels[image.label] if facts.labels else self._spec.label(image.label)
        if self._same_neighbour is None:
            agrees = bool(np.argmax(entry.reference) == np.argmax(entry.candidate))
        else:
            agrees = bool(self._same_neighbour[image.index])
        return Disagreement(
            image=image.name,
            thumbnail_png=thumbnail_png(image.pixels),
            label=label,
            reference=self._top(entry.reference),
            candidate=self._top(entry.candidate),
            divergence=entry.divergence,
            agrees=agrees,
        )

    def _top(self, output: FloatArray) -> tuple[Answer, ...]:
        if self._spec.task == "features":
            return ()
        return top_answers(output, self._spec.labels, _NUM_ANSWERS)
