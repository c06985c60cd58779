"""Proves that the exported graph gives what the model gives, before anything is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from edge_vit.bundle.record import Parity
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import ParityError
from edge_vit.export.reference import MAX_ERROR, Images, Outputs, Reference, reason
from edge_vit.export.sources import Source
from edge_vit.graph.exact import open_graph
from edge_vit.optional import require
from edge_vit.spec import PreprocessSpec, TensorSpec
from edge_vit.spec.samples import feeds_of
from edge_vit.tasks import task_named
from edge_vit.tasks.numerics import FloatArray

MIN_COSINE = 0.99999


def check_parity(
    source: Source,
    fp32: bytes | onnx.ModelProto,
    reference: Reference,
    restore: Callable[[Outputs], FloatArray] | None = None,
) -> tuple[Parity, tuple[Outputs, ...]]:
    """Compare `fp32` with what the model gave; return the proof and each output of the graph.

    Every named output is held to the same limits; cosine and error are of the worst one. Queries of
    a detector are compared whatever their order. Where the graph's end was taken off, `restore`
    makes of its only output what the model gives. The outputs are in the graph's order, (given
    images, ...) each.

    Raises:
        ParityError: cosine, error or a batch size is off; the message tells by how much.
    """
    session = open_graph(fp32)
    inputs = source.inputs or (TensorSpec(session.get_inputs()[0].name, "uint8", ("batch",)),)
    cosine, error = 1.0, 0.0
    found: list[dict[int, Outputs]] = [{} for _ in session.get_outputs()]
    for run in reference.runs:
        images = reference.images[list(run.indices)]
        try:
            every = session.run(None, feeds_of(inputs, images))
        except Exception as failure:  # ONNX Runtime raises a class of its own for every status
            raise ParityError(
                f"{source.name} does not run at batch size {len(images)}: {reason(failure)}"
            ) from None
        for outputs, wanted in zip(every, run.outputs, strict=True):
            _refuse_useless(source, outputs, wanted, reference.images_name)
        pairs = task_named(source.task).paired(run.outputs, every)
        for outputs, pair, wanted, of in zip(every, pairs, run.outputs, found, strict=True):
            same = pair if restore is None else restore(pair)
            cosine = min(cosine, _smallest_cosine(wanted, same))
            largest = float(np.abs(wanted).max())
            error = max(error, float(np.abs(wanted - same).max()) / largest)
            of.update(zip(run.indices, outputs, strict=True))
    rows = tuple(np.stack([of[i] for i in range(reference.num_given)]) for of in found)
    others = rows[0] if len(rows[0]) > 1 else np.stack(list(found[0].values()))
    spread = float(np.abs(others - rows[0][:1]).max() / np.abs(rows[0]).max())
    parity = Parity(reference.name, reference.images_name, reference.batches, cosine, error, spread)
    if not (cosine > MIN_COSINE and error < MAX_ERROR):
        raise ParityError(
            f"{source.name}: the exported graph is not the model: cosine {cosine:.7f} (more than "
            f"{MIN_COSINE} wanted), error {error:.1e} of the largest output (less than "
            f"{MAX_ERROR:.0e} wanted). Please report this model; nothing was written"
        )
    return parity, rows


def _refuse_useless(source: Source, outputs: Outputs, wanted: Outputs, images: str) -> None:
    if not np.isfinite(outputs).all():
        raise ParityError(f"{source.name} gives as a graph NaN or infinity for {images}")
    if not outputs.any():
        raise ParityError(f"{source.name} gives as a graph nothing but zeros for {images}")
    if outputs.shape != wanted.shape:
        raise ParityError(f"{source.name} gives as a graph {outputs.shape}, {wanted.shape} wanted")


def sample_photos(spec: PreprocessSpec, count: int = 5) -> Images:
    """Return `count` different crops of two real photographs, uint8 (count, height, width, 3).

    They are the ones that scikit-learn ships. For a model of clips (count, frames, height, width,
    3): the crop moves over the photograph.
    """
    datasets = require("sklearn.datasets", "parity on real photographs")
    photos = datasets.load_sample_images().images
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        height, width = photo.shape[:2]
        side = min(height, width) * (count - index // 2) // count
        top = (height - side) * (index % 3) // 2
        left = (width - side) * (index % 4) // 3
        crop = photo[top : top + side, left : left + side]
        if spec.clip is not None:
            ends = (left, 0 if index % 2 else width - side)
            lefts = np.linspace(*ends, spec.clip.frames).astype(int)
            crop = np.stack([photo[top : top + side, x : x + side] for x in lefts])
        crops.append(preprocess(crop, spec))
    return np.stack(crops)


def _smallest_cosine(left: Outputs, right: Outputs) -> float:
    """Return the smallest cosine of two rows; rows that are next to nothing have no direction."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (left, right))
    if a.shape[1] == 1:  # one number for each image: the batch is the vector
        a, b = a.T, b.T
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    counts = norms > 1e-12 * norms.max()
    return float(((a * b).sum(axis=1)[counts] / norms[counts]).min())
