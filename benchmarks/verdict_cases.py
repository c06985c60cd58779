"""Eleven evaluations that are wrong in one thing, and a good one: what `edgevit verify` says.

A small Vision Transformer that was trained on real handwritten digits is exported and made INT8.
Each case then differs from the good evaluation in one thing: its labels, its images, or what its
sessions answer. Only the good one may pass.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from saving import RESULTS, fill_docs, load_average, write_result

from edge_vit.bundle import Bundle, draft_bundle
from edge_vit.cli import main as edgevit
from edge_vit.measure import verify as verify_module
from edge_vit.runtime.session import Session, open_session
from edge_vit.spec import ModelSpec, task_output
from edge_vit.training.datasets import Dataset
from edge_vit.values import to_json

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Change = Callable[[Images, NDArray[np.float32]], NDArray[np.float32]]

NUM_IMAGES, NUM_CALIBRATION = 500, 24
OPTIONS = (
    *("--max-drop", "2", "--min-speedup", "0.01", "--iterations", "20", "--threads", "1"),
    *("--backend", "ort", "--no-report", "--json"),
)


class Changed(Session):
    """A real session whose outputs are changed before anything else sees them."""

    backend = "ort"

    def __init__(self, real: Session, spec: ModelSpec, change: Change) -> None:
        super().__init__(
            precision=real.precision, inputs=real.inputs, outputs=spec.outputs, threads=real.threads
        )
        self._real, self._change = real, change

    def _run(self, feeds):
        (output,) = self._real.run(feeds).values()
        return {self.outputs[0].name: self._change(feeds["images"], output).astype(np.float32)}

    def _close(self):
        self._real.close()


@dataclass(frozen=True)
class Case:
    """One evaluation.

    Attributes:
        name: what is wrong with it.
        images: uint8 (images, height, width, 3).
        labels: (images,).
        change: what becomes of the outputs of every precision; None where nothing does.
        num_outputs: of the model; None for as many as it has.
    """

    name: str
    images: Images
    labels: Labels
    change: Change | None = None
    num_outputs: int | None = None


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    name: str
    outcome: str
    exit_status: int
    sentence: str
    findings: tuple[str, ...]


def cases(digits: Dataset, calibration: Images) -> Iterator[Case]:
    """Yield the twelve evaluations, the good one last.

    Args:
        digits: images and labels that the model knows.
        calibration: the images that it was calibrated on.
    """
    rng = np.random.default_rng(3)
    known = {image.tobytes() for image in calibration}
    fresh = [i for i, image in enumerate(digits.train_images) if image.tobytes() not in known]
    chosen = np.array(fresh)[np.linspace(0, len(fresh) - 1, NUM_IMAGES).astype(int)]
    images, labels = digits.train_images[chosen], digits.train_labels[chosen]
    threes = np.array([i for i in fresh if digits.train_labels[i] == 3])
    few = (np.arange(NUM_IMAGES) % 12) * (NUM_IMAGES // 12)
    yield Case("wrong labels", images, rng.integers(0, 10, NUM_IMAGES))
    yield Case("permuted labels: 3 and 5 swapped", images, _swapped(labels, 3, 5))
    yield Case("one class", digits.train_images[threes], digits.train_labels[threes])
    yield Case("copies of 12 images", images[few], labels[few])
    yield Case(
        "12 images, encoded anew 500 times",
        np.stack([anew(images[few[i]], i) for i in range(NUM_IMAGES)]),
        labels[few],
    )
    shown = np.arange(NUM_IMAGES) % len(calibration)
    yield Case(
        "calibrated on, encoded anew",
        np.stack([anew(calibration[shown[i]], i) for i in range(NUM_IMAGES)]),
        _labels_of(calibration[shown], digits),
    )
    yield Case("an output that ignores the image", images, labels, _constant)
    yield Case("a random model", images, labels, _random)
    yield Case("softmax twice", images, labels, _softmax)
    yield Case("one output", images, np.zeros(NUM_IMAGES, np.int64), _first, num_outputs=1)
    yield Case("30 images", images[::17], labels[::17])
    yield Case("a good one", images, labels)


def run_case(case: Case, bundle: Bundle, folder: Path) -> Row:
    """Return what `edgevit verify` makes of `case`.

    Args:
        case: the evaluation.
        bundle: of the model, with INT8.
        folder: for the files that it takes.
    """
    data = folder / "data.npz"
    np.savez(data, images=case.images, labels=case.labels)
    with ExitStack() as stack:
        if case.change is not None:
            spec, change = bundle.spec, case.change
            shown = bundle
            if case.num_outputs is not None:
                spec = _resized(spec, case.num_outputs)
                shown = _copy(bundle, spec, folder / "changed.edgevit")

            def open_changed(opened, precision, backend, options, progress):
                real = open_session(bundle, precision, backend, options, progress)
                return Changed(real, spec, change)

            stack.enter_context(mock.patch.object(verify_module, "open_session", open_changed))
        else:
            shown = bundle
        words = ["--quiet", "verify", str(shown.path), "--data", str(data), *OPTIONS]
        result = CliRunner().invoke(edgevit, words)
    if result.exit_code not in (0, 3, 5):
        raise RuntimeError(f"{case.name}: {result.output}")
    verdict = json.loads(result.stdout)["verdict"]
    return Row(
        case.name,
        verdict["outcome"],
        result.exit_code,
        verdict["sentence"],
        tuple(f["name"] for f in verdict["findings"] if f["outcome"] != "note"),
    )


def anew(pixels: Images, seed: int) -> Images:
    """Return `pixels` brightened by a level or two and saved as JPEG."""
    buffer = io.BytesIO()
    changed = (pixels.astype(int) + seed % 3).clip(0, 255).astype(np.uint8)
    Image.fromarray(changed).save(buffer, "JPEG", quality=85 + seed % 11)
    return np.asarray(Image.open(buffer).convert("RGB"))


def markdown(rows: list[Row]) -> str:
    """Return the table that stands in docs/verdict.md."""
    lines = ["| evaluation | verdict | exit status | sentence |", "|---|---|---|---|"]
    lines += [f"| {r.name} | {r.outcome} | {r.exit_status} | {r.sentence} |" for r in rows]
    return "\n".join(lines)


def _swapped(labels: Labels, first: int, second: int) -> Labels:
    return np.where(labels == first, second, np.where(labels == second, first, labels))


def _labels_of(images: Images, digits: Dataset) -> Labels:
    known = {
        image.tobytes(): label
        for image, label in zip(digits.train_images, digits.train_labels, strict=True)
    }
    return np.array([known[image.tobytes()] for image in images])


def _constant(images, outputs):
    return np.tile(np.linspace(2, -2, outputs.shape[1]), (len(outputs), 1))


def _random(images, outputs):
    """What an untrained network gives: some function of the image, the same in every precision."""
    flat = images.reshape(len(images), -1) / 255.0 - 0.5
    return np.tanh(flat @ np.random.default_rng(7).normal(size=(flat.shape[1], outputs.shape[1])))


def _softmax(images, outputs):
    raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _first(images, outputs):
    return outputs[:, :1]


def _resized(spec: ModelSpec, size: int) -> ModelSpec:
    from dataclasses import replace

    return replace(spec, labels=(), outputs=(task_output(spec.task, size),))


def _copy(bundle: Bundle, spec: ModelSpec, path: Path) -> Bundle:
    """Return the bundle again, as one whose model has other outputs."""
    with draft_bundle(path, spec) as draft:
        draft.add({bundle.graph(p): bundle.read_graph(p) for p in bundle.precisions})
    return Bundle.open(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="folder of the page whose table is written anew")
    arguments, load = parser.parse_args(), load_average()
    from edge_vit.api import export_bundle
    from edge_vit.data.images import ArraySource
    from edge_vit.training.datasets import load_digits
    from edge_vit.training.finetune import finetune
    from edge_vit.training.options import FinetuneOptions
    from edge_vit.training.vit import VisionTransformerConfig

    config = VisionTransformerConfig(
        image_size=32, patch_size=8, num_classes=10, embed_dim=32, depth=2, num_heads=2
    )
    digits = load_digits(config.image_size)
    order = np.random.default_rng(0).permutation(len(digits.train_labels))
    calibration = digits.train_images[order[:NUM_CALIBRATION]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = FinetuneOptions(epochs=12, learning_rate=5e-3, augment=False, threads=1)
        weights = finetune(config, digits, options, folder / "tiny.safetensors").checkpoint_path
        bundle = export_bundle(
            f"edgevit:{weights}",
            folder / "tiny.edgevit",
            precision="int8",
            calibration=ArraySource(calibration),
            threads=1,
        )
        rows = [run_case(case, bundle, folder) for case in cases(digits, calibration)]
    print(markdown(rows))
    if arguments.docs:
        fill_docs(arguments.docs / "verdict.md", "cases", markdown(rows))
    path = write_result(
        arguments.results,
        "verdict_cases",
        threads=1,
        load=load,
        conditions={"options": " ".join(OPTIONS), "num_images": NUM_IMAGES},
        results=to_json(rows),
    )
    print(path)


if __name__ == "__main__":
    main()
