"""Every choice of a training, as one value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from edge_vit.errors import SpecError

Optimizer = Literal["adamw", "adam"]


@dataclass(frozen=True)
class FinetuneOptions:
    """Every choice of a training."""

    epochs: int = 20  # times that every training image is seen
    # The highest, after the warm-up. The default suits pretrained weights; from scratch a small
    # model takes ten times as much
    learning_rate: float = 1e-4
    optimizer: Optimizer = "adamw"  # adamw (decoupled weight decay) or adam
    # Of the linear layers' weights; biases, norms and embeddings have none
    weight_decay: float = 0.05
    batch_size: int = 64  # images per step
    warmup_epochs: int = 1  # in which the learning rate rises linearly from 0
    # Whether the learning rate falls to 0 along a cosine after the warm-up, or stays
    cosine: bool = True
    label_smoothing: float = 0.0  # share of the target spread evenly over all classes
    augment: bool = True  # whether images are rotated, scaled and shifted a little at random
    # Of the initial weights, the order of the images and everything else that is random
    seed: int = 0
    # Of the CPU; None leaves torch's own choice. Other counts may round otherwise
    threads: int | None = None
    # A checkpoint of finetune to start from; None starts from random weights
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a finite number above 0"),
            "optimizer": (self.optimizer in get_args(Optimizer), "adamw or adam"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, "from 0 to epochs"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "threads": (self.threads is None or self.threads >= 1, "at least 1"),
        }
        for name, (holds, wanted) in bounds.items():
            if not holds:
                raise SpecError(f"{name}: got {getattr(self, name)}, expected {wanted}")


QUICKSTART_OPTIONS = FinetuneOptions(
    epochs=30, learning_rate=2e-3, warmup_epochs=5, label_smoothing=0.1
)
"""For `vit_digits` from scratch on ``digits``: about 98 % of the held-out digits right."""


def learning_rate_at(step: int, steps_per_epoch: int, options: FinetuneOptions) -> float:
    """Return the learning rate of `step`, counted from 0 over all epochs."""
    warmup, total = options.warmup_epochs * steps_per_epoch, options.epochs * steps_per_epoch
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    if not options.cosine:
        return options.learning_rate
    done = (step - warmup) / (total - warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
