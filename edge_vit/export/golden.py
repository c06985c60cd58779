"""Chooses the few images that a graph is proven on, and that stay in the bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from edge_vit.data.images import ImageItem, ImageSource
from edge_vit.data.preprocess import digest
from edge_vit.data.source import IndexedSource, limit_images
from edge_vit.errors import ImageError

NUM_GOLDEN = 5

_MAX_CANDIDATES = 64
"""How many images of each stretch have their content looked at, spread evenly over it."""

_MAX_DECODED = 8
"""How many images of each stretch are decoded in the search for a class that is not there yet."""


def choose_golden(source: ImageSource, count: int = NUM_GOLDEN) -> tuple[ImageItem, ...]:
    """Return up to `count` different images of `source`, spread over it and over its classes.

    The source is cut into `count` stretches. In each, the images stand in the order of their
    digests, and the first one of a class that was not chosen before is taken; so it is the same one
    whatever the files are called, and not the first frame of everything. An image that cannot be
    read is passed over.

    Raises:
        ImageError: no image can be read.
    """
    if not isinstance(source, IndexedSource):
        return _distinct(limit_images(source, count))
    chosen: dict[str, ImageItem] = {}
    classes: set[int] = set()
    failure: ImageError | None = None
    for stretch in _stretches(len(source), count):
        fallback: tuple[str, ImageItem] | None = None
        for index in _by_content(source, stretch)[:_MAX_DECODED]:
            try:
                item = source.item(index)
            except ImageError as error:
                failure = failure or error
                continue
            key = digest(item.pixels)
            if key in chosen:
                continue
            fallback = fallback or (key, item)
            if item.label is None or item.label not in classes:
                fallback = key, item
                break
        if fallback is not None:
            chosen[fallback[0]] = fallback[1]
            if fallback[1].label is not None:
                classes.add(fallback[1].label)
    if not chosen and failure is not None:
        raise failure
    return tuple(chosen.values())


def _distinct(items: ImageSource) -> tuple[ImageItem, ...]:
    return tuple({digest(item.pixels): item for item in items}.values())


def _stretches(length: int, count: int) -> Iterator[range]:
    """Yield `count` ranges, as long as each other, that make up all `length` indices."""
    count = min(count, length)
    for number in range(count):
        yield range(number * length // count, (number + 1) * length // count)


def _by_content(source: IndexedSource, stretch: range) -> Sequence[int]:
    """Return up to `_MAX_CANDIDATES` indices of `stretch`, ordered by what their images hold."""
    step = -(-len(stretch) // _MAX_CANDIDATES)
    keys: list[tuple[bytes, int]] = []
    for index in stretch[::step]:
        try:
            keys.append((hashlib.sha256(source.content_key(index)).digest(), index))
        except ImageError:
            keys.append((b"\xff" * 32, index))  # last: its turn says what is wrong with it
    return [index for _, index in sorted(keys)]
