"""Sources of images as protocols, and some images of a source as a source of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edge_vit.data.preprocess import UInt8Array
from edge_vit.errors import SpecError
from edge_vit.printable import one_line
from edge_vit.spec import ClipSpec
from edge_vit.tasks.base import TruthFiles

if TYPE_CHECKING:
    from edge_vit.spec import ModelSpec
    from edge_vit.tasks.base import Run


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One decoded image or clip."""

    name: str  # how people find it: the path below the folder, such as cat/001.jpg
    pixels: UInt8Array  # uint8 (H, W, 3) RGB, upright; of a clip (frames, H, W, 3)
    label: int | None  # index of its class, or None where it is not known
    truth: object = None  # of a task's own kind, such as its objects


@dataclass(frozen=True)
class Wanted:
    """The images that are wanted of an address."""

    # The model's class names, which names of folders and in tables are matched to
    labels: tuple[str, ...] = ()
    num_classes: int | None = None  # of the model, where it is known
    limit: int | None = None  # take this many images at most, spread evenly
    # Whether classes are wanted; else names of folders and in tables are no classes
    has_truth: bool = True
    truth: TruthFiles | None = None  # files of the model's task, where they are wanted
    clip: ClipSpec | None = None  # the frames that make one input, for a model of clips
    has_label_sets: bool = False  # whether a table tells any number of labels for each image
    # The model that the images are for, where its task takes no images; and what runs it in fp32,
    # where all that it is fed while a seed is sampled is wanted, for calibration
    spec: ModelSpec | None = None
    run: Run | None = None


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order; iterating twice gives the same images twice.

    `labels` are the class names that the items' labels index, empty where the names are not known;
    `has_labels` is whether every item has a label.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def has_labels(self) -> bool: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ImageItem]: ...


@runtime_checkable
class IndexedSource(ImageSource, Protocol):
    """An `ImageSource` whose images can be reached one by one, without decoding those before."""

    def item(self, index: int) -> ImageItem:
        """Return one image, decoded."""
        ...

    def name(self, index: int) -> str:
        """Return the name of one image."""
        ...

    def content_key(self, index: int) -> bytes:
        """Return bytes that follow from one image's content alone, without decoding it."""
        ...


class NotedSource:
    """The facts of a source: class names, whether its items have labels, notes on its making."""

    def __init__(self, labels: Sequence[str], has_labels: bool, notes: Sequence[str] = ()) -> None:
        self.labels = tuple(labels)
        self.has_labels = has_labels
        self.notes = tuple(map(one_line, notes))


class SelectedSource(NotedSource):
    """Some images of an indexed source, in the order of `indices`."""

    def __init__(self, source: IndexedSource, indices: Sequence[int]) -> None:
        super().__init__(source.labels, source.has_labels, notes_of(source))
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[ImageItem]:
        return map(self._source.item, self._indices)

    def item(self, index: int) -> ImageItem:
        """Return one image, decoded."""
        return self._source.item(self._indices[index])

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return self._source.name(self._indices[index])

    def content_key(self, index: int) -> bytes:
        """Return bytes that follow from one image's content alone."""
        return self._source.content_key(self._indices[index])


class _CompressedSource(NotedSource):
    """Some images of a source that can only be gone through."""

    def __init__(self, source: ImageSource, chosen: Sequence[bool]) -> None:
        super().__init__(source.labels, source.has_labels, notes_of(source))
        self._source, self._chosen = source, chosen

    def __len__(self) -> int:
        return sum(self._chosen)

    def __iter__(self) -> Iterator[ImageItem]:
        return itertools.compress(self._source, self._chosen)


def notes_of(source: object) -> tuple[str, ...]:
    """Return the sentences on how a source's images were read and what was left out so far."""
    return tuple(getattr(source, "notes", ()))


def spread(count: int, limit: int | None) -> list[bool]:
    """Return which of `count` things to take, so that `limit` of them lie evenly among all."""
    if limit is None:
        return [True] * count
    if limit < 1:
        raise SpecError(f"limit: got {limit}, expected at least 1 image")
    limit = min(limit, count)
    chosen = {index * count // limit for index in range(limit)}
    return [index in chosen for index in range(count)]


def limit_images(source: ImageSource, limit: int) -> ImageSource:
    """Return `limit` images of `source` at most, spread evenly over it."""
    chosen = spread(len(source), limit)
    if isinstance(source, IndexedSource):
        return SelectedSource(source, list(itertools.compress(range(len(source)), chosen)))
    return _CompressedSource(source, chosen)
