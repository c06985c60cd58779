"""The sinks and steps of ``edgevit camera``, as typed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec

if TYPE_CHECKING:
    from edge_vit.camera.sink import Sink
    from edge_vit.camera.smoothing import SmoothingKind
    from edge_vit.camera.stages import Step
    from edge_vit.camera.values import CameraPrediction

_STDOUT = ("stdout", "-")


def parse_smoothing(text: str) -> tuple[str, int]:
    """Return kind and number of frames of ``ema:8`` or ``majority:5``."""
    found = re.fullmatch(r"(ema|majority):(\d{1,4})", text)
    if found is None or int(found[2]) < 1:
        raise SpecError(f"{text!r} is not of the form ema:8 or majority:5")
    return found[1], int(found[2])


def make_steps(
    smoothing: tuple[SmoothingKind, int] | None, floor: float | None, spec: ModelSpec, top: int
) -> list[Step]:
    """Return the post-processing of predictions, in order; SpecError where the model has none."""
    from edge_vit.camera.smoothing import ConfidenceFloor, Smoothing

    steps: list[Step] = []
    if smoothing is not None:
        steps.append(Smoothing(*smoothing, spec, top))
    if floor is not None:
        steps.append(ConfidenceFloor(floor, spec))
    return steps


@contextlib.contextmanager
def open_sinks(
    addresses: Sequence[str],
    reader_left: Callable[[], None],
    to_line: Callable[[CameraPrediction], bytes | None],
) -> Iterator[list[Sink]]:
    """Give the sinks for the time of a block; with them the machine's sensors.

    Args:
        addresses: of the sinks.
        reader_left: called when stdout is closed by its reader.
        to_line: makes the lines of stdout where no sink prints JSON there.
    """
    from edge_vit.camera.sinks.addresses import make_sink
    from edge_vit.camera.sinks.json_lines import StdoutSink
    from edge_vit.device import open_telemetry

    with open_telemetry() as telemetry:
        has_json = bool(set(_STDOUT) & set(addresses))
        stdout = (
            StdoutSink(reader_left=reader_left) if has_json else StdoutSink(to_line, reader_left)
        )
        others = [address for address in addresses if address not in _STDOUT]
        yield [stdout, *(make_sink(address, telemetry.read) for address in others)]
