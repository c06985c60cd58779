"""``edgevit run`` for models that take no images: samples by seed, or from files of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_vit.data.images import open_image_source
from edge_vit.data.samples import SampleSource
from edge_vit.data.source import ImageSource
from edge_vit.errors import SpecError
from edge_vit.spec import ModelSpec
from edge_vit.tasks import task_of

DEFAULT_SEED = 0


def sources_of(
    spec: ModelSpec, addresses: Sequence[Path], seeds: Sequence[int], label: int | None
) -> list[ImageSource]:
    """Return the samples of files or ranges of seeds, and of `seeds` with one `label`.

    Without either it is one sample.
    """
    if label is not None and addresses:
        raise SpecError(f"--label {label} goes with --seed, got {addresses[0]}. Leave one out")
    found = [open_image_source(str(address), has_truth=False, spec=spec) for address in addresses]
    seeds = seeds or (() if addresses else (DEFAULT_SEED,))
    if seeds:
        rows = [task_of(spec).start(spec, seed, label) for seed in seeds]
        found.append(SampleSource(np.stack(rows), [f"seed {seed}" for seed in seeds]))
    return found


def refuse_sampling(
    spec: ModelSpec, seeds: Sequence[int], label: int | None, steps: int | None
) -> None:
    """Refuse options of sampling for a model that does not sample."""
    asked = {"--seed": bool(seeds), "--label": label is not None, "--steps": steps is not None}
    for name, is_asked in asked.items():
        if is_asked and (spec.takes_images or (name != "--seed" and spec.sampling is None)):
            raise SpecError(f"{name}: {spec.name} has no steps of sampling. Leave {name} out")
