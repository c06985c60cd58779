"""A rich console on which text from outside moves no cursor and hides nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from edge_vit.cli.streams import discard
from edge_vit.printable import printable


class EscapingConsole(Console):
    """A console that writes control characters out; those of rich itself still work."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of `renderable`, their text printable."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


class MessageConsole(EscapingConsole):
    """The console of stderr; messages that it cannot take are lost, and the work goes on."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print `objects` as rich does."""
        try:
            super().print(*objects, **settings)
        except OSError:
            discard(sys.stderr)
