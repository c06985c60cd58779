"""Inputs that are no images: a sample is one element of a structured array, a field per input.

So a batch of samples is one array, as a batch of images is, and passes through whatever keeps,
counts, stacks or hashes images. Its fields come apart where a session is fed, in `feeds_of`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_vit.errors import ShapeError, SpecError

if TYPE_CHECKING:
    from edge_vit.spec import ModelSpec, TensorSpec

Rows = NDArray[Any]
"""Samples, (count,), with a field per input; or uint8 images, (count, height, width, 3)."""


def is_sample(array: Rows) -> bool:
    """Return whether `array` holds samples with fields, and not pixels."""
    # What is no array at all is refused where pixels are checked.
    return getattr(getattr(array, "dtype", None), "names", None) is not None


def pack(inputs: Sequence[TensorSpec], arrays: Mapping[str, Any], what: str = "inputs") -> Rows:
    """Return `arrays`, one per input with a row for each sample, as samples (count,).

    Raises:
        ShapeError: one is missing, has another shape, or numbers that the input cannot hold.
    """
    wanted = ", ".join(f"{tensor.name} {tensor}" for tensor in inputs)
    if missing := [tensor.name for tensor in inputs if tensor.name not in arrays]:
        got = ", ".join(arrays) or "none"
        raise ShapeError(f"{what}: got {got}, expected {wanted}; {missing[0]} is missing")
    count = len(np.atleast_1d(arrays[inputs[0].name]))
    fields = [(t.name, t.dtype, tuple(map(int, t.shape[1:]))) for t in inputs]
    rows = np.zeros(count, np.dtype(fields))
    for tensor in inputs:
        given = np.asarray(arrays[tensor.name])
        shape = (count, *map(int, tensor.shape[1:]))
        if given.shape != shape or not np.can_cast(given.dtype, tensor.dtype, "same_kind"):
            raise ShapeError(
                f"{what}: {tensor.name} is {given.dtype} {given.shape}, expected {tensor.dtype} "
                f"{shape}"
            )
        if not np.isfinite(given).all():
            raise ShapeError(
                f"{what}: {tensor.name} holds NaN or infinity, expected finite numbers"
            )
        if tensor.below and given.size and not 0 <= given.min() <= given.max() < tensor.below:
            raise ShapeError(
                f"{what}: {tensor.name} holds {given.min()} to {given.max()}, expected indices "
                f"from 0 to {tensor.below - 1}"
            )
        rows[tensor.name] = given
    return rows


def feeds_of(inputs: Sequence[TensorSpec], rows: Rows) -> dict[str, Rows]:
    """Return what a session with `inputs` is fed for `rows`, a row for each in every array.

    Raises:
        ShapeError: the rows are images and the inputs none, or the other way round.
    """
    if not is_sample(rows):
        if len(inputs) == 1:
            return {inputs[0].name: np.ascontiguousarray(rows)}
        raise ShapeError(
            f"inputs: got {rows.dtype} {rows.shape}, expected "
            + ", ".join(f"{tensor.name} {tensor}" for tensor in inputs)
        )
    names = rows.dtype.names or ()
    if set(names) != {tensor.name for tensor in inputs}:
        wanted = ", ".join(f"{tensor.name} {tensor}" for tensor in inputs)
        raise ShapeError(f"inputs: got {', '.join(names)}, expected {wanted}")
    # A field keeps the stride of whole samples, of one sample too, which numpy calls contiguous
    return {tensor.name: rows[tensor.name].copy() for tensor in inputs}


def refuse_samples(spec: ModelSpec, what: str) -> None:
    """Refuse, by a SpecError, a model that takes no images for `what`, which is about images."""
    if not spec.takes_images:
        wanted = ", ".join(f"{tensor.name} {tensor}" for tensor in spec.inputs)
        raise SpecError(
            f"{what}: {spec.name} takes {wanted}, expected a model of images. "
            "It runs with: edgevit run BUNDLE --seed 0 --draw DIR"
        )


def noise_for(inputs: Sequence[TensorSpec], count: int) -> Rows:
    """Return `count` seeded rows for a session with `inputs`: noise, of integers zeros.

    They are images, uint8 (count, height, width, 3), where that is the only input.
    """
    random, arrays = np.random.default_rng(0), dict[str, Any]()
    for tensor in inputs:
        shape = (count, *map(int, tensor.shape[1:]))
        if tensor.dtype == "uint8":
            arrays[tensor.name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif tensor.dtype.startswith("float"):
            arrays[tensor.name] = random.standard_normal(shape).astype(tensor.dtype)
        else:
            arrays[tensor.name] = np.zeros(shape, tensor.dtype)
    if [tensor.dtype for tensor in inputs] == ["uint8"]:
        images: Rows = arrays[inputs[0].name]
        return images
    return pack(inputs, arrays)


def picture_of(row: Rows) -> NDArray[np.uint8]:
    """Return the first field of one sample as uint8 (height, width, 3); pixels as they are.

    Of indices the largest is white, and 0 black.
    """
    if not is_sample(row):
        return row
    first = row[(row.dtype.names or ())[0]]
    values = np.asarray(first, np.float32)
    if first.dtype.kind == "i":
        values = 2 * values / max(values.max(), 1) - 1
    return as_picture(values.reshape(-1, *values.shape[-2:]) if values.ndim > 1 else values[None])


def as_picture(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return `values`, (channels, height, width) from -1 to 1, as uint8 (height, width, 3).

    One channel is gray, three are R, G and B; of other numbers the first three, or the first one.
    What lies beyond is cut off.
    """
    shown = values if values.ndim == 3 else values[None]
    shown = shown[:3] if len(shown) >= 3 else np.repeat(shown[:1], 3, axis=0)
    levels = np.clip((np.asarray(shown, np.float64) + 1) * 127.5, 0, 255).round()
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))
