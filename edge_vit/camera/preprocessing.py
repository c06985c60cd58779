"""Preprocessing fast enough for a camera, allowed only where it gives the reference's pixels.

`edge_vit.data.preprocess` stays the truth. Two backends are faster, both with Pillow's own filters:

- ``cropped`` resamples only what the crop keeps. The filter sees the same pixels at the same
  places; Pillow may take rows before columns then, so that values between are rounded otherwise.
- ``reduced`` averages whole blocks of pixels first, until the picture is at least twice as large
  as it shall be, as Pillow's ``reducing_gap`` does. That changes a little more.

A backend is taken when, on the bundle's golden images, its pixels are close and the model's first
prediction is the same; and its pixels are compared once more on a frame of each size. Only pictures
with detail decide: on a black or flat one all give the same pixels.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edge_vit.bundle import Bundle
from edge_vit.data.preprocess import UInt8Array, check_image, empty_input, preprocess
from edge_vit.errors import SpecError
from edge_vit.runtime.session import Session, run_images
from edge_vit.spec import PreprocessSpec
from edge_vit.spec.geometry import center_window, resized_size
from edge_vit.tasks import task_of

_LOG = logging.getLogger(__name__)

REFERENCE = "pillow"
MAX_MEAN_DIFF = 1.0
"""Largest mean difference from the reference that is allowed, in levels of 0 to 255."""
_REDUCING_GAP = 2.0
_GRID = 8  # cells across and down, in which detail is looked for
_MIN_LEVELS = 2.0  # standard deviation of a colour in a cell with detail
_MIN_SHARE = 0.25  # of cells; a picture that decides has more with detail
_MAX_SIZES = 64  # frame sizes that are remembered; others get the reference


@dataclass(frozen=True)
class PreprocessParity:
    """How one backend compares with the reference, on images of the bundle.

    Attributes:
        name: of the backend.
        num_images: that were compared.
        mean_diff: mean absolute difference of the inputs, levels of 0 to 255.
        max_diff: the largest.
        agreement: share of images with the same prediction: see `Task.same_closely`.
        is_allowed: whether it may be taken.
    """

    name: str
    num_images: int
    mean_diff: float
    max_diff: int
    agreement: float
    is_allowed: bool


class Preprocessing:
    """Makes the model's input of a frame; safe for several threads.

    Args:
        spec: what the model expects.
        name: of the backend, one of `BACKENDS`.
        parity: what was found when backends were compared.
        reason: why it was taken, for people.
    """

    def __init__(
        self,
        spec: PreprocessSpec,
        name: str = REFERENCE,
        parity: Sequence[PreprocessParity] = (),
        reason: str = "the reference",
    ) -> None:
        self._spec, self.name, self.parity, self._reason = spec, name, tuple(parity), reason
        self._apply = BACKENDS[name]
        self._lock = threading.Lock()
        # By a frame's shape; None while no frame of it had detail.
        self._is_good: dict[tuple[int, ...], bool | None] = {}

    def __call__(self, pixels: UInt8Array) -> UInt8Array:
        """Return `pixels`, uint8 (H, W, 3) RGB, as the model's input, uint8 (*image_size, 3)."""
        with self._lock:
            is_good = self.name == REFERENCE or self._is_good.get(np.shape(pixels))
            is_new = is_good is None and len(self._is_good) < _MAX_SIZES
            is_new |= is_good is None and np.shape(pixels) in self._is_good
        if is_new:
            return self._compare(pixels)
        return (self._apply if is_good else preprocess)(pixels, self._spec)

    @property
    def description(self) -> str:
        """Which backend makes the inputs, and why."""
        with self._lock:
            found = dict(self._is_good)
        text = f"{self.name}, {self._reason}"
        for is_good, why in ((False, ""), (None, ", which has shown no detail yet")):
            sizes = [f"{shape[1]}x{shape[0]}" for shape, value in found.items() if value is is_good]
            if sizes:
                text += f"; {REFERENCE} for {', '.join(sizes)}{why}"
        return text

    def _compare(self, pixels: UInt8Array) -> UInt8Array:
        """The reference's input; compares ours with it where the frame has enough detail."""
        expected = preprocess(pixels, self._spec)
        if not has_detail(expected):
            with self._lock:
                self._is_good.setdefault(pixels.shape, None)
            return expected
        mean_diff, max_diff = differ(self._apply(pixels, self._spec), expected)
        is_good = mean_diff <= MAX_MEAN_DIFF
        with self._lock:
            self._is_good[pixels.shape] = is_good
        height, width = pixels.shape[:2]
        found = f"preprocessing {self.name} at {width}x{height}: mean difference {mean_diff:.3f} "
        found += f"levels, largest {max_diff}"
        if is_good:
            _LOG.debug("%s", found)
        else:
            _LOG.warning("%s; the reference takes its place", found)
        return expected


def choose_preprocessing(bundle: Bundle, session: Session, name: str = "auto") -> Preprocessing:
    """Return the preprocessing called `name`, or for ``auto`` the fastest that is allowed.

    Raises:
        SpecError: there is no such backend, or it is not allowed.
        ArtifactError: the golden images are damaged.
    """
    spec = bundle.spec.preprocess
    if name != "auto" and name not in BACKENDS:
        raise SpecError(f"preprocess: got {name!r}, expected one of auto, {', '.join(BACKENDS)}")
    if name == REFERENCE:
        return Preprocessing(spec, reason="the reference, as asked")
    golden = _golden_images(bundle)
    images = [pixels for pixels in golden if has_detail(preprocess(pixels, spec))]
    if not images:
        what = "golden images with detail" if golden else "decoded golden images"
        if name != "auto":
            raise SpecError(
                f"preprocess {name}: {bundle.path} holds no {what} to compare it on. "
                "Take --preprocess pillow, or export the bundle again"
            )
        return Preprocessing(spec, reason=f"the reference: no {what} to compare others on")
    names = [each for each in BACKENDS if each != REFERENCE] if name == "auto" else [name]
    found: list[PreprocessParity] = []
    for each in names:
        found.append(parity := compare_on(images, bundle, session, each))
        if parity.is_allowed:
            reason = (
                f"on {parity.num_images} golden images {parity.mean_diff:.3f} levels from the "
                "reference, same answers"
            )
            return Preprocessing(spec, each, found, reason)
    worst = "; ".join(_describe(parity) for parity in found)
    if name != "auto":
        raise SpecError(f"preprocess {worst}. Take --preprocess auto or pillow")
    return Preprocessing(spec, REFERENCE, found, f"the reference: {worst}")


def compare_on(
    images: Sequence[UInt8Array], bundle: Bundle, session: Session, name: str
) -> PreprocessParity:
    """Return how the backend called `name` compares with the reference on `images`."""
    spec = bundle.spec.preprocess
    expected = np.stack([preprocess(pixels, spec) for pixels in images])
    got = np.stack([BACKENDS[name](pixels, spec) for pixels in images])
    mean_diff, max_diff = differ(got, expected)
    outputs, wanted = run_images(session, got), run_images(session, expected)
    same = task_of(bundle.spec).same_closely(bundle.spec, wanted, outputs)
    agreement = float(same.mean())
    is_allowed = mean_diff <= MAX_MEAN_DIFF and agreement == 1
    return PreprocessParity(name, len(images), mean_diff, max_diff, agreement, is_allowed)


def has_detail(model_input: UInt8Array) -> bool:
    """Return whether enough of a picture, uint8 (H, W, 3), has detail to compare backends on it."""
    cells = [
        float(cell.std(axis=(0, 1)).max())
        for rows in np.array_split(model_input, min(_GRID, model_input.shape[0]), axis=0)
        for cell in np.array_split(rows, min(_GRID, model_input.shape[1]), axis=1)
    ]
    return sum(level >= _MIN_LEVELS for level in cells) > _MIN_SHARE * len(cells)


def differ(got: UInt8Array, expected: UInt8Array) -> tuple[float, int]:
    """Return the mean and the largest absolute difference, in levels."""
    apart = np.abs(got.astype(np.int16) - expected.astype(np.int16))
    return float(apart.mean()), int(apart.max())


def _cropped(pixels: UInt8Array, spec: PreprocessSpec, gap: float | None = None) -> UInt8Array:
    """The input of `pixels`, resampled only where the crop keeps it."""
    check_image(pixels)
    height, width = pixels.shape[:2]
    resized_height, resized_width = resized_size((height, width), spec)
    from_rows, to_rows = center_window(resized_height, spec.image_size[0])
    from_columns, to_columns = center_window(resized_width, spec.image_size[1])
    down, across = height / resized_height, width / resized_width
    box = (
        from_columns.start * across,
        from_rows.start * down,
        min(width, from_columns.stop * across),
        min(height, from_rows.stop * down),
    )
    size = (from_columns.stop - from_columns.start, from_rows.stop - from_rows.start)
    resample = Image.Resampling[spec.interpolation.upper()]
    part = Image.fromarray(pixels).resize(size, resample, box=box, reducing_gap=gap)
    if size == spec.image_size[::-1]:
        return np.asarray(part)
    canvas = empty_input(spec)
    canvas[to_rows, to_columns] = np.asarray(part)
    return canvas


def _reduced(pixels: UInt8Array, spec: PreprocessSpec) -> UInt8Array:
    """The input of `pixels`, of which whole blocks were averaged first."""
    return _cropped(pixels, spec, _REDUCING_GAP)


BACKENDS: Mapping[str, Callable[[UInt8Array, PreprocessSpec], UInt8Array]] = {
    "reduced": _reduced,
    "cropped": _cropped,
    REFERENCE: preprocess,
}
"""Every backend, the fastest first."""


def _golden_images(bundle: Bundle) -> list[UInt8Array]:
    names = sorted(
        name
        for name in bundle.manifest.artifacts
        if name.startswith("golden/") and name.endswith(".png")
    )
    images = (Image.open(io.BytesIO(bundle.read(name)), formats=["PNG"]) for name in names)
    return [np.array(image.convert("RGB")) for image in images]


def _describe(parity: PreprocessParity) -> str:
    return (
        f"{parity.name} is {parity.mean_diff:.2f} levels from the reference (at most "
        f"{MAX_MEAN_DIFF:g}), agreement {parity.agreement:.0%} (100% wanted)"
    )
