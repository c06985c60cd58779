"""Images that cannot be read, left out of a source up to a share of it, counted and named."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_vit.data.source import ImageItem, ImageSource, IndexedSource, SelectedSource
from edge_vit.data.source import notes_of as notes_of
from edge_vit.errors import ImageError, SpecError
from edge_vit.printable import one_line
from edge_vit.progress import Progress
from edge_vit.values import settle

FEW_IMAGES = 5  # below so many images no share of them allows a bad one

NUM_NAMED = 10  # number of bad images that are named; the rest is counted


@dataclass(frozen=True)
class MaxBad:
    """Largest number of unreadable images of a source that is no error."""

    # Of all images, 0 to 1; above 0 and with FEW_IMAGES or more, 1 image at least
    share: float = 0.01
    count: int | None = None  # so many instead, where it is no share

    def __post_init__(self) -> None:
        settle(self)
        if not 0 <= self.share <= 1 or (self.count or 0) < 0:
            raise SpecError(
                f"max_bad: got {self}, expected a share such as 1% or a number such as 3"
            )

    def allowed(self, num_images: int) -> int:
        """Return how many of `num_images` may be bad."""
        if self.count is not None:
            return self.count
        least = 1 if self.share > 0 and num_images >= FEW_IMAGES else 0
        return max(least, math.floor(self.share * num_images + 1e-9))

    def __str__(self) -> str:
        return f"{self.count}" if self.count is not None else f"{100 * self.share:g}%"


DEFAULT_MAX_BAD = MaxBad()


def parse_max_bad(text: str) -> MaxBad:
    """Return the limit that is written ``1%``, ``0.5 %`` or ``3``."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text, re.ASCII)
    if not found or (not found[2] and "." in found[1]) or len(found[1]) > 9:
        raise SpecError(
            f"max_bad: got {text!r}, expected a share such as 1%, a number of images, or 0 for none"
        )
    return MaxBad(float(found[1]) / 100) if found[2] else MaxBad(0.0, int(found[1]))


class TolerantSource:
    """An indexed source whose unreadable images are left out when their turn comes.

    Its length and its indices are those of all images, so that parts and resumed work stay exact.
    Of a part of more images, `num_allowed` may be bad, which may be all of the part.
    """

    def __init__(
        self, source: IndexedSource, max_bad: MaxBad, num_allowed: int | None = None
    ) -> None:
        self._source, self._max_bad = source, max_bad
        self._is_part = num_allowed is not None
        self.num_allowed = max_bad.allowed(len(source)) if num_allowed is None else num_allowed
        self._bad: dict[int, str] = {}
        self._num_before = 0
        self.labels = source.labels
        self.has_labels = source.has_labels

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the images were read, and on those left out so far."""
        return (*self.source_notes, *say_bad(self._bad.values(), len(self._bad), len(self)))

    @property
    def source_notes(self) -> tuple[str, ...]:
        """Sentences on how the images were read."""
        return notes_of(self._source)

    @property
    def bad(self) -> dict[int, str]:
        """Index and error of each image that was left out so far."""
        return dict(self._bad)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[ImageItem]:
        return (item for _, item in self.items())

    def items(self, first: int = 0, num_bad: int = 0) -> Iterator[tuple[int, ImageItem]]:
        """Yield index and image of those that can be read, from index `first` on.

        In work that is resumed, `num_bad` bad ones were met before that.
        """
        self._num_before = num_bad
        for index in range(first, len(self._source)):
            if index not in self._bad:
                try:
                    item = self.item(index)
                except ImageError:
                    if not self.num_allowed:
                        raise
                else:
                    yield index, item
            if index in self._bad:
                self._check(index)

    def item(self, index: int) -> ImageItem:
        """Return one image, decoded; a bad one is counted and raises ImageError."""
        try:
            return self._source.item(index)
        except ImageError as error:
            if self.num_allowed:
                self._bad[index] = one_line(str(error))
            raise

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return self._source.name(index)

    def content_key(self, index: int) -> bytes:
        """Return bytes that follow from one image's content alone; its name, if it has none."""
        try:
            return self._source.content_key(index)
        except ImageError:
            return self._source.name(index).encode("utf-8", "surrogateescape")

    def select(self, indices: list[int]) -> TolerantSource:
        """Return some of the images, of which as many may be bad as of all."""
        return TolerantSource(
            SelectedSource(self._source, indices), self._max_bad, self.num_allowed
        )

    def _check(self, index: int) -> None:
        """Refuse the bad image of `index` where it is one too many."""
        num_bad, num_images = len(self._bad) + self._num_before, len(self._source)
        if num_bad <= self.num_allowed and (num_bad < num_images or self._is_part):
            return
        raise ImageError(
            f"{self._bad[index]}. That is {num_bad:,} bad of {num_images:,} images, expected at "
            f"most {self.num_allowed:,} ({self._max_bad}). Mend or remove them, or allow more: "
            "--max-bad"
        )


def tolerate(source: ImageSource, max_bad: MaxBad | None) -> ImageSource:
    """Return `source` without what cannot be read; as it is where it can only be gone through."""
    if max_bad is None or isinstance(source, TolerantSource):
        return source
    return TolerantSource(source, max_bad) if isinstance(source, IndexedSource) else source


def bad_of(source: ImageSource) -> dict[int, str]:
    """Return index and error of each image of `source` that was left out so far."""
    return source.bad if isinstance(source, TolerantSource) else {}


@contextlib.contextmanager
def noted(source: object, progress: Progress) -> Iterator[None]:
    """Report the notes of `source`, before a block that goes through it and after it."""
    before = notes_of(source)
    for note in before:
        progress.note(note)
    yield
    for note in notes_of(source):
        if note not in before:
            progress.note(note)


def say_bad(errors: Iterable[str], num_bad: int, num_images: int) -> tuple[str, ...]:
    """Return a sentence about the images that were left out; nothing where none was."""
    if not num_bad:
        return ()
    shown = "; ".join(itertools.islice(errors, NUM_NAMED))
    rest = f"; and {num_bad - NUM_NAMED:,} more" if num_bad > NUM_NAMED else ""
    return (
        f"{num_bad:,} of {num_images:,} images cannot be read and were left out: {shown}{rest}. "
        "--max-bad 0 allows none.",
    )


def positions(
    source: ImageSource, first: int = 0, num_bad: int = 0
) -> Iterator[tuple[int, ImageItem]]:
    """Yield index and image of each image of `source` from index `first` on.

    Images before it are not decoded where the source can reach each one.
    """
    if isinstance(source, TolerantSource):
        return source.items(first, num_bad)
    if first and isinstance(source, IndexedSource):
        return ((index, source.item(index)) for index in range(first, len(source)))
    return enumerate(itertools.islice(source, first, None), first)
