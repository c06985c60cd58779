"""Train a small TimeSformer on moving digits, and write it as transformers stores models.

    PYTHONPATH=examples python examples/video/train.py --minutes 6

Its attention looks along time at one place, then along the picture at one time: divided attention.
So that it learns in minutes on a CPU, its first block is also asked which patches lie in the digit,
its second where the digit is in each frame, and both what its class is, at each patch of the digit.
What reads that is not kept.
"""

from __future__ import annotations

import argparse
import itertools
import math
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerVideoProcessor,
)
from video.clips import LABELS, Clip, clips

SIDE, PATCH, FRAMES, BATCH = 32, 8, 8, 32
GRID = SIDE // PATCH
FINE = 2  # clips are made so many times as large, as videos are


def make_model() -> TimesformerForVideoClassification:
    """Return the untrained model."""
    config = TimesformerConfig(
        image_size=SIDE,
        patch_size=PATCH,
        num_frames=FRAMES,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    model = TimesformerForVideoClassification(config).requires_grad_(True)
    with torch.no_grad():  # places and times that differ from the start
        embeddings = model.timesformer.embeddings
        embeddings.position_embeddings.normal_(std=0.2)
        embeddings.time_embeddings.normal_(std=0.2)
    return model


def to_batch(part: list[Clip]) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised pixels (N, frames, 3, H, W), halved in size, labels (N,) and boxes."""
    pixels = torch.from_numpy(np.stack([clip.pixels for clip in part])).float()
    pixels = F.avg_pool2d(pixels.flatten(0, 1).permute(0, 3, 1, 2), FINE)
    pixels = pixels.unflatten(0, (len(part), FRAMES)) / 127.5 - 1
    boxes = torch.from_numpy(np.stack([clip.boxes for clip in part]))
    return pixels, torch.tensor([clip.label for clip in part]), boxes


class Helpers(nn.Module):
    """What reads the first two blocks while they are trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.is_digit, self.place = nn.Linear(width, 1), nn.Linear(width, 4)
        self.motions = nn.ModuleList(nn.Linear(width, len(LABELS)) for _ in range(2))

    def forward(self, states: tuple[Tensor, ...], labels: Tensor, boxes: Tensor) -> Tensor:
        """Return the loss of patches in the digit, of their class, and of the box in each frame."""
        # The class token, then all frames of the first patch, of the next one, ...
        first, second = (state[:, 1:].unflatten(1, (-1, FRAMES)) for state in states[1:3])
        middles = (torch.arange(GRID) + 0.5) / GRID
        y, x = (
            axis.flatten()[None, :, None]
            for axis in torch.meshgrid(middles, middles, indexing="ij")
        )
        left, top, right, bottom = boxes[:, None].unbind(-1)
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        found = F.binary_cross_entropy_with_logits(self.is_digit(first)[..., 0], inside.float())
        placed = F.l1_loss(self.place(second.mean(1)), boxes * 4 - 2)
        wanted = labels[:, None, None].expand(inside.shape)[inside]
        moved = sum(
            F.cross_entropy(read(state[inside]), wanted)
            for read, state in zip(self.motions, (first, second), strict=True)
        )
        return found + placed + moved


def train(model: TimesformerForVideoClassification, minutes: float, peak: float) -> None:
    """Train for `minutes` of CPU time: the rate rises for a twentieth, then falls as a cosine."""
    helpers = Helpers(model.config.hidden_size)
    every = [*model.parameters(), *helpers.parameters()]
    decayed = [p for p in every if p.ndim == 2]
    others = [p for p in every if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    )
    source = clips("train", SIDE * FINE, FRAMES)
    begin, running, aside, right = time.process_time(), 0.0, 0.0, 0.0
    for step in itertools.count(1):
        share = (time.process_time() - begin) / (60 * minutes)
        if share >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = peak * min(20 * share, 0.5 + 0.5 * math.cos(math.pi * share)) + 1e-6
        pixels, labels, boxes = to_batch(list(itertools.islice(source, BATCH)))
        outputs = model(pixels, output_hidden_states=True)
        logits, helped = outputs.logits, helpers(outputs.hidden_states, labels, boxes)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        (loss + helped).backward()
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        optimizer.step()
        kept = 0.0 if step == 1 else 0.95
        running = kept * running + (1 - kept) * loss.item()
        aside = kept * aside + (1 - kept) * helped.item()
        right = kept * right + (1 - kept) * (logits.argmax(1) == labels).float().mean().item()
        if step % 20 == 0:
            print(
                f"{share:6.1%}  step {step}  loss {running:.3f} + {aside:.3f}  right {right:.1%}",
                flush=True,
            )


def save(model: TimesformerForVideoClassification, folder: Path) -> None:
    """Write config, weights and how clips are prepared."""
    model.save_pretrained(folder)
    TimesformerVideoProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=6, help="of CPU time")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits-in-motion")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background too: it saves
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = make_model().train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    try:
        train(model, options.minutes, options.rate)
    finally:
        save(model.eval(), options.out)


if __name__ == "__main__":
    main()
