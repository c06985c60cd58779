"""One precision of a bundle against its fp32, on all images or on one part of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from edge_vit.bundle import TABLE, Bundle
from edge_vit.data.bad_images import DEFAULT_MAX_BAD, MaxBad, noted
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.parts import Part, take_part
from edge_vit.formats import REFERENCE
from edge_vit.measure.accuracy import evaluate_part
from edge_vit.measure.calibrated import CalibrationImages
from edge_vit.measure.half_answers import emulate_half
from edge_vit.measure.partial import PartialAccuracy
from edge_vit.measure.resumable import evaluate_resumably
from edge_vit.printable import one_line
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.session import DEFAULT_OPTIONS, SessionOptions, open_session
from edge_vit.spec import Precision
from edge_vit.tasks import task_of


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated, in words that another process or machine understands too.

    Attributes:
        bundle: path of the bundle.
        data: path of the images: see `edge_vit.data.images.open_image_source`.
        precision: of the candidate; the smallest that the bundle has where None.
        backend: that runs both sessions.
        options: threads and the like, for each session.
        num_images: take this many at most, spread evenly; all where None.
        max_bad: how many images may be left out because they cannot be read.
    """

    bundle: str
    data: str
    precision: Precision | None = None
    backend: str = "auto"
    options: SessionOptions = DEFAULT_OPTIONS
    num_images: int | None = None
    max_bad: MaxBad = DEFAULT_MAX_BAD


class Evaluator:
    """Sessions and images of an evaluation, open for any number of parts; closes both sessions.

    Raises:
        SpecError: an option is out of range.
        ImageError: there are no images.
        ArtifactError: a file of the bundle is missing, truncated or edited.
        BackendError: a graph cannot be loaded.
    """

    def __init__(self, what: Evaluation) -> None:
        self._what = what
        bundle = Bundle.open(Path(what.bundle))
        self._spec = bundle.spec
        task = task_of(bundle.spec)
        self._source = open_image_source(
            what.data,
            bundle.spec.labels,
            what.num_images,
            num_classes=task.num_classes(bundle.spec),
            has_truth=task.reads_class_folders,
            max_bad=what.max_bad,
        )
        table = bundle.read_table() if bundle.has(TABLE) else None
        self._calibrated_on = CalibrationImages.of(table)
        self._manifest = bundle.digest
        precision = what.precision or bundle.smallest_precision
        with contextlib.ExitStack() as stack:
            self._reference = self._candidate = stack.enter_context(
                open_session(bundle, REFERENCE, what.backend, what.options)
            )
            if precision != REFERENCE:
                session = stack.enter_context(
                    open_session(bundle, precision, what.backend, what.options)
                )
                self._candidate = stack.enter_context(emulate_half(session, bundle, what.options))
            self._sessions = stack.pop_all()

    @property
    def remark(self) -> str:
        """What a reader of the candidate's figures has to know; mostly empty."""
        return self._candidate.remark

    def evaluate(
        self,
        part: Part = Part(),  # noqa: B008  # frozen
        *,
        state_path: Path | None = None,
        is_resumed: bool = False,
        progress: Progress = SILENT,
    ) -> PartialAccuracy:
        """Return the totals over one part; `merge_partials` and `report_of` do the rest.

        Args:
            part: which of how many parts.
            state_path: of the file that an interrupted evaluation goes on from: see
                `evaluate_resumably`. None to keep none; for `features` none is kept.
            is_resumed: go on from `state_path`.
            progress: is told of each image.

        Raises:
            SpecError: `features` are asked for in parts, or a label is none of the model's classes.
            ImageError: an image cannot be read.
            ArtifactError: the state does not fit.
            BackendError: a graph cannot be run, or its output is not finite.
        """
        source = take_part(self._source, part, progress)
        with noted(source, progress):
            return self._evaluate(source, part, state_path, is_resumed, progress)

    def _evaluate(
        self,
        source: ImageSource,
        part: Part,
        state_path: Path | None,
        is_resumed: bool,
        progress: Progress,
    ) -> PartialAccuracy:
        if state_path is not None and (is_resumed or not task_of(self._spec).needs_all_images):
            return evaluate_resumably(
                self._reference,
                self._candidate,
                self._spec,
                source,
                state_path,
                is_resumed=is_resumed,
                data=one_line(self._what.data),
                bundle_digest=self._manifest,
                part=part,
                calibrated_on=self._calibrated_on,
                progress=progress,
            )
        (totals,) = evaluate_part(
            self._reference,
            [self._candidate],
            self._spec,
            source,
            data=one_line(self._what.data),
            bundle_digest=self._manifest,
            part=(part.index, part.count),
            calibrated_on=self._calibrated_on,
            progress=progress,
        )
        return totals

    def close(self) -> None:
        """Close the sessions; closing again does nothing."""
        self._sessions.close()

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
