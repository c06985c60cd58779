"""Train the two heads on the tokens of DINOv2-S, which stays as it is.

    PYTHONPATH=examples python -m rooms.train --scenes 600 --steps 700

It fetches the backbone into the folder that it is started in.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rooms.model import OUT, SIDE, Backbone, Head, MapModel, dinov2s, fetch
from rooms.scenes import LABELS, scenes
from safetensors.torch import save_file
from torch import Tensor

BATCH = 8


@torch.no_grad()
def read_scenes(backbone: Backbone, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return float16 tokens, uint8 classes and float16 depth of `count` training scenes."""
    spec = MapModel.preprocess
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    tokens, classes, depths = [], [], []
    begin = time.monotonic()
    for number, scene in zip(range(count), scenes("train", SIDE, seed), strict=False):
        pixels = (torch.from_numpy(scene.pixels).float() / 255 - mean) / std
        tokens.append(backbone(pixels.permute(2, 0, 1)[None])[0].half())
        classes.append(torch.from_numpy(scene.classes))
        depths.append(torch.from_numpy(scene.depth).half())
        if number % 100 == 99:
            print(f"tokens of {number + 1} scenes, {time.monotonic() - begin:.0f} s", flush=True)
    return torch.stack(tokens), torch.stack(classes), torch.stack(depths)


def loss_of(name: str, found: Tensor, classes: Tensor, depths: Tensor) -> Tensor:
    """Return the loss of one head's map; the truth is brought to its cells."""
    at = torch.arange(OUT) * SIDE // OUT + SIDE // OUT // 2
    if name == "depth":
        return (found[:, 0] - depths[:, at][:, :, at].float().log()).abs().mean()
    wanted = classes[:, at][:, :, at].long()
    shares = found.softmax(1)
    masks = F.one_hot(wanted, len(LABELS)).permute(0, 3, 1, 2)
    both = (shares * masks).sum((0, 2, 3))
    dice = 1 - (2 * both + 1) / (shares.sum((0, 2, 3)) + masks.sum((0, 2, 3)) + 1)
    return F.cross_entropy(found, wanted) + 0.5 * dice.mean()


def train(name: str, channels: int, data: tuple[Tensor, ...], steps: int, peak: float) -> Head:
    """Return a head after `steps`: the rate rises at once, then falls along a cosine."""
    torch.manual_seed(0)
    head = Head(channels)
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.05)
    running = 0.0
    for step in range(1, steps + 1):
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = peak * min(30 * share, 0.5 + 0.5 * math.cos(math.pi * share)) + 1e-6
        chosen = torch.randint(len(data[0]), (BATCH,))
        tokens, classes, depths = (part[chosen] for part in data)
        loss = loss_of(name, head(tokens.float()), classes, depths)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"{name}: step {step}  loss {running:.4f}", flush=True)
    return head.eval()


@torch.no_grad()
def quality(name: str, head: Head, data: tuple[Tensor, ...]) -> float:
    """Return the mean IoU of all classes, or the mean absolute relative error of the depth."""
    table, errors = np.zeros((len(LABELS), len(LABELS))), []
    for tokens, classes, depths in zip(*data, strict=True):
        found = F.interpolate(head(tokens[None].float()), size=(SIDE, SIDE), mode="bilinear")[0]
        if name == "segmentation":
            pairs = classes.long() * len(LABELS) + found.argmax(0)
            table += np.bincount(pairs.flatten(), minlength=table.size).reshape(table.shape)
        else:
            errors.append(float(((found[0].exp() - depths) / depths).abs().mean()))
    shared = np.diag(table)
    return float(
        np.mean(errors) if errors else np.mean(shared / (table.sum(0) + table.sum(1) - shared))
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--steps", type=int, default=700, help="for each head")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    backbone = Backbone(dinov2s(fetch())).eval()
    data = read_scenes(backbone, options.scenes, seed=1)
    unseen = read_scenes(backbone, 60, seed=2)
    for name, channels in (("segmentation", len(LABELS)), ("depth", 1)):
        head = train(name, channels, data, options.steps, options.rate)
        print(f"{name}: {quality(name, head, unseen):.4f} on unseen training scenes", flush=True)
        weights = {key: value.half().contiguous() for key, value in head.state_dict().items()}
        save_file(weights, options.out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
