"""``edgevit finetune``: a Vision Transformer trained on labelled images."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edge_vit.cli.log import CommandLog
from edge_vit.cli.options import ABOVE_0, NOT_NEGATIVE, POSITIVE, option, threads_option
from edge_vit.cli.output import echo
from edge_vit.cli.outputs import ANY_FILE
from edge_vit.cli.progress import ShownProgress
from edge_vit.errors import ArtifactError
from edge_vit.training.options import FinetuneOptions, Optimizer

if TYPE_CHECKING:
    from edge_vit.training.loop import FinetuneProgress

_LOG = logging.getLogger(__name__)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}


@click.command("finetune")
@click.argument("model", metavar="MODEL")
@option(
    "--data DIR|digits|cifar100",
    "Labelled images: a folder of class folders, or a data set by name.",
    required=True,
)
@option("-o, --output FILE.safetensors", "Where the best weights go.", ANY_FILE, required=True)
@option("--optimizer", "How weights are updated.", get_args(Optimizer), _DEFAULTS["optimizer"])
@option(
    "--lr RATE",
    "The highest learning rate; from scratch a small model takes ten times as much.",
    ABOVE_0,
    _DEFAULTS["learning_rate"],
    name="learning_rate",
)
@option("--batch-size N", "Images per step.", POSITIVE, _DEFAULTS["batch_size"])
@option("--epochs N", "Times that every image is seen.", POSITIVE, _DEFAULTS["epochs"])
@option("--seed N", "Of all that is random.", NOT_NEGATIVE, _DEFAULTS["seed"])
@option("--image-size N", "In pixels.  [default: the model's own]", POSITIVE)
@option(
    "--checkpoint FILE",
    "Start from these weights of an earlier finetune.",
    click.Path(dir_okay=False),
)
@option("--resume", "Go on with an interrupted training of the same FILE.")
@option("--force", "Replace FILE where it exists.")
@threads_option
@click.pass_obj
def command(
    log: CommandLog,
    /,
    model: str,
    data: str,
    output: Path,
    image_size: int | None,
    resume: bool,
    force: bool,
    **choices: Any,
) -> None:
    """Train a Vision Transformer on labelled images.

    It starts from random weights or from a checkpoint. MODEL is one of edge-vit's own, such as
    vit_digits or vit_small_patch16_224. FILE holds the best weights with labels and preprocessing,
    so that an export needs nothing typed twice.
    """
    if output.exists() and not force and not resume:
        raise ArtifactError(f"{output} exists already. Add --force to replace it")
    choices["warmup_epochs"] = min(FinetuneOptions.warmup_epochs, choices["epochs"])
    options = FinetuneOptions(**choices)

    try:
        with log.progress() as progress:
            with progress.step("loading PyTorch"):
                from edge_vit.training.datasets import open_dataset
                from edge_vit.training.finetune import finetune
                from edge_vit.training.vit import find_config

            config = find_config(model.removeprefix("edgevit:"))
            dataset = open_dataset(data, image_size or config.image_size, options.seed, progress)
            with training_view(progress, model) as show:
                result = finetune(config, dataset, options, output, resume=resume, on_progress=show)
    except KeyboardInterrupt:
        _LOG.info("The epochs that are done are kept. Go on with the same command and --resume")
        raise
    echo(
        f"{output}: {result.held_out_accuracy:.2%} of {len(dataset.test_labels)} held-out images "
        f"right, epoch {result.best_epoch} of {options.epochs}"
    )
    _LOG.info("Next: edgevit export edgevit:%s -o %s", output, output.with_suffix(".edgevit"))


@contextlib.contextmanager
def training_view(
    progress: ShownProgress, name: str
) -> Iterator[Callable[[FinetuneProgress], None]]:
    """Give the callback of `finetune`: one bar of all steps, with loss and accuracy.

    The bar opens with the first step, since only that says how many there are.
    """
    with contextlib.ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        position = 0

        def show(event: FinetuneProgress) -> None:
            nonlocal advance, position
            if advance is None:
                total = event.num_epochs * event.num_steps
                advance = stack.enter_context(progress.step(f"training {name}", total))
            progress.detail(describe(event))
            now = (event.epoch - 1) * event.num_steps + event.step
            advance(now - position)
            position = now

        yield show


def describe(event: FinetuneProgress) -> str:
    """Return where a training is: epoch, loss, accuracy, and the best on the held-out images."""
    text = (
        f"epoch {event.epoch} of {event.num_epochs}, loss {event.loss:.3f}, "
        f"accuracy {event.accuracy:.1%}"
    )
    best = event.best_accuracy
    return text if best is None else f"{text}, held out at best {best:.1%}"
