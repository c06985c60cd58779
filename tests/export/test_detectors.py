"""Detectors of transformers: each class exports with named outputs, and decodes as its own code."""

from __future__ import annotations

import inspect
from contextlib import nullcontext

import numpy as np
import onnx
import pytest
import small_detectors as small
import torch
import transformers
from traced import older_exporter

from edge_vit.errors import SpecError
from edge_vit.export.export import export_model
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.tasks import task_of
from edge_vit.tasks.detection.decoding import find_boxes

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

PROCESSORS = {
    "yolos": "YolosImageProcessor",
    "detr": "DetrImageProcessor",
    "conditional_detr": "ConditionalDetrImageProcessor",
    "dab-detr": "ConditionalDetrImageProcessor",
    "deformable_detr": "DeformableDetrImageProcessor",
    "table-transformer": "DetrImageProcessor",
    "rt_detr": "RTDetrImageProcessor",
    "rt_detr_v2": "RTDetrImageProcessor",
    "d_fine": "RTDetrImageProcessor",
    "deimv2": "RTDetrImageProcessor",
    "rf_detr": "RfDetrImageProcessor",
    "lw_detr": "DeformableDetrImageProcessor",
}
SIZES = [(480, 640), (333, 200)]
QUICK = ("yolos", "detr", "lw_detr")  # two kinds of plain attention, and deformable attention
EXPORTERS = [
    *(pytest.param(name, older_exporter, id=f"{name}-older") for name in QUICK),
    *(
        pytest.param(n, nullcontext, marks=[] if n == "yolos" else pytest.mark.full, id=n)
        for n in small.DETECTORS
    ),
]
"""Some from torch's older exporter, in a fraction of the time; all from the one in use."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a function that gives the folder of a small detector."""
    root = tmp_path_factory.mktemp("detectors")

    def get(model_type):
        path = root / model_type
        if not path.exists():
            model = small.make_detector(model_type)
            small.save_with_processor(model, path, PROCESSORS[model_type])
        return path

    return get


@pytest.mark.uncounted
@pytest.mark.parametrize(("model_type", "exporter"), EXPORTERS)
def test_exports_with_parity_of_both_outputs(folder, model_type, exporter):
    with exporter():
        exported = export_model(SourceRequest(f"hf:{folder(model_type)}"))
    spec = exported.spec
    assert (spec.task, spec.labels[1]) == ("detection", "thing 1")
    columns = small.NUM_CLASSES + (spec.activation == "softmax")
    assert [(o.name, o.shape) for o in spec.outputs] == [
        ("logits", ("batch", small.NUM_QUERIES, columns)),
        ("boxes", ("batch", small.NUM_QUERIES, 4)),
    ]
    graph = onnx.load_from_string(exported.fp32).graph
    assert [output.name for output in graph.output] == ["logits", "boxes"]
    assert "GridSample" not in {node.op_type for node in graph.node}
    assert exported.outputs.shape == (5, small.NUM_QUERIES, columns)
    assert exported.further["boxes"].shape == (5, small.NUM_QUERIES, 4)
    assert exported.record.parity.max_error < 1e-4


@pytest.mark.uncounted
@pytest.mark.parametrize("model_type", small.DETECTORS)
def test_decodes_as_transformers_own_post_processing(folder, model_type):
    source = open_source(SourceRequest(f"hf:{folder(model_type)}"))
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((2, 3, small.SIDE, small.SIDE), np.float32))
    with torch.no_grad():
        logits, boxes = source.module(images)
    processor = getattr(transformers, PROCESSORS[model_type])()
    found = transformers.modeling_outputs.ModelOutput(logits=logits, pred_boxes=boxes)
    takes = inspect.signature(processor.post_process_object_detection).parameters
    more = {"top_k": small.NUM_QUERIES} if "top_k" in takes else {}
    wanted = processor.post_process_object_detection(
        found, threshold=0.001, target_sizes=SIZES, **more
    )
    task = task_of(source)
    spec = task.outputs(logits.shape[2], None, source.activation)
    assert [output.name for output in spec] == list(source.outputs)
    model = small.spec_of(source, logits.shape[2])
    for row, (size, expected) in enumerate(zip(SIZES, wanted, strict=True)):
        outputs = {"logits": logits[row].numpy(), "boxes": boxes[row].numpy()}
        ours = find_boxes(model, outputs, size, min_score=0.001, clip=False)
        order = np.lexsort((expected["boxes"][:, 0].numpy(), expected["labels"].numpy()))
        again = np.lexsort((ours.boxes[:, 0], ours.classes))
        assert len(ours) == len(order) > 0
        np.testing.assert_allclose(ours.boxes[again], expected["boxes"].numpy()[order], atol=1e-3)
        np.testing.assert_allclose(ours.scores[again], expected["scores"].numpy()[order], atol=1e-6)
        assert ours.classes[again].tolist() == expected["labels"].numpy()[order].tolist()


def test_a_detector_gives_no_features(folder):
    with pytest.raises(SpecError, match="a detector gives boxes, not features"):
        open_source(SourceRequest(f"hf:{folder('yolos')}", num_classes=0))
