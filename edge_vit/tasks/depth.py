"""A depth map: distances, or what grows with nearness, up to a scale and a shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_vit.errors import ImageError, SpecError
from edge_vit.spec import ModelSpec
from edge_vit.tasks.base import Outputs, Size, Wording
from edge_vit.tasks.maps.measures import AGAINST_REFERENCE, loss_measure
from edge_vit.tasks.maps.pictures import from_png16
from edge_vit.tasks.maps.placement import Kernel, to_image
from edge_vit.tasks.maps.task import MIN_CORRELATION, MapTask
from edge_vit.tasks.measures import Measure, MeasureValue, mean_value
from edge_vit.tasks.numerics import Float64Array, FloatArray

ABS_REL, DELTA, DROP = "abs_rel", "delta1", "delta1_drop"
"""Against the truth: mean relative error, share of pixels within a quarter; what is lost of it."""

FLAT = "delta1_flat"
"""Delta 1.25 of a map without any shape: the mean of the true distances in every pixel."""

OF_FP32, LOST = "delta1_fp32", "delta1_lost"
"""Against the reference: share of cells within a quarter of its value, and the rest."""

_WITHIN = 1.25
_FEWEST = 16  # known distances of an image: scale and shift are fitted to them
_FLOOR = 0.02  # of the largest value of the reference: what is smaller counts as that


def ratios_within(reference: FloatArray, candidate: FloatArray) -> float:
    """Return the share of values that are within a factor of 1.25 of those of `reference`."""
    ratio = np.maximum(reference / candidate, candidate / reference)
    return float((ratio < _WITHIN).mean())


def fit(values: FloatArray, truth: FloatArray) -> Float64Array:
    """Return `values` with the scale and shift that bring them closest to `truth`, (pixels,).

    What falls as distances grow, as the inverse depth of most models does, is fitted to the inverse
    of `truth`, and turned over. Nothing is nearer than the nearest true distance, or farther.
    """
    values, truth = np.asarray(values, np.float64), np.asarray(truth, np.float64)
    centred = values - values.mean()
    is_inverse = float(centred @ (truth - truth.mean())) < 0
    target = 1 / truth if is_inverse else truth
    energy = float(centred @ centred)
    scale = float(centred @ (target - target.mean())) / energy if energy > 0 else 0.0
    found: Float64Array = np.clip(scale * centred + target.mean(), target.min(), target.max())
    return 1 / found if is_inverse else found


def _judged(spec: ModelSpec, outputs: Outputs, truth: Sequence[Any]) -> list[Any]:
    """Return absolute relative error, delta 1.25 and that of a flat map; None without truth."""
    found: list[Any] = []
    for values, true in zip(TASK.values(spec, outputs), truth, strict=True):
        if not isinstance(true, np.ndarray):
            found.append(None)
            continue
        size = (true.shape[0], true.shape[1])
        own = to_image(values.reshape(values.shape[-2:]), size, spec.preprocess, TASK.kernel)
        known = np.isfinite(true) & np.isfinite(own)
        wanted = true[known].astype(np.float64)
        if _too_little(wanted):  # behind a crop
            found.append(None)
            continue
        fitted, flat = fit(own[known], wanted), np.full_like(wanted, wanted.mean())
        error = float((np.abs(fitted - wanted) / wanted).mean())
        found.append([error, *(ratios_within(wanted, each) for each in (fitted, flat))])
    return found


def _too_little(known: FloatArray) -> str:
    """Return why the `known` distances of an image cannot tell a good map from another one."""
    if known.size < _FEWEST:
        return f"{known.size} of its pixels have a distance above 0, expected {_FEWEST} at least"
    if np.ptp(known) == 0:
        return f"all its distances are {known.flat[0]:g}, expected some that differ"
    return ""


def summarize_truth(
    candidate: Sequence[Any], reference: Sequence[Any]
) -> Mapping[str, MeasureValue]:
    """Return the means over images, and the mean of what each image loses of delta 1.25."""
    ours = [each for each in candidate if each is not None]
    theirs = [each for each in reference if each is not None]
    found = {
        name: mean_value([each[of] for each in ours], [each[of] for each in theirs])
        for of, name in enumerate((ABS_REL, DELTA))
    }
    pairs = zip(candidate, reference, strict=bool(reference))
    lost = [b[1] - a[1] for a, b in pairs if a is not None and b is not None]
    flat = [each[2] for each in theirs if len(each) > 2]  # not in files of earlier versions
    return {**found, DROP: mean_value(lost), FLAT: mean_value(flat)}


def _within_fp32(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    found = []
    for ours, theirs in zip(*(TASK.values(spec, e) for e in (reference, candidate)), strict=True):
        least = _FLOOR * float(np.abs(ours).max()) or 1.0
        found.append(ratios_within(*(np.maximum(each, least) for each in (ours, theirs))))
    return np.array(found)


def _lost(spec: ModelSpec, reference: Outputs, candidate: Outputs) -> Float64Array:
    return 1 - _within_fp32(spec, reference, candidate)


class Depth(MapTask):
    """The depth of each pixel."""

    name = gives = "depth"
    wording = Wording(
        subject="The depth map",
        agreement=f"Same answer: the correlation of both depth maps is at least {MIN_CORRELATION}.",
        divergence="1 − correlation {}",
        pictures=(
            "From left to right: the image, the reference's depth over it, this precision's depth "
            "in the same colours."
        ),
    )
    kernel: Kernel = "bicubic"  # as transformers' post-processing has it
    truth_folders = ("depths", "depth")
    truth_suffixes = (".png", ".npy", ".tif", ".tiff", ".pfm")
    measures = (
        Measure(
            *(ABS_REL, "absolute relative error", None, _judged),
            summarize=summarize_truth,
            of=ABS_REL,
        ),
        *(
            Measure(name, title, unit="share", summarize=summarize_truth, of=ABS_REL)
            for name, title in ((DELTA, "delta 1.25"), (DROP, "delta 1.25 lost"))
        ),
        Measure(
            *(FLAT, "delta 1.25 of a flat map"),
            unit="share",
            has_row=False,
            summarize=summarize_truth,
            of=ABS_REL,
        ),
        Measure(OF_FP32, "delta 1.25 against fp32", _within_fp32, unit="share"),
        loss_measure(LOST, "delta 1.25 against fp32 lost", _lost),
        *AGAINST_REFERENCE,
    )
    loss_measure = DROP
    unlabelled_loss = LOST
    right_measure = DELTA
    blind_measure = FLAT

    def check(self, spec: ModelSpec) -> None:
        """Refuse a model that gives several values for each cell."""
        super().check(spec)
        if spec.num_outputs != 1:
            raise SpecError(
                f"output of {spec.name}: got {spec.outputs[0]}, expected one depth for each cell, "
                "(batch, height, width) or (batch, 1, height, width). Take --task dense for others"
            )

    def read_truth(self, spec: ModelSpec, path: Path, size: Size) -> FloatArray:
        """Return true distances (height, width) in any unit, NaN where they are not known.

        Not known is what is not above 0. The file may have more or fewer pixels than its image,
        which it shows whole.
        """
        try:
            values = np.load(path) if path.suffix.lower() == ".npy" else from_png16(path)
        except Exception as error:  # a damaged file can raise anything
            raise ImageError(f"depth {path} cannot be read: {error}") from None
        shape, kind = values.shape, values.dtype
        if values.ndim == 3 and 1 in (shape[0], shape[2]):
            values = values[0] if shape[0] == 1 else values[..., 0]
        if kind.kind not in "uif" or values.ndim != 2:
            raise ImageError(
                f"depth {path}: got {kind} {shape}, expected distances (height, width), in a gray "
                "PNG of 16 bits, a TIFF, a .pfm or a .npy file"
            )
        (rows, columns), (height, width) = values.shape, size
        if abs(rows * width - columns * height) > max(*size, *values.shape):
            raise ImageError(
                f"depth {path}: got {rows} x {columns} pixels, but its image has {height} x "
                f"{width}, another shape. Take the images that were measured"
            )
        wide = np.asarray(values, np.float32)
        known = np.isfinite(wide) & (wide > 0)
        if why := _too_little(wide[known]):
            raise ImageError(
                f"depth {path}: {why}. Give distances, larger farther, or leave the image out"
            )
        return np.where(known, wide, np.nan).astype(np.float32)


TASK = Depth()
