"""An export in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_vit.export.export import Exported


def export_notes(exported: Exported) -> Iterator[str]:
    """Yield what to know of an export: weights, parity, shape, and what stayed as it was."""
    record, spec = exported.record, exported.spec
    parity = record.parity
    if record.weights:
        yield f"{record.checkpoint or 'checkpoint'}: {record.weights}"
    yield (
        f"parity with {parity.reference} on {parity.images}, batch "
        f"{', '.join(map(str, parity.batches))}: cosine "
        f"{parity.cosine_min:.7f}, largest error {parity.max_error:.1e} of the largest output"
    )
    if parity.spread < 100 * parity.max_error:
        yield (
            f"the outputs of two images differ by {parity.spread:.1e} only: weights like these "
            "(untrained?) prove little"
        )
    if spec.depth:
        yield spec.describe_blocks()
    yield from record.remarks
    for note in record.notes:
        yield f"left in its own form, {note}"
