"""Training from scratch or from a checkpoint: seeded, resumable, the best weights kept."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_vit.errors import ArtifactError
from edge_vit.files import write_atomically
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
from edge_vit.training.loop import OnProgress, TrainingLoop
from edge_vit.training.options import QUICKSTART_OPTIONS as QUICKSTART_OPTIONS
from edge_vit.training.options import FinetuneOptions as FinetuneOptions
from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig, find_config


@dataclass(frozen=True)
class FinetuneResult:
    """The outcome of a training."""

    checkpoint_path: Path  # the best weights with all their facts
    # Of the best weights, 0 to 1. They were chosen by it, so it is a little optimistic
    held_out_accuracy: float
    best_epoch: int  # that they came from, from 1
    losses: tuple[float, ...]  # mean training loss of each epoch
    seconds: float  # spent; in a resumed training, since it was resumed


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
    leaves it there, and the end of the training removes it. With `resume` it goes on from there,
    and the weights come out as if it had never stopped. The image size and the classes of `model`,
    a preset's name or a config, become those of `dataset`; `on_progress` is called after every
    step.

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
    config = find_config(model) if isinstance(model, str) else model
    image_size, num_classes = dataset.preprocess.image_size[0], len(dataset.labels)
    config = replace(config, image_size=image_size, num_classes=num_classes)
    started = time.perf_counter()
    with _torch_set_up(options):
        network, preprocess = _initial_model(config, dataset, options)
        training = TrainingLoop(network, dataset, preprocess, options, on_progress)
        conditions = _conditions(config, dataset, options)
        if state_path.exists():
            training.restore(_load_state(state_path, training.state(), conditions))
        else:
            _save_state(state_path, training.state(), conditions)  # a disk that refuses shows now
        while training.num_epochs_done < options.epochs:
            training.run_epoch()
            _save_state(state_path, training.state(), conditions)
    best, epoch = training.best_accuracy, training.best_epoch
    metrics = {"held_out_accuracy": best, "epoch": float(epoch)}
    save_checkpoint(
        out_path, Checkpoint(config, dataset.labels, preprocess, training.best_model, metrics)
    )
    state_path.unlink()
    return FinetuneResult(out_path, best, epoch, training.losses, time.perf_counter() - started)


def resume_path(out_path: Path) -> Path:
    """Return where the state of a training lies that is to write `out_path`."""
    return out_path.with_name(out_path.name + ".resume")


def _save_state(path: Path, state: Mapping[str, Any], conditions: Mapping[str, str]) -> None:
    buffer = io.BytesIO()
    torch.save({"conditions": dict(conditions), **state}, buffer)
    write_atomically(path, buffer.getvalue())


def _load_state(
    path: Path, like: Mapping[str, Any], conditions: Mapping[str, str]
) -> dict[str, Any]:
    """The state that `_save_state` wrote under the same `conditions`, with the keys of `like`.

    Tensors and plain values only: code in the file is not run.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        saved = state.pop("conditions")
        is_whole = state.keys() == like.keys()
    except Exception:  # an unpickler that is fed damaged bytes raises whatever it likes
        is_whole = False
    if not is_whole:
        raise ArtifactError(
            f"{path} is not the state of a training. Delete it and train again without --resume"
        )
    changed = [
        f"{name} was {saved.get(name)}, is now {conditions.get(name)}"
        for name in sorted({*saved, *conditions})
        if saved.get(name) != conditions.get(name)
    ]
    if changed:
        raise ArtifactError(
            f"{path} belongs to another training: {'; '.join(changed)}. "
            "Resume with the same options, or delete it"
        )
    return state


def _initial_model(
    config: VisionTransformerConfig, dataset: Dataset, options: FinetuneOptions
) -> tuple[VisionTransformer, PreprocessSpec]:
    """The model to train, and how images become its input.

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
    """What must stay the same from an interruption to the resumption, by name."""
    digest = hashlib.sha256()
    for part in ("train_images", "train_labels", "test_images", "test_labels"):
        digest.update(np.ascontiguousarray(getattr(dataset, part)).data)
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
