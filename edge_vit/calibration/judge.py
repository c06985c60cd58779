"""Tries the plans of one graph on images, and makes the table of the best."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from edge_vit.calibration.fallback import choose_fallback, choose_worthy, rank_fallback, sqnr_enough
from edge_vit.calibration.final_check import choose_plan, measure_table
from edge_vit.calibration.layer import layer_scales
from edge_vit.calibration.observer import Observation
from edge_vit.calibration.output_error import OutputError, Outputs, forecast
from edge_vit.calibration.search import FINISHED, Plans
from edge_vit.lowering.fp16_ranges import choose_split_nodes
from edge_vit.lowering.proof import Int8Proof, note_below_forecast
from edge_vit.progress import Progress
from edge_vit.spec import ModelSpec
from edge_vit.spec.table import CalibrationTable, FallbackPoint, Forecast, sqnr_of

_LIKELY_FP16 = "FP16 alone is likely the precision for this model"
_UNDECIDED = "That is undecided: more images to calibrate on say it more exactly"

_SHOWN, _MOST_WORSE = 0.25, 2.0
"""Share of what layers in FP16 are to gain that images have to show, on average; and how many times
the energy of all errors may be what it was: of one image it may, since roundings fall otherwise."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Makes tables of plans and tries them on the images that were held out."""

    model: onnx.ModelProto
    spec: ModelSpec
    seen: Observation
    exact: Sequence[Outputs]
    draft: CalibrationTable
    errors: Mapping[str, float]
    kept: Collection[str]
    threads: int | None

    def settle(self, plans: Mapping[str, Plans], progress: Progress) -> CalibrationTable:
        """Return the table of the best of `plans`, some layers in FP16 where too little is left."""
        recipe = self.draft.recipe
        if not recipe.search_tokens:
            return self.table(next(iter(plans.values())))
        ranked = choose_plan(plans, self.measure, progress)
        best = ranked[0]
        if best.name != FINISHED:
            finished = next(c for c in ranked if c.name == FINISHED)
            progress.note(
                f"{best.name} comes to {best.error.sqnr:.1f} dB on images held out, all steps "
                f"together to {finished.error.sqnr:.1f} dB: the former is kept"
            )
        chosen, error = plans[best.name], best.error
        work = {  # over all images: where windows merge, layers take different counts of tokens
            name: float(plan.num_weights * self.seen.stats[name].num_rows)
            for name, plan in chosen.items()
            if name not in self.kept
        }
        # What layers cost alone, in proportion to what all together came to.
        total = math.fsum(self.errors.values())
        errors = {n: e * error.mean / total if total else 0.0 for n, e in self.errors.items()}
        curve = rank_fallback(errors, work, recipe.max_fallback)
        in_half, samples = self._keep_worthy(chosen, curve, error, progress)
        in_half, samples = self._fall_back(chosen, curve, in_half, samples, progress)
        table = self.table(chosen, in_half)
        sqnr, low, high = forecast(samples)
        every, measured = functools.reduce(OutputError.beside, samples), samples[0].sqnr
        others, worst = {c.name: round(c.error.sqnr, 2) for c in ranked[1:]}, sqnr_of(every.worst)
        count = len(self.seen.held_out)
        found = Forecast(count, sqnr, worst, best.name, others, measured, low, high)
        if self.draft.is_decided and round(low, 1) < recipe.min_sqnr:
            is_below = round(sqnr, 1) < recipe.min_sqnr
            num_half = sum(not site.is_quantized for site in table.sites.values())
            progress.note(
                f"INT8 is forecast at {found}, {'' if is_below else 'which may be '}below "
                f"the {recipe.min_sqnr:g} dB wanted, even with {num_half} of its layers in "
                f"FP16. {_LIKELY_FP16 if is_below else _UNDECIDED}; edgevit verify decides"
            )
        by_image = tuple(map(sqnr_of, every.by_image))
        proof = Int8Proof(len(by_image), every.sqnr, by_image, "calibration images")
        said = str(proof) if proof.is_collapsed else note_below_forecast(proof, sqnr)
        if said and self.draft.is_decided:
            progress.note(said)
        if beside := [name for name, site in table.sites.items() if site.kept_channels]:
            parts = (work[n] * len(chosen[n].kept) / len(chosen[n].divisors) for n in beside)
            progress.note(
                f"{len(beside)} of {len(table.sites)} layers keep channels in floating point, "
                f"{sum(parts) / sum(work.values()):.1%} of the layers' multiply-adds beside those "
                f"of INT8: {', '.join(beside)}"
            )
        reach = {name: stats.channel_amax for name, stats in self.seen.stats.items()}
        split = choose_split_nodes(self.model, table.sites, reach)
        table = replace(table.with_levels(table.levels), fallback=curve, split_fp32_nodes=split)
        return replace(table, forecast=found if self.seen.shaping else None)

    def _fall_back(
        self,
        plans: Plans,
        curve: tuple[FallbackPoint, ...],
        in_half: tuple[str, ...],
        samples: tuple[OutputError, ...],
        progress: Progress,
    ) -> tuple[tuple[str, ...], tuple[OutputError, ...]]:
        """Return layers in FP16 by which the plan comes to `min_sqnr`, and the errors with them.

        `in_half`: layers that stay in FP16 in any case. `samples`: what it comes to with them.
        """
        recipe = self.draft.recipe
        for wanted in (recipe.min_sqnr, recipe.min_sqnr + 1, recipe.min_sqnr + 3):
            if round(least := self._least(*samples), 1) >= recipe.min_sqnr:
                break
            # The curve begins at what the images held out show, which others may not.
            here = curve[len(in_half) - 1].sqnr if in_half else samples[0].sqnr
            more = choose_fallback(curve, here, wanted + here - least, recipe.max_fallback)
            if len(more) > len(in_half):
                in_half, table = more, self.table(plans, more)
                samples = self._with_shaping(table, self.run(table), progress)
        return in_half, samples

    def _least(self, *samples: OutputError) -> float:
        """Return the least SQNR that other images may show, in dB, for layers to go to FP16 by.

        Of too few images to tell, what they show: even on these, less is left then.
        """
        return forecast(samples)[1] if self.draft.is_decided else samples[0].sqnr

    def _with_shaping(
        self, table: CalibrationTable, error: OutputError, progress: Progress
    ) -> tuple[OutputError, ...]:
        """Return `error`, of the images held out, and beside it that of some which shaped."""
        model, spec, exact = self.model, self.spec, self.exact[len(self.seen.held_out) :]
        if not exact:
            return (error,)
        images = self.seen.shaping[: len(exact)]
        with progress.step(f"measuring the plan on {len(images)} images that shaped it"):
            return error, measure_table(model, spec, table, images, exact, self.threads)

    def _keep_worthy(
        self,
        plans: Plans,
        curve: tuple[FallbackPoint, ...],
        error: OutputError,
        progress: Progress,
    ) -> tuple[tuple[str, ...], tuple[OutputError, ...]]:
        """Return the layers that FP16 gains much at for little work, and the errors with them.

        None where enough is left of every image. They are chosen by what each costs alone; with all
        of them images have to gain on average, too. Those held out chose the plan, and are off
        by less with it than the next ones are: they do not decide alone.
        """
        recipe, share_of = self.draft.recipe, {point.site: point.share for point in curve}
        samples = self._with_shaping(self.table(plans), error, progress)
        if not recipe.min_worth:
            return (), samples
        every = functools.reduce(OutputError.beside, samples)
        most = sqnr_enough(error.sqnr, self._least(error), sqnr_of(error.worst))
        chosen = choose_worthy(curve, error.sqnr, recipe.min_worth, recipe.max_fallback, most)
        while chosen:
            table, share = self.table(plans, chosen), share_of[chosen[-1]]
            tried = self._with_shaping(table, self.run(table), progress)
            new = functools.reduce(OutputError.beside, tried)
            gain, least = new.gain_over(every), _SHOWN * recipe.min_worth * 100 * share
            if gain >= least and new.mean < _MOST_WORSE * every.mean:
                stay = "stay" if len(chosen) > 1 else "stays"
                progress.note(
                    f"{', '.join(chosen)} {stay} in FP16: {share:.1%} of the layers' multiply-adds "
                    f"gain {gain:.1f} dB, on average over {len(new.by_image)} calibration images"
                )
                return chosen, tried
            chosen = chosen[: len(chosen) // 2]
        return (), samples

    def table(self, plans: Plans, costly: Collection[str] = ()) -> CalibrationTable:
        """Return the table of `plans`, the layers `costly` in FP16."""
        stats = self.seen.stats
        in_half = dict.fromkeys(costly, "INT8 costs the output most here")
        in_half |= dict.fromkeys(self.kept, "one token is read here, INT8 saves nothing")
        sites = {
            name: layer_scales(
                plans[name], stats[name], in_half.get(name), self.errors.get(name, 0.0)
            )
            for name in stats
        }
        levels = {
            name: plan.levels
            for name, plan in plans.items()
            if plan.levels is not None and name not in in_half
        }
        return replace(self.draft, sites=sites, levels=levels)

    def measure(self, plans: Plans, most: float = math.inf) -> OutputError:
        """Return how far INT8 is off on the images held out, every layer as planned.

        `most`: see `measure_table`.
        """
        return self.run(self.table(plans), most)

    def run(
        self, table: CalibrationTable, most: float = math.inf, *, rounds_weights: bool = True
    ) -> OutputError:
        """Return how far the INT8 of `table` is off there: see `measure_table`."""
        images = self.seen.held_out
        subject = self.model, self.spec, table, images, self.exact[: len(images)], self.threads
        return measure_table(*subject, most, rounds_weights=rounds_weights)
