"""Arguments and options that several commands share: one name and one meaning everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_vit.bad_images import DEFAULT_MAX_BAD, FEW_IMAGES, MaxBad, parse_max_bad
from edge_vit.errors import SpecError
from edge_vit.runtime.backends import BACKENDS
from edge_vit.runtime.degraded import DEGRADED_STATUS, collect_degraded
from edge_vit.runtime.options import FALLBACKS, PROVIDERS, SessionOptions, Wait
from edge_vit.spec import PRECISIONS
from edge_vit.table import DEFAULT_RECIPE, RECIPES

FOLDER = click.Path(path_type=Path)
POSITIVE, NOT_NEGATIVE = click.IntRange(min=1), click.IntRange(min=0)

bundle_argument = click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))

_BACKEND_HELP = (
    "What runs the model; ort is ONNX Runtime. auto takes the fastest that is installed."
)
threads_option = click.option(
    "--threads", metavar="N", type=POSITIVE, help="CPU threads of one run.  [default: all cores]"
)
_FLAGS = {
    "threads": threads_option,
    "provider": click.option(
        "--provider",
        type=click.Choice(PROVIDERS),
        default="cpu",
        show_default=True,
        help="What ONNX Runtime computes with.",
    ),
    "device": click.option(
        "--device",
        metavar="N",
        type=NOT_NEGATIVE,
        default=0,
        show_default=True,
        help="Number of the GPU.",
    ),
    "cuda_graph": click.option(
        "--cuda-graph/--no-cuda-graph",
        default=True,
        help="Launch each run of an engine as one CUDA graph.  [default: do]",
    ),
    "may_build": click.option(
        "--build/--no-build",
        "may_build",
        default=True,
        help="Build an engine that is missing or stale, or refuse.  [default: build]",
    ),
    "trust_engine": click.option(
        "--trust-engine",
        is_flag=True,
        help="Load an engine that was not built here; it can run code of whoever made it.",
    ),
    "fallback": click.option(
        "--fallback",
        type=click.Choice(FALLBACKS),
        default="none",
        show_default=True,
        help="What takes over where a GPU cannot run the model; the exit status is then 6.",
    ),
    "self_test": click.option(
        "--self-test/--no-self-test",
        default=True,
        help="Run the golden images on a GPU before its answers count.  [default: do]",
    ),
}
"""What `SessionOptions` holds, by its names."""
precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Which graph to run.  [default: int8 where the bundle has it, else fp16, else fp32]",
)
data_option = click.option(
    "--data",
    metavar="DIR",
    type=FOLDER,
    required=True,
    help="Images: class folders, ImageNet's layouts, CIFAR, a table of path,label (.csv, .tsv, "
    ".txt) or a .npz give labels; a flat folder or a .txt list of paths agreement only.",
)
num_images_option = click.option(
    "--num-images",
    metavar="N",
    type=POSITIVE,
    help="Take this many of the images at most, spread evenly.  [default: all]",
)


class _MaxBadType(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes none
    """``1%`` or ``3`` as a `MaxBad`."""

    name = "SHARE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> MaxBad:
        """Return what `value` allows."""
        try:
            return value if isinstance(value, MaxBad) else parse_max_bad(str(value))
        except SpecError as error:
            self.fail(str(error), param, ctx)


max_bad_option = click.option(
    "--max-bad",
    metavar="SHARE",
    type=_MaxBadType(),
    default=str(DEFAULT_MAX_BAD),
    show_default=True,
    help="Images that may be left out because they cannot be read: a share, of which 1 of "
    f"{FEW_IMAGES} or more is always within, a number, or 0.",
)
recipe_option = click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help=f"How to quantize.  [default: {DEFAULT_RECIPE.name}]",
)
lock_timeout_option = click.option(
    "--lock-timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="How long to wait for another command that writes there.  [default: until it has ended]",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else."
)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # click 8.1 takes none
    """Numbers with commas between them.

    Args:
        name: how help and messages call them.
        kind: of each.
        counts: how many there may be.
    """

    def __init__(self, name: str, kind: type[int] | type[float], counts: tuple[int, ...]) -> None:
        self.name = name
        self._kind, self._counts = kind, counts

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers in `value`."""
        try:
            numbers = tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in self._counts:
            self.fail(f"{value!r} is not of the form {self.name}", param, ctx)
        return numbers


def session_options(
    command: Callable[..., None], *, takes_all: bool = False, wait: Wait = "block"
) -> Callable[..., None]:
    """Give `command` the flags of everything that runs a model, as `backend` and `options`.

    A command that did its work on a fallback ends with status 6, unless it ended with another.

    Args:
        command: to be called with them.
        takes_all: whether ``--backend all`` stands for every one that this machine has.
        wait: how it waits for a GPU: measuring spins, everything else leaves the core to others.
    """

    @functools.wraps(command)
    def run(*args: Any, **others: Any) -> None:
        options = SessionOptions(wait=wait, **{name: others.pop(name) for name in _FLAGS})
        with collect_degraded() as degraded:
            try:
                command(*args, options=options, **others)
            except click.exceptions.Exit as ending:
                if ending.exit_code:
                    raise
        if degraded:
            raise click.exceptions.Exit(DEGRADED_STATUS)

    backend_option = click.option(
        "--backend",
        type=click.Choice(["auto", *(["all"] if takes_all else []), *BACKENDS]),
        default="auto",
        show_default=True,
        help=_BACKEND_HELP + (" all takes each that this machine has." if takes_all else ""),
    )
    for option in (*reversed(_FLAGS.values()), backend_option):
        run = option(run)
    return run
