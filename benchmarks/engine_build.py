"""How long engines of a ViT-S/16 take to build, how large they are, in what precision they compute.

With TensorRT where there is one and a GPU; else with TensorRT-RTX, ahead of time for a GPU that is
not here, so that nothing is run. As `edgevit build` does it: in a child process, strongly typed,
any batch from 1 to 8. An engine that computes in a wider precision than asked ends the benchmark.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from saving import load_average, read_arguments, write_result

import edge_vit
from edge_vit.data.images import ArraySource
from edge_vit.errors import SpecError
from edge_vit.export.parity import sample_photos
from edge_vit.export.sources import SourceRequest
from edge_vit.formats import all_formats, names_of
from edge_vit.runtime.trt.build import Builder, choose_builder
from edge_vit.runtime.trt.engines import build_engine
from edge_vit.runtime.trt.identity import EngineOptions
from edge_vit.spec import Precision
from edge_vit.spec.table import RECIPES
from edge_vit.values import to_json

MODEL, BATCHES, TARGET = "vit_small_patch16_224", (1, 1, 8), "sm_89"


def export(folder: Path) -> edge_vit.Bundle:
    """Return an INT8 bundle of the model with random weights: types and shapes are what counts."""
    photos = sample_photos(edge_vit.PreprocessSpec((224, 224)), 8)
    return edge_vit.export_bundle(
        SourceRequest(f"edgevit:{MODEL}", random_weights=True),
        folder / "vit.edgevit",
        precision="int8",
        calibration=ArraySource(photos),
        recipe=RECIPES["fast"],
    )


def find_builder() -> tuple[Builder, EngineOptions]:
    """Return what builds here, and for which GPU."""
    try:
        return choose_builder("auto"), EngineOptions(BATCHES)
    except SpecError:  # there is no GPU
        return choose_builder("rtx", (TARGET,)), EngineOptions(BATCHES, targets=(TARGET,))


def measure(
    bundle: edge_vit.Bundle, precision: Precision, builder: Builder, options: EngineOptions
) -> dict[str, object]:
    """Return what came of one build, and how long the very same engine takes to be found again."""
    start = time.perf_counter()
    engine = build_engine(bundle, precision, builder.backend, options, builder=builder)
    middle = time.perf_counter()
    found = build_engine(bundle, precision, builder.backend, options, builder=builder)
    end = time.perf_counter()
    assert engine.is_new
    assert not found.is_new
    audit = engine.sidecar.audit
    return {
        "engine_mb": round(engine.sidecar.num_bytes / 1e6, 1),
        "build_s": engine.sidecar.seconds,
        "with_child_process_s": round(middle - start, 1),
        "found_again_ms": round(1000 * (end - middle), 1),
        "macs_share": {name: round(audit.share(name), 4) for name in names_of(all_formats())},
        "layers": dict(audit.layers),
        "reformats": audit.num_reformats,
        "blocks_with_fused_attention": audit.num_fused,
        "witness": audit.witness,
        "warnings": engine.sidecar.warnings,
    }


def main() -> None:
    arguments = read_arguments(__doc__)
    load, results = load_average(), {}
    builder, options = find_builder()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("STATE", "CACHE"):
            os.environ[f"XDG_{kind}_HOME"] = str(Path(folder, kind))
        bundle = export(Path(folder))
        for precision in bundle.precisions:
            results[precision] = measure(bundle, precision, builder, options)
            shown = ("engine_mb", "build_s", "found_again_ms", "macs_share")
            facts = ", ".join(f"{key} {results[precision][key]}" for key in shown)
            print(f"{precision:5} {facts}", flush=True)
    is_here = builder.hardware.is_here
    path = write_result(
        arguments.results,
        "engine_build",
        threads=arguments.threads,
        load=load,
        conditions={
            "model": f"{MODEL}, random weights",
            "builder": builder.title,
            "hardware": to_json(builder.hardware),
            "targets": options.targets,
            "batches": BATCHES,
            "executed": "loaded on this GPU" if is_here else "never: built ahead of time on a CPU",
        },
        results=results,
    )
    print(path)


if __name__ == "__main__":
    main()
