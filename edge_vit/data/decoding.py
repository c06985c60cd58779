"""Safe decoding of one image: JPEG, PNG, WebP or BMP, whatever the file is called."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import (  # the plugins register their formats
    BmpImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import ImageError
from edge_vit.git_lfs import refuse_lfs_pointer

MAX_PIXELS = 200_000_000
"""Largest image that is decoded, as phones take it: a file of a hundred bytes can claim a thousand
times as many. At its peak, decoding JPEG or PNG takes 7 bytes a pixel: 1.4 GB for the largest."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_STRIP_PIXELS = 4_000_000  # so many are converted at once
_EXIF_ORIENTATION = 0x0112
_PREFIX_BYTES = 16
_log = logging.getLogger(__name__)


def load_image(path: str | Path) -> UInt8Array:
    """Return the image at `path` as uint8 (H, W, 3) RGB, upright as its EXIF orientation says.

    Reads JPEG, PNG, WebP and BMP, whatever the file's name; of an animation the first frame. Alpha
    is dropped, not blended, as timm's and torchvision's loaders do.

    Raises:
        ImageError: the file is missing, damaged, of another format, or above `MAX_PIXELS`.
    """
    if not Path(path).is_file():
        raise ImageError(f"image {path} does not exist or is not a file. Check the path")
    with _opened(path) as image:
        return _to_rgb(image, _orientation(image, path))


def load_frames(path: str | Path, choose: Callable[[int], Sequence[int]]) -> UInt8Array | None:
    """Return frames of an animated PNG or WebP, uint8 (frames, H, W, 3); None of a still image.

    `choose` returns which of so many frames are wanted.
    """
    with _opened(path) as image:
        count = int(getattr(image, "n_frames", 1))
        if count == 1:
            return None
        indices, found = choose(count), dict[int, UInt8Array]()
        for index in sorted(set(indices)):
            image.seek(index)
            found[index] = _to_rgb(image, None)
        return np.stack([found[index] for index in indices])


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open the image at `path`; whatever is wrong with it inside the block is an ImageError."""
    try:
        with _open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except Image.DecompressionBombError:
        raise ImageError(
            f"image {path} claims more than {MAX_PIXELS // 10**6} megapixels and was not decoded. "
            "Scale it down first"
        ) from None
    except UnidentifiedImageError:
        refuse_lfs_pointer(Path(path), ImageError)
        raise ImageError(
            f"image {path} is not a JPEG, PNG, WebP or BMP file, or its header is damaged"
        ) from None
    except Exception as error:  # decoders that are fed damaged bytes raise whatever they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"image {path} cannot be decoded: {reason}") from None


def is_image(path: str | os.PathLike[str], *, with_bmp: bool = False) -> bool:
    """Whether the file at `path` begins as a JPEG, PNG or WebP file does, whatever its name.

    The mark of a BMP file is "BM" alone, which other files may begin with: only on request.
    """
    try:
        with Path(path).open("rb") as file:
            prefix = file.read(_PREFIX_BYTES)
    except OSError:
        return False
    accepts = [Image.OPEN[name][1] for name in _FORMATS if with_bmp or name != "BMP"]
    return any(accept is not None and accept(prefix) is True for accept in accepts)


def _open(path: str | Path) -> Image.Image:
    """The image at `path`, its header read.

    `Image.open` would refuse what is above Pillow's own limit, which is the whole process's to set.
    """
    file = Path(path).open("rb")  # noqa: SIM115  # it is the image's, which closes it
    prefix = file.read(_PREFIX_BYTES)
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix) is not True:
            continue
        file.seek(0)
        try:
            image: Image.Image = factory(file, str(path))
        except (SyntaxError, IndexError, TypeError, struct.error):  # as in `Image.open`
            continue
        except BaseException:
            file.close()
            raise
        image._exclusive_fp = True  # type: ignore[attr-defined]  # lets `image` close the file
        return image
    file.close()
    raise UnidentifiedImageError


def _orientation(image: Image.Image, path: str | Path) -> int | None:
    """The image's EXIF orientation; its pixels are decoded."""
    image.load()  # first, so that damaged pixels are not taken for a damaged EXIF block
    try:
        orientation: int | None = image.getexif().get(_EXIF_ORIENTATION)
    except Exception as error:
        _log.warning("image %s: its EXIF data is damaged (%s), taken as upright", path, error)
        return None
    return orientation


def _to_rgb(image: Image.Image, orientation: int | None) -> UInt8Array:
    """The upright pixels of an image of any mode that `_FORMATS` decode to, converted in strips.

    Whole copies in each mode would take three times as much memory.
    """
    width, height = image.size
    is_turned = orientation in (5, 6, 7, 8)
    upright = np.empty((width, height, 3) if is_turned else (height, width, 3), np.uint8)
    stored = _as_stored(upright, orientation)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = image if rows >= height else image.crop((0, top, width, bottom))
        stored[top:bottom] = _strip_to_rgb(strip)
    return upright


def _as_stored(upright: UInt8Array, orientation: int | None) -> UInt8Array:
    """A view of `upright` that is laid out as the file stores an image of this orientation."""
    views: dict[int, Callable[[], UInt8Array]] = {
        2: lambda: upright[:, ::-1],
        3: lambda: upright[::-1, ::-1],
        4: lambda: upright[::-1],
        5: lambda: upright.swapaxes(0, 1),
        6: lambda: np.rot90(upright),
        7: lambda: upright[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(upright, -1),
    }
    view = views.get(orientation or 1)
    return upright if view is None else view()


def _strip_to_rgb(image: Image.Image) -> UInt8Array:
    if image.mode.startswith("I"):
        # 16-bit gray, mode I in older Pillow. Its own convert clips values at 255, and nearly every
        # pixel turns white; of 16-bit colour it keeps the upper byte, so we do that here too.
        gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours; straight to RGB, Pillow warns
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
