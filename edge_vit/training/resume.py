"""The state of an interrupted training: one file beside the checkpoint it will write."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edge_vit.errors import ArtifactError
from edge_vit.files import write_atomically


@dataclass(frozen=True)
class ResumeState:
    """All that the epochs to come depend on.

    Attributes:
        num_epochs_done: epochs that are behind.
        model: the weights now.
        optimizer: its `state_dict`.
        random_state: of torch's global generator.
        losses: mean training loss of each epoch that is done.
        best_epoch: the epoch (from 1) that the best weights came from; 0 before any.
        best_accuracy: of the best weights on the held-out images, 0 to 1; -1 before any.
        best_model: the best weights.
    """

    num_epochs_done: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    random_state: Tensor
    losses: tuple[float, ...]
    best_epoch: int
    best_accuracy: float
    best_model: Mapping[str, Tensor]


def resume_path(out_path: Path) -> Path:
    """Return where the state of a training lies that is to write `out_path`."""
    return out_path.with_name(out_path.name + ".resume")


def save_resume(path: Path, state: ResumeState, conditions: Mapping[str, str]) -> None:
    """Write `state` to `path`, whole or not at all.

    Args:
        path: the file.
        state: of the training.
        conditions: what must not change until it is resumed, each as the user would read it.
    """
    buffer = io.BytesIO()
    torch.save({"conditions": dict(conditions), **vars(state)}, buffer)
    write_atomically(path, buffer.getvalue())


def load_resume(path: Path, conditions: Mapping[str, str]) -> ResumeState:
    """Return the state that `save_resume` wrote under the same `conditions`.

    Tensors and plain values only: code in the file is not run.

    Raises:
        ArtifactError: the file is damaged, or was written under other conditions; the message
            names them.
    """
    try:
        data = torch.load(path, weights_only=True)
        saved = data.pop("conditions")
        state = ResumeState(**data)
    except Exception:  # an unpickler that is fed damaged bytes raises whatever it likes
        raise ArtifactError(
            f"{path} is not the state of a training. Delete it and train again without --resume"
        ) from None
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
