"""One precision of a bundle against its fp32, on all images or on one part of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from edge_vit.bundle import MANIFEST, TABLE, Bundle, digest_of
from edge_vit.image_parts import Part, take_part
from edge_vit.images import open_image_source
from edge_vit.measure.accuracy import evaluate_part
from edge_vit.measure.partial import PartialAccuracy
from edge_vit.measure.resumable import evaluate_resumably
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.session import DEFAULT_OPTIONS, SessionOptions, open_session
from edge_vit.spec import Precision


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated, in words that another process or machine understands too.

    Attributes:
        bundle: path of the bundle.
        data: path of the images: see `edge_vit.images.open_image_source`.
        precision: of the candidate; the smallest that the bundle has where None.
        backend: that runs both sessions.
        options: threads and the like, for each session.
        num_images: take this many at most, spread evenly; all where None.
    """

    bundle: str
    data: str
    precision: Precision | None = None
    backend: str = "auto"
    options: SessionOptions = DEFAULT_OPTIONS
    num_images: int | None = None


def evaluate_bundle(
    what: Evaluation,
    part: Part = Part(),  # noqa: B008  # frozen
    *,
    state_path: Path | None = None,
    is_resumed: bool = False,
    progress: Progress = SILENT,
) -> PartialAccuracy:
    """Return the totals over one part of the images; `merge_partials` and `report_of` do the rest.

    Args:
        what: bundle, images and conditions.
        part: which of how many parts.
        state_path: of the file that an interrupted evaluation goes on from: see
            `evaluate_resumably`. None to keep none; for `features` none is kept.
        is_resumed: go on from `state_path`.
        progress: is told of each image.

    Raises:
        SpecError: an option is out of range, or `features` are asked for in parts.
        ImageError: there are no images, or one cannot be read.
        ArtifactError: a file of the bundle is missing, truncated or edited; or the state does not
            fit.
        BackendError: a graph cannot be loaded or run, or its output is not finite.
    """
    bundle = Bundle.open(Path(what.bundle))
    spec = bundle.spec
    precision = what.precision or bundle.smallest_precision
    source = open_image_source(what.data, spec.labels, what.num_images)
    source = take_part(source, part, progress)
    calibrated_on = frozenset(bundle.read_table().image_digests if bundle.has(TABLE) else ())
    manifest = digest_of((bundle.path / MANIFEST).read_bytes())
    with contextlib.ExitStack() as stack:
        reference = stack.enter_context(
            open_session(bundle, "fp32", what.backend, what.options, progress)
        )
        candidate = reference
        if precision != "fp32":
            candidate = stack.enter_context(
                open_session(bundle, precision, what.backend, what.options, progress)
            )
        if state_path is not None and (spec.task != "features" or is_resumed):
            return evaluate_resumably(
                reference,
                candidate,
                spec,
                source,
                state_path,
                is_resumed=is_resumed,
                data=what.data,
                bundle_digest=manifest,
                part=part,
                calibration_digests=calibrated_on,
                progress=progress,
            )
        (totals,) = evaluate_part(
            reference,
            [candidate],
            spec,
            source,
            data=what.data,
            bundle_digest=manifest,
            part=(part.index, part.count),
            calibration_digests=calibrated_on,
            progress=progress,
        )
        return totals
