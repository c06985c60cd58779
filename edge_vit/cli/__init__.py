"""The command line: each command parses, calls one function and prints what came out.

Importing this loads no command: `edgevit --help` reads a table, and a command's module is loaded
when that command is called.
"""

from __future__ import annotations

import click

from edge_vit.cli.group import CommandGroup

COMMANDS = {
    "quickstart": "See the whole job done on real images.",
    "export": "Write a trained model into a bundle, on request as INT8 too.",
    "calibrate": "Compute a bundle's calibration table from images.",
    "quantize": "Write the FP16 and INT8 graphs, from the calibration table.",
    "build": "Build TensorRT engines for this machine.",
    "run": "Say what a bundle sees in images.",
    "camera": "Answer the newest frame of a camera, again and again.",
    "eval": "Compare the answers of a precision with those of fp32.",
    "merge": "Put the parts of an evaluation together.",
    "bench": "Measure the latency of one precision.",
    "verify": "Judge every precision on your images, and say what to ship.",
    "compare": "Put reports side by side: like with like, and what differs.",
    "explain": "Draw attention maps of fp32 and the quantized model.",
    "inspect": "Show what is inside a bundle.",
    "report": "Write the HTML report of the latest verdict again.",
    "models": "List the models that were measured, and how each came out.",
    "finetune": "Train a Vision Transformer on labelled images.",
    "doctor": "Show this machine, what works on it, and how to repair the rest.",
}
"""Each command and the first line of its help, in the order that `edgevit --help` lists them."""


def _show_version(context: click.Context, option: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        import edge_vit

        click.echo(f"edge-vit {edge_vit.__version__}")
        context.exit()


@click.group(
    cls=CommandGroup,
    summaries=COMMANDS,
    name="edgevit",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Help on a command: edgevit COMMAND --help. See it all at work: edgevit quickstart",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more, and show tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but results, warnings and errors.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(context: click.Context, verbose: bool, quiet: bool) -> None:
    """Take a trained Vision Transformer to a device, and prove that its answers are still right.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 a gate of the verdict failed, 4 a camera or a
    GPU was lost, 5 undecided (too few images to tell), 6 done, but on a fallback that was allowed,
    130 interrupted. Results go to stdout, all else to stderr.
    """
    from edge_vit.cli.log import open_log

    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet exclude each other, expected one")
    context.obj = context.with_resource(open_log(is_verbose=verbose, is_quiet=quiet))
