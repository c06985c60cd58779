"""Engines and their audits as a grid: in which precision they compute, and for what they fit."""

from __future__ import annotations

from collections.abc import Sequence

from edge_vit.formats import all_formats, names_of
from edge_vit.report.grids import Grid, side_by_side
from edge_vit.report.wording import MISSING, megabytes, percent
from edge_vit.runtime.trt.identity import batch_words
from edge_vit.runtime.trt.store import Engine


def engines_grid(engines: Sequence[Engine]) -> Grid:
    """Return one column per engine, of which there is one at least."""
    columns = [(engine.sidecar.identity.precision, _column(engine)) for engine in engines]
    return side_by_side("Engines", columns, _note(engines))


def _column(engine: Engine) -> dict[str, str]:
    sidecar, identity, audit = engine.sidecar, engine.sidecar.identity, engine.sidecar.audit
    name = {"trt": "TensorRT", "rtx": "TensorRT-RTX"}.get(identity.backend, identity.backend)
    formats = tuple(reversed(names_of(all_formats())))
    return {
        "built with": f"{name} {identity.version}",
        "for": " ".join(filter(None, (identity.gpu, "+".join(identity.targets)))),
        "batch": batch_words(identity.batches),
        "size": megabytes(sidecar.num_bytes),
        "built in": f"{sidecar.seconds:.1f} s",
        "state": "built now" if engine.is_new else "there already",
        **{f"multiply-adds in {each}": percent(audit.share(each), 1) for each in formats},
        **{f"layers in {each}": str(audit.layers.get(each, 0)) for each in formats},
        "products named by the engine": _of(audit.num_named, len(audit.products)),
        "reformats": MISSING if audit.num_reformats is None else str(audit.num_reformats),
        "fused attention": _of(audit.num_fused, audit.num_blocks, " blocks"),
        "warnings of TensorRT": str(len(sidecar.warnings)) if sidecar.warnings else MISSING,
    }


def _of(part: int | None, whole: int, noun: str = "") -> str:
    return MISSING if part is None else f"{part} of {whole}{noun}"


def _note(engines: Sequence[Engine]) -> str:
    witnesses = {engine.sidecar.audit.witness for engine in engines}
    if witnesses == {"engine"}:
        return "Layers as the engine's own inspector lists them."
    seen = "Layers as TensorRT read them in the graph, before it fused any"
    if witnesses == {"network"}:
        return f"{seen}: no GPU here has loaded these engines."
    return f"{seen}, where no GPU has loaded the engine; else as its inspector lists them."
