"""What an output means: what the user says, the source declares, the graph and the numbers show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
from decoding import predict
from onnx import helper
from onnx_ends import write_file

from edge_vit.errors import SpecError
from edge_vit.export.canonical import make_canonical
from edge_vit.export.export import export_model
from edge_vit.export.meaning import Meaning, settle_meaning
from edge_vit.export.sources import SourceRequest
from edge_vit.export.trace import trace_module
from edge_vit.spec import PreprocessSpec

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(scale=3, size=(6, 4)).astype(np.float32)
SHARES = scipy.special.softmax(LOGITS, axis=1)
TAGS = scipy.special.expit(LOGITS)


def settled(outputs=LOGITS, declared="classification", ending=None, **said):
    return settle_meaning(SourceRequest("onnx:net.onnx", **said), declared, ending, outputs)


def end(activation, is_log=False):
    name = ("Log" if is_log else "") + activation.capitalize()
    return SimpleNamespace(activation=activation, is_log=is_log, name=name)


def test_logits_of_classes_are_the_usual():
    found = settled()
    assert (found.task, found.activation, found.remarks) == ("classification", "softmax", ())


PAIR = SHARES[:, :2] / SHARES[:, :2].sum(axis=1, keepdims=True)


@pytest.mark.parametrize("outputs", [SHARES, np.eye(4, dtype=np.float32), PAIR])
def test_outputs_that_add_up_to_one_get_no_softmax(outputs):
    found = settled(outputs)
    assert (found.task, found.activation) == ("classification", "none")
    assert "add up to 1" in found.remarks[0]


def test_log_probabilities_are_made_whole_by_a_softmax():
    found = settled(np.log(SHARES))
    assert found.activation == "softmax"
    assert "log-probabilities" in found.remarks[0]


def test_outputs_of_length_one_are_suspected_to_be_features():
    found = settled(LOGITS / np.linalg.norm(LOGITS, axis=1, keepdims=True))
    assert found.task == "classification"
    assert "add --num-classes 0" in found.remarks[0]


def test_outputs_between_zero_and_one_are_suspected_and_said():
    found = settled(TAGS)
    assert (found.task, found.activation) == ("classification", "softmax")
    assert "add --task multi_label --activation none" in found.remarks[0]
    assert settled(TAGS, task="multi_label", activation="none").activation == "none"


@pytest.mark.parametrize("scale", [0.5, 100])
def test_positive_outputs_that_add_up_to_something_else_are_logits(scale):
    found = settled(scale * SHARES)
    assert found.activation == "softmax"
    assert f"add up to {scale}" in found.remarks[0]


def test_one_output_is_a_score():
    found = settled(LOGITS[:, :1])
    assert (found.task, found.activation) == ("regression", "none")
    assert "add --task multi_label" in found.remarks[0]


def test_one_sigmoid_is_one_label():
    found = settled(TAGS[:, :1], ending=end("sigmoid"))
    assert (found.task, found.activation) == ("multi_label", "sigmoid")
    assert found.stripped is not None
    kept = settled(TAGS[:, :1], ending=end("sigmoid"), task="regression")
    assert (kept.task, kept.activation, kept.stripped) == ("regression", "none", None)


def test_sigmoids_are_labels_unless_they_are_said_to_be_classes():
    assert settled(TAGS, ending=end("sigmoid")).task == "multi_label"
    found = settled(TAGS, ending=end("sigmoid"), task="classification")
    assert (found.task, found.activation) == ("classification", "sigmoid")


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_the_configuration_goes_before_the_graph(task):
    found = settled(declared=task)
    assert found.task == task
    assert "its configuration says" in found.remarks[0]
    assert settled(declared=task, task="classification").task == "classification"


def test_features_are_left_alone():
    found = settled(SHARES, "features", end("softmax"))
    assert (found.task, found.activation, found.stripped) == ("features", "none", None)


def test_refuses_what_cannot_be():
    with pytest.raises(SpecError, match="has 1 output, expected at least 2 classes"):
        settled(LOGITS[:, :1], task="classification")
    with pytest.raises(SpecError, match="ends in LogSoftmax itself, and would have two of them"):
        settled(SHARES, ending=end("softmax", is_log=True), activation="softmax")
    with pytest.raises(SpecError, match="expected probabilities from 0 to 1"):
        settled(activation="none")
    with pytest.raises(SpecError, match=r"--threshold 0\.3: .* gives classification, where"):
        settled(threshold=0.3)
    with pytest.raises(SpecError, match=r"--nms 0\.5: .* gives classification, which has no boxes"):
        settled(nms=0.5)
    with pytest.raises(SpecError, match="--threshold: got 2, expected more than 0 and less than 1"):
        settled(task="multi_label", threshold=2.0)
    with pytest.raises(SpecError, match=r"--activation softmax: .* gives features"):
        settled(declared="features", activation="softmax")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"task": "multilabel"}, "expected one of .* Did you mean multi_label"),
        ({"activation": "sofmax"}, "Did you mean softmax"),
        ({"task": "regression", "activation": "softmax"}, "regression has no probabilities"),
        ({"task": "features", "num_classes": 3}, "--task features and --num-classes 3"),
        ({"task": "multi_label", "num_classes": 0}, "--task multi_label and --num-classes 0"),
    ],
)
def test_refuses_words_that_do_not_fit(said, message):
    with pytest.raises(SpecError, match=message):
        SourceRequest("onnx:net.onnx", **said)


def test_features_by_task_take_the_head_off():
    assert SourceRequest("timm:vit", task="features").classes == 0


def exported_file(path, **said):
    halves = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return export_model(SourceRequest(f"onnx:{path}", **halves, **said))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Identity"])
def test_every_end_gives_the_same_probabilities_and_the_graph_logits(tmp_path, op):
    plain = exported_file(
        write_file(tmp_path / "p.onnx", helper.make_node("Identity", ["l"], ["y"]))
    )
    found = exported_file(write_file(tmp_path / "e.onnx", helper.make_node(op, ["l"], ["y"])))
    assert found.spec.activation == "softmax"
    assert found.spec.outputs[0].name == "logits"
    np.testing.assert_allclose(found.outputs, plain.outputs, rtol=1e-5)
    assert bool(found.record.remarks) == (op != "Identity")
    one, other = (predict(each.spec, each.outputs[0]).classes[0] for each in (plain, found))
    assert (one.index, pytest.approx(one.score, abs=1e-6)) == (other.index, other.score)


@pytest.mark.parametrize("opset", [9, 11, 12, 17, 20])
def test_the_softmax_of_every_opset_is_known(tmp_path, opset):
    path = write_file(tmp_path / "e.onnx", helper.make_node("Softmax", ["l"], ["y"]), opset=opset)
    found = exported_file(path)
    assert found.spec.outputs[0].name == "logits"
    assert "ends in Softmax" in found.record.remarks[0]


def test_an_end_that_cannot_be_taken_off_is_not_applied_twice(tmp_path):
    nodes = [
        helper.make_node("Softmax", ["l"], ["p"]),
        helper.make_node("Constant", [], ["order"], value_ints=[1, 0, 2]),
        helper.make_node("Gather", ["p", "order"], ["y"], axis=1),
    ]
    found = exported_file(write_file(tmp_path / "e.onnx", *nodes))
    assert (found.spec.activation, found.spec.outputs[0].name) == ("none", "probabilities")
    top = predict(found.spec, found.outputs[0]).classes
    assert sum(answer.score for answer in top) == pytest.approx(1)


def test_a_file_of_one_output_is_a_score_with_its_threshold(tmp_path):
    path = write_file(tmp_path / "e.onnx", helper.make_node("Identity", ["l"], ["y"]), classes=1)
    found = exported_file(path, threshold=2.5)
    assert (found.spec.task, found.spec.threshold) == ("regression", 2.5)
    assert found.spec.outputs[0].name == "scores"
    assert predict(found.spec, found.outputs[0]).scores[0].value == found.outputs[0, 0]


FORMS = {
    "percent": lambda logits: 100 * logits.softmax(1),
    "map": lambda logits: torch.nn.Softmax2d()(logits[:, :, None, None]).flatten(1),
    "difference": lambda logits: logits - logits.logsumexp(1, keepdim=True),
}


@pytest.mark.uncounted
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_ends_that_torch_writes_are_known(form):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(192, 4)

        def forward(self, images):
            return form(self.head(images.flatten(1)))

    found = []
    make_canonical(
        trace_module(Net().eval(), (8, 8)),
        PreprocessSpec((8, 8)),
        "classification",
        settle=lambda ending: found.append(ending) or Meaning("classification", "softmax"),
    )
    assert found[0].activation == "softmax"
