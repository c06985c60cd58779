"""Train a small DETR on digits in photographs, and write it as transformers stores models.

    python examples/detector/train.py --minutes 47

Two things let it learn in minutes on a CPU. The queries begin at places on a grid, in the sine
positions of the image's cells. And the two heads read the encoder too: a cell whose middle is in a
digit is asked for the digit and its box, so that features are learnt from all over the image while
the queries still sort out which of them takes which digit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scenes import LABELS, Scene, scenes
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchvision.ops import generalized_box_iou
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

SIDE, STRIDE, GRID_OF_QUERIES, BATCH = 96, 16, 4, 16
CELLS = SIDE // STRIDE
NO_OBJECT = len(LABELS)


def make_model() -> DetrForObjectDetection:
    """Return the untrained model, its queries placed on a grid."""
    backbone = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[1, 1, 1],
        layer_type="basic",
        out_features=["stage3"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=128,
        encoder_layers=3,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        num_queries=GRID_OF_QUERIES**2,
        dropout=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = DetrForObjectDetection(config)
    shape = torch.Size((1, config.d_model, GRID_OF_QUERIES, GRID_OF_QUERIES))
    places = model.model.position_embedding(shape, "cpu", torch.float32)
    with torch.no_grad():
        model.model.query_position_embeddings.weight.copy_(places[0].flatten(1).T)
    return model.requires_grad_(True)


def swap_norms(module: nn.Module, wanted: Callable[[int], nn.Module]) -> None:
    """Put `wanted` batch norms in the place of the others, with the same values."""
    for name, child in module.named_children():
        if hasattr(child, "running_mean"):
            other = wanted(len(child.running_mean))
            other.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, other)
        else:
            swap_norms(child, wanted)


def read(model: DetrForObjectDetection, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return class logits and boxes of all cells of the encoder, then of the queries."""
    outputs = model.model(pixels)
    tokens = torch.cat((outputs.encoder_last_hidden_state, outputs.last_hidden_state), dim=1)
    return model.class_labels_classifier(tokens), model.bbox_predictor(tokens).sigmoid()


def loss_of(logits: Tensor, boxes: Tensor, truth: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the loss of a batch; `truth` is boxes (cx, cy, w, h) and classes of each image."""
    num_cells = CELLS**2
    wanted = torch.full(logits.shape[:2], NO_OBJECT)
    target_boxes = torch.zeros_like(boxes)
    for row, (digits, classes) in enumerate(truth):
        owner = _owners(digits)
        wanted[row, :num_cells] = torch.where(owner >= 0, classes[owner.clamp(0)], owner)
        target_boxes[row, :num_cells] = digits[owner.clamp(0)]
        queries, taken = _match(logits[row, num_cells:], boxes[row, num_cells:], digits, classes)
        wanted[row, num_cells + queries] = classes[taken]
        target_boxes[row, num_cells + queries] = digits[taken]
    wanted[wanted == -1] = NO_OBJECT
    total = logits.new_zeros(())
    for part, none_weight in ((slice(None, num_cells), 0.5), (slice(num_cells, None), 0.3)):
        weights = torch.ones(NO_OBJECT + 1)
        weights[NO_OBJECT] = none_weight
        target = wanted[:, part]
        total = total + F.cross_entropy(
            logits[:, part].flatten(0, 1), target.flatten(), weights, ignore_index=-2
        )
        is_digit = (target >= 0) & (target < NO_OBJECT)
        found, true = boxes[:, part][is_digit], target_boxes[:, part][is_digit]
        overlap = torch.diagonal(generalized_box_iou(_corners(found), _corners(true)))
        total = total + 5 * F.l1_loss(found, true) + (1 - overlap).mean()
    return total


def _owners(digits: Tensor) -> Tensor:
    """Return the digit of each cell; -1 outside of all, -2 near a digit's edge (not judged)."""
    middles = (torch.arange(CELLS) + 0.5) / CELLS
    y, x = (axis.flatten() for axis in torch.meshgrid(middles, middles, indexing="ij"))
    dx = (x[:, None] - digits[:, 0]).abs() / digits[:, 2]
    dy = (y[:, None] - digits[:, 1]).abs() / digits[:, 3]
    away, owner = torch.maximum(dx, dy).min(dim=1)
    nearest = torch.maximum(dx, dy).argmin(dim=0)
    owner = torch.where(away < 0.35, owner, -2)
    owner = torch.where(away > 0.6, -1, owner)
    owner[nearest] = torch.arange(len(digits))
    return owner


@torch.no_grad()
def _match(logits: Tensor, boxes: Tensor, digits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return which query takes which digit, at the least cost in all."""
    cost = 5 * torch.cdist(boxes, digits, p=1) - logits.softmax(-1)[:, classes]
    cost = cost - 2 * generalized_box_iou(_corners(boxes), _corners(digits))
    queries, taken = linear_sum_assignment(cost.numpy())
    return torch.from_numpy(queries), torch.from_numpy(taken)


def _corners(boxes: Tensor) -> Tensor:
    middle, size = boxes.split(2, dim=-1)
    return torch.cat((middle - size / 2, middle + size / 2), dim=-1)


def to_batch(part: list[Scene]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return normalised pixels (N, 3, H, W), and boxes (cx, cy, w, h) and classes of each."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in part])).permute(0, 3, 1, 2)
    truth = []
    for scene in part:
        low, high = torch.from_numpy(scene.boxes / SIDE).split(2, dim=1)
        truth.append(
            (torch.cat(((low + high) / 2, high - low), dim=1), torch.tensor(scene.classes))
        )
    return pixels.float() / 127.5 - 1, truth


class _Scenes(IterableDataset[Scene]):
    def __iter__(self) -> Iterator[Scene]:
        return scenes("train", SIDE)


def train(model: DetrForObjectDetection, minutes: float, peak: float) -> None:
    """Train for `minutes`: the rate rises in the first thirtieth, then falls along a cosine."""
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    )
    source = iter(DataLoader(_Scenes(), BATCH, num_workers=1, collate_fn=to_batch))
    begin, running = time.monotonic(), 0.0
    for step in itertools.count(1):
        share = (time.monotonic() - begin) / (60 * minutes)
        if share >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = peak * min(30 * share, 0.5 + 0.5 * math.cos(math.pi * share)) + 1e-6
        pixels, truth = next(source)
        loss = loss_of(*read(model, pixels), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"{100 * share:5.1f} %  step {step}  loss {running:.3f}", flush=True)


def save(model: DetrForObjectDetection, folder: Path) -> None:
    """Write config, weights and how images are prepared."""
    swap_norms(model, DetrFrozenBatchNorm2d)
    model.save_pretrained(folder)
    facts = {
        "image_processor_type": "DetrImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pad": False,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=47)
    parser.add_argument("--rate", type=float, default=8e-4, help="highest learning rate")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "detr-digits")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = make_model()
    swap_norms(model, nn.BatchNorm2d)
    model.train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    try:
        train(model, options.minutes, options.rate)
    finally:
        save(model.eval(), options.out)


if __name__ == "__main__":
    main()
