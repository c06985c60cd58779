"""One precision against the reference, while images stream by: outcomes, and the worst images."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from edge_vit.data.clips import strip_of
from edge_vit.data.preprocess import UInt8Array
from edge_vit.measure.measured import Columns, collect, join_columns
from edge_vit.measure.partial import PartialAccuracy, SeenImage, keep_worst
from edge_vit.measure.records import OUTCOME, Rows, unpack
from edge_vit.measure.results import Disagreement
from edge_vit.spec import ModelSpec
from edge_vit.spec.samples import picture_of
from edge_vit.tasks import task_of
from edge_vit.tasks.base import Outputs
from edge_vit.tasks.maps.pictures import to_png
from edge_vit.tasks.numerics import FloatArray, IntArray, activate, cosine, in_top_k

_THUMBNAIL_PIXELS = 128  # longest side of a thumbnail

_DRAWN_PIXELS = 256  # longest side of a picture in which predictions are drawn

_WIDE_PIXELS, _NUM_COLOURS = 584, 128
"""Longest side of pictures that stand side by side in one, and how many colours they have."""

TOP_K = 5
_NUM_ANSWERS = 3  # of each model, beside an image where they differ


class Comparison:
    """One candidate's outputs against the reference's."""

    def __init__(
        self,
        spec: ModelSpec,
        labels: Sequence[str],
        num_worst: int,
        start: PartialAccuracy | None = None,
    ) -> None:
        self._spec, self._task, self._labels = spec, task_of(spec), labels
        self._num_worst = num_worst
        self.worst = start.worst if start else ()
        self._outputs: list[Outputs] = []
        self.outcomes = bytearray(unpack(start.outcomes, OUTCOME).tobytes() if start else b"")
        self.measured: Columns = join_columns(start.measured, {}) if start else {}

    def add(self, image: SeenImage, reference: Outputs, candidate: Outputs) -> None:
        """Count one image by the outputs for it, of one row each."""
        spec, task = self._spec, self._task
        rows = np.zeros(1, OUTCOME)
        ours, theirs = (flatten(each).astype(np.float64) for each in (reference, candidate))
        rows["cosine"] = cosine(ours, theirs)
        rows["signal"] = np.square(ours).sum(axis=1)
        rows["noise"] = np.square(ours - theirs).sum(axis=1)
        rows["divergence"] = task.divergence(spec, reference, candidate)
        if task.has_classes:
            set_answers(rows, spec, candidate, label_of(image))
        if task.needs_all_images:
            self._outputs.append(candidate)
        else:
            rows["agrees"] = task.same(spec, reference, candidate)
        self.outcomes += rows.tobytes()
        truth = image.label if image.truth is None else image.truth
        collect(self.measured, spec, reference, candidate, [truth])
        value = float(rows["divergence"][0])
        self.worst = keep_worst(
            *(self.worst, self._num_worst, value, image),
            lambda: self._show(image, value, reference, candidate),
        )

    def judge_all(self, gallery: Outputs, own: IntArray, found: IntArray) -> None:
        """Judge each image among all: see `Task.found_among`.

        `gallery` holds the reference's outputs of each different picture, `own` the row of it that
        shows each image's picture, `found` what the reference finds for each image, (images,).
        """
        same = self._task.found_among(self._spec, join_outputs(self._outputs), gallery, own)
        outcomes = np.frombuffer(self.outcomes, OUTCOME).copy()
        outcomes["agrees"] = same == found
        self.outcomes = bytearray(outcomes.tobytes())
        self.worst = tuple(
            dataclasses.replace(
                entry,
                shown=dataclasses.replace(entry.shown, agrees=bool((same == found)[entry.index])),
            )
            for entry in self.worst
        )

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
            thumbnail_png=self._picture(image, reference, candidate),
            label=label,
            reference=ours.names[:_NUM_ANSWERS],
            candidate=theirs.names[:_NUM_ANSWERS],
            divergence=divergence,
            agrees=bool(self._task.same(self._spec, reference, candidate)[0]),
            reference_scores=ours.numbers[:_NUM_ANSWERS],
            candidate_scores=theirs.numbers[:_NUM_ANSWERS],
        )

    def _picture(self, image: SeenImage, reference: Outputs, candidate: Outputs) -> str:
        """Return the image, with both predictions where they are drawn, as PNG in base64."""
        if not self._task.is_drawn:
            return thumbnail_png(picture_of(image.pixels))
        large = Image.fromarray(picture_of(image.pixels))
        scale = _DRAWN_PIXELS / max(large.size)
        large = large.resize([max(1, round(side * scale)) for side in large.size])
        drawn = self._task.overlay(self._spec, large, reference, candidate)
        if drawn.width > _DRAWN_PIXELS:  # several side by side: a page holds 18 in two megabytes
            drawn.thumbnail((_WIDE_PIXELS, _WIDE_PIXELS))
            drawn = drawn.quantize(_NUM_COLOURS)
        return _png_of(drawn)


def label_of(image: SeenImage) -> int:
    """Return the label of an image, -1 where it is not known."""
    return -1 if image.label is None else image.label


def set_answers(row: Rows, spec: ModelSpec, outputs: Outputs, label: int) -> None:
    """Set in a record or an outcome, (1,), the class, its score, and whether `label` is near."""
    values = task_of(spec).values(spec, outputs)
    row["answer"] = values.argmax(axis=1)
    row["score"] = activate(spec.activation or "none", values).max(axis=1)
    if label >= 0:
        row["is_in_top"] = in_top_k(values, np.array([label]), TOP_K)


def flatten(outputs: Outputs) -> FloatArray:
    """Return all values of each image, (rows, values), output after output."""
    return np.concatenate([each.reshape(len(each), -1) for each in outputs.values()], axis=1)


def join_outputs(batches: Sequence[Outputs]) -> Outputs:
    """Return the outputs of all batches, one after the other."""
    return {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}


def thumbnail_png(pixels: UInt8Array) -> str:
    """Return uint8 (height, width, 3) RGB as PNG in base64, at most `_THUMBNAIL_PIXELS` a side.

    Of a clip it is a strip of frames, each of them at most so large.
    """
    strip = strip_of(pixels)
    image = Image.fromarray(np.ascontiguousarray(strip))
    across = strip.shape[1] // pixels.shape[-2]
    image.thumbnail((_THUMBNAIL_PIXELS * across, _THUMBNAIL_PIXELS))
    return _png_of(image)


def _png_of(image: Image.Image) -> str:
    """Return `image` as PNG in base64."""
    return base64.b64encode(to_png(image)).decode("ascii")
