"""The parts of an evaluation on a Ray cluster: the numbers are those of one machine, bit for bit.

Each worker is an actor that holds its sessions and takes one part after another; what comes back is
a few kilobytes per part. Bundle and images have to lie at the same path on every node.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from edge_vit.data.parts import Part
from edge_vit.errors import BackendError, EdgeVitError, SpecError
from edge_vit.measure.evaluation import Evaluation, Evaluator
from edge_vit.measure.partial import PartialAccuracy, merge_partials
from edge_vit.optional import require
from edge_vit.progress import SILENT, Progress
from edge_vit.values import from_json, to_json

_PURPOSE = "evaluating on a cluster"


def evaluate_on_ray(
    what: Evaluation, num_parts: int, *, progress: Progress = SILENT
) -> PartialAccuracy:
    """Return the totals over all images, each part evaluated by one of the cluster's workers.

    A Ray that runs already is used; else one is started, at the address that ``RAY_ADDRESS`` names
    or on this machine, and stopped in the end.

    `what.options.threads` is what a worker is given of a node. There are as many workers as there
    are cores for, at most one per part; several parts per worker even out their sizes.

    Raises:
        MissingDependencyError: Ray is not installed.
        SpecError: there are no parts.
        BackendError: a worker failed; the message is its own.
    """
    if num_parts < 1:
        raise SpecError(f"parts: got {num_parts}, expected at least 1")
    ray = require("ray", _PURPOSE)
    require("ray.data", _PURPOSE)
    threads = what.options.num_threads
    with _running(ray):
        cores = int(ray.cluster_resources().get("CPU", 1))
        workers = max(1, min(num_parts, cores // threads))
        dataset = ray.data.from_items(
            [{"part": index} for index in range(1, num_parts + 1)], override_num_blocks=num_parts
        ).map_batches(
            _Worker,
            fn_constructor_args=(to_json(what), num_parts),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=min(threads, cores),
        )
        parts = []
        with progress.step(f"evaluating on {workers} workers", num_parts) as advance:
            try:
                for row in dataset.iter_rows():
                    if row["error"]:
                        raise BackendError(f"a worker of the cluster: {row['error'].decode()}")
                    parts.append(from_json(PartialAccuracy, json.loads(row["totals"])))
                    advance(1)
            except ray.exceptions.RayError as error:
                reason = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
                raise BackendError(f"a worker of the cluster failed: {reason.strip()}") from None
    return merge_partials(parts)


class _Worker:
    """Evaluates the parts that Ray hands it; its sessions stay open in between."""

    def __init__(self, what: dict[str, Any], num_parts: int) -> None:
        self._what, self._num_parts = from_json(Evaluation, what), num_parts
        self._evaluator: Evaluator | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        """Return the totals of the one part in `batch`, as its file has them, or what failed."""
        totals = why = b""
        try:
            self._evaluator = self._evaluator or Evaluator(self._what)
            part = Part(int(batch["part"][0]), self._num_parts)
            totals = self._evaluator.evaluate(part).to_bytes()
        except EdgeVitError as error:  # Ray would bury its line under pages of traceback
            why = str(error).encode()
        return {"totals": [totals], "error": [why]}


@contextmanager
def _running(ray: Any) -> Iterator[None]:
    """Ray, for the time of a block: what ran already goes on running."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        yield
    finally:
        ray.shutdown()
