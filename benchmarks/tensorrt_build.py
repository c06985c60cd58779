"""Whether TensorRT-RTX parses and builds every graph of a ViT-S/16 bundle, ahead of time on a CPU.

Strongly typed, without any precision flag, with a dynamic batch from 1 to 8. What comes out is
counted and thrown away: it is never run here. Needs the extra `rtx`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import tensorrt_rtx as trt
from saving import load_average, read_arguments, write_result

import edge_vit
from edge_vit.bundle import FP16, FP32, INT8, INT8_CPU
from edge_vit.export.parity import sample_photos
from edge_vit.export.sources import SourceRequest
from edge_vit.images import ArraySource

MODEL, MAX_BATCH, TARGET = "vit_small_patch16_224", 8, "SM89"


def export(folder: Path) -> edge_vit.Bundle:
    """Return an INT8 bundle of the model with random weights: types and shapes are what counts."""
    photos = sample_photos(edge_vit.PreprocessSpec((224, 224)), 8)
    return edge_vit.export_bundle(
        SourceRequest(f"edgevit:{MODEL}", random_weights=True),
        folder / "vit.edgevit",
        precision="int8",
        calibration=ArraySource(photos),
    )


def build(model: bytes, logger: trt.Logger) -> dict[str, object]:
    """Return what TensorRT-RTX says of one graph."""
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        return {"error": parser.get_error(0).desc()}
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, TARGET), 0)
    profile = builder.create_optimization_profile()
    image = tuple(network.get_input(0).shape)[1:]
    profile.set_shape("images", (1, *image), (1, *image), (MAX_BATCH, *image))
    config.add_optimization_profile(profile)
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    start = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"error": "the build failed"}
    return {
        "layers": len(kinds),
        "quantize": kinds.count(trt.LayerType.QUANTIZE),
        "dequantize": kinds.count(trt.LayerType.DEQUANTIZE),
        "engine_mib": round(engine.nbytes / 2**20, 1),
        "build_s": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    arguments = read_arguments(__doc__)
    load, logger = load_average(), trt.Logger(trt.Logger.ERROR)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(Path(folder))
        for name in (FP32, FP16, INT8, INT8_CPU):
            results[name] = build(bundle.read(name), logger)
            facts = ", ".join(f"{key} {value}" for key, value in results[name].items())
            print(f"{name:20} {facts}", flush=True)
    built, version = sum("error" not in result for result in results.values()), trt.__version__
    print(f"{built} of {len(results)} graphs built with TensorRT-RTX {version}; none was run")
    path = write_result(
        arguments.results,
        "tensorrt_build",
        threads=arguments.threads,
        load=load,
        conditions={
            "model": f"{MODEL}, random weights",
            "tensorrt_rtx": version,
            "target": TARGET,
            "batch": f"dynamic, 1 to {MAX_BATCH}",
            "typing": "strong",
            "executed": "never: built ahead of time on a CPU",
        },
        results=results,
    )
    print(path)


if __name__ == "__main__":
    main()
