"""Images that cannot be read: how many may be left out, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge_vit.data.bad_images import (
    DEFAULT_MAX_BAD,
    MaxBad,
    notes_of,
    parse_max_bad,
    positions,
    tolerate,
)
from edge_vit.data.images import ArraySource, FolderSource, open_image_source
from edge_vit.data.parts import Part, take_part
from edge_vit.errors import ImageError, SpecError


def make_folder(folder, count, bad):
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 9, 9, 3), np.uint8)
    for index in range(count):
        Image.fromarray(pixels[index]).save(folder / f"{index:03d}.png")
    for index in bad:
        data = (folder / f"{index:03d}.png").read_bytes()
        (folder / f"{index:03d}.png").write_bytes(data[: len(data) // 2] if index else b"")
    return folder


@pytest.mark.parametrize(
    ("text", "num_images", "allowed"),
    [
        ("1%", 4, 0),  # half of two images is not one of many
        ("1%", 5, 1),
        ("1%", 199, 1),
        ("1%", 250, 2),
        ("1 %", 50_000, 500),
        ("0.5%", 1000, 5),
        ("29%", 100, 29),  # 0.29 * 100 is 28.999...
        ("0", 50_000, 0),
        ("0%", 50_000, 0),
        ("3", 4, 3),
        ("100%", 7, 7),
    ],
)
def test_how_many_may_be_bad(text, num_images, allowed):
    assert parse_max_bad(text).allowed(num_images) == allowed


@pytest.mark.parametrize("text", ["", "%", "-1", "101%", "1.5", "nan", "1e3", "٣", "9" * 40])
def test_refuses_a_limit_that_is_none(text):
    with pytest.raises(SpecError, match="max_bad: got"):
        parse_max_bad(text)


def test_a_limit_is_written_as_it_is_typed():
    assert [str(parse_max_bad(text)) for text in ("1%", "0.5%", "3")] == ["1%", "0.5%", "3"]
    assert str(DEFAULT_MAX_BAD) == "1%"


def test_bad_images_are_left_out_and_the_others_keep_their_places(tmp_path):
    source = open_image_source(make_folder(tmp_path / "a", 200, (0, 50)), max_bad=DEFAULT_MAX_BAD)
    found = list(positions(source))
    assert [index for index, _ in found] == [*range(1, 50), *range(51, 200)]
    assert all(item.name == f"{index:03d}.png" for index, item in found)
    assert [item.name for item in source] == [item.name for _, item in found]  # once more
    assert len(source) == 200
    (note,) = notes_of(source)
    assert note.startswith("2 of 200 images cannot be read and were left out: image ")
    assert "000.png" in note
    assert "050.png cannot be decoded" in note
    assert note.endswith("--max-bad 0 allows none.")


def test_too_many_bad_images_are_an_error_that_says_how_to_go_on(tmp_path):
    source = open_image_source(make_folder(tmp_path / "a", 20, (3, 9)), max_bad=DEFAULT_MAX_BAD)
    with pytest.raises(ImageError) as error:
        list(source)
    assert "009.png cannot be decoded" in str(error.value)
    assert "2 bad of 20 images, expected at most 1 (1%)" in str(error.value)
    assert "--max-bad" in str(error.value)
    assert len(list(tolerate(FolderSource(tmp_path / "a"), MaxBad(0.1)))) == 18


@pytest.mark.parametrize("limit", [MaxBad(1.0), MaxBad(count=99)])
def test_bad_images_alone_are_an_error_whatever_is_allowed(tmp_path, limit):
    folder = make_folder(tmp_path / "a", 6, range(6))
    with pytest.raises(ImageError, match="6 bad of 6 images"):
        list(open_image_source(folder, max_bad=limit))


def test_bad_images_that_were_reached_one_by_one_count_too(tmp_path):
    source = open_image_source(make_folder(tmp_path / "a", 20, (3, 9)), max_bad=DEFAULT_MAX_BAD)
    for index in (3, 9, 3):
        with pytest.raises(ImageError, match="cannot be decoded"):
            source.item(index)
    assert notes_of(source)[0].startswith("2 of 20 images cannot be read")
    with pytest.raises(ImageError, match=r"2 bad of 20 images, expected at most 1 \(1%\)"):
        list(source)


def test_without_a_limit_the_first_bad_image_is_an_error_of_its_own(tmp_path):
    folder = make_folder(tmp_path / "a", 20, (3,))
    for limit in (None, MaxBad(count=0), MaxBad(0.0)):
        with pytest.raises(ImageError, match=r"003\.png cannot be decoded: [^.]*$"):
            list(open_image_source(folder, max_bad=limit))


def test_a_part_may_have_as_many_bad_images_as_the_whole(tmp_path):
    source = open_image_source(make_folder(tmp_path / "a", 12, (3,)), max_bad=DEFAULT_MAX_BAD)
    parts = [take_part(source, Part(index, 8)) for index in range(1, 9)]
    names = [item.name for part in parts for item in part]
    assert sorted(names) == [f"{index:03d}.png" for index in range(12) if index != 3]
    assert sum(len(part) for part in parts) == 12


def test_a_file_that_is_gone_has_a_part_too(tmp_path):
    source = open_image_source(make_folder(tmp_path / "a", 12, ()), max_bad=DEFAULT_MAX_BAD)
    (tmp_path / "a" / "007.png").unlink()
    parts = [take_part(source, Part(index, 3)) for index in (1, 2, 3)]
    assert sum(len(part) for part in parts) == 12
    assert sum(len(list(part)) for part in parts) == 11


def test_what_can_only_be_gone_through_stays_as_it_is():
    class Stream:
        labels, has_labels = (), False

        def __len__(self):
            return 2

        def __iter__(self):
            return iter(ArraySource([]))

    stream = Stream()
    assert tolerate(stream, DEFAULT_MAX_BAD) is stream
    assert notes_of(stream) == ()
