from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.video import VideoSource
from edge_vit.data.video_reader import colour_of, to_rgb
from edge_vit.errors import ImageError, SpecError

av = pytest.importorskip("av", reason="PyAV is not installed")
from camera.videos import level_of, picture, read_level, write_odd_video, write_video  # noqa: E402


@pytest.fixture(scope="module", params=["h264.mp4", "open.mp4", "mjpeg.avi"])
def video(request, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / request.param)


def test_gives_every_frame_in_the_order_in_which_it_is_shown(video):
    source = open_image_source(video)
    assert isinstance(source, ImageSource)
    assert len(source) == 60
    items = list(source)
    levels = [read_level(item.pixels) for item in items]
    np.testing.assert_allclose(levels, [level_of(number) for number in range(60)], atol=3)
    assert items[7].name == f"{video}#7"
    assert {item.label for item in items} == {None}


@pytest.mark.parametrize("limit", [1, 2, 7, 13, 59, 60, 1000])
def test_fewer_frames_are_spread_evenly_and_are_the_right_ones(video, limit):
    source = open_image_source(str(video), limit=limit)
    items = list(source)
    assert len(source) == len(items) == min(limit, 60)
    numbers = [int(item.name.rpartition("#")[2]) for item in items]
    assert numbers == [index * 60 // len(items) for index in range(len(items))]
    for number, item in zip(numbers, items, strict=True):
        assert read_level(item.pixels) == pytest.approx(level_of(number), abs=3)


def test_the_same_frames_come_again(video):
    source = VideoSource(video, 5)
    first, second = ([item.pixels for item in source] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("matrix", "color_range", "expected"),
    [
        (av.video.reformatter.Colorspace.ITU709, 1, "yuv420p BT.709, limited range"),
        (av.video.reformatter.Colorspace.ITU601, 2, "yuv420p BT.601, full range"),
    ],
)
def test_the_matrix_and_the_range_that_a_frame_names_are_followed(matrix, color_range, expected):
    ranges = av.video.reformatter.ColorRange
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:] = (200, 30, 90)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=ranges.JPEG,
        dst_color_range=ranges(color_range),
    )
    # FFmpeg's numbers: 1 is BT.709, 6 is BT.601.
    frame.colorspace = 1 if matrix == av.video.reformatter.Colorspace.ITU709 else 6
    frame.color_range = color_range
    colour = colour_of(frame)
    assert str(colour) == expected
    np.testing.assert_allclose(to_rgb(frame, colour).mean(axis=(0, 1)), (200, 30, 90), atol=2.5)


@pytest.mark.parametrize(("height", "matrix"), [(480, "BT.601"), (720, "BT.709")])
def test_an_unnamed_matrix_is_assumed_by_height_and_said_to_be(height, matrix):
    colour = colour_of(av.VideoFrame(32, height, "yuv420p"))
    assert (colour.matrix, colour.is_matrix_assumed) == (matrix, True)
    assert "assumed" in str(colour)


def test_rgb_needs_no_conversion():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    np.testing.assert_array_equal(to_rgb(frame, colour_of(frame)), pixels)


# A display matrix takes (x, y) to (ax + cy, bx + dy).
TURNS = {
    "not": ((1, 0, 0, 1), lambda pixels: pixels),
    "half": ((-1, 0, 0, -1), lambda pixels: pixels[::-1, ::-1]),
    "counterclockwise": ((0, -1, 1, 0), lambda pixels: np.rot90(pixels)),
    "clockwise": ((0, 1, -1, 0), lambda pixels: np.rot90(pixels, 3)),
    "mirrored": ((-1, 0, 0, 1), lambda pixels: pixels[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda pixels: pixels[::-1]),
    "turned and mirrored": ((0, 1, 1, 0), lambda pixels: pixels.transpose(1, 0, 2)),
}


@pytest.mark.parametrize(("matrix", "turn"), TURNS.values(), ids=TURNS)
def test_pictures_are_turned_and_mirrored_as_the_file_says(tmp_path, matrix, turn):
    if not hasattr(av.VideoStream, "set_display_matrix"):
        pytest.skip("this PyAV cannot write one")
    for item in VideoSource(write_odd_video(tmp_path / "a.mp4", matrix=matrix)):
        number = int(item.name.rpartition("#")[2])
        expected = turn(picture(number))
        assert item.pixels.shape == expected.shape
        assert np.abs(item.pixels.astype(int) - expected).mean() < 4


ODD = {
    "odd.mp4": {"size": (97, 65), "pixel_format": "yuv444p"},
    "tiny.mkv": {"codec": "ffv1", "size": (81, 51)},
    "ten-bits.mp4": {"codec": "libx265", "pixel_format": "yuv420p10le"},
    "ever-slower.mp4": {"gap_ms": 40},
    "ever-slower.mkv": {"gap_ms": 40},
    "ever-slower.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "gap_ms": 40},
}


@pytest.mark.parametrize(("name", "settings"), ODD.items(), ids=ODD)
def test_odd_sizes_depths_and_changing_rates_are_whole_videos(tmp_path, name, settings):
    source = VideoSource(write_odd_video(tmp_path / name, **settings))
    items = list(source)
    assert len(items) == len(source) == 12 and source.notes == ()
    assert {item.pixels.shape[1::-1] for item in items} == {settings.get("size", (96, 64))}
    levels = [read_level(item.pixels) for item in items]
    np.testing.assert_allclose(levels, [level_of(number) for number in range(12)], atol=8)


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_beginning(path):
    write_video(path, codec="h264.mp4")
    path.write_bytes(path.read_bytes()[:3000])


def write_pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def write_nonsense(path):
    path.write_bytes(b"not a video" * 50)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_nonsense, "cannot be read: it is damaged, .* or is no video"),
        (write_sound, "holds sound alone"),
        (write_pointer, "is a Git LFS pointer, .* git lfs pull"),
        (lambda path: path.touch(), "cannot be read: it is empty"),
        (write_beginning, "cannot be read: it is damaged, was cut off before its index"),
        (lambda path: None, "does not exist"),
    ],
)
def test_refuses_what_is_no_video(tmp_path, write, message):
    path = tmp_path / "a.mp4"
    write(path)
    with pytest.raises(ImageError, match=rf"{re.escape(str(path))} {message}"):
        VideoSource(path)


def test_a_long_search_for_good_frames_shows_its_progress(video, monkeypatch, caplog):
    monkeypatch.setattr("edge_vit.data.video._LOG_EVERY_S", 0.0)
    with caplog.at_level("INFO"):
        source = VideoSource(video)
        assert f"looking for good frames in {video}: 60 decoded" in caplog.messages
        caplog.clear()
        assert len(list(source)) == 60
        assert caplog.messages == []


def test_refuses_a_limit_below_one(video):
    with pytest.raises(SpecError, match="limit: got 0"):
        VideoSource(video, 0)


def test_frames_with_exif_data_are_read_upright(tmp_path):
    """JPEG frames of cameras have it; PyAV does not know this kind of side data."""
    path, exif = tmp_path / "a.mjpeg", Image.Exif()
    exif[0x0112] = 6  # stored on its side
    photo = Image.fromarray(picture(3))
    with path.open("wb") as file:
        for _ in range(3):
            photo.save(file, "JPEG", exif=exif, quality=95)
    found = [item.pixels for item in VideoSource(path)]
    wanted = np.asarray(photo.transpose(Image.Transpose.ROTATE_270), np.float64)
    assert len(found) == 3 and found[0].shape == wanted.shape
    assert abs(found[0] - wanted).mean() < 3
