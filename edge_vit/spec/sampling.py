"""How samples are drawn from a diffusion model, in the terms of diffusers' schedulers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edge_vit.errors import SpecError
from edge_vit.values import settle

if TYPE_CHECKING:
    from edge_vit.spec import ModelSpec

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class SamplingSpec:
    """Schedule of the noise, what a step predicts, and guidance.

    By `flow` the steps are those of flow matching with Euler's method, else those of DDIM without
    noise in between.
    """

    prediction: Prediction = "epsilon"
    steps: int = 50  # of the loop
    num_train_timesteps: int = 1000
    beta_schedule: BetaSchedule = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    spacing: Spacing = "leading"
    steps_offset: int = 0
    ends_clean: bool = True  # set_alpha_to_one
    clip: float = 0.0  # to which the predicted sample is clipped in each step; 0 for not at all
    shift: float = 1.0  # of a flow's noise levels
    num_labels: int = 0  # classes to draw from; 0 for a model without labels
    # What stands for no label, and how far a prediction goes beyond the one for it; 1 for no
    # guidance, and then no second run
    null_label: int | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        settle(self)
        if not 1 <= self.steps <= self.num_train_timesteps:
            raise SpecError(
                f"steps of sampling: got {self.steps}, expected 1 to {self.num_train_timesteps}"
            )
        if self.is_guided and (self.null_label is None or not self.num_labels):
            raise SpecError(
                f"guidance {self.guidance:g} needs labels and a null_label, which stands for none"
            )

    @property
    def is_guided(self) -> bool:
        """Whether each step runs the model a second time, without a label."""
        return self.guidance != 1.0


def with_steps(spec: ModelSpec, steps: int | None) -> ModelSpec:
    """Return `spec` with another number of steps of sampling; as it is where None or without."""
    if steps is None or spec.sampling is None:
        return spec
    return replace(spec, sampling=replace(spec.sampling, steps=steps))
