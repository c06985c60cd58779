"""Safe decoding of every mode of real photographs."""

from __future__ import annotations

import logging
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data
from sklearn.datasets import load_sample_image

from edge_vit.data import decoding
from edge_vit.data.decoding import is_image, load_image
from edge_vit.errors import ImageError

CHINA = load_sample_image("china.jpg")[100:220, 200:380]  # (120, 180, 3)
ASTRONAUT = data.astronaut()[:200, 100:250]  # (200, 150, 3)
PHOTO = Image.fromarray(CHINA)
GRAY = np.asarray(PHOTO.convert("L"))


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG written by hand; `rows` is the raw image with a filter byte before each row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def png16(values: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG of `values`, uint16 (H, W, channels)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour_type, rows)


@pytest.mark.parametrize("extension", ["png", "bmp", "webp"])
def test_lossless_formats_give_the_very_pixels_in_an_array_of_their_own(tmp_path, extension):
    pixels = load_image(save(tmp_path / f"a.{extension}", PHOTO, lossless=True))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, CHINA)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


TRANSLUCENT = PHOTO.copy()
TRANSLUCENT.putalpha(Image.fromarray(GRAY))
PALETTE = PHOTO.quantize(64)

# What the loaders of timm and torchvision make of each mode is Pillow's `convert("RGB")`.
MODES = {
    "gray": (PHOTO.convert("L"), "png", {}),
    "gray_jpeg": (PHOTO.convert("L"), "jpg", {}),
    "gray_alpha": (TRANSLUCENT.convert("LA"), "png", {}),
    "rgb_jpeg": (PHOTO, "jpg", {"quality": 90}),
    "rgb_progressive_jpeg": (PHOTO, "jpg", {"progressive": True}),
    "rgba": (TRANSLUCENT, "png", {}),
    "rgba_webp": (TRANSLUCENT, "webp", {}),
    "palette": (PALETTE, "png", {}),
    "palette_bmp": (PALETTE, "bmp", {}),
    "palette_transparent_colour": (PALETTE, "png", {"transparency": 3}),
    "palette_transparency_table": (PALETTE, "png", {"transparency": bytes(range(64))}),
    "rgb_transparent_colour": (PHOTO, "png", {"transparency": tuple(CHINA[0, 0].tolist())}),
    "one_bit": (PHOTO.convert("1"), "png", {}),
    "cmyk": (PHOTO.convert("CMYK"), "jpg", {}),
}


@pytest.mark.parametrize(("image", "extension", "options"), MODES.values(), ids=MODES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
def test_every_mode_equals_pillows_conversion(tmp_path, image, extension, options):
    path = save(tmp_path / f"a.{extension}", image, **options)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(load_image(path), expected)
    assert expected.std() > 20  # still a photograph


def test_transparent_palette_gives_no_warning(tmp_path):
    path = save(tmp_path / "a.png", PALETTE, transparency=bytes(range(64)))
    assert np.array_equal(load_image(path), np.asarray(PALETTE.convert("RGB")))


def test_cmyk_still_shows_the_photograph(tmp_path):
    pixels = load_image(save(tmp_path / "a.jpg", PHOTO.convert("CMYK"), quality=95))
    assert np.abs(pixels.astype(int) - CHINA).mean() < 5


WIDE = GRAY.astype(np.uint16)[:, :, None] * 256 + np.arange(180, dtype=np.uint16)[None, :, None]
WIDE_COLOUR = CHINA.astype(np.uint16) * 256 + 200
WIDE_ALPHA = np.full_like(WIDE, 30_000)

SIXTEEN_BIT = {
    "gray": (WIDE, 0),
    "gray_alpha": (np.dstack([WIDE, WIDE_ALPHA]), 4),
    "rgb": (WIDE_COLOUR, 2),
    "rgba": (np.dstack([WIDE_COLOUR, WIDE_ALPHA]), 6),
}


@pytest.mark.parametrize(("values", "colour_type"), SIXTEEN_BIT.values(), ids=SIXTEEN_BIT)
def test_sixteen_bits_keep_the_upper_eight(tmp_path, values, colour_type):
    path = tmp_path / "a.png"
    path.write_bytes(png16(values, colour_type))
    colours = values[..., :3] if values.shape[2] > 2 else values[..., :1].repeat(3, axis=2)
    assert np.array_equal(load_image(path), colours >> 8)


def test_sixteen_bit_gray_of_older_pillow_keeps_the_upper_eight(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(png16(WIDE, 0))

    def open_as_mode_i(path):
        with Image.open(path) as image:
            return image.convert("I")

    monkeypatch.setattr(decoding, "_open", open_as_mode_i)
    assert np.array_equal(load_image(path)[..., 0], GRAY)


def test_first_frame_of_an_animation(tmp_path):
    path = tmp_path / "a.webp"
    PHOTO.save(path, save_all=True, append_images=[ImageOps.invert(PHOTO)], lossless=True)
    assert np.array_equal(load_image(path), CHINA)


def test_content_decides_and_not_the_name(tmp_path):
    path = tmp_path / "a.jpg"
    PHOTO.save(path, format="PNG")
    assert np.array_equal(load_image(path), CHINA)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, extension):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{extension}", Image.fromarray(ASTRONAUT), exif=exif)
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    pixels = load_image(path)
    assert pixels.shape == ((150, 200, 3) if orientation >= 5 else (200, 150, 3))
    assert np.array_equal(pixels, expected)


def test_photo_stored_on_its_side_comes_out_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = (
        6  # "turn 90 degrees clockwise to see it upright", what a phone held upright writes
    )
    sideways = Image.fromarray(ASTRONAUT).transpose(Image.Transpose.ROTATE_90)
    assert np.array_equal(load_image(save(tmp_path / "a.png", sideways, exif=exif)), ASTRONAUT)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_unknown_orientation_leaves_the_image_as_it_is(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(load_image(save(tmp_path / "a.png", PHOTO, exif=exif)), CHINA)


def test_sixteen_bit_gray_is_turned_upright_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = save(tmp_path / "a.png", Image.fromarray(WIDE[..., 0]), exif=exif)
    assert np.array_equal(load_image(path)[..., 1], GRAY[::-1, ::-1])


@pytest.mark.parametrize("extension", ["png", "webp"])
@pytest.mark.parametrize(
    "exif", [b"this is no TIFF header", b"II*\0"], ids=["no_tiff", "truncated"]
)
def test_damaged_exif_is_logged_and_the_image_taken_as_upright(tmp_path, caplog, extension, exif):
    path = save(tmp_path / f"a.{extension}", PHOTO, exif=b"Exif\0\0" + exif, lossless=True)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(load_image(path), CHINA)
    assert f"a.{extension}: its EXIF data is damaged" in caplog.text


def test_damaged_exif_of_a_jpeg_is_no_reason_to_refuse_it(tmp_path):
    path = save(tmp_path / "a.jpg", PHOTO, exif=b"Exif\0\0this is no TIFF header")
    assert load_image(path).shape == CHINA.shape


# --- refusals ---------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert error.value.__cause__ is None
    return text


@pytest.mark.parametrize(
    ("width", "height"),
    [(20_000, 10_001), (60_000, 60_000), (2**31 - 1, 2**31 - 1)],
    ids=["above_ours", "pillow_refuses", "largest"],
)
def test_refuses_decompression_bomb_by_its_header(tmp_path, width, height):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, 8, 2, b"\0" * 1000))
    assert path.stat().st_size < 100
    with pytest.raises(ImageError, match="more than 200 megapixels") as error:
        load_image(path)
    assert "bomb.png" in one_line(error)


def test_what_pillow_alone_would_refuse_is_decoded_below_our_limit(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", PHOTO)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if the photograph had 200 megapixels
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert np.array_equal(load_image(path), CHINA)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16"])
def test_strips_give_the_pixels_of_the_whole(tmp_path, monkeypatch, orientation, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = {"P": PALETTE, "I;16": Image.fromarray(WIDE[..., 0])}.get(mode) or PHOTO.convert(mode)
    path = save(tmp_path / "a.png", image, exif=exif)
    whole = load_image(path)
    monkeypatch.setattr(decoding, "_STRIP_PIXELS", 180 * 7)  # the last one is shorter
    assert np.array_equal(load_image(path), whole)
    assert whole.flags.c_contiguous


def test_a_photograph_above_50_megapixels_is_read_in_bounded_memory(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("RGB", (8160, 6144), (90, 120, 30)))
    tracemalloc.start()
    pixels = load_image(path)
    peak = tracemalloc.get_traced_memory()[1]  # numpy's; Pillow's own 4 bytes a pixel are not
    tracemalloc.stop()
    assert pixels.shape == (6144, 8160, 3)
    assert np.abs(pixels[::999, ::999].astype(int) - (90, 120, 30)).max() <= 3
    assert peak < 4 * 8160 * 6144


@pytest.mark.parametrize("name", ["a.jfif", "a.JPE", "a.tif", "a.heic", "a"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_known_by_its_first_bytes(tmp_path, name, form):
    PHOTO.save(tmp_path / name, form)
    assert is_image(tmp_path / name)
    assert load_image(tmp_path / name).shape == CHINA.shape


@pytest.mark.parametrize("form", ["TIFF", "GIF"])
def test_other_formats_are_not_taken_for_one(tmp_path, form):
    PHOTO.save(tmp_path / "a.jpg", form)
    assert not is_image(tmp_path / "a.jpg")
    assert not is_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match=r"a\.jpg is not a JPEG, PNG, WebP or BMP file"):
        load_image(tmp_path / "a.jpg")


def test_decodes_an_image_at_the_limit_and_none_above(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", PHOTO)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 120 * 180)
    assert np.array_equal(load_image(path), CHINA)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 120 * 180 - 1)
    with pytest.raises(ImageError, match=r"a\.png claims more"):
        load_image(path)


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_refuses_truncated_image(tmp_path, caplog, extension, share):
    path = save(tmp_path / f"cut.{extension}", PHOTO)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match="cut") as error:
        load_image(path)
    assert "cannot be decoded" in one_line(error) or "damaged" in one_line(error)
    assert "EXIF" not in caplog.text  # the pixels are to blame


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow says of a damaged EXIF block
@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "webp"])
def test_damaged_bytes_give_an_image_or_one_line(tmp_path, extension):
    content = save(tmp_path / f"a.{extension}", PHOTO).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / f"damaged.{extension}"
    num_refused = 0
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        where = generator.integers(0, min(len(damaged), 1000), 20)
        damaged[where] = generator.integers(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        try:
            pixels = load_image(path)
        except ImageError as error:
            num_refused += 1
            assert "\n" not in str(error)
        else:
            assert pixels.dtype == np.uint8
    assert num_refused > 0


NOT_IMAGES = {
    "text": b"this is no image",
    "empty": b"",
    "pickle": b"\x80\x04\x95.",
}


@pytest.mark.parametrize("content", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_refuses_what_is_no_image(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png is not a JPEG, PNG, WebP or BMP file") as error:
        load_image(path)
    one_line(error)


OTHER_FORMATS = {
    "gif": (PALETTE, "GIF"),
    "tiff": (PHOTO, "TIFF"),
    "float_tiff": (Image.fromarray(GRAY.astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize(("image", "kind"), OTHER_FORMATS.values(), ids=OTHER_FORMATS)
def test_refuses_other_formats_whatever_their_name(tmp_path, image, kind):
    with pytest.raises(ImageError, match="not a JPEG, PNG, WebP or BMP"):
        load_image(save(tmp_path / "a.png", image, format=kind))


def test_refuses_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg does not exist or is not a file") as error:
        load_image(tmp_path / "none.jpg")
    one_line(error)
    with pytest.raises(ImageError, match="is not a file"):
        load_image(tmp_path)
