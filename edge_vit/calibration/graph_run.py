"""One graph of a model, the plans that images make of it, and the table of the best."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from edge_vit.calibration.diversity import say_diversity
from edge_vit.calibration.judge import Judge
from edge_vit.calibration.observer import Observation, observe, observe_again
from edge_vit.calibration.output_error import OutputError, Outputs, run_outputs
from edge_vit.calibration.search import FEWEST_HELD_OUT, Plans, plan_alike, search_plans
from edge_vit.data.images import ImageSource
from edge_vit.data.preprocess import UInt8Array
from edge_vit.data.preprocess import digest as image_digest
from edge_vit.lowering.dead_tokens import find_single_token_layers
from edge_vit.lowering.fp16_ranges import choose_fp32_nodes, observe_amax
from edge_vit.progress import Advance, Progress
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import (
    CalibrationTable,
    Recipe,
)

_FEWEST_OTHERS = 4  # images beside the golden ones, so that these can be left out

SHARE_HELD_OUT = 4  # one image in so many, at most
_MOST_HELD_OUT = 32  # a forecast rests on these and as many that shaped the plan

_FEWEST_SHAPING, _SHAPING_TOKENS = 16, 16_384
"""Images and tokens that tell how channels vary together: more of them change little."""


@dataclass(frozen=True, eq=False)
class GraphRun:
    """One graph of the model, as it is or rotated, with what the images make of it."""

    model: onnx.ModelProto  # the fp32 graph
    spec: ModelSpec  # its facts
    recipe: Recipe  # the choices to make
    digest: str  # of the graph in the bundle
    threads: int | None  # of ONNX Runtime; None for all cores
    progress: Progress  # told about each step
    seen: Observation  # what calibration saw of it
    # its outputs for the images held out and some that shape the plan; empty where the recipe asks
    # for none
    exact: Sequence[Outputs]

    @classmethod
    def of(
        cls,
        model: onnx.ModelProto,
        spec: ModelSpec,
        images: ImageSource,
        recipe: Recipe,
        exclude: Collection[str],
        digest: str,
        threads: int | None,
        state_path: Path | None,
        progress: Progress,
    ) -> GraphRun:
        """Run `images` through `model`."""
        seen = observe(
            model,
            spec,
            images,
            exclude=exclude if len(images) - len(exclude) >= _FEWEST_OTHERS else (),
            hold_out=_count_held_out(recipe, len(images)),
            num_shaping=_count_shaping(spec) if recipe.search_tokens else 0,
            has_histogram=recipe.range_method == "percentile",
            threads=threads,
            state_path=state_path,
            model_digest=digest,
            progress=progress,
        )
        for note in say_diversity(seen):
            progress.note(note)
        tried = (*seen.held_out, *seen.shaping[:_MOST_HELD_OUT])
        exact = [seen.outputs.get(image_digest(pixels), {}) for pixels in tried]
        if not recipe.search_tokens:
            exact = []
        elif not all(exact):
            with progress.step(f"running fp32 on {len(tried)} of them to compare with"):
                exact = list(run_outputs(model, spec, tried, threads))
        return cls(model, spec, recipe, digest, threads, progress, seen, exact)

    def rotated(self, model: onnx.ModelProto, sites: Collection[str]) -> GraphRun:
        """Return the same of the rotated graph `model`, in which `sites` read something else."""
        progress = _Prefixed(self.progress)
        seen = observe_again(model, self.spec, self.seen, sites, self.threads, progress)
        return replace(self, model=model, seen=seen, progress=progress)

    def smoothed(self, most: float = math.inf) -> OutputError:
        """Return what smoothing alone comes to on the images held out: see `measure_table`."""
        return self._judge({}, ()).measure(self._alike, most)

    def activation_error(self, layers: Collection[str]) -> OutputError:
        """Return what INT8 inputs of `layers` alone come to there, smoothed; weights are exact."""
        judge, others = self._judge({}, ()), self._alike.keys() - set(layers)
        return judge.run(judge.table(self._alike, others), rounds_weights=False)

    @functools.cached_property
    def _alike(self) -> Plans:
        """Plans of smoothing alone."""
        return plan_alike(self.model, self.seen, self.recipe)

    def settle(self) -> CalibrationTable:
        """Return the table of the graph."""
        model, spec, seen, recipe = self.model, self.spec, self.seen, self.recipe
        asked = self.exact[: min(len(seen.held_out), _count_asked(recipe, spec))]
        found = search_plans(
            model,
            spec,
            seen,
            recipe,
            asked,
            kept=self.kept,
            threads=self.threads,
            progress=self.progress,
        )
        errors = found.errors if seen.shaping else {}  # else the images shaped what they judge
        return self._judge(errors, found.nearest).settle(found.plans, self.progress)

    @functools.cached_property
    def kept(self) -> Collection[str]:
        """Layers kept in FP16, whatever INT8 costs there."""
        return find_single_token_layers(self.model) if self.recipe.keeps_single_tokens else ()

    @functools.cached_property
    def fp32_nodes(self) -> Mapping[str, str]:
        """Nodes of the graph that FP16 would overflow, with the reason."""
        return choose_fp32_nodes(self.model, self.amax)

    @functools.cached_property
    def amax(self) -> Mapping[str, float]:
        """The largest |x| of each value of the graph, on a few images."""
        some = _choose_for_overflow(self.seen)
        with self.progress.step(f"looking for FP16 overflow on {len(some)} images"):
            return observe_amax(self.model, self.spec, some, self.threads)

    def _judge(self, errors: Mapping[str, float], nearest: tuple[str, ...]) -> Judge:
        draft = CalibrationTable(
            self.recipe,
            self.digest,
            {},
            self.seen.image_digests,
            fp32_nodes=self.fp32_nodes,
            image_signatures=self.seen.image_signatures,
            nearest=nearest,
        )
        return Judge(
            self.model, self.spec, self.seen, self.exact, draft, errors, self.kept, self.threads
        )


_NUM_RANGE_IMAGES = 8  # to find out what overflows: far above the limit, or not at all


def _choose_for_overflow(seen: Observation) -> list[UInt8Array]:
    """Return some images as they come, and those that reach farthest, each once."""
    some = (*seen.held_out[:_NUM_RANGE_IMAGES], *seen.farthest)
    return list({image_digest(pixels): pixels for pixels in some}.values())


def _count_held_out(recipe: Recipe, num_images: int) -> int:
    """Return how many images judge: a quarter of them at most."""
    if not recipe.search_tokens:
        return _NUM_RANGE_IMAGES
    return max(1, min(_MOST_HELD_OUT, num_images // SHARE_HELD_OUT))


def _count_asked(recipe: Recipe, spec: ModelSpec) -> int:
    """Return how many of them each layer is tried on: so many tokens, four images at least."""
    if not spec.num_tokens:  # unknown where attention is within windows: of those an image has many
        return FEWEST_HELD_OUT
    return max(FEWEST_HELD_OUT, math.ceil(recipe.search_tokens / spec.num_tokens))


def _count_shaping(spec: ModelSpec) -> int:
    """Return how many of the other images tell how channels vary together."""
    if not spec.num_tokens:
        return _FEWEST_SHAPING
    return max(_FEWEST_SHAPING, math.ceil(_SHAPING_TOKENS / spec.num_tokens))


class _Prefixed:
    """Progress of the rotated graph: its steps and notes say so."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def step(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open the step."""
        return self._progress.step(f"rotated: {name}", total)

    def note(self, text: str) -> None:
        """Say the line."""
        self._progress.note(f"rotated: {text}")
