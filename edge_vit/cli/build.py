"""``edgevit build``: TensorRT engines from a bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from edge_vit.bundle import Bundle
from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import echo, print_grids, print_json
from edge_vit.cli.params import option
from edge_vit.formats import all_formats, names_of
from edge_vit.runtime.trt.build import BuildBackend
from edge_vit.runtime.trt.identity import Batches, EngineOptions
from edge_vit.spec import Precision

if TYPE_CHECKING:
    from edge_vit.runtime.trt.build import Builder

_LOG = logging.getLogger(__name__)
_ALL = "all"


@click.command("build")
@params.bundle_argument
@option(
    "--backend",
    "trt is TensorRT, for the GPU that is here; rtx is TensorRT-RTX, for desktop GPUs.",
    get_args(BuildBackend),
    "auto",
)
@option(
    "--precision",
    "Of which graph; all for each that the bundle has.  [default: the smallest]",
    [*names_of(all_formats()), _ALL],
)
@option("--batch-size, --batch N", "Images per run.  [default: 1, or the graph's fixed batch]")
@option("--min N", "Fewest images per run.", name="least")
@option("--opt N", "Images that it is tuned for.", name="usual")
@option("--max N", "Most images per run.", name="most")
@option(
    "--optimization-level 0-5",
    "5 runs fastest.  [default: TensorRT's own, 3]",
    click.IntRange(0, 5),
)
@option(
    "--target SM",
    "Build for a GPU that is not here, such as sm_86; repeatable. TensorRT-RTX alone.",
    name="targets",
    multiple=True,
)
@option(
    "--memory MIB",
    "Most workspace of a kernel.  [default: half of what is free]",
    name="memory_mib",
)
@option("--force", "Build even what is there already.")
@params.lock_timeout_option
@params.json_option
@click.pass_obj
def command(
    log: CommandLog,
    bundle: Path,
    backend: BuildBackend,
    precision: str | None,
    batch_size: int | None,
    least: int | None,
    usual: int | None,
    most: int | None,
    optimization_level: int | None,
    targets: tuple[str, ...],
    memory_mib: int | None,
    force: bool,
    lock_timeout: float | None,
    as_json: bool,
) -> None:
    """Build TensorRT engines for this machine.

    They go into the bundle, or into the user's cache where it is read-only. An engine fits one GPU
    and one version of TensorRT. One that is there already is not built again. Exit status 3: the
    engine would compute in a wider precision than the bundle asks for.
    """
    from edge_vit.runtime.trt.build import choose_builder
    from edge_vit.runtime.trt.engines import build_engine

    opened = Bundle.open(bundle)
    wanted = [precision or opened.smallest_precision]
    precisions: Sequence[Precision] = opened.precisions if precision == _ALL else wanted
    options = EngineOptions(_batches(batch_size, least, usual, most), optimization_level, targets)
    with log.progress() as progress:
        with progress.step("looking for TensorRT and a GPU"):
            builder = choose_builder(backend, targets)
        _warn_of_little_memory(opened, builder)
        engines = [
            build_engine(
                opened,
                each,
                builder.backend,
                options,
                memory_mib=memory_mib,
                lock_timeout=lock_timeout,
                builder=builder,
                force=force,
                progress=progress,
            )
            for each in precisions
        ]
    if as_json:
        print_json([{"path": str(e.path), "is_new": e.is_new} | vars(e.sidecar) for e in engines])
        return
    from edge_vit.report.machine import engines_grid

    print_grids(engines_grid(engines))
    for engine in engines:
        echo(engine.path)
    if builder.hardware.is_here:
        _LOG.info("Next, run it: edgevit run %s IMAGE --backend %s", bundle, builder.backend)
    elif engines[0].path.is_relative_to(opened.path):
        _LOG.info(
            "Copied to a machine with such a GPU and %s, it has to be trusted once there: "
            "edgevit run %s IMAGE --backend rtx --trust-engine",
            builder.title,
            bundle,
        )


def _warn_of_little_memory(bundle: Bundle, builder: Builder) -> None:
    """Say it where a build may not fit; an estimate is no reason to refuse."""
    from edge_vit.device.findings import build_memory_gib
    from edge_vit.runtime.trt.build import available_bytes

    available = available_bytes()
    if not builder.hardware.is_here or available is None or not bundle.has(bundle.graph()):
        return
    wanted = build_memory_gib(bundle.artifact(bundle.graph()).num_bytes)
    if available < wanted * 2**30:
        _LOG.warning(
            "%.1f GiB of memory are free, and a build takes about %.1f. Close what else uses the "
            "GPU, or add swap",
            available / 2**30,
            wanted,
        )


def _batches(
    batch_size: int | None, least: int | None, usual: int | None, most: int | None
) -> Batches | None:
    """The batches that are meant: what is left out of a range follows from what is there."""
    if batch_size is not None:
        if least or usual or most:
            raise click.UsageError("--batch-size excludes --min, --opt and --max")
        return batch_size, batch_size, batch_size
    if not (least or usual or most):
        return None
    least = least or 1
    most = most or max(usual or 1, least)
    return least, usual or most, most
