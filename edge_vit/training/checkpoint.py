"""A trained model in one safetensors file: weights, and all that an export must know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from edge_vit.errors import ArtifactError, SpecError
from edge_vit.files import write_atomically
from edge_vit.git_lfs import refuse_lfs_pointer
from edge_vit.optional import require
from edge_vit.spec import PreprocessSpec
from edge_vit.training.vit import VisionTransformer, VisionTransformerConfig, resize_positions
from edge_vit.values import from_json, parse_json, to_json

CHECKPOINT_FORMAT = 1

_METADATA_KEY = "edge_vit"


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and what a program must know to use them."""

    config: VisionTransformerConfig  # of the model that the weights belong to
    labels: tuple[str, ...]  # class names by index; empty for a model without a head
    preprocess: PreprocessSpec  # how an image becomes the model's input
    # Weights by their name in VisionTransformer.state_dict, on the CPU; not to be written to
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    # How the weights came out, such as {"held_out_accuracy": 0.98}
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) != self.config.num_classes:
            raise SpecError(
                f"labels: got {len(self.labels)}, expected {self.config.num_classes}, one per class"
            )
        side = self.config.image_size
        if self.preprocess.image_size != (side, side):
            raise SpecError(
                f"preprocess.image_size: got {self.preprocess.image_size}, expected {(side, side)}"
            )


def save_checkpoint(path: Path | str, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`: beside it first, then renamed over it."""
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
    safetensors = require("safetensors.torch", "writing a checkpoint")
    facts = to_json(replace(checkpoint, tensors={})) | {"format": CHECKPOINT_FORMAT}
    del facts["tensors"]
    write_atomically(Path(path), safetensors.save(tensors, {_METADATA_KEY: json.dumps(facts)}))


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Return the checkpoint in the file at `path`."""
    safetensors = require("safetensors", "reading a checkpoint")
    if not Path(path).is_file():
        raise ArtifactError(
            f"{path}: no such file. Run: edgevit finetune MODEL --data DIR -o {path}"
        )
    refuse_lfs_pointer(Path(path))
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(
            f"{path} is not a safetensors file, or not all of it: {error}"
        ) from None
    if _METADATA_KEY not in metadata:
        raise ArtifactError(
            f"{path} holds weights only, expected a checkpoint of edgevit finetune. "
            f"For weights of another library, run: edgevit export timm:MODEL --checkpoint {path}"
        )
    try:
        facts = parse_json(metadata[_METADATA_KEY])
        found = facts.pop("format", None)
        if found != CHECKPOINT_FORMAT:
            raise ArtifactError(
                f"{path}: checkpoint format {found}, this edge-vit reads {CHECKPOINT_FORMAT}. "
                "Run: edgevit finetune"
            )
        return replace(from_json(Checkpoint, facts, str(path)), tensors=tensors)
    except (ValueError, AttributeError, TypeError, SpecError) as error:
        raise ArtifactError(f"{path} is not an edge-vit checkpoint: {error}") from None


def resize_checkpoint(checkpoint: Checkpoint, image_size: int) -> Checkpoint:
    """Return `checkpoint` for square images of `image_size` pixels, its positions interpolated."""
    config = replace(checkpoint.config, image_size=image_size)
    tensors = dict(checkpoint.tensors)
    positions = tensors.get("position_embedding")
    # Positions that do not fit the old config are left for build_model to refuse.
    if positions is not None and positions.shape[1:2] == (checkpoint.config.num_tokens,):
        tensors["position_embedding"] = resize_positions(positions, config.grid_size)
    preprocess = replace(checkpoint.preprocess, image_size=(image_size, image_size))
    return replace(checkpoint, config=config, preprocess=preprocess, tensors=tensors)


def build_model(checkpoint: Checkpoint, image_size: int | None = None) -> VisionTransformer:
    """Return the model with the weights of `checkpoint`, float32, in eval mode.

    With an `image_size`, the side of the square input in pixels becomes that.
    """
    if image_size is not None:
        checkpoint = resize_checkpoint(checkpoint, image_size)
    model = VisionTransformer(checkpoint.config)
    load_tensors(model, checkpoint.tensors)
    return model.eval()


def load_tensors(model: VisionTransformer, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into `model`, every one of them and nothing else."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(set(wanted) - set(tensors))
    unexpected = sorted(set(tensors) - set(wanted))
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} where {shape} was expected"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(found.values()):
        lists = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
        raise ArtifactError(f"the checkpoint does not fit the model: {lists}")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ArtifactError(
                f"the checkpoint's tensor {name} holds NaN or infinity, expected finite weights. "
                "Train again with a lower learning rate"
            )
    model.load_state_dict(dict(tensors))
