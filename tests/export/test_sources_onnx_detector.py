"""``onnx:`` detectors: outputs known by their names, and graphs that decode by themselves."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from edge_vit.errors import SpecError
from edge_vit.export.export import export_model
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.export.sources.onnx_boxes import as_shares
from edge_vit.tasks import task_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the exporter that they use

SAID = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SIZE = (96, 160)  # height, width of an image before it is resized


QUERIES, CLASSES, SIDE = 10, 5, 32


class Tiny(torch.nn.Module):
    """Queries that attend once to the patches of an image; one column more than classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)
        self.queries = torch.nn.Parameter(torch.randn(1, QUERIES, 16) * 2)
        self.classes, self.boxes = torch.nn.Linear(16, CLASSES + 1), torch.nn.Linear(16, 4)
        with torch.no_grad():
            for weight in (self.patches.weight, self.classes.weight, self.boxes.weight):
                weight.mul_(4)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        weights = (self.queries @ tokens.transpose(1, 2)).softmax(-1)
        found = weights @ tokens + self.queries
        return self.classes(found), self.boxes(found).sigmoid()


class Deployed(torch.nn.Module):
    """A detector with the post-processing of RT-DETR's and D-FINE's own exports behind it."""

    def __init__(self, model, top, softmax=False):
        super().__init__()
        self.model, self.top, self.softmax = model, top, softmax

    def forward(self, images, sizes=None):
        logits, middle_size = self.model(images)
        middle, size = middle_size.split(2, dim=-1)
        boxes = torch.cat((middle - size / 2, middle + size / 2), dim=-1)
        if sizes is not None:
            boxes = boxes * sizes.repeat(1, 2).unsqueeze(1)
        if self.softmax:
            scores, labels = logits.softmax(-1)[:, :, :-1].max(-1)
            scores, queries = scores.topk(self.top, dim=-1)
            labels = labels.gather(1, queries)
        else:
            columns = logits.shape[2]
            scores, index = logits.sigmoid().flatten(1).topk(self.top, dim=-1)
            labels, queries = index % columns, index // columns
        return labels, boxes.gather(1, queries.unsqueeze(-1).repeat(1, 1, 4)), scores


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Return a function that exports a detector in one of the known forms."""
    root = tmp_path_factory.mktemp("detectors")
    model = Tiny().eval()
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([SIZE[::-1]] * 2)

    def export(name, module, inputs, given, outputs):
        path = root / f"{name}.onnx"
        if not path.exists():
            dynamic = {name: {0: "N"} for name in (*given, *outputs)}
            torch.onnx.export(
                module, inputs, path, input_names=given, output_names=outputs,
                dynamic_axes=dynamic, opset_version=17, dynamo=False,
            )  # fmt: skip
        return path

    def get(name):
        if name in ("softmax", "sigmoid", "plain"):
            module = Deployed(model, QUERIES, name == "softmax")
            given = ["images", "orig_target_sizes"][: 1 + (name != "plain")]
            inputs = (images, sizes)[: len(given)]
            return export(name, module, inputs, given, ["labels", "boxes", "scores"])
        path = export("named", Named(model), (images,), ["pixels"], ["pred_boxes", "logits"])
        if name == "named":
            return path
        renamed = onnx.load(path)
        names = {"pred_boxes": "dets", "logits": "labels"}
        for node in renamed.graph.node:
            node.output[:] = [names.get(output, output) for output in node.output]
            node.input[:] = [names.get(value, value) for value in node.input]
        for output in renamed.graph.output:
            output.name = names[output.name]
        onnx.save(renamed, root / "rf_detr.onnx")
        return root / "rf_detr.onnx"

    return get


class Named(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        logits, boxes = self.model(images)
        return boxes, logits


def export(path, **said):
    return export_model(SourceRequest(f"onnx:{path}", **{**SAID, **said}))


@pytest.mark.parametrize("form", ["softmax", "sigmoid", "plain"])
def test_a_graph_that_decodes_gives_the_same_boxes_without_its_decoding(write, form):
    path = write(form)
    exported = export(path)
    spec = exported.spec
    assert (spec.task, spec.activation) == (
        "detection",
        "softmax" if form == "softmax" else "sigmoid",
    )
    assert [output.name for output in spec.outputs] == ["logits", "boxes"]
    assert not {"TopK", "GatherElements"} & {
        node.op_type for node in onnx.load_from_string(exported.fp32).graph.node
    }
    feed = {"images": (exported.images[:1] / np.float32(255)).transpose(0, 3, 1, 2)}
    if form != "plain":
        feed["orig_target_sizes"] = np.array([SIZE[::-1]], np.int64)
    labels, boxes, scores = (x[0] for x in ort.InferenceSession(path).run(None, feed))
    outputs = {"logits": exported.outputs[:1], "boxes": exported.further["boxes"][:1]}
    task = task_of(spec)
    everything = task.shown_from(spec, 0.0)
    size = SIZE if form != "plain" else (1, 1)
    (prediction,) = task.decode(everything, outputs, sizes=[size], top=QUERIES)
    assert [box.index for box in prediction.boxes] == labels.tolist()
    np.testing.assert_allclose([box.score for box in prediction.boxes], scores, atol=1e-5)
    wanted = np.clip(boxes, 0, [size[1], size[0]] * 2)
    np.testing.assert_allclose([box.box for box in prediction.boxes], wanted, atol=1e-2)


def test_boxes_and_logits_are_known_by_their_names_in_any_order(write):
    exported = export(write("named"), nms=0.6)
    assert exported.spec.nms == 0.6
    assert [output.name for output in exported.spec.outputs] == ["logits", "boxes"]
    assert exported.outputs.shape[2] == CLASSES + 1
    assert ((exported.further["boxes"] >= 0) & (exported.further["boxes"] <= 1)).all()
    (remark,) = (r for r in exported.record.remarks if "last class column" in r)
    assert f"{exported.spec.activation} is applied" in remark


@pytest.mark.parametrize(("count", "activation"), [(CLASSES, "softmax"), (CLASSES + 1, "sigmoid")])
def test_as_many_labels_as_columns_mean_sigmoid_and_one_less_softmax(write, count, activation):
    labels = tuple(f"thing {index}" for index in range(count))
    source = open_source(SourceRequest(f"onnx:{write('named')}", **SAID, labels=labels))
    assert (source.activation, source.labels) == (activation, labels)
    with pytest.raises(SpecError, match="has 6 classes, but 3 labels were given"):
        open_source(SourceRequest(f"onnx:{write('named')}", **SAID, labels=labels[:3]))


def test_rf_detrs_names_mean_sigmoid(write):
    source = open_source(SourceRequest(f"onnx:{write('rf_detr')}", **SAID))
    assert (source.task, source.outputs) == ("detection", ("logits", "boxes"))
    assert source.activation == "sigmoid"
    assert [output.name for output in source.model.graph.output] == ["labels", "dets"]


def test_a_graph_whose_decoding_is_another_is_refused(write, tmp_path):
    graph = onnx.load(write("sigmoid"))
    graph.graph.node.append(onnx.helper.make_node("Sqrt", ["scores"], ["rooted"]))
    graph.graph.output[2].name = "rooted"
    for node in graph.graph.node:
        names = {"scores": "inner", "rooted": "scores"}
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph.graph.output[2].name = "scores"
    onnx.save(graph, tmp_path / "other.onnx")
    with pytest.raises(
        SpecError, match=r"are not the best of logits .* Export it without its post"
    ):
        open_source(SourceRequest(f"onnx:{tmp_path / 'other.onnx'}", **SAID))


def rename(path, target, **names):
    graph = onnx.load(path)
    for node in graph.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for output in graph.graph.output:
        output.name = names.get(output.name, output.name)
    onnx.save(graph, target)
    return target


def test_a_detector_by_other_names_is_known_by_its_shapes(write, tmp_path):
    path = rename(write("named"), tmp_path / "1.onnx", logits="cls", pred_boxes="bbox_out")
    source = open_source(SourceRequest(f"onnx:{path}", **SAID))
    assert [output.name for output in source.model.graph.output] == ["cls", "bbox_out"]
    path = rename(write("named"), tmp_path / "2.onnx", logits="a", pred_boxes="b")
    with pytest.raises(SpecError, match=r"got 'b' .*'a' .*known as logits .* --task detection"):
        open_source(SourceRequest(f"onnx:{path}", **SAID))
    source = open_source(SourceRequest(f"onnx:{path}", **SAID, task="detection"))
    assert [output.name for output in source.model.graph.output] == ["a", "b"]


def test_an_iou_for_suppression_is_a_share(write):
    with pytest.raises(SpecError, match="--nms: got 1, expected an IoU above 0 and below 1"):
        export(write("named"), nms=1.0)


def append(path, target, output, *nodes, **constants):
    """Write the graph at `path` with `nodes` behind its `output`, which then reads ``inner``."""
    rename(path, target, **{output: "inner"})
    graph = onnx.load(target)
    for name, array in constants.items():
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for operator, inputs, outputs in nodes:
        graph.graph.node.append(onnx.helper.make_node(operator, inputs, outputs))
    place = [value.name for value in graph.graph.output].index("inner")
    graph.graph.output[place].name = output
    onnx.save(graph, target)
    return target


def outputs_of(model):
    session = ort.InferenceSession(model if isinstance(model, bytes) else str(model))
    pixels = np.random.default_rng(1).random((2, 3, SIDE, SIDE)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: pixels}), strict=True))


_TO_CORNERS = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(4) * SIDE, "centres and sizes in pixels of 32 x 32"),
        (_TO_CORNERS, "corners in shares of the input"),
        (_TO_CORNERS * SIDE, "corners in pixels of 32 x 32"),
    ],
)
def test_boxes_in_pixels_or_as_corners_become_shares(write, tmp_path, matrix, words):
    plain = write("named")
    form = ("MatMul", ["inner", "matrix"], ["pred_boxes"])
    path = append(plain, tmp_path / "1.onnx", "pred_boxes", form, matrix=np.float32(matrix))
    source = open_source(SourceRequest(f"onnx:{path}", **SAID))
    assert source.outputs == ("logits", "boxes")
    assert any(words in remark for remark in source.remarks)
    found = outputs_of(source.model.SerializeToString())
    wanted = outputs_of(plain)
    np.testing.assert_allclose(found["pred_boxes/shares"], wanted["pred_boxes"], atol=1e-5)
    np.testing.assert_array_equal(found["logits"], wanted["logits"])


def test_empty_boxes_of_padding_do_not_hide_that_the_others_are_corners():
    value = onnx.helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, [1, 20, 4])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "boxes", [], [value]))
    corners = np.sort(np.random.default_rng(0).random((1, 20, 2, 2)), axis=2).reshape(1, 20, 4)
    corners[:, 15:] = 0
    (remark,) = as_shares("onnx:d.onnx", model, "boxes", np.float32(corners), (SIDE, SIDE))
    assert "its boxes are corners in shares of the input" in remark


def test_boxes_of_no_unit_that_is_known_are_refused(write, tmp_path):
    far = ("Mul", ["inner", "by"], ["pred_boxes"])
    path = append(write("named"), tmp_path / "1.onnx", "pred_boxes", far, by=np.float32(640))
    with pytest.raises(SpecError, match=r"'pred_boxes': got numbers from .* in pixels of 32 x 32"):
        open_source(SourceRequest(f"onnx:{path}", **SAID))


@pytest.mark.parametrize("operator", ["Sigmoid", "Softmax"])
def test_probabilities_become_logits(write, tmp_path, operator):
    end = (operator, ["inner"], ["logits"])
    path = append(write("named"), tmp_path / "1.onnx", "logits", end)
    source = open_source(SourceRequest(f"onnx:{path}", **SAID))
    assert source.activation == operator.lower()
    assert any(f"class scores end in {operator}" in remark for remark in source.remarks)
    found = outputs_of(source.model.SerializeToString())
    np.testing.assert_array_equal(found["inner"], outputs_of(write("named"))["logits"])


def test_probabilities_without_logits_are_refused(write, tmp_path):
    nodes = [("Sigmoid", ["inner"], ["between"]), ("Sqrt", ["between"], ["logits"])]
    path = append(write("named"), tmp_path / "1.onnx", "logits", *nodes)
    with pytest.raises(SpecError, match=r"'logits': got probabilities, .* without its sigmoid"):
        open_source(SourceRequest(f"onnx:{path}", **SAID))


def test_boxes_with_their_scores_beside_labels_are_cut_in_front_of_their_choice(write, tmp_path):
    joined = onnx.load(write("plain"))
    axis = onnx.numpy_helper.from_array(np.array([2]), "axis")
    joined.graph.initializer.append(axis)
    joined.graph.node.append(onnx.helper.make_node("Unsqueeze", ["scores", "axis"], ["column"]))
    joined.graph.node.append(onnx.helper.make_node("Concat", ["boxes", "column"], ["dets"], axis=2))
    labels = joined.graph.output[0]
    del joined.graph.output[:]
    dets = onnx.helper.make_tensor_value_info("dets", 1, ["N", QUERIES, 5])
    joined.graph.output.extend([dets, labels])
    onnx.save(joined, tmp_path / "1.onnx")
    source = open_source(SourceRequest(f"onnx:{tmp_path / '1.onnx'}", **SAID))
    plain = open_source(SourceRequest(f"onnx:{write('plain')}", **SAID))
    ends = [[output.name for output in each.model.graph.output] for each in (source, plain)]
    assert (source.activation, ends[0]) == ("sigmoid", ends[1])


def test_lists_without_a_batch_are_refused(write, tmp_path):
    """Non-maximum suppression gives as many as it finds, in one list."""
    first = [("Gather", [f"{name}_all", "zero"], [name]) for name in ("labels", "boxes", "scores")]
    path = rename(
        write("plain"), tmp_path / "1.onnx", labels="labels_all", boxes="boxes_all",
        scores="scores_all",
    )  # fmt: skip
    graph = onnx.load(path)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "zero"))
    graph.graph.node.extend(onnx.helper.make_node(*each) for each in first)
    kinds = {output.name: output.type.tensor_type.elem_type for output in graph.graph.output}
    del graph.graph.output[:]
    graph.graph.output.extend(
        onnx.helper.make_tensor_value_info(
            name.removesuffix("_all"), kind, ["n", 4][: 1 + ("boxes" in name)]
        )
        for name, kind in kinds.items()
    )
    onnx.save(graph, path)
    with pytest.raises(SpecError, match=r"Export it without its post-processing"):
        open_source(SourceRequest(f"onnx:{path}", **SAID))
