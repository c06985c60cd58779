"""The base of tasks: everything about a model that depends on what its outputs mean.

Outputs are float arrays by name, batch first, as a session returns them. A task is stateless; its
functions take the `ModelSpec` of the model first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.errors import SpecError
from edge_vit.spec import Activation, ModelSpec, TensorSpec
from edge_vit.spec.samples import Rows
from edge_vit.tasks.coco import Annotated, KeyOf, read_annotations
from edge_vit.tasks.measures import Measure, MeasureValue
from edge_vit.tasks.numerics import (
    BoolArray,
    Float64Array,
    FloatArray,
    IntArray,
    relative_energy,
    relative_rms,
)
from edge_vit.tasks.prediction import Prediction

Outputs = Mapping[str, FloatArray]  # outputs by name, a row for each image

Run = Callable[[Rows], Outputs]
"""A model: images or samples, (count, ...), to its outputs, a row for each."""

Size = tuple[int, int]  # (height, width) of an image in its own pixels


Order = Sequence[int] | None
"""Indices to name, best first, where votes were counted; None where shares are to be sorted."""


@dataclass(frozen=True)
class TruthFiles:
    """Where the truth of a task lies: a file for each image, in a folder beside ``images``."""

    folders: tuple[str, ...]  # names that such a folder may have
    suffixes: tuple[str, ...]  # of its files, in lower case
    read: Callable[[Path, Size], Any]  # (path, (height, width) of the image) -> what is true of it
    # (some of the files) -> how they are read, where a user has to know it
    describe: Callable[[Sequence[Path]], str] = lambda paths: ""
    # (COCO annotation file, what tells names apart) -> what it says of each image, by file name
    annotated: Callable[[Path, KeyOf], Mapping[str, Annotated]] | None = None


@dataclass(frozen=True)
class Wording:
    """Words for a task in reports and messages."""

    subject: str  # what is the same or differs, at the beginning of a sentence
    agreement: str  # what counts as the same prediction, as a sentence
    divergence: str  # the distance of two outputs with its unit; {} stands for the number
    loss: str = "agreement with fp32"  # what an earlier report is held against, without labels
    pictures: str = ""  # how the images where predictions differ most are to be read


class Task(ABC):
    """A task; a subclass has what differs from a model with one output of logits or scores."""

    name: str  # in manifests and on the command line
    wording: Wording  # of reports
    # Heads of the table of predictions, after that of the image
    columns: tuple[str, ...] = ("class", "index", "score")
    gives: str = ""  # name of the first output; empty where its activation decides
    num_word_columns: int = 2  # how many of all columns, the image's included, hold words
    # What model libraries call it, such as Hugging Face's problem_type
    aliases: tuple[str, ...] = ()
    default_activation: Activation = "none"  # turns outputs into probabilities by default
    default_threshold: float = 0.0  # from which something is on or positive
    # Whether outputs stand for probabilities of classes or labels
    gives_probabilities: bool = False
    has_threshold: bool = False  # whether the user may set one
    has_classes: bool = False  # whether one class of several is right: then labels make accuracies
    has_labels: bool = True  # whether outputs have names
    has_head: bool = True  # whether the model ends in a head; without one it gives features
    reads_class_folders: bool = False  # whether an image's class folder has to do with its output
    has_label_sets: bool = False  # whether any number of labels is true of an image
    takes_images: bool = True  # whether inputs are images, or samples of inputs by name
    has_direction: bool = True  # whether the cosine of two outputs is a measure
    # Whether images are judged by each other, so that parts do not add up
    needs_all_images: bool = False
    # Whether another prediction is worse, and not only another one
    disagreement_is_loss: bool = False
    # Ways to smooth over the frames of a camera, the first one preferred
    smoothing: tuple[str, ...] = ()
    # What an evaluation measures beside the share of equal predictions
    measures: tuple[Measure, ...] = ()
    # Name of the measure that the gate bounds, in shares lost; empty where images lost and gained
    # by their labels are, or else other predictions
    loss_measure: str = ""
    unlabelled_loss: str = ""  # the same where that has no value, since there is no truth
    # The accuracy gate that is asked by default, and again of an earlier report
    gate: str = "max-drop"
    # Names of the folders beside ``images`` that hold a file with the truth of each image
    truth_folders: tuple[str, ...] = ()
    truth_suffixes: tuple[str, ...] = (".png",)
    has_boxes: bool = False  # whether its predictions are boxes
    is_drawn: bool = False  # whether its predictions are drawn on pictures
    # Whether its first output is a map, (batch, height, width) or (batch, channels, height, width)
    gives_map: bool = False
    # Name of a measure that has no value where the reference shows nothing in any image, so that
    # nothing can be compared
    shown_measure: str = ""
    # Name of the measure, in shares, that says how right a model is by the truth; the reference has
    # to be clearly above the same of a model that is blind to the image
    right_measure: str = ""
    blind_measure: str = ""
    # Largest divergence of outputs that count as the same; and of a precision in the field
    most_apart: float = 0.0
    most_roughly_apart: float | None = None
    default_top: int = 5  # number of entries of a prediction by default

    # What a model of the task is.

    def outputs(
        self, size: int, batch: int | None = None, activation: Activation | None = None
    ) -> tuple[TensorSpec, ...]:
        """Return the graph's outputs: one, float32 (batch, size), named after what it holds."""
        return (TensorSpec(self.output_name(activation), "float32", (batch or "batch", size)),)

    def output_name(self, activation: Activation | None = None) -> str:
        """Return the name of the first output."""
        return self.gives or ("probabilities" if activation == "none" else "logits")

    def width_of(self, shape: tuple[int | str, ...]) -> int | str:
        """Return the number of classes, scores or channels of a first output of `shape`."""
        return shape[-1]

    def check(self, spec: ModelSpec) -> None:
        """Raise SpecError where a model cannot be one of this task."""
        if not self.gives_probabilities and spec.activation != "none":
            raise SpecError(f"activation of {spec.name}: got {spec.activation}, expected none")
        assert spec.threshold is not None
        wanted = self.refuse_threshold(spec.threshold)
        if wanted:
            raise SpecError(f"threshold of {spec.name}: got {spec.threshold}, expected {wanted}")
        if not isinstance(self.width_of(spec.outputs[0].shape), int):
            raise SpecError(f"output of {spec.name}: got {spec.outputs[0]}, expected a fixed width")
        wanted_labels = self.num_labels(spec.num_outputs, spec.activation)
        if self.has_labels and spec.labels and len(spec.labels) != wanted_labels:
            raise SpecError(
                f"labels of {spec.name}: got {len(spec.labels)}, "
                f"expected {wanted_labels}, one per class"
            )

    def guess_activation(self, values: FloatArray) -> tuple[Activation, str]:
        """Return what turns outputs like `values` into probabilities, and a remark or nothing."""
        return self.default_activation, ""

    def num_labels(self, columns: int, activation: Activation | None) -> int:
        """Return how many labels an output of `columns` has: one each."""
        return columns

    def refuse_threshold(self, threshold: float) -> str:
        """Return what a threshold has to be where this is none, else an empty string."""
        return "" if math.isfinite(threshold) else "a number"

    def upgrade(self, spec: ModelSpec, manifest_format: int) -> ModelSpec:
        """Return the facts of a model of an older manifest as this version understands them."""
        return spec

    def num_classes(self, spec: ModelSpec) -> int | None:
        """Return how many classes the labels of images may be one of; None where they are none."""
        return spec.num_outputs if self.has_classes or self.has_label_sets else None

    def truth_files(self, spec: ModelSpec) -> TruthFiles:
        """Return where the truth of a model of this task lies."""
        return TruthFiles(
            self.truth_folders,
            self.truth_suffixes,
            lambda path, size: self.read_truth(spec, path, size),
            self.describe_truth,
            lambda path, key_of: self.read_annotations(spec, path, key_of),
        )

    def read_annotations(
        self, spec: ModelSpec, path: Path, key_of: KeyOf
    ) -> Mapping[str, Annotated]:
        """Return what a COCO annotation file says of each image: here its boxes."""
        from edge_vit.tasks.detection.truth import of_coco  # of a task, which has this base

        return read_annotations(path, spec.labels, "bbox", of_coco, self.num_classes(spec), key_of)

    def read_truth(self, spec: ModelSpec, path: Path, size: Size) -> Any:
        """Return what the file at `path` says of an image of `size`."""
        raise NotImplementedError(f"{self.name} has no files of truth")

    def describe_truth(self, paths: Sequence[Path]) -> str:
        """Return in a sentence how such files are read, of some; empty where that is plain."""
        return ""

    # What outputs stand for.

    def values(self, spec: ModelSpec, outputs: Outputs) -> FloatArray:
        """Return the first output of `outputs`, (rows, ...)."""
        return outputs[spec.outputs[0].name]

    def decode(
        self,
        spec: ModelSpec,
        outputs: Outputs,
        images: Sequence[str] = (),
        sizes: Sequence[Size] = (),
        *,
        top: int = 5,
    ) -> list[Prediction]:
        """Return the prediction of each row of `outputs`, which are finite.

        Without `images` each is called ``array``; without `sizes`, the images' own, before
        preprocessing, they are as large as the model's input.
        """
        if top < 1:
            raise SpecError(f"top: got {top}, expected at least 1 entry")
        predictions = []
        for row in range(len(self.values(spec, outputs))):
            own = {name: rows[row] for name, rows in outputs.items()}
            size = sizes[row] if sizes else spec.preprocess.image_size
            image = images[row] if images else "array"
            predictions.append(self.predict(spec, own, image, size, top))
        return predictions

    @abstractmethod
    def predict(
        self, spec: ModelSpec, outputs: Outputs, image: str, size: Size, top: int
    ) -> Prediction:
        """Return the prediction for one image, of its outputs without the batch axis.

        `size` is for tasks that speak of the image's pixels. Of entries that are ordered by score,
        `top` are wanted; equal ones are ordered by index.
        """

    def same(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return for each row whether both outputs stand for the same prediction, (rows,)."""
        return self.divergence(spec, reference, candidate) <= self.most_apart

    @abstractmethod
    def divergence(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return how far each row of `candidate` is from `reference`, (rows,), never negative."""

    def evaluate(
        self, spec: ModelSpec, run: Run, rows: Rows, path: Any = None
    ) -> tuple[Outputs, Any]:
        """Return the outputs of `rows` that are compared, and what led to them: here one run.

        `path` is what the reference returned for the same rows, None for the reference itself.
        """
        return run(rows), None

    def start(self, spec: ModelSpec, seed: int, label: int | None = None) -> Rows:
        """Return the sample, (), that stands for `seed`, of a task that takes no images."""
        raise NotImplementedError(f"{self.name} takes images")

    def inputs_of(self, spec: ModelSpec, run: Run, seed: int) -> tuple[tuple[str, ...], Rows]:
        """Return what a model is fed while it makes of `seed` what it makes, and names for it."""
        return (f"seed {seed}",), self.start(spec, seed)[None]

    def aligned(
        self, spec: ModelSpec, reference: Outputs, candidate: Outputs
    ) -> tuple[Outputs, Outputs]:
        """Return both outputs so that they can be compared element by element: here as they are."""
        return reference, candidate

    def paired(
        self, reference: Sequence[FloatArray], candidate: Sequence[FloatArray]
    ) -> Sequence[FloatArray]:
        """Return the outputs of an exported graph in the order of the model's own, for parity."""
        return candidate

    def error(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
        """Return the error of each row, (rows,): what calibration minimises.

        Energy of the error over that of the reference, the mean over the outputs.
        """
        ours, theirs = self.aligned(spec, reference, candidate)
        found = [relative_energy(ours[output.name], theirs[output.name]) for output in spec.outputs]
        mean: Float64Array = np.mean(found, axis=0)
        return mean

    def deviation(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> float:
        """Return the error of all rows over the spread of `reference`: what a self-test bounds.

        Another model is off by about 1.4. The worst output counts.
        """
        ours, theirs = self.aligned(spec, reference, candidate)
        return max(
            relative_rms(ours[o.name], theirs[o.name], over_images=False) for o in spec.outputs
        )

    def labels_on(self, spec: ModelSpec, outputs: Outputs) -> BoolArray | None:
        """Return which labels are on, (rows, labels), where each is on or off by itself."""
        return None

    def scores(self, spec: ModelSpec, outputs: Outputs) -> Float64Array | None:
        """Return the numeric scores of each row, (rows, scores), where there are some."""
        return None

    def found_among(
        self, spec: ModelSpec, queries: Outputs, gallery: Outputs, own: IntArray
    ) -> IntArray:
        """Return what each row of `queries`, all images, finds in `gallery`, (rows,).

        `gallery` holds the reference's outputs of each different picture; `own` is the row of it
        that shows each query's own picture, which is left out, (rows,).
        """
        raise NotImplementedError(f"{self.name} is judged image by image")

    def deviations(
        self, spec: ModelSpec, reference: Outputs, candidate: Outputs
    ) -> tuple[float, ...]:
        """Return the `deviation` of each row alone, over the spread of all of `reference`."""
        count = len(self.values(spec, reference))
        found = []
        for index in range(count):
            mixed = {name: np.array(rows) for name, rows in reference.items()}
            for name, rows in mixed.items():
                rows[index] = candidate[name][index]
            found.append(math.sqrt(count) * self.deviation(spec, reference, mixed))
        return tuple(found)

    def same_roughly(self, spec: ModelSpec, reference: Outputs, candidate: Outputs) -> BoolArray:
        """Return for each row whether a precision in the field counts as unchanged, (rows,)."""
        if self.most_roughly_apart is None:
            return self.same(spec, reference, candidate)
        return self.divergence(spec, reference, candidate) <= self.most_roughly_apart

    def loss_of(self, measures: Mapping[str, MeasureValue]) -> str:
        """Return the name of the measure that the gate bounds, the first that has a value."""
        known = {name for name, measured in measures.items() if measured.value is not None}
        return next((n for n in (self.loss_measure, self.unlabelled_loss) if n in known), "")

    def shown_from(self, spec: ModelSpec, share: float) -> ModelSpec:
        """Return `spec` so that `decode` leaves out nothing with a score above `share`."""
        return spec

    # Smoothing over the frames of a camera.

    def averageable(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return what the average over frames is taken of, (rows, size), for ``ema``."""
        raise NotImplementedError(f"{self.name} has nothing to average")

    def votes(self, spec: ModelSpec, outputs: Outputs) -> Float64Array:
        """Return 1 for what each row names and 0 for the rest, (rows, size), for ``majority``."""
        raise NotImplementedError(f"{self.name} names nothing")

    def from_shares(
        self, spec: ModelSpec, shares: Float64Array, order: Order, image: str, top: int
    ) -> Prediction:
        """Return the prediction of `shares`, (size,): means of `averageable`, or of `votes`."""
        raise NotImplementedError(f"{self.name} cannot be smoothed")

    # Drawing.

    def draw(self, picture: Any, prediction: Prediction) -> Any:
        """Return `picture`, a Pillow image, with what `prediction` shows in it."""
        return prediction.draw(picture)

    def overlay(self, spec: ModelSpec, picture: Any, reference: Outputs, candidate: Outputs) -> Any:
        """Return `picture`, the model's input as a Pillow image, with both predictions drawn on it.

        The outputs are of one row.
        """
        return picture

    def to_coco(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        """Return the entries of a COCO results file; none where there are no boxes."""
        return []


def named(spec: ModelSpec, values: FloatArray) -> Outputs:
    """Return the values of a model's first output under its name."""
    return {spec.outputs[0].name: values}
