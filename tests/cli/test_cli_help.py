"""Help: of everything, quickly, and near matches for what was mistyped."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import click
import pytest

from edge_vit.cli import COMMANDS, main

HEAVY = {
    *("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "timm", "torchvision"),
    *("transformers", "matplotlib", "jinja2", "sklearn", "scipy", "safetensors"),
}


def loaded_after(*calls):
    code = (
        "import json, sys\nfrom edge_vit.cli import main\n"
        f"for call in {calls!r}: main(call, standalone_mode=False)\n"
        "print(json.dumps([*sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


def test_help_lists_every_command_in_the_order_of_the_work(edgevit):
    result = edgevit("--help")
    assert result.exit_code == 0
    words = result.stdout.partition("Commands:\n")[2].split()
    assert [words.index(name) for name in COMMANDS] == sorted(map(words.index, COMMANDS))


def test_help_has_every_summary_on_one_line(edgevit):
    stdout = edgevit("--help").stdout
    assert not [name for name, summary in COMMANDS.items() if summary not in stdout]


def test_help_loads_neither_a_command_nor_anything_heavy():
    loaded = loaded_after(["--help"])
    assert not loaded & {*HEAVY, "rich", "numpy"}
    own = {name for name in loaded if name.startswith("edge_vit.cli.")}
    assert own == {"edge_vit.cli.group"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_says_what_the_list_says(edgevit, name):
    result = edgevit(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: edgevit {name} ")
    command = importlib.import_module(f"edge_vit.cli.{name}").command
    assert command.name == name
    assert command.help.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name):
    command = importlib.import_module(f"edge_vit.cli.{name}").command
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert not [
        option.name for option in options if not (option.help or "").strip().endswith((".", "]"))
    ]


def test_help_of_every_command_loads_nothing_heavy():
    assert not loaded_after(*([name, "--help"] for name in COMMANDS)) & HEAVY


def test_shared_options_mean_the_same_everywhere():
    helps = {}
    # The model of quickstart is too small for many threads; what builds is not what runs.
    for name in set(COMMANDS) - {"quickstart", "build"}:
        for parameter in importlib.import_module(f"edge_vit.cli.{name}").command.params:
            if parameter.name in ("backend", "precision", "threads", "recipe", "as_json"):
                words = (parameter.help, parameter.make_metavar(click.Context(main)))
                if name == "verify":  # which takes all of them at once, too
                    words = tuple(
                        w.replace(" all takes each that this machine has.", "").replace(
                            "|all|", "|"
                        )
                        for w in words
                    )
                helps.setdefault(parameter.name, set()).add(words)
    assert {name: len(found) for name, found in helps.items()} == dict.fromkeys(helps, 1)


def test_the_backends_are_those_of_the_runtime():
    from edge_vit.runtime.backends import BACKENDS

    for name in ("run", "bench", "eval", "verify"):
        command = importlib.import_module(f"edge_vit.cli.{name}").command
        (option,) = (found for found in command.params if found.name == "backend")
        every = ("all",) if name == "verify" else ()
        metavar = option.type.get_metavar(option)
        assert metavar == f"[{'|'.join(['auto', *every, *BACKENDS])}]"


@pytest.mark.parametrize(
    ("arguments", "near"),
    [(["benchh"], "bench"), (["export", "m", "--int9"], "--int8")],
    ids=["command", "option"],
)
def test_suggests_what_was_meant(refused, arguments, near):
    assert f"Did you mean '{near}'?" in refused(*arguments, status=2)


def test_version(edgevit):
    import edge_vit

    result = edgevit("--version")
    assert (result.exit_code, result.stdout) == (0, f"edge-vit {edge_vit.__version__}\n")


@pytest.mark.parametrize("arguments", [["-h"], ["run", "-h"]], ids=["group", "command"])
def test_short_help(arguments):
    # Its own process: click keeps a command's help option, and other tests parse without ours.
    code = f"from edge_vit.cli import main; main({arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Show this message and exit." in done.stdout
