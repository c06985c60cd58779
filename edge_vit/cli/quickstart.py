"""``edgevit quickstart``: the whole job on real images, from training to the verdict."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from edge_vit.bundle import Bundle
from edge_vit.cli.finetune import training_view
from edge_vit.cli.log import CommandLog
from edge_vit.cli.params import option
from edge_vit.cli.reports import VERIFY_HTML, keep_reports, print_verdict
from edge_vit.data.images import FolderSource
from edge_vit.errors import ArtifactError
from edge_vit.files import draft_folder
from edge_vit.formats.int8 import FORMAT as INT8
from edge_vit.progress import Progress
from edge_vit.runtime import SessionOptions
from edge_vit.training.options import QUICKSTART_OPTIONS, FinetuneOptions

if TYPE_CHECKING:
    from edge_vit.measure.results import VerifyReport
    from edge_vit.training.datasets import Dataset

MODEL = "vit_digits"
NUM_CALIBRATION_IMAGES = 256
MAX_DROP = 1.0  # in points: 600 images cannot tell a loss of half a point, the default, from none
ITERATIONS = 1000  # of a model that takes a millisecond: p99 wants as many

_LOG = logging.getLogger(__name__)


@click.command("quickstart")
@option(
    "--dir DIR",
    "Where everything goes.",
    click.Path(file_okay=False, path_type=Path),
    "quickstart",
    name="folder",
)
@option("--epochs N", "Of the training.", default=QUICKSTART_OPTIONS.epochs)
@option("--fresh", "Train again, whatever was trained here before.")
@option("--threads N", "CPU threads; a model this small gains little from more.", default=1)
@click.pass_obj
def command(log: CommandLog, folder: Path, epochs: int, fresh: bool, threads: int) -> None:
    """See the whole job done on real images.

    Trains a small Vision Transformer on 1,197 handwritten digits, exports it, makes it INT8, and
    judges it on 600 others. A training that is done is used again. Exit status 0 once there is a
    verdict, whatever it says.
    """
    options = dataclasses.replace(
        QUICKSTART_OPTIONS,
        epochs=epochs,
        warmup_epochs=min(QUICKSTART_OPTIONS.warmup_epochs, epochs),
        threads=threads,
    )
    with log.progress() as progress:
        bundle, report = _run(folder, options, is_fresh=fresh, progress=progress)
    print_verdict(report)
    keep_reports(report, bundle)
    image = next((folder / "val").glob("*/*.png"))
    for line in (
        f"The report lies at {bundle.reports_path / VERIFY_HTML}: open it in a browser.",
        "Try next:",
        f"  edgevit run {bundle.path} {image}",
        f"  edgevit inspect {bundle.path}",
        f"  edgevit verify {bundle.path} --data {folder / 'val'} --max-drop 2",
        "  edgevit export timm:vit_tiny_patch16_224 --int8 --calib YOUR_PHOTOS -o tiny.edgevit",
    ):
        _LOG.info(line)


def _run(
    folder: Path, options: FinetuneOptions, *, is_fresh: bool, progress: Progress
) -> tuple[Bundle, VerifyReport]:
    with progress.step("loading PyTorch"):
        from edge_vit.api import export_bundle
        from edge_vit.measure.limits import Limits
        from edge_vit.measure.verify import verify
        from edge_vit.training.datasets import load_digits

    digits = load_digits()
    weights = _train(folder, digits, options, is_fresh=is_fresh, progress=progress)
    held_out = _write_images(folder / "val", digits.test_images, digits.test_labels, digits)
    chosen = np.linspace(0, len(digits.train_labels) - 1, NUM_CALIBRATION_IMAGES).round()
    calibration = _write_images(
        *(folder / "calib", digits.train_images[chosen.astype(int)]),
        *(digits.train_labels[chosen.astype(int)], digits),
    )
    bundle = export_bundle(
        f"edgevit:{weights}",
        folder / "digits.edgevit",
        precision=INT8.name,
        calibration=calibration,
        force=True,
        threads=options.threads,
        progress=progress,
    )
    report = verify(
        bundle,
        held_out,
        Limits(max_drop=MAX_DROP),
        options=SessionOptions(options.threads),
        iterations=ITERATIONS,
        progress=progress,
    )
    return bundle, report


def _train(
    folder: Path, digits: Dataset, options: FinetuneOptions, *, is_fresh: bool, progress: Progress
) -> Path:
    from edge_vit.training.checkpoint import load_checkpoint
    from edge_vit.training.finetune import finetune, resume_path

    path = folder / f"{MODEL}.safetensors"
    if is_fresh:
        resume_path(path).unlink(missing_ok=True)
    elif path.exists():
        accuracy = load_checkpoint(path).metrics["held_out_accuracy"]
        _LOG.info(
            "%s is used again (%.1f %% of the held-out digits right). To train again, add --fresh",
            path,
            100 * accuracy,
        )
        return path
    with training_view(progress, MODEL) as show:
        result = finetune(MODEL, digits, options, path, resume=True, on_progress=show)
    _LOG.info(
        "%s: %.1f %% of the held-out digits right, trained in %.0f s",
        path,
        100 * result.held_out_accuracy,
        result.seconds,
    )
    return path


def _write_images(folder: Path, images: np.ndarray, labels: np.ndarray, digits: Dataset) -> Path:
    """Return `folder`, which holds `images` in class folders; written whole or not at all."""
    from edge_vit.training.datasets import write_class_folders

    if not folder.exists():
        with draft_folder(folder) as draft:
            write_class_folders(images, labels, digits.labels, draft)
    elif (found := len(FolderSource(folder, has_truth=False))) != len(images):
        raise ArtifactError(
            f"{folder} holds {found} images, expected the {len(images)} of an earlier quickstart. "
            "Remove it, or choose another folder with --dir"
        )
    return folder
