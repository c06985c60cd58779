"""The stages put together: what the command line calls, and what a program calls.

Each function takes and returns bundles; a bundle that a stage fails on is as it was before, and one
that two processes work on is written by one of them at a time.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_vit.bundle import (
    GOLDEN,
    RECORD,
    ROUNDED,
    TABLE,
    Bundle,
    Change,
    Golden,
    draft_bundle,
    refuse_existing,
)
from edge_vit.data.bad_images import DEFAULT_MAX_BAD, MaxBad, bad_of, noted, notes_of
from edge_vit.data.images import ImageSource, open_image_source
from edge_vit.errors import ArtifactError, MissingDependencyError, SpecError
from edge_vit.files import refuse_unwritable_folder
from edge_vit.formats import REFERENCE, NumberFormat, all_formats, find_format
from edge_vit.optional import require
from edge_vit.plugins import import_target
from edge_vit.progress import SILENT, Progress
from edge_vit.spec import Precision
from edge_vit.spec.table import DEFAULT_RECIPE, CalibrationTable, Recipe

if TYPE_CHECKING:
    from edge_vit.export.export import Exported
    from edge_vit.export.sources import SourceRequest

Images = ImageSource | Path | str

_TOOLS = {
    "onnx": (),
    "timm": ("torch", "onnxscript", "timm"),
    "torchvision": ("torch", "onnxscript", "torchvision"),
    "hf": ("torch", "onnxscript", "transformers"),
}
"""Scheme of the source -> what makes its graph, where that is more or less than torch alone."""

NUM_COVERAGE_IMAGES = 32
"""How many images tell whether all stay within the calibrated ranges."""

CALIBRATION_STATE = "calibration.state.npz"
"""File in the bundle's folder while it is calibrated, and after an interruption."""

_MAX_GOLDEN_PIXELS = 2_000_000  # larger ones are kept as the model sees them, not as decoded


def export_bundle(
    request: SourceRequest | str,
    output: Path | str,
    *,
    precision: Precision = REFERENCE,
    calibration: Images | None = None,
    num_images: int | None = None,
    recipe: Recipe = DEFAULT_RECIPE,
    static_batch: int | None = None,
    force: bool = False,
    threads: int | None = None,
    lock_timeout: float | None = None,
    max_bad: MaxBad = DEFAULT_MAX_BAD,
    progress: Progress = SILENT,
) -> Bundle:
    """Export a model into a new bundle at `output`, and return it.

    A calibration that was cut off goes on when the same export is asked for again.

    Args:
        request: the model's address, or all that is to be said about it.
        output: the folder to make, by custom ``NAME.edgevit``.
        precision: ``fp32`` writes that graph alone; ``fp16`` adds FP16; one that is calibrated,
            such as ``int8``, adds every format there is.
        calibration: images to calibrate on; needed for ``int8``. Parity is proven on them as well.
        num_images: use so many of them, spread evenly.
        recipe: how to quantize.
        static_batch: fix the batch size.
        force: replace the bundle at `output`; files, engines and reports that fit the new one stay.
        threads: for calibration; None for all cores.
        lock_timeout: seconds to wait for another command that writes there; None for ever.
        max_bad: how many images may be left out because they cannot be read.
        progress: told about each stage.

    Raises:
        EdgeVitError: with one line that says what failed; nothing is left at `output` then.
    """
    require("torch", "exporting a model")
    require("onnx_ir", "exporting a model")
    from edge_vit.export.export import export_model
    from edge_vit.export.notes import export_notes
    from edge_vit.export.sources import SourceRequest

    wanted = find_format(precision)
    if wanted.needs_images and calibration is None:
        raise SpecError(f"{precision} needs images to calibrate on. Add --calib DIR")
    output = Path(output)
    refuse_existing(output, force=force)  # before minutes of work; and once more at the end
    refuse_unwritable_folder(output)
    images = None
    if calibration is not None:
        images = _open_images(calibration, num_images, max_bad)
    request = SourceRequest(request) if isinstance(request, str) else request
    exported = export_model(request, static_batch=static_batch, images=images, progress=progress)
    for note in () if wanted.needs_images else notes_of(images):  # else calibrating says it
        progress.note(note)
    for note in export_notes(exported):
        progress.note(note)
    replaces = output.is_dir()
    with draft_bundle(
        output, exported.spec, force=force, progress=progress, lock_timeout=lock_timeout
    ) as bundle:
        bundle = _write_export(bundle, exported)
        if wanted.needs_images and images is not None:
            state_path = bundle.path.with_suffix(".state.npz")  # beside the draft: it outlives it
            try:
                bundle = _calibrate(bundle, images, state_path, recipe, threads, progress)
                quantize(bundle, progress=progress)
            except KeyboardInterrupt:
                if state_path.is_file():
                    progress.note("What was seen is kept: the same command goes on from there")
                raise
        elif not wanted.is_reference:
            with bundle.change() as change:
                _write_formats(bundle, change, [wanted], None, progress)
    bundle = Bundle.open(output)
    if replaces:
        from edge_vit.runtime.trt.engines import discard_outdated

        discard_outdated(bundle, progress)
    return bundle


def calibrate(
    bundle: Bundle | Path | str,
    images: Images,
    *,
    num_images: int | None = None,
    recipe: Recipe = DEFAULT_RECIPE,
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
    bundle = _open(bundle)
    source = _open_images(images, num_images, max_bad)
    with bundle.locked(progress=progress, lock_timeout=lock_timeout):
        bundle = _open(bundle)  # what was waited for may have changed it
        state_path = bundle.path / CALIBRATION_STATE
        return _calibrate(bundle, source, state_path, recipe, threads, progress)


def _calibrate(
    bundle: Bundle,
    images: ImageSource,
    state_path: Path,
    recipe: Recipe,
    threads: int | None,
    progress: Progress,
) -> Bundle:
    """Calibrate a bundle that is locked; what is seen on the way is kept at `state_path`."""
    from edge_vit.calibration.calibrate import calibrate_model

    with noted(images, progress):
        table = calibrate_model(
            bundle.read_graph(),
            bundle.spec,
            images,
            recipe,
            exclude=bundle.read_golden().digests if bundle.has(GOLDEN) else (),
            threads=threads,
            state_path=state_path,
            progress=progress,
        )
    old = bundle.artifact(TABLE).sha256 if bundle.has(TABLE) else ""
    artifacts = bundle.manifest.artifacts.items()
    stale = tuple(name for name, artifact in artifacts if old in artifact.parents)
    files = {TABLE: table.to_bytes()}
    if table.levels:
        files[ROUNDED] = table.weights_to_bytes()
    elif bundle.has(ROUNDED):
        stale = (*stale, ROUNDED)
    bundle = bundle.add(
        files,
        parents=(bundle.graph(),),
        made_by=_versions("onnxruntime", "onnx", "onnx-ir"),
        drop=stale,
    )
    with contextlib.suppress(OSError):
        state_path.unlink(missing_ok=True)
    return bundle


def quantize(
    bundle: Bundle | Path | str,
    *,
    lock_timeout: float | None = None,
    progress: Progress = SILENT,
) -> Bundle:
    """Write every format's graphs from the bundle's table, without images; return the bundle.

    They become part of it together. Another command that writes the bundle is waited for,
    `lock_timeout` seconds at most.
    """
    require("onnx_ir", "quantizing")
    narrow = [each for each in all_formats() if not each.is_reference]
    with _open(bundle).locked(progress=progress, lock_timeout=lock_timeout):
        bundle = _open(bundle)  # what was waited for may have changed it
        table = bundle.read_table(with_weights=True)
        with bundle.change() as change:
            _write_formats(bundle, change, narrow, table, progress)
    return change.bundle


def _write_formats(
    bundle: Bundle,
    change: Change,
    formats: Sequence[NumberFormat],
    table: CalibrationTable | None,
    progress: Progress,
) -> None:
    """Add the variants of `formats`, from wide to narrow, each proven on the golden images."""
    from edge_vit.lowering.variants import Request

    proofs: dict[Precision, object] = {}
    for each in formats:
        lowered = import_target(each.lower)(Request(bundle, table, proofs, progress))
        proofs[each.name] = lowered.proof
        made_by = _versions(*lowered.tools)
        change.add(lowered.files, parents=lowered.parents, made_by=made_by)
        for note in lowered.notes:
            progress.note(note)


def check_coverage(
    bundle: Bundle | Path | str,
    images: Images,
    *,
    num_images: int = NUM_COVERAGE_IMAGES,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> tuple[str, ...]:
    """Return a sentence where `images` leave the ranges that INT8 was calibrated for, else nothing.

    So it is with the images of another camera, another season, another exposure.

    Args:
        bundle: with a table; without one there is nothing to say.
        images: that the model is to meet.
        num_images: look at so many of them, spread evenly.
        threads: of ONNX Runtime; None for all cores.
        progress: told about each image.
    """
    try:
        bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        if not bundle.has(TABLE) or not find_format(bundle.smallest_precision).is_quantized:
            return ()
        require("onnxruntime", "checking ranges")
        require("onnx_ir", "checking ranges")
        table, fp32 = bundle.read_table(), bundle.read_graph()
    except (MissingDependencyError, ArtifactError) as error:  # no reason to lose what was measured
        return (f"Whether the images stay within the calibrated ranges was not checked: {error}",)
    import onnx

    from edge_vit.calibration.coverage import find_overshoots, say_overshoots
    from edge_vit.data.preprocess import preprocess

    source = _open_images(images, num_images, MaxBad(1.0))
    with progress.step(f"checking ranges on {len(source)} images", len(source)) as advance:
        found = find_overshoots(
            onnx.load_from_string(fp32),
            bundle.spec,
            table,
            (preprocess(item.pixels, bundle.spec.preprocess) for item in source),
            threads=threads,
            advance=advance,
        )
    return say_overshoots(found, len(source) - len(bad_of(source)))


def _open_images(images: Images, limit: int | None, max_bad: MaxBad) -> ImageSource:
    """Open images whose classes, if they have some, are not asked for."""
    return open_image_source(images, limit=limit, has_truth=False, max_bad=max_bad)


def _write_export(bundle: Bundle, exported: Exported) -> Bundle:
    from PIL import Image

    golden = Golden(exported.images, exported.outputs)
    scheme = exported.spec.source.partition(":")[0]
    used = ("onnx", "onnx-ir", "onnxruntime", *_TOOLS.get(scheme, ("torch", "onnxscript")))
    bundle = bundle.add({bundle.graph(): exported.fp32}, made_by=_versions(*used))
    files = {GOLDEN: golden.to_bytes(), RECORD: exported.record.to_bytes()}
    for index, pixels in enumerate(exported.decoded):
        if pixels.shape[0] * pixels.shape[1] <= _MAX_GOLDEN_PIXELS:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            files[f"golden/{index}.png"] = buffer.getvalue()
    return bundle.add(files, parents=(bundle.graph(),), made_by=_versions("onnxruntime", "pillow"))


def _open(bundle: Bundle | Path | str) -> Bundle:
    """Return the bundle as it is on disk now: the caller's may be older than its last stage."""
    return Bundle.open(bundle.path if isinstance(bundle, Bundle) else bundle)


def _versions(*names: str) -> dict[str, str]:
    """Return the version of edge-vit and of each of the distributions that is installed."""
    from edge_vit.measure.environment import read_environment

    packages = read_environment().packages
    return {name: packages[name] for name in ("edge-vit", *names) if name in packages}
