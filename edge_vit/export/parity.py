"""Proves that the exported graph says what the model says, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from edge_vit.errors import ParityError, SpecError
from edge_vit.export.sources import OnnxSource, Source
from edge_vit.optional import require
from edge_vit.preprocess import preprocess
from edge_vit.record import Parity
from edge_vit.spec import PreprocessSpec

PARITY_BATCHES = (1, 2, 5)
MIN_COSINE = 0.99999
MAX_ERROR = 1e-4

Images = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]


def check_parity(
    source: Source, fp32: bytes, images: Images, name: str, batch: int | None = None
) -> tuple[Parity, Outputs]:
    """Compare `fp32` with `source` on `images`; return the proof and the graph's output of each.

    Args:
        source: the model that was exported.
        fp32: the exported graph.
        images: uint8 (count, height, width, 3), as preprocessed; repeated to fill a batch.
        name: of the images, for the record.
        batch: the only batch size of a static graph, or None for 1, 2 and 5.

    Raises:
        ParityError: cosine, error or a batch size is off; the message says by how much.
    """
    reference, reference_name = _reference(source)
    session = _open(fp32)
    input_name = session.get_inputs()[0].name
    batches = PARITY_BATCHES if batch is None else (batch,)
    runs = batches if batch is None else (batch,) * -(-len(images) // batch)
    cosine, error, found = 1.0, 0.0, []
    for number, size in enumerate(runs):
        first = 0 if batch is None else number * size
        some = images[np.arange(first, first + size) % len(images)]  # filled up from the front
        wanted = reference(some)
        try:
            said = session.run(None, {input_name: some})[0]
        except Exception as failure:  # ONNX Runtime raises a class of its own for every status
            line = " ".join(str(failure).split())[:200]
            raise ParityError(f"{source.name} does not run at batch size {size}: {line}") from None
        for outputs, whose in ((wanted, "itself gives"), (said, "gives as a graph")):
            if not np.isfinite(outputs).all():
                raise ParityError(f"{source.name} {whose} NaN or infinity for {name}")
            if not outputs.any():
                raise ParityError(f"{source.name} {whose} nothing but zeros for {name}")
        largest = float(np.abs(wanted).max())
        cosine = min(cosine, _smallest_cosine(wanted, said))
        error = max(error, float(np.abs(wanted - said).max()) / largest)
        found.append(said)
    outputs = (found[-1] if batch is None else np.concatenate(found))[: len(images)]
    distances = np.abs(outputs - outputs[:1]).max() / np.abs(outputs).max()
    parity = Parity(reference_name, name, batches, cosine, error, float(distances))
    if not (cosine > MIN_COSINE and error < MAX_ERROR):
        raise ParityError(
            f"{source.name}: the exported graph is not the model: cosine {cosine:.7f} (more than "
            f"{MIN_COSINE} wanted), error {error:.1e} of the largest output (less than "
            f"{MAX_ERROR:.0e} wanted). Please report this model; nothing was written"
        )
    return parity, outputs


def sample_photos(spec: PreprocessSpec, count: int = 5) -> Images:
    """Return `count` different crops of two real photographs, uint8 (count, height, width, 3).

    They are the ones that scikit-learn ships.
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
        crops.append(preprocess(photo[top : top + side, left : left + side], spec))
    return np.stack(crops)


def _reference(source: Source) -> tuple[Callable[[Images], Outputs], str]:
    """Return a function from images to the source's own outputs, and its name."""
    if not isinstance(source, OnnxSource):
        module = source.module

        def run_torch(images: Images) -> Outputs:
            with torch.no_grad():
                outputs: Outputs = module(torch.from_numpy(_normalise(images, source.preprocess)))
            return np.asarray(outputs, np.float32)

        return run_torch, f"torch {version('torch')}"
    session = _open(source.model.SerializeToString())

    def run_onnx(images: Images) -> Outputs:
        feed = images if source.is_contract else _normalise(images, source.preprocess)
        found: Outputs = session.run([source.output_name], {source.input_name: feed})[0]
        return found

    return run_onnx, f"the file itself in onnxruntime {version('onnxruntime')}"


def _normalise(images: Images, spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    """Return ``(x / 255 - mean) / std``, float32 (batch, 3, height, width), as torchvision does."""
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    normalised = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def _open(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise SpecError(f"ONNX Runtime refuses the graph: {line}") from None


def _smallest_cosine(left: Outputs, right: Outputs) -> float:
    a, b = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-300)).min())
