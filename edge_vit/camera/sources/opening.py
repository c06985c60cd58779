"""From an address to a source that can be opened, and opened again."""

from __future__ import annotations

from edge_vit.camera.clock import SYSTEM_CLOCK, Clock
from edge_vit.camera.sources.address import SourceAddress, parse_address
from edge_vit.camera.sources.source import SourceMaker
from edge_vit.data.registry import kind_named
from edge_vit.plugins import import_target

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

    opener = import_target(kind_named(parsed.kind).frames)
    return SourceMaker(parsed.name, parsed.is_live, lambda: opener(parsed, timeout_s, clock))
