"""Where the pixels of an image lie in the model's input, and back."""

from __future__ import annotations

from dataclasses import dataclass

from edge_vit.spec import PreprocessSpec


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the model's input.

    A point (x, y) of the image is ``(x * scale_x + left, y * scale_y + top)`` of the input, both in
    pixels from the outer corner.
    """

    scale_y: float
    scale_x: float
    top: float
    left: float


def place(size: tuple[int, ...], spec: PreprocessSpec) -> Placement:
    """Return where an image of `size`, (height, width), lies in the input of `spec`."""
    resized = resized_size(size, spec)
    offsets = []
    for have, want in zip(resized, spec.image_size, strict=True):
        read, write = center_window(have, want)
        offsets.append(float(write.start - read.start))
    return Placement(resized[0] / size[0], resized[1] / size[1], *offsets)


def resized_size(size: tuple[int, ...], spec: PreprocessSpec) -> tuple[int, int]:
    """Return (height, width) of an image of `size` after the resize, before the crop.

    Args:
        size: (height, width) in pixels.
        spec: what the model expects.
    """
    height, width = size
    target_height, target_width = spec.resize_size
    if spec.crop_mode == "squash":
        return target_height, target_width
    if spec.crop_mode == "center" and target_height == target_width:
        # torchvision's Resize(int): the shorter side exact, the longer side rounded down.
        if width <= height:
            return int(target_height * height / width), target_width
        return target_height, int(target_width * width / height)
    # timm's ResizeKeepRatio: cover the target (center) or fit into it (border), rounded to nearest.
    choose = max if spec.crop_mode == "border" else min
    ratio = choose(height / target_height, width / target_width)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def center_window(have: int, want: int) -> tuple[slice, slice]:
    """Return where to read among `have` values, and where to write among `want`: the centre.

    A crop rounds half to even and a padding rounds down, as in torchvision's `center_crop`.
    """
    if have < want:
        start = (want - have) // 2
        return slice(0, have), slice(start, start + have)
    start = round((have - want) / 2)
    return slice(start, start + want), slice(0, want)
