"""``edgevit finetune``: a Vision Transformer trained on labelled images."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, get_args

import click

from edge_vit.cli.options import NOT_NEGATIVE, POSITIVE, threads_option
from edge_vit.cli.output import echo
from edge_vit.cli.outputs import ANY_FILE
from edge_vit.cli.talk import Talk
from edge_vit.cli.training_view import training_view
from edge_vit.errors import ArtifactError
from edge_vit.training.options import FinetuneOptions, Optimizer

_LOG = logging.getLogger(__name__)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}


@click.command("finetune")
@click.argument("model", metavar="MODEL")
@click.option(
    "--data",
    metavar="DIR|digits|cifar100",
    required=True,
    help="Labelled images: a folder of class folders, or a data set by name.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE.safetensors",
    type=ANY_FILE,
    required=True,
    help="Where the best weights go.",
)
@click.option(
    "--optimizer",
    type=click.Choice(get_args(Optimizer)),
    default=_DEFAULTS["optimizer"],
    show_default=True,
    help="How weights are updated.",
)
@click.option(
    "--lr",
    "learning_rate",
    metavar="RATE",
    type=click.FloatRange(min=0, min_open=True),
    default=_DEFAULTS["learning_rate"],
    show_default=True,
    help="The highest learning rate; from scratch a small model takes ten times as much.",
)
@click.option(
    "--batch-size",
    metavar="N",
    type=POSITIVE,
    default=_DEFAULTS["batch_size"],
    show_default=True,
    help="Images per step.",
)
@click.option(
    "--epochs",
    metavar="N",
    type=POSITIVE,
    default=_DEFAULTS["epochs"],
    show_default=True,
    help="Times that every image is seen.",
)
@click.option(
    "--seed",
    metavar="N",
    type=NOT_NEGATIVE,
    default=_DEFAULTS["seed"],
    show_default=True,
    help="Of all that is random.",
)
@click.option(
    "--image-size", metavar="N", type=POSITIVE, help="In pixels.  [default: the model's own]"
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Start from these weights of an earlier finetune.",
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted training of the same FILE.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@threads_option
@click.pass_obj
def command(
    talk: Talk,
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
        with talk.progress() as progress:
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
