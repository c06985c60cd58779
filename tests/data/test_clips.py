"""Clips in videos, folders of frames and arrays: which frames are read, and of which class."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from edge_vit.data.clips import read_clip, strip_of
from edge_vit.data.images import open_image_source
from edge_vit.data.perceptual import SignatureIndex, signature
from edge_vit.data.preprocess import digest, preprocess
from edge_vit.errors import ImageError, ShapeError
from edge_vit.spec import ClipSpec, PreprocessSpec

CLIP = ClipSpec(3, 2)
LEVELS = [20, 50, 80, 110, 140, 170, 200]  # gray of each frame
READ = [50, 110, 170]  # by CLIP


def frames(levels=LEVELS, size=(16, 24)):
    return np.stack([np.full((*size, 3), level, np.uint8) for level in levels])


def write_video(path, codec="ffv1", pixels="bgr0"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 24, 16, pixels
        for frame in frames():
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_frames(folder, levels=LEVELS):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames(levels), 6):  # frame_10 comes behind frame_9
        Image.fromarray(frame).save(folder / f"frame_{number}.png")


def grays(clip):
    assert clip.dtype == np.uint8
    assert clip.shape[1:] == (16, 24, 3)
    return clip.mean(axis=(1, 2, 3)).tolist()


def test_reads_the_same_frames_of_a_video_a_folder_and_an_array(tmp_path):
    write_video(tmp_path / "a.mkv")
    write_frames(tmp_path / "b")
    np.save(tmp_path / "c.npy", frames())
    for name in ("a.mkv", "b", "c.npy"):
        assert grays(read_clip(tmp_path / name, CLIP)) == READ


def test_reads_an_animated_gif(tmp_path):
    write_video(tmp_path / "a.gif", "gif", "rgb8")
    found = grays(read_clip(tmp_path / "a.gif", CLIP))
    assert np.allclose(found, READ, atol=20)  # of eight shades of red and green, four of blue


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_reads_an_animated_picture(tmp_path, kind):
    path, pictures = tmp_path / f"a.{kind}", [Image.fromarray(frame) for frame in frames()]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True)
    assert grays(read_clip(path, CLIP)) == READ
    pictures[0].save(path)
    with pytest.raises(ImageError, match="is a single image, and the model reads 3 frames"):
        read_clip(path, CLIP)


def test_an_array_of_as_many_frames_is_taken_as_sampled(tmp_path):
    np.save(tmp_path / "c.npy", frames(READ))
    assert grays(read_clip(tmp_path / "c.npy", CLIP)) == READ
    spec = PreprocessSpec((16, 24), crop_pct=1.0, clip=CLIP)
    assert grays(preprocess(frames(READ), spec)) == READ
    assert grays(preprocess(frames(), spec)) == READ


def test_class_folders_hold_videos_and_folders_of_frames(tmp_path):
    (tmp_path / "up").mkdir()
    write_video(tmp_path / "up" / "a.mkv")
    write_frames(tmp_path / "down" / "b")
    (tmp_path / "down" / "notes.txt").write_text("from the second day")
    source = open_image_source(tmp_path, ("up", "down"), clip=CLIP)
    assert [(item.name, item.label) for item in source] == [("down/b", 1), ("up/a.mkv", 0)]
    assert [grays(item.pixels) for item in source] == [READ, READ]
    assert source.notes[0].endswith("1 .txt, which are neither videos nor frames.")
    assert len({source.content_key(index) for index in range(2)}) == 2


def test_a_folder_of_frames_is_one_clip_and_folders_of_frames_are_clips_without_classes(tmp_path):
    write_frames(tmp_path / "clips" / "a")
    write_frames(tmp_path / "clips" / "b", LEVELS[::-1])
    source = open_image_source(tmp_path / "clips", ("a", "b"), clip=CLIP)
    assert [item.label for item in source] == [None, None]
    (note,) = source.notes
    assert "(a, b) is read as one clip, its images as frames" in note
    (only,) = open_image_source(tmp_path / "clips" / "b", clip=CLIP)
    assert grays(only.pixels) == READ[::-1]


def test_tables_and_single_videos_are_clips(tmp_path):
    write_video(tmp_path / "a.mkv")
    (tmp_path / "list.csv").write_text("path,label\na.mkv,down\n")
    (item,) = open_image_source(tmp_path / "list.csv", ("up", "down"), clip=CLIP)
    (single,) = open_image_source(tmp_path / "a.mkv", clip=CLIP)
    assert item.label == 1
    assert grays(item.pixels) == grays(single.pixels) == READ


@pytest.mark.parametrize("has_label_sets", [False, True])
def test_tables_name_folders_of_frames(has_label_sets, tmp_path):
    for name in ("v1", "down"):  # the second is called like a class, too
        write_frames(tmp_path / name)
    (tmp_path / "list.csv").write_text("path,label\nv1,down\ndown,up\n")
    wanted = {"has_label_sets": has_label_sets, "has_truth": not has_label_sets}
    labels = ("up", "down")
    items = list(open_image_source(tmp_path / "list.csv", labels, clip=CLIP, **wanted))
    assert [grays(item.pixels) for item in items] == [READ, READ]
    truth = [item.truth.on if has_label_sets else {item.label} for item in items]
    assert truth == [{1}, {0}]
    with pytest.raises(ImageError, match="v1 does not exist or is no file"):
        open_image_source(tmp_path / "list.csv", labels, **wanted)


def test_an_array_of_clips_has_its_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.stack([frames(), frames()]), labels=[1, 0])
    source = open_image_source(tmp_path / "a.npz", ("up", "down"), clip=CLIP)
    assert [(item.label, len(item.pixels)) for item in source] == [(1, 7), (0, 7)]
    with pytest.raises(ImageError, match=r"expected uint8 \(N, H, W, 3\) RGB"):
        open_image_source(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", frames())
    with pytest.raises(ImageError, match=r"expected uint8 \(N, frames, H, W, 3\) RGB"):
        open_image_source(tmp_path / "b.npy", clip=CLIP)


def test_what_is_no_clip_is_refused_in_one_line(tmp_path):
    Image.fromarray(frames()[0]).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a.png is a single image, and the model reads 3 frames"):
        read_clip(tmp_path / "a.png", CLIP)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="empty is a folder without images"):
        read_clip(tmp_path / "empty", CLIP)
    with pytest.raises(ImageError, match=r"clip folder .*empty holds no clips, expected videos"):
        open_image_source(tmp_path / "empty", clip=CLIP)
    np.save(tmp_path / "flat.npy", frames()[0])
    with pytest.raises(ImageError, match=r"got uint8 \(16, 24, 3\), expected uint8 \(frames, "):
        read_clip(tmp_path / "flat.npy", CLIP)
    np.savez(tmp_path / "several.npz", frames())
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    with pytest.raises(ImageError, match=r"several.npy holds an .npz archive, expected one array"):
        read_clip(tmp_path / "several.npy", CLIP)
    write_frames(tmp_path / "mixed")
    Image.fromarray(frames()[0, :8]).save(tmp_path / "mixed" / "frame_8.png")
    with pytest.raises(ImageError, match="of different sizes, 24 x 16 and 24 x 8 pixels"):
        read_clip(tmp_path / "mixed", ClipSpec(7))
    with pytest.raises(ShapeError, match=r"a single one, .* but the model reads clips of 3 frames"):
        preprocess(frames()[0], PreprocessSpec((16, 24), clip=CLIP))
    with pytest.raises(ShapeError, match=r"got uint8 \(7, 16, 24, 3\)"):
        preprocess(frames(), PreprocessSpec((16, 24)))


def test_clips_of_one_scene_that_move_otherwise_are_different_clips():
    scene = np.random.default_rng(0).integers(60, 120, (64, 64, 3), np.uint8)
    right = np.stack([scene.copy() for _ in range(4)])
    for number, frame in enumerate(right):
        frame[20:36, 12 * number : 12 * number + 16] = 230
    left = right[::-1]
    index = SignatureIndex([signature(right)])
    assert index.find(signature(right // 2 * 2)) == 0
    assert index.find(signature(left)) is None
    assert digest(left) != digest(right)
    assert strip_of(right).shape == (64, 256, 3)


def test_digits_that_are_no_numbers_order_frames_as_text(tmp_path):
    for name in ("²1.png", "²2.png", "²10.png"):
        Image.fromarray(np.full((16, 24, 3), int(name[1:-4]), np.uint8)).save(tmp_path / name)
    assert grays(read_clip(tmp_path, ClipSpec(3))) == [1, 2, 10]
