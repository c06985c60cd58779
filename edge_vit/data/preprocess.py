"""From an image to the model's uint8 input: the one definition, used by every package.

The arithmetic is that of timm's evaluation transform and of torchvision's `Resize` and `CenterCrop`
on Pillow images, rounding included, so that a model gets the very pixels that its published
accuracy was measured on. Casting, scaling, `mean` and `std` are in the graph.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_vit.errors import ShapeError
from edge_vit.spec import ClipSpec, PreprocessSpec, center_window, resized_size
from edge_vit.spec.samples import is_sample

UInt8Array = NDArray[np.uint8]

MAX_RESIZED_PIXELS = 100_000_000
"""Largest image before the crop: a strip of 1 x 1,000,000 would be resized to 65 gigapixels."""


def preprocess(pixels: UInt8Array, spec: PreprocessSpec) -> UInt8Array:
    """Return `pixels`, uint8 (H, W, 3) RGB, resized and cropped to the model's input.

    For a model of clips they are (frames, H, W, 3), each frame is prepared by itself, and of more
    or fewer frames than it takes those that `spec.clip` reads. A sample of other inputs is returned
    as it is.
    """
    if is_sample(pixels):
        return pixels
    if spec.clip is None:
        check_image(pixels)
        return _prepare(pixels, spec)
    check_clip(pixels, spec.clip)
    if len(pixels) != spec.clip.frames:
        pixels = pixels[list(spec.clip.indices(len(pixels)))]
    return np.stack([_prepare(frame, spec) for frame in pixels])


def _prepare(pixels: UInt8Array, spec: PreprocessSpec) -> UInt8Array:
    height, width = resized_size(pixels.shape[:2], spec)
    if height * width > MAX_RESIZED_PIXELS:
        raise ShapeError(
            f"image: got {pixels.shape}, to be resized to {height} x {width} before the crop, "
            f"expected at most {MAX_RESIZED_PIXELS} pixels. Crop it to a less extreme shape first"
        )
    resample = Image.Resampling[spec.interpolation.upper()]
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), resample))
    canvas = empty_input(spec)
    from_rows, to_rows = center_window(resized.shape[0], spec.image_size[0])
    from_columns, to_columns = center_window(resized.shape[1], spec.image_size[1])
    canvas[to_rows, to_columns] = resized[from_rows, from_columns]
    return canvas


def digest(pixels: UInt8Array) -> str:
    """Return the SHA-256 of shape and pixels, or of a sample's fields, as 64 hex digits."""
    if is_sample(pixels):
        return hashlib.sha256(f"{pixels.dtype.descr}\n".encode() + pixels.tobytes()).hexdigest()
    check_pixels(pixels)
    shape = "x".join(map(str, pixels.shape))
    return hashlib.sha256(f"uint8 {shape}\n".encode() + pixels.tobytes()).hexdigest()


def check_image(pixels: UInt8Array, name: str = "image") -> None:
    """Raise ShapeError unless `pixels` is a uint8 (H, W, 3) array with at least one pixel."""
    shape = np.shape(pixels)
    dtype = getattr(pixels, "dtype", type(pixels).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ShapeError(
            f"{name}: got {dtype} {shape}, expected uint8 (height, width, 3) RGB. "
            "Read it with edge_vit.data.images.load_image"
        )


def check_clip(pixels: UInt8Array, clip: ClipSpec) -> None:
    """Raise ShapeError unless `pixels` is a uint8 (frames, H, W, 3) array."""
    if np.ndim(pixels) == 3:
        raise ShapeError(
            f"image: got a single one, {np.shape(pixels)}, but the model reads clips of "
            f"{clip.frames} frames, expected uint8 ({clip.frames}, height, width, 3) RGB"
        )
    check_pixels(pixels, "clip")


def check_pixels(pixels: UInt8Array, name: str = "image") -> None:
    """Raise ShapeError unless `pixels` is an image, or a clip (frames, H, W, 3) with pixels."""
    if np.ndim(pixels) == 4 and len(pixels):
        pixels = pixels[0]
    check_image(pixels, name)


def empty_input(spec: PreprocessSpec) -> UInt8Array:
    """Return an input without a picture: what is seen where the resized image does not reach.

    The border gets the mean colour, which is zero after normalisation. Elsewhere nothing is left to
    pad, save for a pixel that rounding lost: torchvision makes it black.
    """
    fill = spec.mean if spec.crop_mode == "border" else (0.0, 0.0, 0.0)
    colour = [min(max(round(255 * value), 0), 255) for value in fill]
    return np.full((*spec.image_size, 3), colour, dtype=np.uint8)
