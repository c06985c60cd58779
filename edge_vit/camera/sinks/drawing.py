"""Frames with their prediction drawn on them, and frames as JPEG."""

from __future__ import annotations

import functools
import io

from PIL import Image, ImageDraw, ImageFont

from edge_vit.camera.values import CameraPrediction
from edge_vit.data.preprocess import UInt8Array
from edge_vit.printable import in_ascii

JPEG_QUALITY = 80
_CONFIDENT, _UNSURE, _BACK = (255, 255, 255), (255, 190, 90), (16, 18, 22)
_SHARE_OF_HEIGHT = 22  # a line of text is a 22nd of the picture's height


def draw_prediction(prediction: CameraPrediction) -> Image.Image:
    """Return a copy of the frame with its prediction on a bar below; features draw nothing.

    What the prediction shows in the picture, such as boxes, is drawn. The bar is as long as the
    best probability; of scores there is none.
    """
    shown = prediction.shown
    image: Image.Image = shown.draw(Image.fromarray(prediction.frame.pixels))
    headline, best = shown.headline, shown.confidence
    if headline is None:
        return image.copy()
    size = max(10, image.height // _SHARE_OF_HEIGHT)
    font, margin = _font(size), size // 2
    mark = "" if prediction.is_confident else "? "
    text = in_ascii(f"{mark}{headline}")
    image = image.copy()
    pen = ImageDraw.Draw(image, "RGBA")
    top = image.height - size - 2 * margin
    pen.rectangle((0, top, image.width, image.height), fill=(*_BACK, 190))
    width = round(image.width * min(1.0, max(0.0, best or 0.0)))
    colour = _CONFIDENT if prediction.is_confident else _UNSURE
    pen.rectangle((0, top, width, top + max(1, size // 8)), fill=(*colour, 255))
    pen.text((margin, top + margin), text, font=font, fill=(*colour, 255))
    return image


def to_jpeg(pixels: UInt8Array, max_side: int) -> bytes:
    """Return uint8 (height, width, 3) RGB pixels as JPEG, made smaller where a side is longer."""
    image = Image.fromarray(pixels)
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=JPEG_QUALITY)
    return data.getvalue()


@functools.lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 there is one size
        return ImageFont.load_default()
