"""Engines and their audits as a grid: in which precision they compute, and for what they fit."""

from __future__ import annotations

from collections.abc import Sequence

from edge_vit.formats import all_formats, names_of
from edge_vit.report.grids import Grid
from edge_vit.report.wording import MISSING, megabytes, percent
from edge_vit.runtime.trt.identity import batch_words
from edge_vit.runtime.trt.sidecar import Engine

_NARROW_FIRST = tuple(reversed(names_of(all_formats())))

_MEASURES = (
    *("built with", "for", "batch", "size", "built in", "state"),
    *(f"multiply-adds in {precision}" for precision in _NARROW_FIRST),
    *(f"layers in {precision}" for precision in _NARROW_FIRST),
    *("products named by the engine", "reformats", "fused attention", "warnings of TensorRT"),
)


def engines_grid(engines: Sequence[Engine]) -> Grid:
    """Return one column per engine; what no engine knows is left out.

    Args:
        engines: at least one.
    """
    columns = [_column(engine) for engine in engines]
    rows = [(name, *cells) for name, *cells in zip(_MEASURES, *columns, strict=True)]
    said = tuple(row for row in rows if any(cell != MISSING for cell in row[1:]))
    headings = [engine.sidecar.identity.precision for engine in engines]
    return Grid("Engines", ("", *headings), said, 1, _note(engines))


def _column(engine: Engine) -> tuple[str, ...]:
    sidecar, identity, audit = engine.sidecar, engine.sidecar.identity, engine.sidecar.audit
    name = {"trt": "TensorRT", "rtx": "TensorRT-RTX"}.get(identity.backend, identity.backend)
    return (
        f"{name} {identity.version}",
        " ".join(filter(None, (identity.gpu, "+".join(identity.targets)))),
        batch_words(identity.batches),
        megabytes(sidecar.num_bytes),
        f"{sidecar.seconds:.1f} s",
        "built now" if engine.is_new else "there already",
        *(percent(audit.share(precision), 1) for precision in _NARROW_FIRST),
        *(str(audit.layers.get(precision, 0)) for precision in _NARROW_FIRST),
        _of(audit.num_named, len(audit.products)),
        MISSING if audit.num_reformats is None else str(audit.num_reformats),
        _of(audit.num_fused, audit.num_blocks, " blocks"),
        str(len(sidecar.warnings)) if sidecar.warnings else MISSING,
    )


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
