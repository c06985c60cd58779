"""The outputs of the model itself, which the graph is compared with, and whether they make sense.

A graph can only be as good as its model. So the model is looked at before the graph is made: one
row for each image, the same row each time it runs, the same row whatever lies beside the image in
its batch, and another row for another image. A model of several outputs is held to this in each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edge_vit.errors import ParityError, SpecError
from edge_vit.export.sources import OnnxSource, Source, TorchSource
from edge_vit.export.sources.values import first_line
from edge_vit.graph.exact import open_graph
from edge_vit.spec import PreprocessSpec
from edge_vit.spec.samples import Rows, feeds_of, is_sample

PARITY_BATCHES = (1, 2, 5)
MAX_ERROR = 1e-4
"""Largest difference, over the largest output, that float32 arithmetic alone explains."""

_SHARE_OF_SPREAD = 0.01
_ROUNDING = 1e-5  # over the largest output: below it, differences are rounding in any case
_CONSTANT = 1e-6  # over the largest output of a column
_REPEATS = 3

Images = npt.NDArray[np.uint8]
Outputs = npt.NDArray[np.float32]
RunModel = Callable[[Images], "tuple[Outputs, ...]"]


@dataclass(frozen=True, eq=False)
class ReferenceRun:
    """One run of the model: which of the images, in the order of the batch, and each output."""

    indices: tuple[int, ...]
    outputs: tuple[Outputs, ...]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model gives for some images.

    Each given image is in the last run, or, where the batch is static, in one of the first.
    """

    name: str  # what ran it, such as ``torch 2.14.1``
    images_name: str  # for the record
    # (count, height, width, 3), clips (count, frames, height, width, 3): those given, then unlike
    # ones to stand beside them
    images: Images
    num_given: int
    batches: tuple[int, ...]  # sizes of the runs
    runs: tuple[ReferenceRun, ...]

    @property
    def outputs(self) -> Outputs:
        """The first output of each image that was run, (count, ...)."""
        rows = _rows(self.runs, 0)
        return np.stack([rows[index][-1] for index in sorted(rows)])


def observe_reference(
    source: Source,
    images: Images,
    name: str,
    batch: int | None = None,
    *,
    may_be_constant: bool = False,
) -> Reference:
    """Run the model of `source` on preprocessed `images`, and check that its outputs make sense.

    It runs at the `batch` size of a static graph, else at 1, 2 and 5. Equal outputs for all images
    are accepted where it `may_be_constant`, as with random weights.

    Raises:
        SpecError: the model does not run at a batch size, gives another number of rows than there
            are images, another output each time or beside other images, or always the same one.
        ParityError: it gives NaN, infinity or nothing but zeros.
    """
    run, reference_name = runner_of(source)
    pool = np.concatenate([images, _unlike(images)])
    plan = list(_plan(len(images), batch))
    runs = tuple(ReferenceRun(some, _run(source, run, pool[list(some)], name)) for some in plan)
    every = [_Rows(list(_rows(runs, i).values())) for i in range(len(runs[0].outputs))]
    differs = [rows for rows in every if rows.difference > rows.limit]
    few = runs[-max(1, PARITY_BATCHES[-1] // len(plan[-1])) :]  # five images again, not one
    for repeated in few * (_REPEATS if differs else 1):
        again = _run(source, run, pool[list(repeated.indices)], name)
        for rows, before, after in zip(every, repeated.outputs, again, strict=True):
            if np.abs(after - before).max() > rows.limit:
                raise SpecError(_not_repeatable(source))
    for rows in differs:
        raise SpecError(
            f"{source.address} gives an image another output beside other images than alone, by "
            f"{rows.difference / rows.largest:.1e} of the largest output: {_blame(source)}"
        )
    if not may_be_constant and all(rows.is_constant for rows in every):
        raise SpecError(
            f"{source.address} gives the same output for {len(pool)} different images: it does not "
            "depend on the image. Were its weights loaded, does its forward use its input?"
        )
    batches = PARITY_BATCHES if batch is None else (batch,)
    return Reference(reference_name, name, pool, len(images), batches, runs)


def normalise(images: Images, spec: PreprocessSpec) -> npt.NDArray[np.float32]:
    """Return ``(x / 255 - mean) / std``, float32 (batch, 3, height, width), as torchvision does.

    Of clips the frames stay behind the batch.
    """
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    normalised = (images.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(np.moveaxis(normalised, -1, -3))


def reason(error: Exception) -> str:
    """Return an error's text in one line, without the places in ONNX Runtime's own source."""
    text = " ".join(str(error).split())
    found = re.search(r"while running (\w+) node.*Status Message: .* was false\. (.*)", text)
    return f"{found[1]}: {found[2]}"[:200].rstrip(".") if found else first_line(error)


def runner_of(source: Source) -> tuple[RunModel, str]:
    """Return a function from images to the source's own outputs, and what runs it."""
    if isinstance(source, TorchSource):
        module = source.module

        def run_torch(images: Images) -> tuple[Outputs, ...]:
            given = feeds_of(source.inputs, images) if source.inputs else {}
            fed = list(given.values()) or [normalise(images, source.preprocess)]
            with torch.no_grad():
                outputs = module(*map(torch.from_numpy, fed))
            every = outputs if source.outputs else (outputs,)
            return tuple(np.asarray(output, np.float32) for output in every)

        return run_torch, f"torch {version('torch')}"
    assert isinstance(source, OnnxSource)
    graph = source
    session = open_graph(graph.model, as_written=True)
    names = [value.name for value in graph.model.graph.output]

    def run_onnx(images: Images) -> tuple[Outputs, ...]:
        if graph.inputs:
            return tuple(session.run(names, feeds_of(graph.inputs, images)))
        feed = images if graph.is_contract else normalise(images, graph.preprocess)
        return tuple(session.run(names, {graph.input_name: feed}))

    return run_onnx, f"the file itself in onnxruntime {version('onnxruntime')}"


def _run(source: Source, run: RunModel, images: Images, name: str) -> tuple[Outputs, ...]:
    """Return one row for each of `images`, of each output."""
    size = len(images)
    one = ". If it is made for one image at a time, add --static-batch 1" if size > 1 else ""
    try:
        found = run(images)
    except Exception as error:  # anybody's forward, and each status of ONNX Runtime
        raise SpecError(
            f"{source.address} does not run at batch size {size}: {reason(error)}{one}"
        ) from None
    for outputs in found:
        is_whole = outputs.ndim > 1 if source.outputs else outputs.ndim == 2
        if not is_whole or len(outputs) != size:
            raise SpecError(
                f"{source.address} gives {tuple(outputs.shape)} for {size} images, expected one "
                "row each: the images of a batch are put together in it. Keep the batch the first "
                f"axis of every Reshape{one}"
            )
        if not np.isfinite(outputs).all():
            raise ParityError(f"{source.name} itself gives NaN or infinity for {name}")
        if not outputs.any():
            raise ParityError(f"{source.name} itself gives nothing but zeros for {name}")
    return found


def _unlike(images: Images) -> Images:
    """Return five images, or samples by their first field, unlike the first and each other."""
    if is_sample(images):
        rows: Rows = np.repeat(images[:1], 5)
        first = rows[(rows.dtype.names or ())[0]]
        one, random = first[0].copy(), np.random.default_rng(0)
        if one.dtype.kind == "i":  # indices, none above the given ones
            made = random.integers(one.max() + 1, size=one.shape)
            first[:] = np.stack([one.max() - one, made, one[::-1], one // 2, made[..., ::-1]])
            return rows
        made = random.standard_normal(one.shape)
        first[:] = np.stack([-one, made, one[::-1], one / 2, made[..., ::-1] - one])
        return rows
    noise = np.random.default_rng(0).integers(0, 256, images.shape[1:], dtype=np.uint8)
    first = images[0]
    return np.stack([255 - first, noise, first[::-1], 255 - first[:, ::-1], first // 2])


def _plan(count: int, batch: int | None) -> Iterator[tuple[int, ...]]:
    """Yield the images of each run.

    Of a dynamic graph the first one alone, second beside its negative, then all; of a static one
    all, then the first one behind others.
    """
    if batch is None:
        yield (0,)
        yield (count, 0)
    size = batch or PARITY_BATCHES[-1]
    for start in range(0, count, size):  # each once, filled up with the unlike ones
        here = range(start, min(start + size, count))
        yield (*here, *(count + i % 5 for i in range(size - len(here))))
    if batch is not None and batch > 1:
        yield (*(count + i % 5 for i in range(batch - 1)), 0)


def _rows(runs: tuple[ReferenceRun, ...], output: int) -> dict[int, list[Outputs]]:
    """Return each image's rows of one output by the image's index."""
    rows: dict[int, list[Outputs]] = {}
    for run in runs:
        for index, row in zip(run.indices, run.outputs[output], strict=True):
            rows.setdefault(index, []).append(row)
    return rows


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of one output, of each image those of every run that it was in."""

    by_image: list[list[Outputs]]

    @property
    def first(self) -> Outputs:
        return np.stack([rows[0] for rows in self.by_image])

    @property
    def largest(self) -> float:
        return float(max(np.abs(row).max() for rows in self.by_image for row in rows))

    @property
    def limit(self) -> float:
        """By how much two rows of one image may differ.

        Matrix products of other sizes round otherwise. Where the images differ little, as with
        untrained weights, what a neighbour does is little too.
        """
        largest = float(np.abs(self.first).max())
        spread = float(np.ptp(self.first, axis=0).max())
        return min(MAX_ERROR * largest, max(_SHARE_OF_SPREAD * spread, _ROUNDING * largest))

    @property
    def difference(self) -> float:
        """The largest between two rows of one image."""
        return max(float(np.abs(row - of[0]).max()) for of in self.by_image for row in of)

    @property
    def is_constant(self) -> bool:
        """Whether every column is the same number for all images."""
        first = self.first.astype(np.float64)
        return bool((np.ptp(first, axis=0) <= _CONSTANT * np.abs(first).max(axis=0)).all())


def _not_repeatable(source: Source) -> str:
    hint = "is a Dropout or a random operator left in the file? Export it in eval mode"
    if isinstance(source, TorchSource):
        training = [name or "it" for name, m in source.module.named_modules() if m.training]
        hint = "is dropout or noise left on? F.dropout wants training=self.training"
        if training:
            hint = f"{training[0]} stays in training mode when eval() is called"
    return f"{source.address} gives another output each time it runs: {hint}"


def _blame(source: Source) -> str:
    """Return what in the model most likely mixes the images of a batch, and what to do."""
    one = "add --static-batch 1 if one image at a time is enough"
    modules = source.module.named_modules() if isinstance(source, TorchSource) else ()
    for name, module in modules:
        if module.training:
            return f"{name or 'it'} stays in training mode when eval() is called"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return f"{name} has no running statistics. Make it with track_running_stats=True"
        if getattr(module, "batch_first", None) is False:
            return f"{name} attends across the batch. Make it with batch_first=True, or {one}"
    return f"attention, a norm or a Reshape mixes the images of a batch. Mend it, or {one}"
