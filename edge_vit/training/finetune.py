"""Training from scratch or from a checkpoint: seeded, resumable, the best weights kept."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from edge_vit.errors import ArtifactError
from edge_vit.runtime.options import num_cores
from edge_vit.spec import PreprocessSpec
from edge_vit.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_tensors,
    resize_checkpoint,
    save_checkpoint,
)
from edge_vit.training.datasets import Dataset
from edge_vit.training.loop import FinetuneProgress, OnProgress, TrainingLoop
from edge_vit.training.options import QUICKSTART_OPTIONS, FinetuneOptions
from edge_vit.training.resume import load_resume, resume_path, save_resume
from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig, find_config

__all__ = [
    "QUICKSTART_OPTIONS",
    "FinetuneOptions",
    "FinetuneProgress",
    "FinetuneResult",
    "finetune",
]


@dataclass(frozen=True)
class FinetuneResult:
    """How a training came out.

    Attributes:
        checkpoint_path: the best weights with all their facts.
        held_out_accuracy: of the best weights, 0 to 1. They were chosen by it, so it is a little
            optimistic.
        best_epoch: that they came from, from 1.
        losses: mean training loss of each epoch.
        seconds: spent; in a resumed training, since it was resumed.
    """

    checkpoint_path: Path
    held_out_accuracy: float
    best_epoch: int
    losses: tuple[float, ...]
    seconds: float


def finetune(
    model: str | VisionTransformerConfig,
    dataset: Dataset,
    options: FinetuneOptions,
    out_path: Path | str,
    *,
    resume: bool = False,
    on_progress: OnProgress = lambda event: None,
) -> FinetuneResult:
    """Train on `dataset`, write the best weights to `out_path`, and return how it went.

    After each epoch the state is kept in ``<out_path>.resume``; an interruption, Ctrl-C too,
    leaves it there, and the end of the training removes it.

    Args:
        model: a preset's name or a config; its image size and classes become those of `dataset`.
        dataset: images to train on, and those held out.
        options: every choice of the training.
        out_path: the safetensors file to write.
        resume: go on from ``<out_path>.resume`` where there is one; the weights come out as if the
            training had never stopped.
        on_progress: called after every step.

    Raises:
        ArtifactError: the disk refuses, the starting checkpoint does not fit, there is a state to
            resume but `resume` is not set, or the state is of a training with other options, model
            or images.
        SpecError: the model is unknown or impossible, or the loss became NaN or infinite.
    """
    out_path = Path(out_path)
    state_path = resume_path(out_path)
    if state_path.exists() and not resume:
        raise ArtifactError(
            f"{state_path} is left from an interrupted training. "
            "Add --resume to go on, or delete it"
        )
    config = _config_for(model, dataset)
    started = time.perf_counter()
    with _torch_set_up(options):
        network, preprocess = _initial_model(config, dataset, options)
        training = TrainingLoop(network, dataset, preprocess, options, on_progress)
        conditions = _conditions(config, dataset, options)
        if state_path.exists():
            training.restore(load_resume(state_path, conditions))
        else:
            save_resume(state_path, training.state(), conditions)  # a disk that refuses shows now
        while training.num_epochs_done < options.epochs:
            training.run_epoch()
            save_resume(state_path, training.state(), conditions)
        state = training.state()
    metrics = {"held_out_accuracy": state.best_accuracy, "epoch": float(state.best_epoch)}
    save_checkpoint(
        out_path, Checkpoint(config, dataset.labels, preprocess, state.best_model, metrics)
    )
    state_path.unlink()
    seconds = time.perf_counter() - started
    return FinetuneResult(out_path, state.best_accuracy, state.best_epoch, state.losses, seconds)


def _config_for(model: str | VisionTransformerConfig, dataset: Dataset) -> VisionTransformerConfig:
    """Return the config of `model`, with the image size and the classes of `dataset`."""
    config = find_config(model) if isinstance(model, str) else model
    image_size, num_classes = dataset.preprocess.image_size[0], len(dataset.labels)
    return replace(config, image_size=image_size, num_classes=num_classes)


def _initial_model(
    config: VisionTransformerConfig, dataset: Dataset, options: FinetuneOptions
) -> tuple[VisionTransformer, PreprocessSpec]:
    """Return the model to train, and how images become its input.

    A checkpoint brings its own mean and std; its head stays only where the classes are the same.
    """
    model = VisionTransformer(config)
    if options.checkpoint is None:
        return model, dataset.preprocess
    start = resize_checkpoint(load_checkpoint(options.checkpoint), config.image_size)
    tensors = dict(start.tensors)
    if start.labels != dataset.labels:
        fresh = model.state_dict()
        tensors.update({name: fresh[name] for name in ("head.weight", "head.bias")})
    load_tensors(model, tensors)
    mean, std = start.preprocess.mean, start.preprocess.std
    return model, replace(dataset.preprocess, mean=mean, std=std)


def _conditions(
    config: VisionTransformerConfig, dataset: Dataset, options: FinetuneOptions
) -> dict[str, str]:
    """Return what must stay the same from an interruption to the resumption, by name."""
    digest = hashlib.sha256()
    for array in (
        dataset.train_images,
        dataset.train_labels,
        dataset.test_images,
        dataset.test_labels,
    ):
        digest.update(np.ascontiguousarray(array).data)
    conditions = {**asdict(config), **asdict(options)}
    del conditions["threads"]  # people resume on another machine
    conditions["labels"] = ", ".join(dataset.labels)
    conditions["images"] = digest.hexdigest()[:16]
    return {name: str(value) for name, value in conditions.items()}


@contextlib.contextmanager
def _torch_set_up(options: FinetuneOptions) -> Iterator[None]:
    """Seed torch and set its threads for the block; the caller's settings come back after it."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        torch.set_num_threads(options.threads or min(threads, num_cores()))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
