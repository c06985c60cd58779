"""Trains the models that accuracy is measured on, from photographs that ship in packages.

A crop is to be recognised: which photograph is it from? Training crops come from the left of each
photograph, held-out crops from the part right of it, so that no pixel is in both. Crops are zoomed,
mirrored and lit at random, and some noise is added; to those held out less of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import edge_vit
from edge_vit.export.sources.request import SourceRequest
from edge_vit.spec import PreprocessSpec
from edge_vit.training.loop import FinetuneProgress

UInt8Array = npt.NDArray[np.uint8]

PHOTOS = (
    *("astronaut", "brick", "camera", "cell", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "ihc", "moon", "motorcycle_left", "page", "retina", "rocket"),
    *("china", "flower"),
)
NUM_TRAIN, NUM_CALIBRATION, NUM_HELD_OUT = 4000, 256, 2000
EPOCHS = 6
TRAIN_END, HELD_OUT_END = 0.6, 0.85  # of a photograph's width


@dataclass(frozen=True)
class RealModel:
    """A trained model and images of its own.

    Attributes:
        name: for tables.
        bundle: with its fp32 graph.
        calibration: uint8 (256, side, side, 3) RGB, never trained on.
        images: uint8 (N, side, side, 3) RGB, held out.
        labels: (N,); None for features, which have no classes.
    """

    name: str
    bundle: edge_vit.Bundle
    calibration: UInt8Array
    images: UInt8Array
    labels: npt.NDArray[np.int64] | None = None


def load_photos() -> list[UInt8Array]:
    """Return the photographs, uint8 (H, W, 3) RGB."""
    import skimage
    import sklearn.datasets

    folders = (
        Path(skimage.__file__).parent / "data",
        Path(sklearn.datasets.__file__).parent / "images",
    )
    paths = [next(p for f in folders for p in f.glob(f"{name}.[jp][pn]g")) for name in PHOTOS]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def cut_crops(side: int, count: int, *, is_held_out: bool, seed: int) -> tuple[UInt8Array, ...]:
    """Return `count` crops, uint8 (count, side, side, 3), and which photograph each is from."""
    random, photos = np.random.default_rng(seed), load_photos()
    crops, labels = np.empty((count, side, side, 3), np.uint8), np.arange(count) % len(photos)
    contrast, light, noise = (0.2, 15, 6) if is_held_out else (0.5, 40, 12)
    for index, label in enumerate(labels):
        photo = photos[label]
        ends = TRAIN_END * photo.shape[1], HELD_OUT_END * photo.shape[1]
        photo = photo[:, int(ends[0]) : int(ends[1])] if is_held_out else photo[:, : int(ends[0])]
        zoom = int(min(*photo.shape[:2], side * random.uniform(0.7, 1.6)))
        top = random.integers(photo.shape[0] - zoom + 1)
        left = random.integers(photo.shape[1] - zoom + 1)
        crop = Image.fromarray(photo[top : top + zoom, left : left + zoom]).resize((side, side))
        pixels = np.asarray(crop, np.float32)[:, :: random.choice([-1, 1])]
        pixels = (pixels - 128) * random.uniform(1 - contrast, 1 + 0.6 * contrast) + 128
        pixels += random.uniform(-light, light) + random.normal(0, noise, pixels.shape)
        crops[index] = np.clip(pixels, 0, 255).astype(np.uint8)
    return crops, labels.astype(np.int64)


def train_photos96(folder: Path, epochs: int) -> Path:
    """Train the reference model, patches of 16 pixels; return the checkpoint."""
    from edge_vit.training.datasets import Dataset
    from edge_vit.training.finetune import FinetuneOptions, finetune
    from edge_vit.training.vit import VisionTransformerConfig

    train, held_out = (
        cut_crops(96, count, is_held_out=held_out, seed=seed)
        for count, held_out, seed in ((NUM_TRAIN, False, 1), (500, True, 2))
    )
    preprocess = PreprocessSpec((96, 96), crop_pct=1.0)
    dataset = Dataset("photos", PHOTOS, preprocess, *train, *held_out)
    config = VisionTransformerConfig(96, 16, len(PHOTOS), 128, 6, 4)
    options = FinetuneOptions(epochs=epochs, learning_rate=1e-3, augment=False)
    path = folder / "photos96.safetensors"
    result = finetune(config, dataset, options, path, resume=True, on_progress=_say)
    print(f"photos96: {100 * result.held_out_accuracy:.1f} %, {result.seconds:.0f} s", flush=True)
    return path


TIMM_ARGUMENTS = {
    **{"img_size": 60, "patch_size": 12, "embed_dim": 64, "depth": 4, "num_heads": 2},
    **{"init_values": 0.1, "reg_tokens": 4, "num_classes": len(PHOTOS)},
}
TIMM_NAME = "vit_tiny_patch16_224"


def train_registers60(folder: Path, epochs: int) -> Path:
    """Train a timm model with LayerScale and registers; return its weights."""
    import timm
    import torch
    from safetensors.torch import save_file

    crops, labels = cut_crops(60, NUM_TRAIN, is_held_out=False, seed=3)
    torch.manual_seed(0)
    model = timm.create_model(TIMM_NAME, **TIMM_ARGUMENTS)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    steps = epochs * (NUM_TRAIN // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps)
    path = folder / "registers60.safetensors"
    parts, state = (model, optimizer, schedule), path.with_suffix(".resume")
    first = 0
    if state.exists():
        first, *saved = torch.load(state, weights_only=True)
        for part, values in zip(parts, saved, strict=True):
            part.load_state_dict(values)
    for epoch in range(first, epochs):
        order = torch.randperm(NUM_TRAIN, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(64)[: NUM_TRAIN // 64]:
            images = torch.from_numpy(crops[batch.numpy()]).permute(0, 3, 1, 2) / 127.5 - 1
            loss = torch.nn.functional.cross_entropy(
                model(images), torch.from_numpy(labels[batch.numpy()])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"registers60: epoch {epoch + 1} of {epochs}, loss {loss.item():.3f}", flush=True)
        torch.save((epoch + 1, *(part.state_dict() for part in parts)), state)
    save_file(model.state_dict(), path)
    state.unlink()
    return path


def _say(event: FinetuneProgress) -> None:
    if event.held_out_accuracy is not None:
        print(
            f"epoch {event.epoch} of {event.num_epochs}: loss {event.loss:.3f}, held out "
            f"{100 * event.held_out_accuracy:.1f} %",
            flush=True,
        )


def make_digits(folder: Path, epochs: int) -> RealModel:
    """Return the quickstart's model of scikit-learn's handwritten digits."""
    from edge_vit.training.datasets import load_digits
    from edge_vit.training.finetune import QUICKSTART_OPTIONS, finetune

    digits, path = load_digits(), folder / "digits.safetensors"
    if not path.exists():
        finetune("vit_digits", digits, QUICKSTART_OPTIONS, path, resume=True, on_progress=_say)
    chosen = np.linspace(0, len(digits.train_labels) - 1, NUM_CALIBRATION).astype(int)
    test = digits.test_images, digits.test_labels
    bundle = export_kept(f"edgevit:{path}", folder / "digits.edgevit")
    return RealModel("digits", bundle, digits.train_images[chosen], *test)


def make_photos96(folder: Path, epochs: int) -> RealModel:
    """Return the reference model, patches of 16 pixels, on photographs of 96 pixels."""
    path = folder / "photos96.safetensors"
    if not path.exists():
        train_photos96(folder, epochs)
    bundle = export_kept(f"edgevit:{path}", folder / "photos96.edgevit")
    return RealModel("photos96", bundle, *_held_out(96))


def make_registers60(folder: Path, epochs: int) -> RealModel:
    """Return a model of timm with LayerScale and registers, on photographs of 60 pixels."""
    path = folder / "registers60.safetensors"
    if not path.exists():
        train_registers60(folder, epochs)
    request = SourceRequest(
        f"timm:{TIMM_NAME}",
        checkpoint=path,
        model_args=TIMM_ARGUMENTS,
        labels=PHOTOS,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop_pct=1.0,
    )
    bundle = export_kept(request, folder / "registers60.edgevit")
    return RealModel("registers60", bundle, *_held_out(60))


MODELS: Mapping[str, Callable[[Path, int], RealModel]] = {
    "digits": make_digits,
    "photos96": make_photos96,
    "registers60": make_registers60,
}


def real_models(
    folder: Path, names: Sequence[str] = tuple(MODELS), epochs: int = EPOCHS
) -> Iterator[RealModel]:
    """Yield the models called `names`, trained where `folder` does not hold them yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        yield MODELS[name](folder, epochs)


def _held_out(side: int) -> tuple[UInt8Array, UInt8Array, npt.NDArray[np.int64]]:
    calibration, _ = cut_crops(side, NUM_CALIBRATION, is_held_out=True, seed=4)
    return calibration, *cut_crops(side, NUM_HELD_OUT, is_held_out=True, seed=5)


def export_kept(request: SourceRequest | str, path: Path) -> edge_vit.Bundle:
    """Return the bundle at `path`, exported where there is none yet."""
    if path.exists():
        return edge_vit.Bundle.open(path)
    return edge_vit.export_bundle(request, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where checkpoints and bundles go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    for model in real_models(arguments.folder, epochs=arguments.epochs):
        print(model.name, model.bundle.spec.num_tokens, model.images.shape)


if __name__ == "__main__":
    main()
