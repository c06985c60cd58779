"""``edgevit finetune``: a Vision Transformer trained on labelled images."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from edge_vit.cli import params
from edge_vit.cli.log import CommandLog
from edge_vit.cli.output import echo
from edge_vit.cli.params import option
from edge_vit.errors import ArtifactError
from edge_vit.progress import Progress
from edge_vit.training.options import FinetuneOptions, Optimizer

if TYPE_CHECKING:
    from edge_vit.training.loop import FinetuneProgress

_LOG = logging.getLogger(__name__)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}


@click.command("finetune")
@click.argument("model", metavar="MODEL")
@option("--data DIR|digits|cifar100", "Class folders, or a data set by name.", required=True)
@params.output_option("FILE.safetensors", "The best weights.", params.ANY_FILE)
@option("--optimizer", "How weights are updated.", get_args(Optimizer), _DEFAULTS["optimizer"])
@option(
    "--lr RATE",
    "The highest learning rate; from scratch a small model takes ten times as much.",
    default=_DEFAULTS["learning_rate"],
    name="learning_rate",
)
@option("--batch-size N", "Images per step.", default=_DEFAULTS["batch_size"])
@option("--epochs N", "Times that every image is seen.", default=_DEFAULTS["epochs"])
@option("--seed N", "Of all that is random.", params.NOT_NEGATIVE, _DEFAULTS["seed"])
@option("--image-size N", "In pixels.  [default: the model's own]")
@option("--checkpoint FILE", "Start from these weights.", click.Path(dir_okay=False))
@option("--resume", "Go on with an interrupted training of the same FILE.")
@option("--force", "Replace FILE where it exists.")
@params.threads_option
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
def training_view(progress: Progress, name: str) -> Iterator[Callable[[FinetuneProgress], None]]:
    """Give the callback of `finetune`: one bar of all steps, and a note after each epoch.

    The bar opens with the first step, since only that tells how many there are.
    """
    with contextlib.ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        position = 0

        def show(event: FinetuneProgress) -> None:
            nonlocal advance, position
            if advance is None:
                total = event.num_epochs * event.num_steps
                advance = stack.enter_context(progress.step(f"training {name}", total))
            now = (event.epoch - 1) * event.num_steps + event.step
            advance(now - position)
            position = now
            if event.held_out_accuracy is not None:  # the last event of an epoch
                progress.note(
                    f"epoch {event.epoch} of {event.num_epochs}: loss {event.loss:.3f}, accuracy "
                    f"{event.accuracy:.1%}, held out {event.held_out_accuracy:.1%}"
                )

        yield show
