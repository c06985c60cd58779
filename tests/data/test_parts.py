"""Parts of a set of images: each image once, and in the same part whatever it is called."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.bad_images import positions
from edge_vit.data.images import ArraySource, FileSource, FolderSource
from edge_vit.data.parts import Part, fingerprint, take_part
from edge_vit.data.source import SelectedSource, limit_images
from edge_vit.errors import ImageError, SpecError

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for index, pixels in enumerate(IMAGES):
        path = tmp_path / "val" / f"c{index % 3}" / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "val"


class Stream:
    """Images that can only be gone through."""

    labels, has_labels = (), False

    def __len__(self):
        return len(IMAGES)

    def __iter__(self):
        return iter(ArraySource(IMAGES))


def _pixels(source):
    return [item.pixels.tobytes() for item in source]


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_every_image_is_in_one_part(folder, count):
    for source in (FolderSource(folder), ArraySource(IMAGES, list(range(60)))):
        parts = [take_part(source, Part(i, count)) for i in range(1, count + 1)]
        assert Counter(p for part in parts for p in _pixels(part)) == Counter(_pixels(source))
        assert sum(map(len, parts)) == 60
        labels = {item.pixels.tobytes(): item.label for part in parts for item in part}
        assert labels == {item.pixels.tobytes(): item.label for item in source}
        if count == 7:
            assert max(map(len, parts)) < 20


def _part_of_each(source, count=5):
    parts = [take_part(source, Part(i, count)) for i in range(1, count + 1)]
    return {pixels: i for i, part in enumerate(parts) for pixels in _pixels(part)}


def test_a_renamed_image_stays_in_its_part(folder):
    before = _part_of_each(FolderSource(folder))
    for path in folder.glob("*/*.png"):
        path.rename(path.with_name(f"x{hash(path.name) % 10**9}.png"))
    assert _part_of_each(FolderSource(folder)) == before


def test_other_images_and_another_order_move_none(folder, tmp_path):
    before = _part_of_each(FolderSource(folder))
    paths = sorted(folder.glob("*/*.png"), reverse=True)
    few = _part_of_each(FileSource(paths[::3]))
    assert few == {pixels: before[pixels] for pixels in few}
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert _part_of_each(FolderSource(tmp_path / "elsewhere")) == before


def test_parts_of_a_limited_source_are_parts_of_what_is_left():
    source = limit_images(ArraySource(IMAGES), 20)
    parts = [take_part(source, Part(i, 3)) for i in (1, 2, 3)]
    assert sorted(p for part in parts for p in _pixels(part)) == sorted(_pixels(source))
    assert [item.name for item in source] == [f"{3 * i:05d}" for i in range(20)]


@pytest.mark.parametrize("source", [ArraySource(IMAGES), Stream()], ids=["indexed", "stream"])
def test_limits_and_skips_alike(source):
    few = limit_images(source, 7)
    assert len(few) == 7
    assert _pixels(few) == [IMAGES[i * 60 // 7].tobytes() for i in range(7)]
    assert [(at, item.name) for at, item in positions(source, 57)] == [
        (at, f"{at:05d}") for at in (57, 58, 59)
    ]


def test_what_is_skipped_is_not_decoded(folder):
    paths = sorted(folder.glob("*/*.png"))
    paths[0].write_bytes(b"no image")
    assert len(list(positions(FileSource(paths), 1))) == 59


def test_fingerprint_tells_other_names_and_numbers(folder):
    source = FolderSource(folder)
    assert fingerprint(source) == fingerprint(FolderSource(folder))
    assert fingerprint(source) != fingerprint(SelectedSource(source, range(59)))
    assert fingerprint(source) != fingerprint(SelectedSource(source, range(59, -1, -1)))
    assert fingerprint(Stream()) != fingerprint(source)


@pytest.mark.parametrize("part", [(0, 4), (5, 4), (1, 0), (-1, -1)])
def test_refuses_a_part_that_is_none(part):
    with pytest.raises(SpecError, match=f"part: got {part[0]}/{part[1]}, expected"):
        Part(*part)


def test_refuses_parts_of_what_can_only_be_gone_through():
    assert len(take_part(Stream(), Part())) == 60
    with pytest.raises(SpecError, match="part 1/2: got Stream, expected images that can be"):
        take_part(Stream(), Part(1, 2))


def test_names_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match=r"image .*gone\.png cannot be read: No such file"):
        take_part(FileSource([tmp_path / "gone.png"]), Part(1, 2))
