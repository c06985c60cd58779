"""Export of a source: the canonical fp32 graph, its facts, and the proof of its parity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_vit.bundle.record import SAMPLE_PHOTOGRAPHS, ExportRecord
from edge_vit.data.images import ImageSource
from edge_vit.data.preprocess import preprocess
from edge_vit.export.canonical import make_canonical
from edge_vit.export.golden import NUM_GOLDEN, choose_golden
from edge_vit.export.meaning import settle_meaning
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import OnnxSource, SourceRequest, open_source
from edge_vit.export.sources.choices import refuse_choice
from edge_vit.export.sources.onnx_file import fix_batch
from edge_vit.export.sources.quantized import refuse_quantized
from edge_vit.export.trace import trace_module
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ModelSpec, PreprocessSpec, image_input


@dataclass(frozen=True)
class Exported:
    """An exported model, before it is written.

    Attributes:
        fp32: the canonical graph.
        spec: its facts.
        record: how it was made and proven.
        images: uint8 (5, height, width, 3): what it was proven on, preprocessed.
        outputs: float32 (5, ...): the graph's first output for each.
        decoded: the same images as they came, uint8 (height, width, 3) of any size; empty where the
            sample photographs were used.
        further: the graph's other outputs by name.
    """

    fp32: bytes
    spec: ModelSpec
    record: ExportRecord
    images: npt.NDArray[np.uint8]
    outputs: npt.NDArray[np.float32]
    decoded: tuple[npt.NDArray[np.uint8], ...]
    further: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def export_model(
    request: SourceRequest,
    *,
    static_batch: int | None = None,
    images: ImageSource | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Return the model that `request` asks for as a canonical fp32 graph.

    Args:
        request: which model, and what the user says about it.
        static_batch: fix the batch size, or None for a dynamic one.
        images: real images to prove it on; sample photographs where there are none.
        progress: of the stages.

    Raises:
        SpecError: the model cannot be found, built, traced or brought into the canonical form.
        ArtifactError: its weights cannot be read or do not fit.
        ParityError: the graph does not say what the model says.
    """
    with progress.step(f"opening {request.address}"):
        source = open_source(request)
    batch = static_batch
    if isinstance(source, OnnxSource):
        batch = fix_batch(source.model, source.address, static_batch)
    size = source.preprocess.image_size
    with progress.step("running the model"):
        decoded = () if images is None else tuple(i.pixels for i in choose_golden(images))
        name = f"{len(decoded)} of the given images" if decoded else SAMPLE_PHOTOGRAPHS
        seen = _preprocess(decoded, source.preprocess)
        reference = observe_reference(
            source, seen, name, batch, may_be_constant=request.random_weights
        )
    if isinstance(source, OnnxSource):
        proto = source.model
    else:
        with progress.step("tracing"):
            proto = trace_module(source.module, size, batch)
            refuse_quantized(proto, source.address)
            if not source.outputs:
                refuse_choice(proto.graph, source.address, proto.graph.output[0].name)
    with progress.step("bringing the graph into canonical form"):
        is_contract = isinstance(source, OnnxSource) and source.is_contract
        canonical = make_canonical(
            proto,
            source.preprocess,
            source.task,
            is_contract=is_contract,
            settle=lambda ending: settle_meaning(
                request, source.task, ending, reference.outputs, source.activation
            ),
            outputs=source.outputs,
        )
        meaning = canonical.meaning
        fp32 = canonical.model.SerializeToString()
    with progress.step("proving parity"):
        restore = meaning.stripped.restore if meaning.stripped else None
        parity, outputs = check_parity(source, fp32, reference, restore)
    spec = ModelSpec(
        name=source.name,
        source=source.address,
        task=meaning.task,
        labels=source.labels,
        inputs=(image_input(size, canonical.batch),),
        outputs=canonical.outputs,
        preprocess=source.preprocess,
        depth=canonical.depth,
        num_heads=canonical.num_heads,
        embed_dim=canonical.embed_dim,
        num_tokens=canonical.num_tokens,
        licence=source.licence,
        activation=meaning.activation,
        threshold=request.threshold,
        nms=request.nms,
    )
    checkpoint = request.checkpoint.name if request.checkpoint else ""
    remarks = (*source.remarks, *meaning.remarks)
    record = ExportRecord(
        request.address, checkpoint, parity, canonical.notes, remarks, source.weights
    )
    names = [output.name for output in canonical.outputs]
    first, *others = outputs
    further = dict(zip(names[1:], others, strict=True))
    return Exported(fp32, spec, record, seen, first, decoded, further)


def _preprocess(
    decoded: tuple[npt.NDArray[np.uint8], ...], spec: PreprocessSpec
) -> npt.NDArray[np.uint8]:
    if not decoded:
        return sample_photos(spec, NUM_GOLDEN)
    return np.stack([preprocess(pixels, spec) for pixels in decoded])
