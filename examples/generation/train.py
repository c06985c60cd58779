"""Train the small DiT on scikit-learn's digits, and write its weights.

    python examples/generation/train.py --minutes 15

It learns from the 1,197 digits that `edgevit quickstart` trains its classifier on. One label in ten
is dropped, for guidance without a classifier (Ho and Salimans 2022). The weights that lie here are
those after 1,800 steps, about ten minutes of one thread, of a run that was to take 14.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from edge_vit.training.datasets import load_digits as split_digits

BATCH, STEPS_OF_NOISE, CLASSES = 128, 1000, 10


def training_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits of the quickstart's training part, (count, 1, 8, 8) in -1 to 1."""
    digits, split = load_digits(), split_digits(8)
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    kept = {image[..., 0].tobytes() for image in split.train_images}
    rows = [index for index, image in enumerate(pixels) if image.tobytes() in kept]
    images = torch.tensor(digits.images[rows] / 8 - 1, dtype=torch.float32)[:, None]
    return images, torch.tensor(digits.target[rows])


def signal_shares() -> torch.Tensor:
    """Return what is left of the signal's energy at each of 1,000 timesteps (cosine schedule)."""
    bar = [math.cos((t / STEPS_OF_NOISE + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    betas = [min(1 - bar[t + 1] / bar[t], 0.999) for t in range(STEPS_OF_NOISE)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0).float()


def main() -> None:
    """Train for so many minutes of one thread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("dit.safetensors"))
    options = parser.parse_args()
    from dit import DiT  # beside this file

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = training_digits()
    shares, model = signal_shares(), DiT()
    smooth = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    begin, step, losses = time.process_time(), 0, []
    while (done := (time.process_time() - begin) / (60 * options.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * done))
        rows = torch.randint(len(images), (BATCH,))
        clean, label = images[rows], labels[rows].clone()
        label[torch.rand(BATCH) < 0.1] = CLASSES
        timesteps = torch.randint(STEPS_OF_NOISE, (BATCH,))
        noise = torch.randn_like(clean)
        signal, spread = (x[timesteps][:, None, None, None].sqrt() for x in (shares, 1 - shares))
        velocity = model(signal * clean + spread * noise, timesteps, label)
        loss = F.mse_loss(velocity, signal * noise - spread * clean)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            rate = min(0.999, step / (step + 10))
            for kept, new in zip(smooth.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - rate)
        losses.append(loss.item())
        step += 1
        if step % 200 == 0:
            print(f"{step} steps, {done:.0%}, loss {np.mean(losses[-200:]):.4f}", flush=True)
            save_file({k: v.half() for k, v in smooth.state_dict().items()}, options.out)
    save_file({k: v.half() for k, v in smooth.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
