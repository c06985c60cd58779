"""``onnx:`` files that normalise their images themselves: it is done once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_vit.errors import SpecError
from edge_vit.export.sources import SourceRequest, open_source
from edge_vit.spec import IMAGENET_MEAN, IMAGENET_STD

HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
MEAN, STD = (np.reshape(x, (1, 3, 1, 1)) for x in (IMAGENET_MEAN, IMAGENET_STD))
LAST = "channels last"
BATCH_NORM = [np.reshape(x, (1, 3, 1, 1)) for x in ((1.1, 0.9, 1.0), (-0.05, -0.02, -0.1))]
CIFAR = [np.reshape(x, (1, 3, 1, 1)) for x in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))]
CLIP = [
    np.reshape(x, (1, 3, 1, 1))
    for x in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
]
NORMALISED = {
    "sub div": ([("Sub", MEAN), ("Div", STD)], 1),
    "mul add": ([("Mul", 1 / STD), ("Add", -MEAN / STD)], 1),
    "from -1 to 1": ([("Mul", 2.0), ("Sub", 1.0)], 1),
    "bytes": ([("Div", 255.0), ("Sub", MEAN), ("Div", STD)], 255),
    "bytes alone": ([("Div", 255.0)], 255),
    "bytes by 256": ([("Div", 256.0)], 255),
    "bytes from -1 to 1": ([("Sub", 127.0), ("Mul", 1 / 128)], 255),
    "bytes less their mean": ([("Sub", 255 * MEAN)], 255),
    "clip": ([("Sub", CLIP[0]), ("Div", CLIP[1])], 1),
    "then one channel is left out": ([("Sub", 0.5), ("Div", 0.5), ("Mul", MEAN > 0.45)], 1),
    LAST: ([("Sub", MEAN.reshape(3)), ("Div", STD.reshape(3)), ("Transpose", None)], 1),
}
PROBABLE = {
    "one's own": ([("Sub", CIFAR[0]), ("Div", CIFAR[1])], 1),
    "one's own of bytes": ([("Div", 255.0), ("Sub", CIFAR[0]), ("Div", CIFAR[1])], 255),
    "gray": ([("Sub", 0.1307), ("Div", 0.3081)], 1),
}
OTHERS = {
    "none": [],
    "a factor": [("Mul", 0.25)],
    "a small factor": [("Mul", 0.05)],
    "a large factor": [("Mul", 4.0)],
    "a tiny shift": [("Sub", 0.001)],
    "the mean alone": [("Sub", MEAN)],
    "a folded BatchNorm": [("Mul", BATCH_NORM[0]), ("Add", BATCH_NORM[1])],
    "of normalised images": [("Sub", MEAN - 0.5), ("Div", 2 * STD)],
    "of bytes, far from 127.5": [("Sub", 60.0), ("Div", 40.0)],
    "temperatures": [("Sub", 30.0), ("Div", 8.0)],
    "16 bits": [("Div", 65535.0)],
    "a divisor": [("Div", 16.1)],
    "BGR less its mean": [("Sub", 255 * MEAN[:, ::-1])],
    "nothing": [("Mul", 0.0)],
    "infinity": [("Div", 0.0)],
    "one channel left out": [("Sub", 0.001), ("Mul", np.reshape((1, 0, 1), (1, 3, 1, 1)))],
    "a whole image": [("Sub", np.full((1, 3, 8, 8), 0.5)), ("Div", np.full((1, 3, 8, 8), 0.5))],
    "from one normalisation to another": [("Mul", 0.5), ("Add", 0.5), ("Sub", MEAN), ("Div", STD)],
    "by the image": [("Sub", None)],
}


def write(path, steps, shape=("batch", 3, 8, 8)):
    """Write a graph that takes `steps` and averages each channel."""
    nodes, constants, value = [helper.make_node("Identity", ["pixels"], ["x"])], [], "x"
    for index, (kind, constant) in enumerate(steps):
        inputs, kept = [value], {"perm": (0, 3, 1, 2)} if kind == "Transpose" else {}
        if constant is not None:
            constants.append(numpy_helper.from_array(np.float32(constant), f"c{index}"))
            inputs.append(f"c{index}")
        elif kind == "Sub":
            nodes.append(helper.make_node("ReduceMean", [value], ["mean of it"]))
            inputs.append("mean of it")
        nodes.append(helper.make_node(kind, inputs, [value := f"v{index}"], **kept))
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["means"]))
    nodes.append(helper.make_node("Flatten", ["means"], ["scores"]))
    images = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("batch", 3))
    graph = helper.make_graph(nodes, "averages", [images], [scores], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return f"onnx:{path}"


@pytest.mark.parametrize("name", NORMALISED)
def test_images_are_normalised_once(tmp_path, name):
    steps, most = NORMALISED[name]
    shape = ("batch", 8, 8, 3) if name == LAST else ("batch", 3, 8, 8)
    address = write(tmp_path / "net.onnx", steps, shape)
    source = open_source(SourceRequest(address))
    taken = source.preprocess
    assert taken.mean == (0, 0, 0)
    assert taken.std == pytest.approx((1 / most,) * 3)
    remark = next(each for each in source.remarks if "normalises its images itself" in each)
    assert f"of values from 0 to {most}" in remark
    given = SourceRequest(address, mean=taken.mean, std=tuple(round(x, 6) for x in taken.std))
    assert open_source(given).preprocess.std == pytest.approx(taken.std)
    wanted = f"--mean 0,0,0 --std {','.join([f'{1 / most:.6g}'] * 3)}$"
    with pytest.raises(SpecError, match=rf"^mean: got 0.5,0.5,0.5, but onnx:.* itself.*{wanted}"):
        open_source(SourceRequest(address, **HALVES))
    with pytest.raises(
        SpecError, match=r"^std: got 0.5,0.5,0.5, but onnx:.* both would be applied"
    ):
        open_source(SourceRequest(address, std=HALVES["std"]))


@pytest.mark.parametrize("name", PROBABLE)
def test_of_a_probable_normalisation_the_user_has_the_last_word(tmp_path, name):
    steps, most = PROBABLE[name]
    address = write(tmp_path / "net.onnx", steps)
    taken = open_source(SourceRequest(address)).preprocess
    assert (taken.mean, taken.std) == ((0, 0, 0), pytest.approx((1 / most,) * 3))
    source = open_source(SourceRequest(address, **HALVES))
    assert (source.preprocess.mean, source.preprocess.std) == (HALVES["mean"], HALVES["std"])
    (remark,) = (each for each in source.remarks if "both are applied" in each)
    assert remark.startswith("mean: got 0.5,0.5,0.5, but onnx:")
    assert f"of values from 0 to {most}" in remark


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", OTHERS)
def test_what_else_is_done_to_the_input_leaves_it_to_the_user(tmp_path, name):
    address = write(tmp_path / "net.onnx", OTHERS[name])
    source = open_source(SourceRequest(address, **HALVES))
    assert (source.preprocess.mean, source.preprocess.std) == (HALVES["mean"], HALVES["std"])
    assert not any("normalises" in remark for remark in source.remarks)
    with pytest.raises(SpecError, match="Add --mean"):
        open_source(SourceRequest(address, image_size=(8, 8)))
