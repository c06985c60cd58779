"""Some of the images of a source: spread evenly, from one on, or one part of n by their content."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edge_vit.data.folder import spread
from edge_vit.errors import SpecError
from edge_vit.progress import SILENT, Progress

if TYPE_CHECKING:
    from edge_vit.data.images import ImageItem, ImageSource


@dataclass(frozen=True)
class Part:
    """Which of how many parts, counted from 1.

    Raises:
        SpecError: there is no such part.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise SpecError(
                f"part: got {self.index}/{self.count}, expected 1/{max(1, self.count)} to "
                f"{max(1, self.count)}/{max(1, self.count)}"
            )


@runtime_checkable
class IndexedSource(Protocol):
    """An `ImageSource` whose images can be reached one by one, without decoding those before."""

    @property
    def labels(self) -> tuple[str, ...]:
        """As in `ImageSource`."""

    @property
    def has_labels(self) -> bool:
        """As in `ImageSource`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ImageItem]: ...

    def item(self, index: int) -> ImageItem:
        """Return one image, decoded."""
        ...

    def name(self, index: int) -> str:
        """Return the name of one image."""
        ...

    def content_key(self, index: int) -> bytes:
        """Return bytes that follow from one image's content alone, without decoding it."""
        ...


@runtime_checkable
class _Selectable(Protocol):
    """A source that makes a source of some of its images itself."""

    def select(self, indices: list[int]) -> ImageSource:
        """Return the images of `indices`."""
        ...


class SelectedSource:
    """Some images of an indexed source, in the order of `indices`."""

    def __init__(self, source: IndexedSource, indices: Sequence[int]) -> None:
        self._source, self._indices = source, indices
        self.labels = source.labels
        self.has_labels = source.has_labels
        self.notes: tuple[str, ...] = getattr(source, "notes", ())

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


class _CompressedSource:
    """Some images of a source that can only be gone through."""

    def __init__(self, source: ImageSource, chosen: Sequence[bool]) -> None:
        self._source, self._chosen = source, chosen
        self.labels = source.labels
        self.has_labels = source.has_labels

    @property
    def notes(self) -> tuple[str, ...]:
        """What the source says."""
        return tuple(getattr(self._source, "notes", ()))

    def __len__(self) -> int:
        return sum(self._chosen)

    def __iter__(self) -> Iterator[ImageItem]:
        return itertools.compress(self._source, self._chosen)


def limit_images(source: ImageSource, limit: int) -> ImageSource:
    """Return `limit` images of `source` at most, spread evenly over it.

    Raises:
        SpecError: `limit` is below 1.
    """
    chosen = spread(len(source), limit)
    if isinstance(source, IndexedSource):
        return SelectedSource(source, list(itertools.compress(range(len(source)), chosen)))
    return _CompressedSource(source, chosen)


def take_part(source: ImageSource, part: Part, progress: Progress = SILENT) -> ImageSource:
    """Return one part of `source`; the parts 1/n to n/n hold each image once.

    An image's part follows from its content: renamed, listed in another order, or with other images
    added beside it, it stays where it was. Parts are about, not exactly, of the same size.

    Args:
        source: images that can be reached one by one.
        part: which of how many.
        progress: is told of each image, which has to be looked at.

    Raises:
        SpecError: the images can only be gone through, as those of a video.
        ImageError: a file cannot be read.
    """
    if part.count == 1:
        return source
    if not isinstance(source, IndexedSource):
        raise SpecError(
            f"part {part.index}/{part.count}: got {type(source).__name__}, expected images that "
            "can be reached one by one: a folder, a list or an array"
        )
    chosen = []
    with progress.step(f"choosing part {part.index} of {part.count}", len(source)) as advance:
        for index in range(len(source)):
            if part_of(source.content_key(index), part.count) == part.index:
                chosen.append(index)
            advance(1)
    if isinstance(source, _Selectable):
        return source.select(chosen)
    return SelectedSource(source, chosen)


def part_of(content_key: bytes, count: int) -> int:
    """Return to which of `count` parts, from 1 on, the image of `content_key` belongs."""
    return 1 + int.from_bytes(hashlib.sha256(content_key).digest()[:8], "big") % count


def fingerprint(source: ImageSource) -> str:
    """Return a digest of how many images `source` has and, where it can tell, of their names."""
    digest = hashlib.sha256(b"%d" % len(source))
    if isinstance(source, IndexedSource):
        for index in range(len(source)):
            digest.update(source.name(index).encode("utf-8", "backslashreplace") + b"\0")
    return digest.hexdigest()
