"""A model that reads each pixel's class off its colour, its scenes, and queries with masks."""

from __future__ import annotations

import numpy as np
from PIL import Image

from edge_vit.data.images import open_image_source
from edge_vit.measure.accuracy import evaluate
from edge_vit.runtime.fake import FakeSession
from edge_vit.spec import ModelSpec, PreprocessSpec, TensorSpec, image_input
from edge_vit.tasks import task_of

INPUT, SIZE, GRID = (32, 48), (64, 96), (8, 12)
LABELS = ("background", "left", "right")
PREPROCESS = PreprocessSpec(INPUT, "bilinear", crop_pct=1.0, crop_mode="squash")
SPEC = ModelSpec(
    *("tiny", "hf:tiny", "segmentation", LABELS, (image_input(INPUT),)),
    (TensorSpec("logits", "float32", ("batch", 3, *GRID)),),
    PREPROCESS,
)
QUERIES = ModelSpec(
    *("tiny", "hf:tiny", "instance_segmentation", LABELS, (image_input(INPUT),)),
    (
        TensorSpec("class_logits", "float32", ("batch", 4, 4)),
        TensorSpec("mask_logits", "float32", ("batch", 4, *GRID)),
    ),
    PREPROCESS,
    threshold=0.5,
)


class Painter(FakeSession):
    """A model whose class is the column that an image's brightest channel names.

    The channels red, green and blue stand for the classes 0, 1 and 2; with `noise` cells change.
    """

    def __init__(self, spec, precision="fp32", noise=0.0):
        super().__init__(spec, precision)
        self._noise = noise

    def _run(self, feeds):
        images = feeds[self.inputs[0].name].astype(np.float32)
        rows, columns = INPUT[0] // GRID[0], INPUT[1] // GRID[1]
        cells = images.reshape(-1, GRID[0], rows, GRID[1], columns, 3).mean(axis=(2, 4))
        logits = cells.transpose(0, 3, 1, 2) / 25
        random = np.random.default_rng(int(images.sum()) % 1000)
        logits = logits + self._noise * random.standard_normal(logits.shape)
        return {"logits": logits.astype(np.float32)}


def scene(seed):
    """Return an image of the three classes in blocks, and its mask."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 3, (4, 6))
    mask = np.kron(coarse, np.ones((16, 16), int)).astype(np.uint8)
    pixels = np.where(np.arange(3) == mask[..., None], 220, 30).astype(np.uint8)
    return pixels, mask


def write(folder, count, masks="masks", offset=0):
    for name in ("images", masks):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        pixels, mask = scene(index)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        Image.fromarray(mask + offset).save(folder / masks / f"{index}.png")
    return folder


def evaluated(source, noise, spec=SPEC, session=Painter):
    return evaluate(session(spec), [session(spec, "int8", noise)], spec, source)[0]


def open_with_truth(folder, max_bad=None):
    truth = task_of(SPEC).truth_files(SPEC)
    return open_image_source(folder, LABELS, truth=truth, max_bad=max_bad)


def queries_for(boxes, *, sure=6.0):
    """Return outputs of one image with a query for each (class, top, left, bottom, right)."""
    classes = np.zeros((1, 4, 4), np.float32)
    classes[..., -1] = 8
    masks = np.full((1, 4, *GRID), -6, np.float32)
    for query, (index, top, left, bottom, right) in enumerate(boxes):
        classes[0, query] = [sure * (column == index) for column in range(4)]
        masks[0, query, top:bottom, left:right] = 6
    return {"class_logits": classes, "mask_logits": masks}


class LosesOne(FakeSession):
    """A model that finds both objects, and in INT8 only the left one in every second image.

    `sure` is the logit of a pixel that belongs to an object.
    """

    sure = 6.0

    def _run(self, feeds):
        both, one = [(1, 0, 0, 4, 4), (2, 4, 6, 8, 12)], [(1, 0, 0, 4, 4)]
        is_lost = [self.precision == "int8" and image[0, 0, 0] % 2 for image in feeds["images"]]
        rows = [queries_for(one if lost else both, sure=self.sure) for lost in is_lost]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
