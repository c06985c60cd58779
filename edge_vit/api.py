"""The stages that change a bundle: what the command line calls, and what a program calls.

Each function takes and returns bundles; a bundle that a stage fails on is as it was before, and one
that two processes work on is written by one of them at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_vit.bundle import TABLE, Bundle, draft_bundle, refuse_existing
from edge_vit.data.bad_images import DEFAULT_MAX_BAD, MaxBad, bad_of, notes_of
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.data.samples import holds_samples
from edge_vit.errors import ArtifactError, MissingDependencyError, SpecError
from edge_vit.files import refuse_unwritable_folder
from edge_vit.formats import REFERENCE, all_formats, find_format
from edge_vit.optional import require
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import ClipSpec, Precision
from edge_vit.spec.table import DEFAULT_RECIPE, Recipe, find_recipe
from edge_vit.values import checked

if TYPE_CHECKING:
    from edge_vit.export.sources import SourceRequest

Images = ImageSource | Path | str

NUM_COVERAGE_IMAGES = 32  # number of images that are checked against the calibrated ranges

CALIBRATION_STATE = "calibration.state.npz"
"""File in the bundle's folder while it is calibrated, and after an interruption."""


@checked
def export_bundle(
    request: SourceRequest | str,
    output: Path | str,
    *,
    precision: Precision = REFERENCE,
    calibration: Images | None = None,
    num_images: int | None = None,
    recipe: Recipe | str = DEFAULT_RECIPE,
    static_batch: int | None = None,
    force: bool = False,
    threads: int | None = None,
    lock_timeout: float | None = None,
    max_bad: MaxBad = DEFAULT_MAX_BAD,
    progress: Progress = SILENT,
) -> Bundle:
    """Export a model into a new bundle at `output`, and return it.

    `precision` fp32 writes that graph alone, ``fp16`` adds FP16, and one that is calibrated, such
    as ``int8``, adds every format there is. It needs `calibration` images, of which `num_images`
    are taken, spread evenly; parity is proven on them as well. With `force` the bundle at `output`
    is replaced; its files, engines and reports that fit the new one stay. A calibration that was
    cut off goes on when the same export is asked for again. `static_batch` fixes the batch size;
    `threads` are for calibration, None for all cores; `lock_timeout` is in seconds, None for no
    limit, and `max_bad` how many images may be left out because they cannot be read.

    Raises:
        EdgeVitError: with one line on what failed; nothing is left at `output` then.
    """
    require("torch", "exporting a model")
    require("onnx_ir", "exporting a model")
    from edge_vit.export.export import export_model, export_notes, write_export
    from edge_vit.export.sources import SourceRequest
    from edge_vit.graph.exact import return_memory

    wanted, recipe = find_format(precision), find_recipe(recipe)
    if wanted.needs_images and calibration is None:
        raise SpecError(f"{precision} needs images to calibrate on. Add --calib DIR")
    output = Path(output)
    refuse_existing(output, force=force)  # before minutes of work; and once more at the end
    refuse_unwritable_folder(output)
    request = request if isinstance(request, SourceRequest) else SourceRequest(request)
    read: Callable[[ClipSpec | None], ImageSource] | None = None
    if calibration is not None and not holds_samples(calibration):
        read = functools.cache(functools.partial(_open_images, calibration, num_images, max_bad))
        if not (isinstance(calibration, str | Path) and Path(calibration).exists()):
            read(None)  # what is not there is refused before the model is opened
    exported = export_model(request, static_batch=static_batch, images=read, progress=progress)
    return_memory(len(exported.fp32))  # of the model that it was made of
    images = read(exported.spec.preprocess.clip) if read else None
    for note in () if wanted.needs_images else notes_of(images):  # else calibrating reports them
        progress.note(note)
    for note in export_notes(exported):
        progress.note(note)
    replaces = output.is_dir()
    with draft_bundle(
        output, exported.spec, force=force, progress=progress, lock_timeout=lock_timeout
    ) as bundle:
        bundle = write_export(bundle, exported)
        if calibration is not None and images is None:
            images = _open_images(calibration, num_images, max_bad, None, bundle)
        if wanted.needs_images and images is not None:
            from edge_vit.calibration.into_bundle import calibrate_bundle

            state_path = bundle.path.with_suffix(".state.npz")  # beside the draft: it outlives it
            try:
                bundle = calibrate_bundle(
                    bundle, images, recipe, state_path, threads=threads, progress=progress
                )
                quantize(bundle, progress=progress)
            except KeyboardInterrupt:
                if state_path.is_file():
                    progress.note("What was seen is kept: the same command goes on from there")
                raise
        elif not wanted.is_reference:
            from edge_vit.lowering.variants import write_formats

            with bundle.change() as change:
                write_formats(bundle, change, [wanted], progress=progress)
    bundle = Bundle.open(output)
    if replaces:
        from edge_vit.runtime.trt.engines import discard_outdated

        discard_outdated(bundle, progress)
    return bundle


@checked
def calibrate(
    bundle: Bundle | Path | str,
    images: Images,
    *,
    num_images: int | None = None,
    recipe: Recipe | str = DEFAULT_RECIPE,
    threads: int | None = None,
    lock_timeout: float | None = None,
    max_bad: MaxBad = DEFAULT_MAX_BAD,
    progress: Progress = SILENT,
) -> Bundle:
    """Compute the calibration table from `images` and put it into the bundle; return the bundle.

    Graphs that were made from an older table are taken out. A calibration that was cut off goes on
    from the images that it had seen, if it is asked for again with the same ones. Another command
    that writes the bundle is waited for, `lock_timeout` seconds at most.
    """
    require("onnxruntime", "calibrating")
    require("onnx_ir", "calibrating")
    from edge_vit.calibration.into_bundle import calibrate_bundle

    bundle, recipe = _open(bundle), find_recipe(recipe)
    clip = bundle.spec.preprocess.clip
    source = _open_images(images, num_images, max_bad, clip, bundle)
    with bundle.locked(progress=progress, lock_timeout=lock_timeout):
        bundle = _open(bundle)  # what was waited for may have changed it
        state_path = bundle.path / CALIBRATION_STATE
        return calibrate_bundle(
            bundle, source, recipe, state_path, threads=threads, progress=progress
        )


@checked
def quantize(
    bundle: Bundle | Path | str, *, lock_timeout: float | None = None, progress: Progress = SILENT
) -> Bundle:
    """Write every format's graphs from the bundle's table, without images; return the bundle.

    They become part of it together. Another command that writes the bundle is waited for,
    `lock_timeout` seconds at most.
    """
    require("onnx_ir", "quantizing")
    from edge_vit.lowering.variants import write_formats

    narrow = [each for each in all_formats() if not each.is_reference]
    with _open(bundle).locked(progress=progress, lock_timeout=lock_timeout):
        bundle = _open(bundle)  # what was waited for may have changed it
        table = bundle.read_table(with_weights=True)
        with bundle.change() as change:
            write_formats(bundle, change, narrow, table, progress)
    return change.bundle


@checked
def check_coverage(
    bundle: Bundle | Path | str,
    images: Images,
    *,
    num_images: int = NUM_COVERAGE_IMAGES,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> tuple[str, ...]:
    """Return a sentence for each way in which `images` are unlike those calibrated on.

    They leave its ranges, or many are darker, brighter, flatter or of other colours than all.

    So it is with the images of another camera, another season, another exposure. `num_images` of
    them are taken, spread evenly. Without a table there is nothing to compare with.
    """
    try:
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if not bundle.has(TABLE) or not find_format(bundle.smallest_precision).is_quantized:
            return ()
        require("onnxruntime", "checking ranges")
        require("onnx_ir", "checking ranges")
        from edge_vit.graph.large import read_graph

        table, fp32 = bundle.read_table(), read_graph(bundle)
    except (MissingDependencyError, ArtifactError) as error:  # no reason to lose what was measured
        return (f"Whether the images stay within the calibrated ranges was not checked: {error}",)
    from edge_vit.calibration.coverage import find_overshoots, say_overshoots, say_unlike
    from edge_vit.data.perceptual import signature
    from edge_vit.data.preprocess import UInt8Array, preprocess

    clip = bundle.spec.preprocess.clip
    source = _open_images(images, num_images, MaxBad(1.0), clip, bundle)
    signatures = list[bytes]()

    def read() -> Iterator[UInt8Array]:
        for item in source:
            pixels = preprocess(item.pixels, bundle.spec.preprocess)
            signatures.append(signature(pixels))
            yield pixels

    with progress.step(f"checking ranges on {len(source)} images", len(source)) as advance:
        found = find_overshoots(fp32, bundle.spec, table, read(), threads=threads, advance=advance)
    overshoots = say_overshoots(found, len(source) - len(bad_of(source)))
    return (*overshoots, *say_unlike(table.image_signatures, signatures))


def _open_images(
    images: Images,
    limit: int | None,
    max_bad: MaxBad,
    clip: ClipSpec | None,
    bundle: Bundle | None = None,
) -> ImageSource:
    """Open images, or clips, whose classes, if they have some, are not asked for.

    With a `bundle` whose model takes no images, seeds stand for all that it is fed for them.
    """
    spec, run = bundle.spec if bundle is not None else None, None
    if bundle is not None and spec is not None and not spec.takes_images:
        from edge_vit.graph.exact import runner_of_graph
        from edge_vit.graph.large import read_graph

        run = runner_of_graph(read_graph(bundle), spec)
    return open_image_source(
        images, limit=limit, has_truth=False, max_bad=max_bad, clip=clip, spec=spec, run=run
    )


def _open(bundle: Bundle | Path | str) -> Bundle:
    """Return the bundle as it is on disk now: the caller's may be older than its last stage."""
    return Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle)
