"""True masks: the files of one class for each pixel, and folders of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_masks import (
    SIZE,
    evaluated,
    open_with_truth,
    scene,
    write,
)

from edge_vit.data.bad_images import MaxBad
from edge_vit.data.images import open_image_source
from edge_vit.errors import ImageError
from edge_vit.tasks.segmentation.decoding import NOTHING
from edge_vit.tasks.segmentation.measures import (
    confusion,
)
from edge_vit.tasks.segmentation.prediction import mask_png
from edge_vit.tasks.segmentation.truth import read_mask


def test_masks_of_ade20k_begin_with_one(tmp_path):
    source = open_with_truth(write(tmp_path, 3, "annotations", offset=1))
    assert (source.item(0).truth.classes == scene(0)[1]).all()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "annotations" / "0.png")
    assert source.item(0).truth.ignored.all()


def test_the_folder_of_masks_tells_how_levels_are_read_not_one_above_it(tmp_path):
    source = open_with_truth(write(tmp_path / "annotations" / "v2", 1))
    assert (source.item(0).truth.classes == scene(0)[1]).all()
    assert source.notes == ()


@pytest.mark.parametrize(("offset", "found"), [(0, "33.3% of the pixels"), (1, "none")])
def test_how_masks_of_ade20k_are_read_is_said(tmp_path, offset, found):
    (note,) = open_with_truth(write(tmp_path, 1, "annotations", offset)).notes
    assert note.startswith(f"annotations: level 0, {found} in 1 masks looked at, is no class")


def test_masks_in_black_and_white_are_named(tmp_path):
    write(tmp_path, 2)
    for index in range(2):
        mask = (scene(index)[1] > 0) * np.uint8(255)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    (note,) = open_with_truth(tmp_path).notes
    assert "levels 0 and 255 alone, and 255 is left out" in note


def test_masks_of_two_levels_may_have_one_bit(tmp_path):
    source = open_with_truth(write(tmp_path, 1))
    mask = scene(0)[1] > 0
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    assert (source.item(0).truth.classes == mask).all()


def test_written_masks_of_many_classes_are_read_again(tmp_path):
    classes = np.array([[0, 254, 255, 256], [299, NOTHING, 300, 1]], np.int32)
    (tmp_path / "wide.png").write_bytes(mask_png(classes))
    truth = read_mask(tmp_path / "wide.png", classes.shape, 301, offset=0)
    assert (truth.ignored == (classes == NOTHING)).all()
    assert (truth.classes == classes)[~truth.ignored].all()
    narrow = np.minimum(classes, 254)
    (tmp_path / "narrow.png").write_bytes(mask_png(narrow))
    truth = read_mask(tmp_path / "narrow.png", classes.shape, 301, offset=0)
    assert (truth.ignored == (classes == NOTHING)).all()


@pytest.mark.parametrize(
    ("images", "masks", "image", "mask", "given"),
    [
        ("images", "annotations", "validation/a.jpg", "validation/a.png", "images/validation"),
        ("img_dir", "ann_dir", "val/a.png", "val/a.png", "."),
        ("img_dir", "ann_dir", "val/a.png", "val/a.png", "img_dir/val"),
        (
            *("leftImg8bit", "gtFine", "val/ulm/ulm_0_leftImg8bit.png"),
            *("val/ulm/ulm_0_gtFine_labelTrainIds.png", "leftImg8bit/val"),
        ),
    ],
)
def test_layouts_of_other_tools(tmp_path, images, masks, image, mask, given):
    pixels, classes = scene(0)
    offset = int(masks == "annotations")
    for place, array in ((images, pixels), (masks, classes + offset)):
        path = tmp_path / place / (image if place == images else mask)
        path.parent.mkdir(parents=True)
        Image.fromarray(array).save(path)
    source = open_with_truth(tmp_path / given)
    assert len(source) == 1
    assert (source.item(0).truth.classes == classes).all()
    assert open_image_source(tmp_path / given, has_truth=False).item(0).truth is None


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.full(SIZE, 3, np.uint8), ImageError, "got level 3, but the model has 3 classes"),
        (np.zeros((5, 5), np.uint8), ImageError, "got 5 x 5 pixels, but its image has 64 x 96"),
        (
            np.full((*SIZE, 3), [0, 0, 128], np.uint8),
            *(ImageError, "got a picture in RGB, expected a PNG of"),
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, mask, error, message):
    source = open_with_truth(write(tmp_path, 1))
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    with pytest.raises(error, match=message):
        source.item(0)


def test_indices_may_be_saved_as_gray_colours(tmp_path):
    source = open_with_truth(write(tmp_path, 1))
    mask = scene(0)[1]
    Image.fromarray(np.repeat(mask[..., None], 3, axis=2)).save(tmp_path / "masks" / "0.png")
    assert (source.item(0).truth.classes == mask).all()


def test_a_damaged_mask_is_left_out_and_named(tmp_path):
    write(tmp_path, 6)
    torn = tmp_path / "masks" / "2.png"
    torn.write_bytes(torn.read_bytes()[:60])
    report = evaluated(open_with_truth(tmp_path, MaxBad()), 0.5)
    assert report.num_images == 5
    assert "mIoU" in report.measures
    (note,) = report.notes
    assert f"1 of 6 images cannot be read and were left out: mask {torn} cannot be read" in note
    Image.new("L", (5, 5)).save(tmp_path / "masks" / "4.png")
    with pytest.raises(ImageError, match=r"got 5 x 5 pixels, .* That is 2 bad of 6 images"):
        evaluated(open_with_truth(tmp_path, MaxBad()), 0.5)


def test_pixels_of_255_do_not_count(tmp_path):
    source = open_with_truth(write(tmp_path, 1))
    mask = scene(0)[1]
    mask[:, :48] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    truth = source.item(0).truth
    assert (truth.ignored == (mask == 255)).all()
    counted = confusion(truth.classes, scene(0)[1].astype(np.int32), truth.ignored)
    assert sum(true for *_, true in counted) == 64 * 48
