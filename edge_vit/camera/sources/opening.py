"""From an address to a source that can be opened, and opened again."""

from __future__ import annotations

from pathlib import Path

from edge_vit.camera.clock import SYSTEM_CLOCK, Clock
from edge_vit.camera.sources.address import SourceAddress, parse_address
from edge_vit.camera.sources.folder import FolderFrames
from edge_vit.camera.sources.gstreamer import GStreamerSource
from edge_vit.camera.sources.pattern import PatternSource
from edge_vit.camera.sources.source import FrameSource, SourceMaker
from edge_vit.camera.sources.stream import StreamSource

DEFAULT_TIMEOUT_S = 5.0


def source_maker(
    address: SourceAddress | str,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    clock: Clock = SYSTEM_CLOCK,
) -> SourceMaker:
    """Return the maker of the source at `address`; nothing is opened yet.

    Args:
        address: of the source.
        timeout_s: how long a stream may take to open, and to give a frame.
        clock: of stamps.
    """
    parsed = parse_address(address) if isinstance(address, str) else address

    def make() -> FrameSource:
        if parsed.kind == "folder":
            return FolderFrames(Path(parsed.target))
        if parsed.kind == "test":
            return PatternSource(parsed, clock)
        if parsed.kind in ("csi", "gst"):
            return GStreamerSource(parsed, clock)
        return StreamSource(parsed, timeout_s, clock)

    is_live = parsed.is_live and not (parsed.kind == "test" and "count" in parsed.options)
    return SourceMaker(parsed.name, is_live, make)
