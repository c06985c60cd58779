"""Evidence for the table of models: `python benchmarks/models.py NAME...`, one file a model.

Each is exported, proven, calibrated, quantized and run, and engines are built with TensorRT-RTX.
Its preprocessing, model and post-processing are compared with its library's own. Weights are drawn
from a seed (tests/reseed.py), and many models are made smaller: layers and operators are what
counts here, not how accurate a trained model stays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from model_rows import ROWS, ModelRow
from real_models import cut_crops, load_photos
from saving import RESULTS, fill_docs

import edge_vit
from edge_vit.bundle import RECORD
from edge_vit.bundle.record import ExportRecord
from edge_vit.calibration.output_error import OutputError
from edge_vit.data.images import ArraySource
from edge_vit.data.preprocess import preprocess
from edge_vit.errors import EdgeVitError
from edge_vit.graph.walk import find_linears
from edge_vit.optional import installed_versions
from edge_vit.report.models import BuiltEngine, ModelEvidence, OutputQuality, models_grid
from edge_vit.runtime.session import SessionOptions, open_session
from edge_vit.runtime.trt.build import choose_builder
from edge_vit.runtime.trt.engines import build_engine
from edge_vit.runtime.trt.identity import EngineOptions
from edge_vit.spec import ClipSpec
from edge_vit.spec.samples import feeds_of, noise_for
from edge_vit.spec.table import RECIPES, sqnr_of
from edge_vit.values import from_json, to_json

FOLDER = RESULTS / "models"
SHIPPED = Path(edge_vit.__file__).parent / "report" / "models.json"
DOCS = RESULTS.parent / "docs" / "models.md"
NUM_CALIBRATION, NUM_JUDGED, RECIPE = 16, 8, "fast"
TARGET, BATCHES = "sm_89", (1, 1, 8)


def measure(row: ModelRow, folder: Path) -> ModelEvidence:
    """Return what comes of one model."""
    source = row.make(folder)
    clip = source.source.preprocess.clip
    crops, _ = cut_crops(128, NUM_CALIBRATION, is_held_out=False, seed=1)
    images = "seeds:0-7" if source.source.inputs else ArraySource(as_inputs(crops, clip))
    try:
        bundle = export(source.request, folder, "int8", images)
    except EdgeVitError as error:
        if "nothing to quantize" not in str(error):
            raise
        bundle = export(source.request, folder, "fp16", None)
    spec, record = bundle.spec, ExportRecord.from_bytes(bundle.read(RECORD))
    graph = ir.from_proto(onnx.load_from_string(bundle.read_graph())).graph
    table = bundle.read_table() if "int8" in bundle.precisions else None
    photos = as_inputs(load_photos()[4:6], clip)
    decoding = row.decode(source, bundle, photos) if row.decode else None
    return ModelEvidence(
        name=row.name,
        family=row.family,
        task=spec.task,
        library=f"{row.library} {installed_versions(row.library)[row.library]}",
        arguments=row.arguments,
        image_size=spec.preprocess.image_size,
        weights=row.weights,
        blocks=spec.depth,
        linear_layers=len(find_linears(graph)),
        quantized_layers=sum(s.is_quantized for s in table.sites.values()) if table else 0,
        convolutions=sum(node.op_type == "Conv" for node in graph),
        parity_error=record.parity.max_error,
        recipe=RECIPE if table else "",
        calibration_images=NUM_CALIBRATION if table else 0,
        judged_images=NUM_JUDGED,
        quality=dict(judge(bundle)),
        engines=dict(build(bundle)),
        decoded_by=decoding[0] if decoding else "",
        decoding_error=decoding[1] if decoding else None,
        notes=record.notes,
        versions=installed_versions("torch", "onnxruntime", "openvino", "tensorrt-rtx-cu13")
        | revision(),
    )


def revision() -> dict[str, str]:
    """Return the commit that last changed the package, with a ``+`` where it was changed since."""
    package = SHIPPED.parents[1]
    files = ("--", ".", f":!{SHIPPED.relative_to(package)}")
    try:
        commit, changed = (
            subprocess.check_output(("git", *words, *files), cwd=package, text=True).strip()
            for words in (("log", "-1", "--format=%h"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"edge-vit commit": commit + "+" * bool(changed)} if commit else {}


def export(request: Any, folder: Path, precision: str, images: Any) -> edge_vit.Bundle:
    """Return the bundle of `request`."""
    recipe = RECIPES[RECIPE]
    path, more = folder / "model.edgevit", {"recipe": recipe, "calibration": images}
    return edge_vit.export_bundle(
        request,
        path,
        precision=precision,
        num_images=NUM_CALIBRATION,
        force=True,
        threads=1,
        **more,
    )


def as_inputs(photos: Sequence[Any], clip: ClipSpec | None) -> list[Any]:
    """Return `photos` as they are, or for a model of clips what a window sees that moves over each.

    It moves by a hundredth of the width from frame to frame.
    """
    if clip is None:
        return list(photos)
    return [
        np.stack([photo[:, place:][:, : photo.shape[1] * 3 // 4] for place in places])
        for photo in photos
        for places in [[frame * photo.shape[1] // 100 for frame in range(clip.frames)]]
    ]


def judge(bundle: edge_vit.Bundle) -> Iterator[tuple[str, OutputQuality]]:
    """Yield how close each precision of each CPU backend is to fp32, on photographs of its own."""
    spec = bundle.spec
    if spec.takes_images:
        crops, _ = cut_crops(128, NUM_JUDGED, is_held_out=True, seed=2)
        clips = as_inputs(crops, spec.preprocess.clip)
        images = np.stack([preprocess(clip, spec.preprocess) for clip in clips])
    else:
        images = noise_for(spec.inputs, NUM_JUDGED)
    exact = outputs_of(bundle, "fp32", "ort", images)
    for backend in ("ort", "openvino"):
        for precision in bundle.precisions:
            if precision == "fp32" or (backend, precision) == ("openvino", "fp16"):
                continue
            got = outputs_of(bundle, precision, backend, images)
            error = OutputError.of(exact, got, bundle.spec)
            figures = error.sqnr, sqnr_of(error.worst), sqnr_of(float(np.median(error.by_image)))
            yield f"{precision} {backend}", OutputQuality(*(round(f, 1) for f in figures))


def outputs_of(
    bundle: edge_vit.Bundle, precision: str, backend: str, images: Any
) -> list[dict[str, Any]]:
    """Return the outputs of each image by name."""
    with open_session(bundle, precision, backend, SessionOptions(1)) as session:
        inputs = bundle.spec.inputs
        runs = [session.run(feeds_of(inputs, images[[i]])) for i in range(len(images))]
    return [{key: np.array(value[0]) for key, value in run.items()} for run in runs]


def build(bundle: edge_vit.Bundle) -> Iterator[tuple[str, BuiltEngine]]:
    """Yield the engine of each narrow precision, for a GPU that is not here."""
    builder = choose_builder("rtx", (TARGET,))
    options = EngineOptions(BATCHES, targets=(TARGET,))
    for precision in bundle.precisions:
        if precision == "fp32":
            continue
        try:
            engine = build_engine(bundle, precision, "rtx", options, builder=builder)
        except EdgeVitError as error:
            yield precision, BuiltEngine(refused=str(error)[:300])
            continue
        sidecar = engine.sidecar
        share = round(sidecar.audit.share("int8"), 3)
        yield precision, BuiltEngine(round(sidecar.num_bytes / 1e6, 1), share)


@contextlib.contextmanager
def own_folders() -> Iterator[Path]:
    """Give a folder, in which caches and states of edge-vit lie as well."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("STATE", "CACHE"):
            os.environ[f"XDG_{kind}_HOME"] = str(Path(folder, kind))
        yield Path(folder)


def path_of(name: str) -> Path:
    """Return the file of the model called `name`."""
    return FOLDER / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', name)}.json"


def read_evidence(folder: Path = FOLDER) -> list[ModelEvidence]:
    """Return what was measured of all models, by family and name."""
    found = [
        from_json(ModelEvidence, json.loads(path.read_text()), path.name)
        for path in sorted(folder.glob("*.json"))
    ]
    return sorted(found, key=lambda model: (model.task, model.family.lower(), model.name))


def write_tables() -> None:
    """Write the file that ships with the package, and the page of the docs."""
    models = read_evidence()
    rows = ",\n".join(json.dumps(to_json(model)) for model in models)
    SHIPPED.write_text(f"[\n{rows}\n]\n")
    fill_docs(DOCS, "models", markdown(models))


def markdown(models: list[ModelEvidence]) -> str:
    """Return the table of `models`, and below it the rows that were not measured."""
    grid = models_grid(models)
    lines = [f"| {' | '.join(('family', *grid.columns))} |", "|---" * (len(grid.columns) + 1) + "|"]
    lines += [
        f"| {' | '.join((model.family, *row))} |"
        for model, row in zip(models, grid.rows, strict=True)
    ]
    if missing := sorted(f"`{row.name}`" for row in ROWS if not path_of(row.name).exists()):
        lines += ["", f"Rows that were never measured: {', '.join(missing)}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of the rows; parts of a name do")
    parser.add_argument("--all", action="store_true", help="every row")
    parser.add_argument("--missing", action="store_true", help="every row without evidence")
    parser.add_argument("--tables", action="store_true", help="write the tables alone")
    parser.add_argument("--list", action="store_true", help="list the rows")
    arguments = parser.parse_args()
    rows = [
        row
        for row in ROWS
        if arguments.all
        or (arguments.missing and not path_of(row.name).exists())
        or any(name in row.name for name in arguments.names)
    ]
    if arguments.list:
        print("\n".join(row.name for row in rows or ROWS))
        return
    warnings.filterwarnings("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    failed = []
    for row in rows:
        start = time.perf_counter()
        try:
            with own_folders() as folder:
                evidence = measure(row, folder)
        except Exception as error:  # one model's failure is to be seen beside the others
            failed.append(row.name)
            print(f"{row.name}: FAILED {type(error).__name__}: {error}", flush=True)
            continue
        path_of(row.name).write_text(json.dumps(to_json(evidence), indent=1) + "\n")
        (shown,) = models_grid([evidence]).rows
        print(f"{'  '.join(shown)}  {time.perf_counter() - start:.0f} s", flush=True)
    write_tables()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
