"""A folder of images as frames, every one, in the order of their paths."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_vit.camera.clock import Clock
from edge_vit.camera.sources.address import SourceAddress
from edge_vit.camera.sources.source import Capture
from edge_vit.camera.values import SourceFormat
from edge_vit.data.folder import list_folder
from edge_vit.data.images import load_image
from edge_vit.errors import SourceError

_LOG = logging.getLogger(__name__)


def open_frames(address: SourceAddress, timeout_s: float, clock: Clock) -> FolderFrames:
    """Return the source of a folder's images; nothing is read yet."""
    return FolderFrames(Path(address.target))


class FolderFrames:
    """Images of a folder, each decoded when its turn comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_aborted = False

    def open(self) -> SourceFormat:
        """List the images; raises ImageError where there are none."""
        listing = list_folder(self._path)
        for note in listing.notes:
            _LOG.info("%s", note)
        self._files = iter([self._path / name for name in listing.paths])
        return SourceFormat(0, 0, 0, "as Pillow decodes it")

    def read(self) -> Capture | None:
        """Return the next image; raises ImageError for one that cannot be decoded."""
        if self._is_aborted:
            raise SourceError(f"source {self._path} was closed")
        file = next(self._files, None)
        return None if file is None else Capture(load_image(file))

    def abort(self) -> None:
        """Let no other image be read."""
        self._is_aborted = True

    def close(self) -> None:
        """Nothing to free."""
