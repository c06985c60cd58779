"""The flags of ``edgevit camera`` for where answers go, and what is done to them before."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from edge_vit.cli.options import option
from edge_vit.spec import ModelSpec

if TYPE_CHECKING:
    from edge_vit.camera.sink import Sink
    from edge_vit.camera.smoothing import SmoothingKind
    from edge_vit.camera.stages import Step
    from edge_vit.camera.values import CameraAnswer

_SMOOTHING = re.compile(r"(ema|majority):(\d{1,4})")


@dataclass(frozen=True)
class Outputs:
    """Where answers go, as typed.

    Attributes:
        addresses: of sinks.
        smoothing: kind and number of frames; None for none.
        floor: of confidence; None for none.
    """

    addresses: tuple[str, ...]
    smoothing: tuple[SmoothingKind, int] | None
    floor: float | None

    @property
    def has_stdout(self) -> bool:
        """Whether a sink prints on stdout."""
        return bool({"stdout", "-"} & set(self.addresses))

    def steps(self, spec: ModelSpec, top: int) -> list[Step]:
        """Return what is done to each answer, in order.

        Raises:
            SpecError: the model has nothing that could be smoothed, or held against a floor.
        """
        from edge_vit.camera.smoothing import ConfidenceFloor, Smoothing

        steps: list[Step] = []
        if self.smoothing is not None:
            steps.append(Smoothing(*self.smoothing, spec, top))
        if self.floor is not None:
            steps.append(ConfidenceFloor(self.floor, spec))
        return steps

    @contextlib.contextmanager
    def open_sinks(
        self,
        reader_left: Callable[[], None],
        to_line: Callable[[CameraAnswer], bytes | None] | None = None,
    ) -> Iterator[list[Sink]]:
        """Give the sinks for the time of a block; with them the machine's sensors.

        Args:
            reader_left: called when nobody reads stdout any more.
            to_line: what stdout says where no sink says it in JSON; None for nothing.
        """
        from edge_vit.camera.sinks.addresses import make_sink
        from edge_vit.camera.sinks.json_lines import StdoutSink
        from edge_vit.device import open_telemetry

        with open_telemetry() as telemetry:
            sinks: list[Sink] = []
            if self.has_stdout:
                sinks.append(StdoutSink(reader_left=reader_left))
            elif to_line is not None:
                sinks.append(StdoutSink(to_line, reader_left))
            others = [address for address in self.addresses if address not in ("stdout", "-")]
            yield [*sinks, *(make_sink(address, telemetry.read) for address in others)]


def _parse_smoothing(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[str, int] | None:
    if value is None:
        return None
    found = _SMOOTHING.fullmatch(value)
    if found is None or int(found[2]) < 1:
        raise click.BadParameter(f"{value!r} is not of the form ema:8 or majority:5")
    return found[1], int(found[2])


_sink_option = option(
    "--sink ADDRESS",
    "Where answers go too: stdout, FILE.jsonl, FILE.mp4, dashboard[:[HOST:]PORT], "
    "mqtt://HOST/TOPIC or a webhook's https://HOST/PATH; options behind a #. Repeat it for more.",
    name="addresses",
    multiple=True,
)
_smooth_option = option(
    "--smooth KIND:K",
    "Smooth over K frames: ema:8 averages probabilities, majority:5 counts first answers.",
    name="smoothing",
    callback=_parse_smoothing,
)
_floor_option = option(
    "--min-confidence SCORE",
    "Mark answers below this probability, 0 to 1, as not confident.",
    click.FloatRange(0, 1),
    name="floor",
)


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the flags of sinks and steps, as `outputs`."""

    @functools.wraps(command)
    def run(
        *args: Any,
        addresses: tuple[str, ...],
        smoothing: tuple[SmoothingKind, int] | None,
        floor: float | None,
        **others: Any,
    ) -> None:
        command(*args, outputs=Outputs(addresses, smoothing, floor), **others)

    return _sink_option(_smooth_option(_floor_option(run)))
