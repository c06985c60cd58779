"""ViTs that float16 overflows, or nearly, made of one that it does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
from onnx import numpy_helper
from seeded import Seeded

from edge_vit.graph.exact import feed_image, open_exact_session
from edge_vit.graph.expose import expose

EPS = np.array(1e-6, np.float32)


def edited(vit: Seeded, change) -> Seeded:
    """Return `vit` with `change`, which maps a constant's name and numbers to other numbers."""
    model = onnx.ModelProto()
    model.CopyFrom(vit.model)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(change(tensor.name, array), tensor.name))
    return dataclasses.replace(vit, model=model)


def with_residual(vit: Seeded, size: float) -> Seeded:
    """Two biases lift one channel of the residual stream of block 0 to `size`."""

    def change(name, array):
        if name in ("block0/proj/bias.1", "block0/fc2/bias.1"):
            array = array.copy()
            array[..., 3] = size / 2
        return array

    return edited(vit, change)


def with_logits(vit: Seeded) -> Seeded:
    """Every token of block 1 attends to the class token, whose score is far above 65,504."""

    def change(name, array):
        array = array.copy()
        if name == "embed/Add.1":
            array[0, 0, 5] += 30  # the class token alone is large in channel 5,
        if name == "block1/qkv.1":
            array[5, 32] = 150  # which makes the first key channel of the first head,
        if name == "block1/qkv/bias.1":
            array[..., 0] = 150  # which every query asks for
        return array

    return edited(vit, change)


def with_both(vit: Seeded) -> Seeded:
    """The scores of block 1 pass 65,504, and its MLP lifts the residual stream to 5,000."""

    def lift(name, array):
        array = array.copy()
        if name == "block1/fc2/bias.1":
            array[..., 3] = 5_000
        return array

    return edited(with_logits(vit), lift)


def near_dead(vit: Seeded) -> Seeded:
    """Columns of proj and fc2 as small as a dead LayerScale leaves them, one rather large."""

    def change(name, array):
        if name in ("block0/proj.1", "block1/fc2.1"):
            array = array.copy()
            array[:, ::2] *= 1e-7
            array[:, 1] *= 40
        return array

    return edited(vit, change)


def with_rare_unit(vit: Seeded, usual: np.ndarray, rare: np.ndarray) -> Seeded:
    """A hidden unit of block 0 reaches 90,000 for the image `rare`, and next to nothing else."""
    name = vit.site_inputs["block0/fc1"]
    session = open_exact_session(expose(vit.model, [name], only=True), 2)

    def rows(image):
        return session.run([name], feed_image(vit.spec, image))[0].reshape(-1, 32)

    often = np.linalg.svd(np.concatenate([rows(image) for image in usual]))[2][:24]
    own = rows(rare) @ (np.eye(32) - often.T @ often)
    direction = own[np.argmax(np.linalg.norm(own, axis=1))]
    direction *= 90_000 / (own @ direction).max()

    def change(name, array):
        array = array.copy()
        if name == "block0/fc1.1":
            array[:, 5] = direction
        if name == "block0/fc2.1":
            array[5] = 1e-6
        return array

    return edited(vit, change)


def decomposed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with its LayerNormalizations written out, as older exporters do."""
    written = onnx.ModelProto()
    written.CopyFrom(model)
    del written.graph.node[:]
    written.graph.initializer.extend(
        [numpy_helper.from_array(np.array([-1]), "last"), numpy_helper.from_array(EPS, "eps")]
    )
    for node in model.graph.node:
        if node.op_type != "LayerNormalization":
            written.graph.node.append(node)
            continue
        x, gamma, beta = node.input
        chain = [
            ("ReduceMean", [x, "last"], "mean"),
            ("Sub", [x, "mean"], "centred"),
            ("Mul", ["centred", "centred"], "squares"),
            ("ReduceMean", ["squares", "last"], "variance"),
            ("Add", ["variance", "eps"], "more"),
            ("Sqrt", ["more"], "deviation"),
            ("Div", ["centred", "deviation"], "normal"),
            ("Mul", ["normal", gamma], "scaled"),
            ("Add", ["scaled", beta], "result"),
        ]
        own = {name: f"{node.name}/{name}" for _, _, name in chain} | {"result": node.output[0]}
        for op_type, inputs, name in chain:
            written.graph.node.add(
                op_type=op_type,
                name=f"{node.name}/{name}",
                input=[own.get(i, i) for i in inputs],
                output=[own[name]],
            )
    return written


def residual_of_100_000(vit):
    return with_residual(vit, 100_000.0)
