"""Runs a bundle's graphs with their attention laid open, and compares their attention maps."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from PIL import Image

from edge_vit.bundle import Bundle
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.preprocess import UInt8Array, preprocess
from edge_vit.errors import SpecError
from edge_vit.explain.values import AttentionMap, Explanation
from edge_vit.formats import REFERENCE
from edge_vit.graph.exact import read_with_weights
from edge_vit.graph.expose import expose
from edge_vit.graph.large import read_graph
from edge_vit.graph.reading import Layout, Reading, find_layout, find_reading
from edge_vit.graph.sites import find_blocks
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import DEFAULT_OPTIONS, Array, SessionOptions
from edge_vit.spec import ModelSpec, Precision
from edge_vit.tasks import task_of
from edge_vit.tasks.maps.pictures import to_png

FloatArray = npt.NDArray[np.float64]

BRIGHTEST = 0.1  # share of the patches whose overlap is counted

_NUM_NAMES = 3


@dataclass(frozen=True)
class View:
    """The parts of a graph that attention maps are drawn from."""

    attentions: tuple[str, ...]  # names of the probabilities of each block, first to last
    reading: Reading
    layout: Layout


def explain(
    bundle: Bundle | Path | str,
    source: ImageSource | Path | str,
    precision: Precision | None = None,
    *,
    options: SessionOptions = DEFAULT_OPTIONS,
    progress: Progress = SILENT,
) -> tuple[Explanation, ...]:
    """Return the attention rollout of fp32 and `precision` in each image, and how alike they are.

    Both graphs run on ONNX Runtime; INT8 in its portable form, whose attention is not hidden in one
    operator as in the forms for single processors, which have the same scales. Without `precision`
    the narrowest of the bundle is held against fp32.

    Raises:
        SpecError: the model's attention cannot be drawn on the picture.
        ArtifactError: a graph is missing, truncated or edited.
        ImageError: there are no images, or one cannot be read.
        BackendError: a graph cannot be run.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    precision = precision or bundle.smallest_precision
    spec = bundle.spec
    if spec.preprocess.clip is not None:
        raise SpecError(
            f"{spec.name}: attention maps cannot be drawn: it reads clips of "
            f"{spec.preprocess.clip.frames} frames, and maps are drawn on single images"
        )
    images = open_image_source(source, has_truth=False)
    view = find_view(read_graph(bundle), spec)
    with (
        _open(bundle, REFERENCE, view, options) as reference,
        _open(bundle, precision, view, options) as candidate,
        progress.step(f"drawing attention maps of fp32 and {precision}", len(images)) as advance,
    ):
        found = []
        for image in images:
            pixels = preprocess(image.pixels, spec.preprocess)
            (first, ours), (second, theirs) = (
                _attention_map(session, pixels, spec, view) for session in (reference, candidate)
            )
            picture = base64.b64encode(to_png(Image.fromarray(pixels))).decode()
            likeness = correlation(ours, theirs), overlap(ours, theirs)
            words = view.reading.words
            found.append(Explanation(image.name, picture, words, first, second, *likeness))
            advance(1)
    return tuple(found)


def find_view(model: onnx.ModelProto, spec: ModelSpec) -> View:
    """Return how to draw the attention of `model` on a picture."""
    graph = ir.from_proto(model).graph
    blocks = find_blocks(graph)
    cannot = f"{spec.name}: attention maps cannot be drawn"
    if not blocks:
        raise SpecError(f"{cannot}: no self-attention was found in its graph")
    layout = find_layout(graph, spec.preprocess.image_size, spec.num_tokens)
    if layout is None:
        raise SpecError(
            f"{cannot}: its {spec.num_tokens} tokens are not the patches of one grid and some "
            "before them"
        )
    reading = find_reading(graph, blocks, spec.num_tokens, layout.num_prefix)
    if reading is None:
        raise SpecError(f"{cannot}: the tokens that its answer is read from were not found")
    names = tuple(block.attention.softmax.outputs[0].name or "" for block in blocks)
    return View(names, reading, layout)


def _open(bundle: Bundle, precision: Precision, view: View, options: SessionOptions) -> OrtSession:
    """Open the portable graph of `precision`, its attention among the outputs."""
    name = bundle.graph(precision, "explain")
    model = read_graph(bundle, name)
    made = {output for node in model.graph.node for output in node.output}
    wanted = [*view.attentions, *([view.reading.pool] if view.reading.pool else [])]
    if missing := [value for value in wanted if value not in made]:
        raise SpecError(
            f"{bundle.path / name} has no value {missing[0]}, which fp32 has. "
            f"Run: edgevit quantize {bundle.path}"
        )
    exposed, weights = read_with_weights(expose(model, wanted))
    return OrtSession(exposed, precision, options, name=str(bundle.path / name), weights=weights)


def _attention_map(
    session: OrtSession, pixels: UInt8Array, spec: ModelSpec, view: View
) -> tuple[AttentionMap, FloatArray]:
    batch = np.broadcast_to(pixels, (spec.static_batch or 1, *pixels.shape))
    outputs: dict[str, Array] = session.run({spec.inputs[0].name: np.ascontiguousarray(batch)})
    rolled = roll_out([_of_one(outputs[name], spec) for name in view.attentions])
    weights = np.asarray(view.reading.weights)
    if view.reading.pool:
        pooled = _of_one(outputs[view.reading.pool], spec).astype(np.float64)
        weights = pooled.reshape(-1, pooled.shape[-1]).mean(axis=0)
    rollout = map_of(rolled, weights, view.layout.rows, view.layout.columns)
    first = {output.name: outputs[output.name][:1] for output in spec.outputs}
    (prediction,) = task_of(spec).decode(spec, first, top=_NUM_NAMES)
    rows = tuple(tuple(round(float(v), 8) for v in row) for row in rollout)
    return AttentionMap(session.precision, rows, prediction.names), rollout


def _of_one(attention: Array, spec: ModelSpec) -> Array:
    """The first image's probabilities, (heads, tokens, tokens), whatever axes the graph keeps."""
    count = spec.static_batch or 1
    shape = attention.shape
    first: Array = attention.reshape(count, -1, *shape[-2:])[0]
    return first


def roll_out(attentions: Sequence[npt.NDArray[np.floating]]) -> FloatArray:
    """Return how much of each input token is in each output token, (tokens, tokens), rows sum to 1.

    Abnar and Zuidema 2020, Quantifying Attention Flow in Transformers (ACL): each block passes on
    half of what it gets unchanged, through its residual connection, and half as its attention
    weighs it, averaged over heads: the product over blocks of ``(A + I) / 2``. `attentions` are the
    probabilities of each block, first to last, (heads, tokens, tokens) each.
    """
    rolled: FloatArray = np.eye(attentions[0].shape[-1])
    for attention in attentions:
        mean = attention.astype(np.float64).mean(axis=0)
        mixed = (mean + np.eye(len(mean))) / 2
        rolled = (mixed / mixed.sum(axis=1, keepdims=True)) @ rolled
    return rolled


def map_of(rolled: FloatArray, weights: FloatArray, rows: int, columns: int) -> FloatArray:
    """Return how much of the output comes from each patch, (rows, columns), adding up to 1.

    `weights` are those of each output token in the prediction, (tokens,); patches come last.
    """
    patches = (weights @ rolled)[-rows * columns :]
    total = patches.sum()
    flat = patches / total if total > 0 else np.full(len(patches), 1 / len(patches))
    return np.asarray(flat.reshape(rows, columns))


def correlation(first: FloatArray, second: FloatArray) -> float:
    """Return Pearson's correlation of two maps; 1 where both are flat, 0 where one is."""
    a, b = first.reshape(-1) - first.mean(), second.reshape(-1) - second.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if np.allclose(first, second) else 0.0
    return float(np.clip(a @ b / norms, -1, 1))


def overlap(first: FloatArray, second: FloatArray) -> float:
    """Return the share of the brightest tenth of the patches that both maps have in common."""
    count = max(1, math.ceil(BRIGHTEST * first.size))
    brightest = [set(np.argsort(-m, axis=None, kind="stable")[:count]) for m in (first, second)]
    return len(brightest[0] & brightest[1]) / count
