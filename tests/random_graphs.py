"""Random small graphs of the forms that a rewrite could take for another: seeded, valid, fast.

Tokens are as many as channels, so that a sum over the wrong axis still has the right shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, TOKENS, WIDTH, CLASSES = 8, 16, 16, 5


class GraphBuilder:
    """Adds nodes and constants to a graph whose tokens are (batch, 16, 16)."""

    def __init__(self, seed: int, batch: int | None) -> None:
        self.rng = np.random.default_rng(seed)
        self.batch = batch
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.pieces: list[str] = []

    def const(self, array) -> str:
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def noise(self, *shape: int, scale: float = 0.3) -> str:
        return self.const(self.rng.standard_normal(shape) * scale)

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes) -> str:
        names = [f"v{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0]

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.rng.random() < share)

    def either(self, op: str, a: str, b: str) -> str:
        """Return a commutative operator with its operands in either order."""
        return self(op, *(self.pick((a, b), (b, a))))


def norm(g: GraphBuilder, x: str) -> str:
    """LayerNorm and what only looks like it."""
    axis = g.pick([-1], [2], [1], [-1])
    other = g.pick(axis, axis, [1])
    keep = 0 if g.batch == 1 and g.chance() else 1  # of one image, (16, 16) stands for both
    mean = g("ReduceMean", x, g.const(axis), keepdims=keep)
    centred = g("Sub", x, mean)
    square = g.pick(
        lambda: g("Mul", centred, centred), lambda: g("Pow", centred, g.const(np.float32(2)))
    )()
    variance = g("ReduceMean", square, g.const(other), keepdims=keep)
    if g.chance(0.2):
        variance = g.either("Mul", variance, g.const(np.float32(16 / 15)))  # ddof = 1
    eps = g.const(g.pick(np.float32(1e-5), np.array([1e-3]), np.full((1, 1, 1), 0.1)))
    root = g("Sqrt", g.either("Add", variance, eps))
    if g.chance():
        scaled = g("Div", centred, root)
    else:
        scaled = g.either("Mul", centred, g("Reciprocal", root))
    shape = g.pick((WIDTH,), (1, 1, WIDTH), (TOKENS, 1), (1, TOKENS, 1))
    scaled = g.either("Mul", scaled, g.noise(*shape, scale=1.0))
    return g.either("Add", scaled, g.noise(*g.pick(shape, shape, (WIDTH,), (1, 16, 16))))


def operator_norm(g: GraphBuilder, x: str) -> str:
    """LayerNormalization over one axis or two, behind a flattening too, without a bias too."""
    if g.chance(0.3):
        rows = g("Reshape", x, g.const(np.array([-1, WIDTH])))
        bias = g.pick(lambda: (g.noise(WIDTH),), lambda: ())()
        rows = g("LayerNormalization", rows, g.noise(WIDTH), *bias, axis=g.pick(1, -1))
        return g("Reshape", rows, g.const(np.array([-1, TOKENS, WIDTH])))
    axis = g.pick(-1, 1, 2)
    shape = (TOKENS, WIDTH) if axis == 1 else (WIDTH,)
    return g("LayerNormalization", x, g.noise(*shape, scale=1.0), g.noise(*shape), axis=axis)


def gelu(g: GraphBuilder, x: str) -> str:
    """GELU in its forms, and with other numbers in it."""
    root = g.pick(math.sqrt(2), math.sqrt(2), 1.4, 2.0)
    one = g.pick(1.0, 1.0, 1.5)
    half = g.pick(0.5, 0.5, 0.25, 1.0)
    if g.chance():
        inner = g("Div", x, g.const(np.float32(root)))
    else:
        inner = g.either("Mul", x, g.const(np.float32(1 / root)))
    plus = g.either("Add", g("Erf", inner), g.const(np.float32(one)))
    if g.chance(0.2):
        plus = g.either("Add", plus, x)
    if g.chance():
        return g.either("Mul", g.either("Mul", x, plus), g.const(np.float32(half)))
    if g.chance():
        return g.either("Mul", g.either("Mul", x, g.const(np.float32(half))), plus)
    return g.either("Mul", x, g.either("Mul", plus, g.const(np.float32(half))))


def gemm(g: GraphBuilder, x: str) -> str:
    """Gemm on rows, with every kind of C."""
    rows = g("Reshape", x, g.const(np.array([-1, WIDTH])))
    shapes = [(), (1,), (WIDTH,), (1, WIDTH), (1, 1)]
    if g.batch:
        shapes += [(g.batch * TOKENS, WIDTH), (g.batch * TOKENS, 1)] * 3
    bias = [g.noise(*g.pick(*shapes))] if g.chance(0.9) else []
    if bias and g.chance(0.2) and "computed" not in g.pieces:
        bias = [g("ReduceMean", rows, g.const([1]), keepdims=1)]
    attributes = {"transB": g.pick(0, 1)}
    attributes |= g.pick({}, {"alpha": 0.5}, {"beta": 2.0}, {"alpha": -1.5, "beta": 0.25})
    out = g("Gemm", rows, g.noise(WIDTH, WIDTH), *bias, **attributes)
    if g.chance():
        out = g(g.pick("Relu", "Tanh", "Sigmoid"), out)
    return g("Reshape", out, g.const(np.array(g.pick([-1, TOKENS, WIDTH], [-1, 16, 4, 4])[:4])))


def gemm_of_columns(g: GraphBuilder, x: str) -> str:
    """Gemm with a transposed first operand: what stands in its rows is not a token."""
    one = g("ReduceMean", x, g.const([1]), keepdims=0)
    turned = g("Transpose", one, perm=[1, 0])
    out = g("Gemm", turned, g.noise(WIDTH, WIDTH), g.noise(WIDTH), transA=1)
    return g("Add", x, g("Unsqueeze", out, g.const([1])))


def linear(g: GraphBuilder, x: str) -> str:
    """Products with constants of every rank on either side, and biases of every shape."""
    kind = g.pick("plain", "plain", "left", "batched", "heads")
    if kind == "left":
        out = g("MatMul", g.noise(TOKENS, TOKENS), x)
    elif kind == "batched":
        out = g("MatMul", x, g.noise(1, WIDTH, WIDTH))
    elif kind == "heads":
        heads = g("Reshape", x, g.const(np.array([0, 0, 2, 8])))
        out = g("Reshape", g("MatMul", heads, g.noise(8, 8)), g.const(np.array([0, 0, -1])))
    else:
        out = g("MatMul", x, g.noise(WIDTH, WIDTH))
    shape = g.pick((WIDTH,), (1, 1, WIDTH), (TOKENS, 1), (TOKENS, WIDTH), (1, 1), ())
    return g.either("Add", out, g.noise(*shape))


def rank_raising(g: GraphBuilder, x: str) -> str:
    """A bias of more dimensions than what it is added to."""
    pooled = g("ReduceMean", x, g.const([1]), keepdims=0)
    out = g.either("Add", g("MatMul", pooled, g.noise(WIDTH, WIDTH)), g.noise(1, 1, WIDTH))
    return g("Add", x, g("Transpose", out, perm=[1, 0, 2]))


def rows_softmax(g: GraphBuilder, x: str) -> str:
    """Softmax of flattened rows, as converters from old opsets leave it; over the rows too."""
    axis = g.pick(-1, 1, 0) if g.batch == 1 else g.pick(-1, 1)
    if g.chance():
        rows = g("Flatten", x, axis=2)
    else:
        rows = g("Reshape", x, g.const(np.array([-1, WIDTH])))
    soft = g("Softmax", rows, axis=axis)
    return g("Add", x, g("Reshape", soft, g.const(np.array([-1, TOKENS, WIDTH]))))


def softmax(g: GraphBuilder, x: str) -> str:
    return g("Add", x, g("Softmax", x, axis=g.pick(-1, 1, 2)))


def attention(g: GraphBuilder, x: str) -> str:
    """Self-attention, its softmax over keys, queries or heads, between linear layers and an MLP."""

    def heads(kind: str) -> str:
        out = g("MatMul", x, g.noise(WIDTH, WIDTH))
        if g.chance():
            out = g.either("Add", out, g.noise(WIDTH))
        out = g("Reshape", out, g.const(np.array(g.pick([0, 0, 2, 8], [-1, TOKENS, 2, 8]))))
        return g("Transpose", out, perm=[0, 2, 3, 1] if kind == "k" else [0, 2, 1, 3])

    q, k, v = (heads(kind) for kind in "qkv")
    scores = g("MatMul", q, k)
    for kind in g.rng.choice(["mul", "div", "bias", "keys", "relu"], g.rng.integers(0, 3)):
        if kind == "mul":
            scores = g.either("Mul", scores, g.const(np.float32(0.3)))
        elif kind == "div":
            scores = g("Div", scores, g.const(np.array([2.0])))
        elif kind == "relu":
            scores = g("Relu", scores)
        else:
            shape = (1, 2, TOKENS, TOKENS) if kind == "bias" else (TOKENS,)
            scores = g.either("Add", scores, g.noise(*shape))
    soft = g("Softmax", scores, axis=g.pick(-1, -1, 3, 2, 1))
    if g.chance(0.3):
        zero = g.const(np.float32(g.pick(0.0, 1.0)))
        soft = g("Where", g("IsNaN", g.pick(soft, scores)), zero, soft)
    context = g("Transpose", g("MatMul", soft, v), perm=g.pick([0, 2, 1, 3], [0, 2, 1, 3]))
    flat = g("Reshape", context, g.const(np.array(g.pick([0, 0, WIDTH], [-1, TOKENS, WIDTH]))))
    y = g.either("Add", x, g("MatMul", flat, g.noise(WIDTH, WIDTH)))
    hidden = g("Relu", g("MatMul", y, g.noise(WIDTH, WIDTH)))
    return g.either("Add", y, g("MatMul", hidden, g.noise(WIDTH, WIDTH)))


def decoder(g: GraphBuilder, x: str) -> str:
    """Resize in a decoder, by scales or sizes, and back."""
    grid = g("Reshape", g("Transpose", x, perm=[0, 2, 1]), g.const(np.array([0, WIDTH, 4, 4])))
    attributes = g.pick(
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    )
    if g.chance():
        scales = g.const(np.array([1, 1, 2, 2], np.float32))
        large = g("Resize", grid, g.pick("", g.noise(0)), scales, **attributes)
    else:
        first = g("Slice", g("Shape", grid), g.const([0]), g.const([2]))
        sizes = g("Concat", first, g.const(np.array([8, 8])), axis=0)
        large = g("Resize", grid, "", "", sizes, **attributes)
    small = g("AveragePool", large, kernel_shape=[2, 2], strides=[2, 2])
    flat = g("Reshape", small, g.const(np.array(g.pick([0, WIDTH, -1], [0, 0, TOKENS]))))
    return g("Transpose", flat, perm=[0, 2, 1])


def reshapes(g: GraphBuilder, x: str) -> str:
    """There and back, with 0, -1 and allowzero, and with targets put together from shapes."""
    shape = g("Shape", x)
    batch = g("Gather", shape, g.const(np.array(0)), axis=0)
    if g.chance():
        dims = [
            g("Unsqueeze", batch, g.const([0])),
            g.const(np.array(g.pick([4, 4, 16], [-1, 64]))),
        ]
        there = g("Reshape", x, g("Concat", *dims, axis=0))
    else:
        target = g.pick([0, 4, 4, 16], [0, -1, 64], [-1, 4, 64], [0, 0, 2, -1])
        there = g("Reshape", x, g.const(np.array(target)))
    if g.chance(0.3):
        there = g("Relu", there)
    if g.chance(0.3):
        return g("Reshape", there, g.const(np.array([-1, 16, 16])), allowzero=1)
    return g("Reshape", there, g.const(np.array([0, 16, 16])))


def odd_types(g: GraphBuilder, x: str) -> str:
    """Operators whose inputs or outputs cannot all be float16."""
    kind = g.pick("range", "isinf", "fill", "clip", "pad", "cumsum", "eye")
    if kind == "range":
        steps = g("Range", g.const(0.0), g.const(16.0), g.const(1.0))
        return g("Add", x, g("Mul", steps, g.const(np.float32(0.1))))
    if kind == "isinf":
        return g("Where", g("IsInf", x), g.const(np.float32(0)), x)
    if kind == "fill":
        shape = g("Shape", x)
        tensor = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.25])
        return g("Add", x, g("ConstantOfShape", shape, value=tensor))
    if kind == "clip":
        return g("Clip", x, g.const(np.float32(-2)), g.const(np.float32(2)))
    if kind == "pad":
        wide = g("Pad", x, g.const(np.array([0, 0, 1, 0, 0, 0])), g.const(np.float32(0.5)))
        return g("Slice", wide, g.const([0]), g.const([16]), g.const([2]))
    if kind == "cumsum":
        return g("CumSum", x, g.const(np.array(1)))
    return g("MatMul", g("EyeLike", g.noise(16, 16), dtype=TensorProto.FLOAT), x)


def shared(g: GraphBuilder, x: str) -> str:
    """One constant in several parts: weight of two layers, and of a sum beside them."""
    weight = g.noise(WIDTH, WIDTH)
    y = g("MatMul", g("MatMul", x, weight), weight)
    return g.either("Add", g.either("Add", y, weight), g("MatMul", x, weight))


def masks(g: GraphBuilder, x: str) -> str:
    """Sums with zeros of every shape, and constants that an Expand makes."""
    zeros = g.const(np.zeros(g.pick((WIDTH,), (1, 16, 16), (1, 1, 1), ()), np.float32))
    y = g.either("Add", x, zeros)
    token = g("Expand", g.noise(1, 1, WIDTH), g("Shape", x))
    return g("Add", y, token)


PIECES: tuple[Callable[[GraphBuilder, str], str], ...] = (
    norm,
    operator_norm,
    gelu,
    gemm,
    gemm_of_columns,
    linear,
    rank_raising,
    rows_softmax,
    softmax,
    attention,
    decoder,
    reshapes,
    odd_types,
    shared,
    masks,
)


def random_graph(seed: int, batch: int | None = None, count: int = 4) -> onnx.ModelProto:
    """Return a valid graph from x (batch, 3, 8, 8) to y (batch, 5) of `count` random pieces."""
    g = GraphBuilder(seed, batch)
    order = [PIECES[seed % len(PIECES)], *(g.pick(*PIECES) for _ in range(count - 1))]
    patches = g("Conv", "x", g.noise(WIDTH, 3, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
    flat = g("Reshape", patches, g.const(np.array(g.pick([0, WIDTH, -1], [-1, WIDTH, TOKENS]))))
    tokens = g("Transpose", flat, perm=[0, 2, 1])
    for piece in order:
        g.pieces.append(piece.__name__)
        tokens = g("Reshape", piece(g, tokens), g.const(np.array([-1, TOKENS, WIDTH])))
    pooled = g("ReduceMean", tokens, g.const([1]), keepdims=0)
    g.nodes.append(helper.make_node("MatMul", [pooled, g.noise(WIDTH, CLASSES)], ["y"]))
    dim = batch or "n"
    graph = helper.make_graph(
        g.nodes,
        " ".join(g.pieces),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (dim, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (dim, CLASSES))],
        [numpy_helper.from_array(array, name) for name, array in g.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
