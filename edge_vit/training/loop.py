"""The training loop: epochs of steps, held-out accuracy after each, the best weights kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_vit.errors import SpecError
from edge_vit.spec import PreprocessSpec
from edge_vit.training.datasets import Dataset
from edge_vit.training.options import FinetuneOptions, learning_rate_at
from edge_vit.training.vit import VisionTransformer

MAX_ROTATION_DEG = 10.0
MAX_SCALING = 0.1
MAX_SHIFT = 0.08  # of the image's side

_EVAL_BATCH_SIZE = 256


@dataclass(frozen=True)
class FinetuneProgress:
    """The state of a training after a step."""

    epoch: int  # the one under way, from 1
    num_epochs: int
    step: int  # steps done in this epoch, of num_steps
    num_steps: int
    loss: float  # mean over this epoch so far
    accuracy: float  # on this epoch's training images so far, as augmented; 0 to 1
    learning_rate: float
    held_out_accuracy: float | None  # 0 to 1, in the last event of an epoch; None in the others
    best_accuracy: float | None  # on the held-out images, of all epochs before; None in the first


OnProgress = Callable[[FinetuneProgress], None]


class TrainingLoop:
    """A training under way: a model, its optimizer, and the best weights so far.

    `losses` are the mean training loss of each epoch that is done; `best_epoch`, from 1, is 0
    before any, and `best_accuracy` on the held-out images, 0 to 1, is -1.
    """

    def __init__(
        self,
        model: VisionTransformer,
        dataset: Dataset,
        preprocess: PreprocessSpec,
        options: FinetuneOptions,
        on_progress: OnProgress,
    ) -> None:
        self._model, self._preprocess, self._options = model, preprocess, options
        self._on_progress = on_progress
        self._train_images = torch.from_numpy(dataset.train_images)
        self._train_labels = torch.from_numpy(dataset.train_labels)
        self._test_images = torch.from_numpy(dataset.test_images)
        self._test_labels = torch.from_numpy(dataset.test_labels)
        self._optimizer = _make_optimizer(model, options)
        self._steps_per_epoch = math.ceil(len(self._train_labels) / options.batch_size)
        self.num_epochs_done = 0
        self.losses: tuple[float, ...] = ()
        self.best_epoch, self.best_accuracy = 0, -1.0
        self.best_model = _copy_of_weights(model)

    def run_epoch(self) -> None:
        """Train on every image once, in a random order, then measure on the held-out images."""
        self._model.train()
        loss_sum, num_correct, num_seen = 0.0, 0, 0
        order = torch.randperm(len(self._train_labels))
        for step, indices in enumerate(torch.split(order, self._options.batch_size), start=1):
            loss, correct = self._step(step, indices)
            num_seen += len(indices)
            loss_sum, num_correct = loss_sum + loss * len(indices), num_correct + correct
            if step < self._steps_per_epoch:
                self._report(step, loss_sum / num_seen, num_correct / num_seen, None)
        accuracy = self.held_out_accuracy()
        self._report(step, loss_sum / num_seen, num_correct / num_seen, accuracy)
        self.num_epochs_done += 1
        self.losses += (loss_sum / num_seen,)
        if accuracy >= self.best_accuracy:  # of equals the later one: its learning rate was lower
            self.best_epoch, self.best_accuracy = self.num_epochs_done, accuracy
            self.best_model = _copy_of_weights(self._model)

    def held_out_accuracy(self) -> float:
        """Return the share of the held-out images that the model has right now, 0 to 1."""
        self._model.eval()
        num_correct = 0
        with torch.no_grad():
            for first in range(0, len(self._test_labels), _EVAL_BATCH_SIZE):
                batch = slice(first, first + _EVAL_BATCH_SIZE)
                images = normalise(to_pixels(self._test_images[batch]), self._preprocess)
                classes = self._model(images).argmax(dim=1)
                num_correct += int((classes == self._test_labels[batch]).sum())
        return num_correct / len(self._test_labels)

    def state(self) -> dict[str, Any]:
        """Return all that the epochs to come depend on; its tensors change with the next epoch."""
        return {
            "num_epochs_done": self.num_epochs_done,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random_state": torch.get_rng_state(),
            "losses": self.losses,
            "best_epoch": self.best_epoch,
            "best_accuracy": self.best_accuracy,
            "best_model": self.best_model,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned, torch's global random generator included."""
        self.num_epochs_done, self.losses = state["num_epochs_done"], state["losses"]
        self.best_epoch, self.best_accuracy = state["best_epoch"], state["best_accuracy"]
        self.best_model = state["best_model"]
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random_state"])

    def _step(self, step: int, indices: Tensor) -> tuple[float, int]:
        """Take one step of the optimizer; return the loss and the number of right predictions."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        pixels = to_pixels(self._train_images[indices])
        if self._options.augment:
            pixels = augment(pixels)
        labels = self._train_labels[indices]
        logits = self._model(normalise(pixels, self._preprocess))
        loss = F.cross_entropy(logits, labels, label_smoothing=self._options.label_smoothing)
        if not loss.isfinite():
            raise SpecError(
                f"the loss became {loss.item()} in epoch {self.num_epochs_done + 1} "
                f"with learning_rate {self._options.learning_rate}. Train again with a lower one"
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.item(), int((logits.argmax(dim=1) == labels).sum())

    def _learning_rate(self, step: int) -> float:
        steps_done = self.num_epochs_done * self._steps_per_epoch + step - 1
        return learning_rate_at(steps_done, self._steps_per_epoch, self._options)

    def _report(self, step: int, loss: float, accuracy: float, held_out: float | None) -> None:
        self._on_progress(
            FinetuneProgress(
                epoch=self.num_epochs_done + 1,
                num_epochs=self._options.epochs,
                step=step,
                num_steps=self._steps_per_epoch,
                loss=loss,
                accuracy=accuracy,
                learning_rate=self._learning_rate(step),
                held_out_accuracy=held_out,
                best_accuracy=self.best_accuracy if self.best_epoch else None,
            )
        )


def to_pixels(images: Tensor) -> Tensor:
    """Return `images` uint8 (B, H, W, 3) as float32 (B, 3, H, W) of values from 0 to 1."""
    return images.permute(0, 3, 1, 2).float() / 255


def augment(pixels: Tensor) -> Tensor:
    """Return `pixels` (B, 3, H, W), each image rotated, scaled and shifted a little at random.

    What comes in from outside the image is black. Draws from torch's global random generator.
    """
    count = len(pixels)
    angle = _uniform(count, math.radians(MAX_ROTATION_DEG))
    scale = 1 + _uniform(count, MAX_SCALING)
    shift = 2 * _uniform(2 * count, MAX_SHIFT).reshape(count, 2, 1)  # affine_grid's image is 2 wide
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=1).reshape(count, 2, 2)
    affine = torch.cat([rotation, shift], dim=2)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def normalise(pixels: Tensor, spec: PreprocessSpec) -> Tensor:
    """Return ``(pixels - mean) / std`` of `pixels` (B, 3, H, W), values from 0 to 1."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    return (pixels - mean) / std


def _uniform(count: int, limit: float) -> Tensor:
    """Random numbers between -limit and limit, (count,)."""
    return (torch.rand(count) * 2 - 1) * limit


def _make_optimizer(model: VisionTransformer, options: FinetuneOptions) -> torch.optim.Optimizer:
    """The optimizer of `model`, with weight decay on the weights of linear layers only."""
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_decayed = name.endswith("weight") and parameter.ndim > 1
        (decayed if is_decayed else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=options.learning_rate)


def _copy_of_weights(model: VisionTransformer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
