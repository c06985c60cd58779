"""``edgevit models``: the models that were measured, and how each came out."""

from __future__ import annotations

import click

from edge_vit.cli import params
from edge_vit.cli.output import print_json, print_tables
from edge_vit.cli.params import option
from edge_vit.errors import SpecError
from edge_vit.values import to_json

_LEAST_WIDTH = 165  # that of the longest names beside all figures; a terminal wraps its lines


@click.command("models")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@option("--task TASK", "Of this task alone.", default="")
@params.json_option
def command(words: tuple[str, ...], task: str, as_json: bool) -> None:
    """List the models that were measured, and how each came out.

    With WORDs, those whose name or family holds each of them. A model that is not listed may work
    as well: `edgevit export` says what it finds in it.
    """
    from edge_vit.report.models import find_models, models_grid, read_models
    from edge_vit.report.terminal import grid_table

    every = read_models()
    tasks = sorted({model.task for model in every})
    if task and task not in tasks:
        raise SpecError(f"--task {task}: no model of it was measured, only of {', '.join(tasks)}")
    found = find_models(every, words, task)
    if not found:
        raise SpecError(
            f"no model with {' '.join(words)!r} was measured. It may work all the same: "
            "edgevit export says what it finds in it"
        )
    if as_json:
        print_json([to_json(model) for model in found])
        return
    print_tables(grid_table(models_grid(found)), least_width=_LEAST_WIDTH)
