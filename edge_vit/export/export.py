"""Export of a source: the canonical fp32 graph, its facts, and the proof of its parity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_vit.bundle import GOLDEN, RECORD, WEIGHTS, Bundle, Golden
from edge_vit.bundle.record import SAMPLE_PHOTOGRAPHS, ExportRecord
from edge_vit.data.images import ImageSource
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.export.golden import NUM_GOLDEN, choose_golden, own_samples
from edge_vit.export.meaning import settle_meaning
from edge_vit.export.parity import check_parity, sample_photos
from edge_vit.export.reference import observe_reference
from edge_vit.export.sources import OnnxSource, SourceRequest, TorchSource, open_source
from edge_vit.export.sources.from_onnx import refuse_choice
from edge_vit.export.sources.onnx_file import fix_batch, refuse_quantized
from edge_vit.export.trace import trace_module
from edge_vit.formats import REFERENCE, find_format
from edge_vit.graph.large import Spill, serialize
from edge_vit.optional import installed_versions
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ClipSpec, ModelSpec
from edge_vit.tasks.maps.pictures import to_png

_TOOLS = {
    "onnx": (),
    "timm": ("torch", "onnxscript", "timm"),
    "torchvision": ("torch", "onnxscript", "torchvision"),
    "hf": ("torch", "onnxscript", "transformers"),
}
"""Scheme of the source -> what makes its graph, where that is more or less than torch alone."""

_MAX_GOLDEN_BYTES, _FEWEST_GOLDEN = 32 << 20, 2  # of outputs, and images where they are larger
_MAX_GOLDEN_PIXELS = 2_000_000  # larger ones are kept as the model sees them, not as decoded


@dataclass(frozen=True)
class Exported:
    """An exported model, before it is written."""

    fp32: bytes  # the canonical graph, as its file in the bundle
    spec: ModelSpec
    record: ExportRecord  # how it was made and proven
    images: npt.NDArray[np.uint8]
    """(5, height, width, 3), clips (5, frames, ...): what it was proven on, preprocessed."""
    outputs: npt.NDArray[np.float32]  # (5, ...): the graph's first output for each
    decoded: tuple[npt.NDArray[np.uint8], ...]
    """The same images or clips as they came, of any size; empty where sample photographs served."""
    further: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """The graph's other outputs by name."""
    weights: Path | None = None  # their file, where the graph does not hold them
    spill: Spill = field(default_factory=Spill, repr=False, compare=False)
    """The folder of that file."""


def export_model(
    request: SourceRequest,
    *,
    static_batch: int | None = None,
    images: ImageSource | Callable[[ClipSpec | None], ImageSource] | None = None,
    progress: Progress = SILENT,
) -> Exported:
    """Return the model that `request` asks for as a canonical fp32 graph.

    `static_batch` fixes the batch size. It is proven on `images`, or on what that opens once it is
    known which clips the model reads; on sample photographs where there are none.

    Raises:
        SpecError: the model cannot be found, built, traced or brought into the canonical form.
        ArtifactError: its weights cannot be read or do not fit.
        ParityError: the graph does not give what the model gives.
    """
    with progress.step(f"opening {request.address}"):
        source = open_source(request)
    if source.inputs and images is not None:
        wanted = ", ".join(f"{tensor.name} {tensor}" for tensor in source.inputs)
        raise SpecError(
            f"{source.address} takes {wanted}, no images. Calibrate it with --calib seeds:0-31"
        )
    batch = static_batch
    if isinstance(source, OnnxSource):
        batch = fix_batch(source.model, source.address, static_batch)
    size, clip = source.preprocess.image_size, source.preprocess.clip
    spill = Spill()
    if isinstance(source, TorchSource):
        spill.reserve(sum(tensor.nbytes for tensor in source.module.state_dict().values()))
    with progress.step("running the model"):
        if callable(images):
            images = images(clip)
        decoded = () if images is None else tuple(i.pixels for i in choose_golden(images))
        name = f"{len(decoded)} of the given images" if decoded else SAMPLE_PHOTOGRAPHS
        if source.inputs:
            name, seen = own_samples(source, NUM_GOLDEN)
        elif decoded:
            seen = np.stack([preprocess(pixels, source.preprocess) for pixels in decoded])
        else:
            seen = sample_photos(source.preprocess, NUM_GOLDEN)
        reference = observe_reference(
            source, seen, name, batch, may_be_constant=request.random_weights
        )
    is_contract = False
    if isinstance(source, TorchSource):
        with progress.step("tracing"):
            frames = clip.frames if clip else None
            proto = trace_module(source.module, size, batch, frames, source.inputs, spill)
            refuse_quantized(proto, source.address)
            if not source.outputs:
                refuse_choice(proto.graph, source.address, proto.graph.output[0].name)
    else:
        assert isinstance(source, OnnxSource)
        proto, is_contract, spill = source.model, source.is_contract, source.spill
    with progress.step("bringing the graph into canonical form"):
        canonical = make_canonical(
            proto,
            source.preprocess,
            source.task,
            is_contract=is_contract,
            settle=lambda ending: settle_meaning(
                request, source.task, ending, reference.outputs, source.activation
            ),
            outputs=source.outputs,
            shapes=[each.shape[1:] for each in reference.runs[0].outputs],
            inputs=source.inputs,
            spill=spill,
        )
        meaning = canonical.meaning
        fp32, weights = serialize(canonical.model, find_format(REFERENCE).file, spill)
    spec = ModelSpec(
        name=source.name,
        source=source.address,
        task=meaning.task,
        labels=source.labels,
        inputs=canonical.inputs,
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
        text=source.text,
        sampling=source.sampling,
    )
    with progress.step("proving parity"):
        restore = meaning.stripped.restore if meaning.stripped else None
        parity, outputs = check_parity(
            source, canonical.model if weights else fp32, reference, restore
        )
    checkpoint = request.checkpoint.name if request.checkpoint else ""
    remarks = (*source.remarks, *meaning.remarks)
    record = ExportRecord(
        *(request.address, checkpoint, parity, canonical.notes, remarks, source.weights),
        is_quantizable=canonical.is_quantizable,
    )
    first, *others = outputs
    names = [output.name for output in canonical.outputs[1:]]
    further = dict(zip(names, others, strict=True))
    return Exported(fp32, spec, record, seen, first, decoded, further, weights, spill)


def golden_of(exported: Exported) -> Golden:
    """Return the images and their outputs for the self-test: of large maps as many as fit."""
    every = (exported.outputs, *exported.further.values())
    num_bytes = sum(output[0].nbytes for output in every)
    count = max(_FEWEST_GOLDEN, _MAX_GOLDEN_BYTES // num_bytes)
    further = {name: output[:count] for name, output in exported.further.items()}
    return Golden(exported.images[:count], exported.outputs[:count], further)


def write_export(bundle: Bundle, exported: Exported) -> Bundle:
    """Add the reference graph, its record and the golden images to `bundle`; return it."""
    golden = golden_of(exported)
    scheme = exported.spec.source.partition(":")[0]
    used = ("onnx", "onnx-ir", "onnxruntime", *_TOOLS.get(scheme, ("torch", "onnxscript")))
    graph: dict[str, bytes | Path] = {bundle.graph(): exported.fp32}
    if exported.weights is not None:
        graph[bundle.graph() + WEIGHTS] = exported.weights
    bundle = bundle.add(graph, made_by=installed_versions(*used))
    files = {GOLDEN: golden.to_bytes(), RECORD: exported.record.to_bytes()}
    for index, pixels in enumerate(exported.decoded[: len(golden.images)]):
        if pixels.ndim == 3 and pixels.shape[0] * pixels.shape[1] <= _MAX_GOLDEN_PIXELS:
            files[f"golden/{index}.png"] = to_png(Image.fromarray(pixels))
    made_by = installed_versions("onnxruntime", "pillow")
    return bundle.add(files, parents=(bundle.graph(),), made_by=made_by)


def export_notes(exported: Exported) -> Iterator[str]:
    """Yield an export in sentences: weights, parity, shape, and what stayed as it was."""
    record, spec = exported.record, exported.spec
    parity = record.parity
    if record.weights:
        yield f"{record.checkpoint or 'checkpoint'}: {record.weights}"
    yield (
        f"parity with {parity.reference} on {parity.images}, batch "
        f"{', '.join(map(str, parity.batches))}: cosine "
        f"{parity.cosine_min:.7f}, largest error {parity.max_error:.1e} of the largest output"
    )
    if parity.spread < 100 * parity.max_error:
        yield (
            f"the outputs of two images differ by {parity.spread:.1e} only: weights like these "
            "(untrained?) prove little"
        )
    if spec.depth:
        yield spec.describe_blocks()
    yield from record.remarks
    for note in record.notes:
        yield f"left in its own form, {note}"
