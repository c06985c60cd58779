"""Runs a bundle's graphs with their attention laid open, and compares their attention maps."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from PIL import Image

from edge_vit.bundle import Bundle
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.preprocess import UInt8Array, preprocess
from edge_vit.errors import SpecError
from edge_vit.explain.rollout import FloatArray, correlation, map_of, overlap, roll_out
from edge_vit.explain.values import AttentionMap, Explanation
from edge_vit.formats import REFERENCE
from edge_vit.graph.expose import expose
from edge_vit.graph.reading import Layout, Reading, find_layout, find_reading
from edge_vit.graph.sites import find_blocks
from edge_vit.progress import SILENT, Progress
from edge_vit.runtime.ort import OrtSession
from edge_vit.runtime.session import DEFAULT_OPTIONS, Array, SessionOptions
from edge_vit.spec import ModelSpec, Precision
from edge_vit.tasks import task_of

_NUM_ANSWERS = 3


@dataclass(frozen=True)
class View:
    """What has to be known of a graph to draw maps of it.

    Attributes:
        attentions: names of the probabilities of each block, first to last.
    """

    attentions: tuple[str, ...]
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
    operator as in the forms for single processors, which have the same scales.

    Args:
        bundle: an open bundle, or the path of one.
        source: images.
        precision: held against fp32; None for the narrowest of the bundle.
        options: threads.
        progress: is told of each image.

    Raises:
        SpecError: the model's attention cannot be drawn on the picture; the message says why.
        ArtifactError: a graph is missing, truncated or edited.
        ImageError: there are no images, or one cannot be read.
        BackendError: a graph cannot be run.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    precision = precision or bundle.smallest_precision
    images, spec = open_image_source(source, has_truth=False), bundle.spec
    view = find_view(onnx.load_from_string(bundle.read_graph()), spec)
    with (
        _open(bundle, REFERENCE, view, options) as reference,
        _open(bundle, precision, view, options) as candidate,
        progress.step(f"looking with fp32 and {precision}", len(images)) as advance,
    ):
        found = []
        for image in images:
            pixels = preprocess(image.pixels, spec.preprocess)
            maps = [
                _attention_map(session, pixels, spec, view) for session in (reference, candidate)
            ]
            found.append(_compare(image.name, pixels, view, *maps))
            advance(1)
    return tuple(found)


def find_view(model: onnx.ModelProto, spec: ModelSpec) -> View:
    """Return how to draw the attention of `model` on a picture.

    Raises:
        SpecError: it has no blocks, its tokens are no patches of the picture, or the tokens that
            its answer is read from are not found.
    """
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
    model = onnx.load_from_string(bundle.read(name))
    made = {output for node in model.graph.node for output in node.output}
    wanted = [*view.attentions, *([view.reading.pool] if view.reading.pool else [])]
    if missing := [value for value in wanted if value not in made]:
        raise SpecError(
            f"{bundle.path / name} has no value {missing[0]}, which fp32 has. "
            f"Run: edgevit quantize {bundle.path}"
        )
    exposed = expose(model, wanted).SerializeToString()
    return OrtSession(exposed, precision, options, name=str(bundle.path / name))


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
    (prediction,) = task_of(spec).decode(spec, first, top=_NUM_ANSWERS)
    rows = tuple(tuple(round(float(v), 8) for v in row) for row in rollout)
    return AttentionMap(session.precision, rows, prediction.names), rollout


def _of_one(attention: Array, spec: ModelSpec) -> Array:
    """The first image's probabilities, (heads, tokens, tokens), whatever axes the graph keeps."""
    count = spec.static_batch or 1
    shape = attention.shape
    first: Array = attention.reshape(count, -1, *shape[-2:])[0]
    return first


def _compare(
    name: str,
    pixels: UInt8Array,
    view: View,
    reference: tuple[AttentionMap, FloatArray],
    candidate: tuple[AttentionMap, FloatArray],
) -> Explanation:
    return Explanation(
        image=name,
        picture_png=_png(pixels),
        reading=view.reading.words,
        reference=reference[0],
        candidate=candidate[0],
        correlation=correlation(reference[1], candidate[1]),
        overlap=overlap(reference[1], candidate[1]),
    )


def _png(pixels: UInt8Array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
